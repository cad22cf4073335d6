// The engine of every pipeline: one coroutine that walks down the policies, awaits the task, and walks up again.
#pragma once

#include <cofferdam/core/detail/child.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/task.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/resilience/detail/stages.hpp>
#include <cofferdam/resilience/policy.hpp>

#include <concepts>
#include <functional>
#include <stdexcept>
#include <tuple>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// What a policy's `substitution` points to, for values of type T.
template <class T> using substitute_function = std::function<awaitable<T>(failure)>;

namespace detail {

// --------------------------------------------------------------------------------------------------- the task of a run

/// A task and its arguments, held by the run. Several attempts start the same one, so arguments are passed as lvalues.
/// Not an aggregate: GCC 12 would destroy it twice (see gcc12_guard.hpp).
template <class F, class... Args> class owned_work {
 public:
  using value_type = run_value_t<F, Args...>;
  using raw_type = task_value_t<F, Args...>;
  static constexpr bool plain = plain_task<F, Args...>;

  template <class G, class... Brgs>
  explicit owned_work(std::in_place_t, G&& task, Brgs&&... args)
      : task_(std::forward<G>(task)), args_(std::forward<Brgs>(args)...) {}

  auto start() {
    return std::apply([this](Args&... args) { return start_task(task_, args...); }, args_);
  }
  decltype(auto) invoke() {
    return std::apply([this](Args&... args) -> decltype(auto) { return std::invoke(task_, args...); }, args_);
  }

 private:
  template <class, class...> friend class borrowed_work;
  F task_;
  std::tuple<Args...> args_;
};

/// The same task as seen by a child that ends before its owner.
template <class F, class... Args> class borrowed_work {
 public:
  using value_type = run_value_t<F, Args...>;
  using raw_type = task_value_t<F, Args...>;
  using owner = owned_work<F, Args...>;
  static constexpr bool plain = plain_task<F, Args...>;
  static constexpr bool can_be_left_behind =
      any_awaitable<F> || (std::copy_constructible<F> && (std::copy_constructible<Args> && ...));

  explicit borrowed_work(owner& work) noexcept : owner_(&work) {}
  auto start() { return owner_->start(); }
  decltype(auto) invoke() { return owner_->invoke(); }
  /// A copy for a child that may outlive its parent.
  [[nodiscard]] owner own() {
    if constexpr (any_awaitable<F>) {
      return owner(std::in_place, std::move(owner_->task_));
    } else {
      return std::apply([this](const Args&... args) { return owner(std::in_place, owner_->task_, args...); },
                        owner_->args_);
    }
  }

 private:
  owner* owner_;
};

template <class F, class... Args> borrowed_work<F, Args...> borrow(owned_work<F, Args...>& work) noexcept {
  return borrowed_work<F, Args...>(work);
}
template <class F, class... Args> borrowed_work<F, Args...> borrow(borrowed_work<F, Args...>& work) noexcept {
  return work;
}

// ------------------------------------------------------------------------------------------------------------ results

struct throw_result {
  template <class T> using type = T;
};
struct report_result {
  template <class T> using type = outcome<T>;
};

/// Which policies are admitted right now: [begin, top). However the frame ends, their permits are given back.
template <class Stages> class admitted {
 public:
  explicit admitted(const Stages& stages) : top(stages.begin()), stages_(stages), slots_(stages) {}
  admitted(const admitted&) = delete;
  admitted& operator=(const admitted&) = delete;
  ~admitted() {
    while (top > stages_.begin()) {
      --top;
      stages_.abandon(top, slot(top));
    }
  }
  policy_slot& slot(std::size_t index) noexcept { return slots_[index - stages_.begin()]; }

  std::size_t top;

 private:
  const Stages& stages_;
  typename Stages::slots slots_;
};

/// The walk itself. Its frame is kept small, so that Asio's allocator recycles it: what is rare (waiting, substituting,
/// a time limit) happens in coroutines of its own.
template <class Report, class Stages, class Work> struct walk {
  using value = typename Work::value_type;
  using raw = typename Work::raw_type;
  using result = typename Report::template type<value>;
  static constexpr bool reports = is_outcome<raw>;  // the task itself says failure without throwing

  static awaitable<result> run(Stages stages, Work work) {
    const net::any_io_executor executor = co_await net::this_coro::executor;
    call c(executor);
    value_box<value> box;
    admitted<Stages> here(stages);
    for (bool again = true; again;) {
      again = false;
      // Down. A coroutine that was cancelled and goes on throws at its next co_await: that ends the walk like a
      // failure.
      try {
        admission said = stages.descend(here, c);
        while (said == admission::wait) {
          said = admission::reject;
          said = co_await stages.wait(here.top, c, here.slot(here.top));
          c.forget_time();
          if (said != admission::go) break;
          ++here.top;
          said = stages.descend(here, c);
        }
        if (said == admission::substitute) {
          ++here.top;
          co_await substitute(stages, here.top - 1, box, c);
        } else if (said == admission::go) {
          c.count_attempt();
          if (stages.scope() != nullptr) {
            co_await run_below(stages, work, box, c);
          } else if constexpr (reports && Work::plain) {
            keep(work.invoke(), box, c);
          } else if constexpr (reports) {
            keep(co_await work.start(), box, c);
          } else if constexpr (Work::plain && std::is_void_v<raw>) {
            work.invoke();
            box.value = true;
          } else if constexpr (Work::plain) {
            box.value.emplace(work.invoke());
          } else if constexpr (std::is_void_v<raw>) {
            co_await work.start();
            box.value = true;
          } else {
            box.value.emplace(co_await work.start());
          }
        }
      } catch (const std::exception& e) {
        c.fail(failure::current(e));
      } catch (...) {
        c.fail(failure::current());
      }
      c.forget_time();

      // Up, possibly turning round on the way.
      for (;;) {
        const verdict next = stages.ascend(here, c, outcome_view(box.address(), typeid(value), c.why()));
        if (next == verdict::deliver) [[likely]]
          break;
        try {
          if (next == verdict::substitute) {
            co_await substitute(stages, here.top, box, c);
            continue;
          }
          if (c.delay() > duration::zero()) co_await sleep_for(c.delay());
        } catch (...) {  // cancelled while waiting, or no substitute: hand that up
          box = {};
          c.fail(failure::current());
          continue;
        }
        c.forget_time();
        ++here.top;  // whoever asked for another attempt is still admitted
        box = {};
        (void)c.take_failure();
        again = true;
        break;
      }
    }
    if constexpr (std::is_same_v<Report, throw_result>) {
      if (c.why()) c.why().raise();
      if constexpr (!std::is_void_v<value>) co_return std::move(*box.value);
    } else {
      if (c.why()) co_return c.release_failure();
      if constexpr (std::is_void_v<value>) {
        co_return outcome<void>();
      } else {
        co_return std::move(*box.value);
      }
    }
  }

 private:
  static awaitable<void> substitute(const Stages& stages, std::size_t by, value_box<value>& box, call& c) {
    const auto* function = static_cast<const substitute_function<value>*>(stages.substitution(by, typeid(value)));
    if (function != nullptr) {
      const failure why = c.take_failure();
      box = {};
      if constexpr (std::is_void_v<value>) {
        co_await (*function)(why);
        box.value = true;
      } else {
        box.value.emplace(co_await (*function)(why));
      }
    } else if (!c.why() && box.address() == nullptr) {
      // Nothing came and nothing can be given instead: the policy promised a value of another type.
      throw std::logic_error(stages.describe(by) + ": has no substitute of the task's type");
    }
    c.forget_time();
  }

  /// Everything below a time limit.
  static awaitable<void> run_below(const Stages& stages, Work& work, value_box<value>& box, call& c) {
    const timeout_scope& scope = *stages.scope();
    const duration limit = scope.limit(c);
    if (limit <= duration::zero() || limit == duration::max()) {
      keep(co_await below(stages, work, on_timeout::cancel), box, c);
    } else {
      auto options = limit_after(limit, scope.mode(), scope.name());
      auto limited =
          co_await run_child<outcome<value>, reporting>(std::move(options), below(stages, work, scope.mode()));
      limited ? keep(*std::move(limited), box, c) : c.fail(std::move(limited).why());
    }
  }

  static awaitable<outcome<value>> below(const Stages& stages, Work& work, on_timeout mode) {
    using rest_of_stages = decltype(stages.below());
    using borrowed = decltype(borrow(work));
    if (mode == on_timeout::cancel) {
      return walk<report_result, rest_of_stages, borrowed>::run(stages.below(), borrow(work));
    }
    if constexpr (borrowed::can_be_left_behind) {
      return walk<report_result, rest_of_stages, typename borrowed::owner>::run(stages.below(), borrow(work).own());
    } else {
      throw std::logic_error("a time limit that detaches needs a task and arguments that can be copied");
    }
  }

  static void keep(outcome<value>&& inner, value_box<value>& box, call& c) {
    if (!inner) {
      c.fail(std::move(inner).why());
    } else if constexpr (std::is_void_v<value>) {
      box.value = true;
    } else {
      box.value.emplace(*std::move(inner));
    }
  }
};

}  // namespace detail
}  // namespace cofferdam::inline COFFERDAM_ABI
