// The engine of every pipeline: one coroutine that walks down the policies, awaits the task, and walks up again.
#pragma once

#include <cofferdam/core/detail/child.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/task.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/resilience/detail/race.hpp>
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
  static constexpr bool numbered = (std::is_same_v<Args, attempt> || ...);

  template <class G, class... Brgs>
  explicit owned_work(std::in_place_t, G&& task, Brgs&&... args)
      : task_(std::forward<G>(task)), args_(std::forward<Brgs>(args)...) {}

  auto start() {
    return std::apply([this](Args&... args) { return start_task(task_, args...); }, args_);
  }
  decltype(auto) invoke() {
    return std::apply([this](Args&... args) -> decltype(auto) { return std::invoke(task_, args...); }, args_);
  }

  void number(std::uint32_t attempts) noexcept {
    if constexpr (numbered) std::get<attempt>(args_).number = attempts;
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
  void number(std::uint32_t attempts) noexcept { owner_->number(attempts); }
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

/// For calls of which nothing is said: takes no room in their frames.
struct no_info {};

/// The walk itself: a state machine in plain functions, and one coroutine that awaits what it asks for. That
/// coroutine's frame is kept small, so that Asio's allocator recycles it: what is rare happens in coroutines of its
/// own.
template <class Report, class Stages, class Work, class Info> class walk {
 public:
  using value = typename Work::value_type;
  using result = typename Report::template type<value>;

  /// @param attempts  how often the task has been started before.
  static awaitable<result> run(Stages stages, Work work, Info info, std::uint32_t attempts) {
    using raw = typename Work::raw_type;
    constexpr bool reports = is_outcome<raw>;  // the task itself says failure without throwing
    const net::any_io_executor executor = co_await net::this_coro::executor;
    walk here(stages, work, info, executor, attempts);
    for (step ended = step::begin;;) {
      const step next = here.advance(ended);
      if (next == step::done) break;
      // A coroutine that was cancelled and goes on throws at its next co_await: that is the failure of this step.
      try {
        if (next == step::wait) {
          here.waited_for_ = co_await here.stages_.wait(here.admitted_.top, here.call_, here.waiting_slot());
        } else if (next != step::task) {
          co_await here.detour(next);
        } else if constexpr (reports && Work::plain) {
          here.keep(work.invoke());
        } else if constexpr (reports) {
          here.keep(co_await work.start());
        } else if constexpr (Work::plain && std::is_void_v<raw>) {
          work.invoke();
          here.box_.value = true;
        } else if constexpr (Work::plain) {
          here.box_.value.emplace(work.invoke());
        } else if constexpr (std::is_void_v<raw>) {
          co_await work.start();
          here.box_.value = true;
        } else {
          here.box_.value.emplace(co_await work.start());
        }
      } catch (const std::exception& e) {
        here.call_.fail(failure::current(e));
      } catch (...) {
        here.call_.fail(failure::current());
      }
      ended = next;
    }
    if constexpr (std::is_same_v<Report, throw_result>) {
      if (here.call_.why()) here.call_.why().raise();
      if constexpr (!std::is_void_v<value>) co_return std::move(*here.box_.value);
    } else {
      if (here.call_.why()) co_return here.call_.release_failure();
      if constexpr (std::is_void_v<value>) {
        co_return outcome<void>();
      } else {
        co_return std::move(*here.box_.value);
      }
    }
  }

 private:
  enum class step : std::uint8_t { begin, wait, task, below, substitute, rest, done };

  walk(const Stages& stages, Work& work, const Info& info, const net::any_io_executor& executor,
       std::uint32_t attempts) noexcept
      : stages_(stages), work_(work), info_(info), call_(make_call(executor, info, attempts)), admitted_(stages) {}

  static call make_call(const net::any_io_executor& executor, const Info& info, std::uint32_t attempts) noexcept {
    if constexpr (std::is_same_v<Info, call_info>) {
      return call(executor, info, attempts);
    } else {
      return call(executor, call::nothing_said, attempts);
    }
  }

  /// What is to be awaited after `ended`. Runs down and up the policies, as often as it takes.
  step advance(step ended) {
    bool down = ended == step::begin;
    if (ended == step::wait && waited_for_ == admission::substitute) {
      substituting_ = admitted_.top++;
      return step::substitute;
    }
    if (ended == step::wait && waited_for_ == admission::go) down = true, ++admitted_.top;
    if (ended == step::rest && !call_.why()) down = true;
    if (!down) call_.forget_time();
    for (;; down = true) {
      if (down) {
        switch (stages_.descend(admitted_, call_)) {
          [[likely]] case admission::go:
            call_.count_attempts();
            work_.number(call_.attempts());
            return stages_.scope() == nullptr ? step::task : step::below;
          case admission::wait:
            waited_for_ = admission::reject;  // unless it says otherwise
            return step::wait;
          case admission::substitute:
            substituting_ = admitted_.top++;
            return step::substitute;
          case admission::reject:
            break;
        }
      }
      switch (stages_.ascend(admitted_, call_, outcome_view(box_.address(), typeid(value), call_.why()))) {
        [[likely]] case verdict::deliver:
          return step::done;
        case verdict::substitute:
          substituting_ = admitted_.top;
          return step::substitute;
        case verdict::again:
          box_ = {};
          (void)call_.take_failure();
          ++admitted_.top;  // whoever asked for another attempt is still admitted, also while it rests
          if (call_.delay() > duration::zero()) return step::rest;
      }
    }
  }

  awaitable<void> detour(step which) {
    switch (which) {
      case step::below:
        return run_below();
      case step::substitute:
        return substitute();
      default:
        return sleep_for(call_.delay());
    }
  }

  policy_slot& waiting_slot() noexcept { return admitted_.slot(admitted_.top); }

  awaitable<void> substitute() {
    const void* found = stages_.substitution(substituting_, typeid(value));
    if (found != nullptr) {
      const auto& function = *static_cast<const substitute_function<value>*>(found);
      const failure why = call_.take_failure();
      box_ = {};
      if constexpr (std::is_void_v<value>) {
        co_await function(why);
        box_.value = true;
      } else {
        box_.value.emplace(co_await function(why));
      }
    } else if (!call_.why() && box_.address() == nullptr) {
      // Nothing came and nothing can be given instead: the policy promised a value of another type.
      throw std::logic_error(stages_.describe(substituting_) + ": has no substitute of the task's type");
    }
  }

  awaitable<void> run_below() {
    scope& around = *stages_.scope();
    if constexpr (Stages::may_hedge && Stages::may_limit_time) {
      return around.hedges() ? run_hedged(static_cast<hedge_scope&>(around))
                             : run_limited(static_cast<timeout_scope&>(around));
    } else if constexpr (Stages::may_hedge) {
      return run_hedged(static_cast<hedge_scope&>(around));
    } else {
      return run_limited(static_cast<timeout_scope&>(around));
    }
  }

  awaitable<void> run_limited(const timeout_scope& limits) {
    const duration limit = limits.limit(call_);
    const passage within = limits.enter(call_.executor());
    if ((limit <= duration::zero() || limit == duration::max()) && !within.marks()) {
      keep(co_await below(false));
    } else {
      auto options = limit_after(limit, limits.mode(), limits.name());
      options.marks = within.marks();
      const bool detach = limits.mode() == on_timeout::detach;
      auto limited = co_await run_child<outcome<value>, reporting>(std::move(options), below(detach));
      limited ? keep(*std::move(limited)) : call_.fail(std::move(limited).why());
    }
  }

  awaitable<void> run_hedged(hedge_scope& hedges) {
    if (is_bare_pool(call_.executor())) {  // the attempts need one strand
      const auto here = [&] { return race_attempts(hedges); };
      co_await spawn_on(call_.executor(), here);
    } else {
      co_await race_attempts(hedges);
    }
  }

  awaitable<void> race_attempts(hedge_scope& hedges) {
    using borrowed = decltype(borrow(work_));
    const bool leave = borrowed::can_be_left_behind && hedges.leaves_losers();
    const auto make = [&](std::uint32_t index) { return below(leave, index); };
    auto ended = co_await run_race<value>(hedges, leave, make);
    call_.count_attempts(ended.started - 1);
    keep(std::move(ended.result));
  }

  /// The walk below this scope. One that may outlive us has a task and arguments of its own.
  /// @param earlier  attempts of this scope that were started before.
  awaitable<outcome<value>> below(bool owned, std::uint32_t earlier = 0) {
    using rest_of_stages = decltype(stages_.below());
    using borrowed = decltype(borrow(work_));
    const std::uint32_t attempts = call_.attempts() - 1 + earlier;
    if (!owned) {
      return walk<report_result, rest_of_stages, borrowed, Info>::run(stages_.below(), borrow(work_), info_, attempts);
    }
    if constexpr (borrowed::can_be_left_behind) {
      return walk<report_result, rest_of_stages, typename borrowed::owner, Info>::run(
          stages_.below(), borrow(work_).own(), info_, attempts);
    } else {
      throw std::logic_error("what may be left behind needs a task and arguments that can be copied");
    }
  }

  void keep(outcome<value>&& inner) {
    if (!inner) {
      call_.fail(std::move(inner).why());
    } else if constexpr (std::is_void_v<value>) {
      box_.value = true;
    } else {
      box_.value.emplace(*std::move(inner));
    }
  }

  const Stages& stages_;
  Work& work_;
  const Info& info_;
  call call_;
  value_box<value> box_;
  admitted<Stages> admitted_;
  std::size_t substituting_ = 0;
  admission waited_for_ = admission::reject;
};

}  // namespace detail
}  // namespace cofferdam::inline COFFERDAM_ABI
