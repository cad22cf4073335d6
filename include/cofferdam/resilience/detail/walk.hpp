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

/// What a walk knows and decides whatever its task is: a state machine in plain functions. Every call in a program has
/// a task of a type of its own, so what needs only the type of its value stands here and is compiled once for all of
/// them.
template <class Stages, class T> class walk_state {
 public:
  enum class step : std::uint8_t { begin, wait, task, below, substitute, rest, done };

  static constexpr bool has_scope = Stages::may_hedge || Stages::may_limit_time;
  /// The walk below the first scope, which knows the task.
  struct walk_below {
    awaitable<outcome<T>> (*start)(walk_state& above, bool owned, std::uint32_t earlier);
    bool can_be_left_behind;
  };

  walk_state(const Stages& stages, const call_info& info, const net::any_io_executor& executor,
             const call::origin& from) noexcept
      : stages_(stages), call_(executor, info, from), admitted_(stages) {}

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
      switch (stages_.ascend(admitted_, call_, outcome_view(box_.address(), typeid(T), call_.why()))) {
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

  [[nodiscard]] awaitable<admission> wait() {
    return stages_.wait(admitted_.top, call_, admitted_.slot(admitted_.top));
  }
  void waited_for(admission answer) noexcept { waited_for_ = answer; }
  awaitable<void> detour(step which) { return which == step::substitute ? substitute() : sleep_for(call_.delay()); }
  awaitable<void> run_below(const walk_below& below) {
    scope& around = *stages_.scope();
    if constexpr (Stages::may_hedge && Stages::may_limit_time) {
      return around.hedges() ? run_hedged(static_cast<hedge_scope&>(around), below)
                             : run_limited(static_cast<timeout_scope&>(around), below);
    } else if constexpr (Stages::may_hedge) {
      return run_hedged(static_cast<hedge_scope&>(around), below);
    } else {
      return run_limited(static_cast<timeout_scope&>(around), below);
    }
  }

  void keep(outcome<T>&& inner) {
    if (!inner) {
      call_.fail(std::move(inner).why());
    } else if constexpr (std::is_void_v<T>) {
      box_.value = true;
    } else {
      box_.value.emplace(*std::move(inner));
    }
  }
  value_box<T>& box() noexcept { return box_; }
  [[nodiscard]] cofferdam::call& call() noexcept { return call_; }
  [[nodiscard]] const Stages& stages() const noexcept { return stages_; }

 private:
  awaitable<void> substitute() {
    const void* found = stages_.substitution(substituting_, typeid(T));
    if (found != nullptr) {
      const auto& function = *static_cast<const substitute_function<T>*>(found);
      const failure why = call_.take_failure();
      box_ = {};
      if constexpr (std::is_void_v<T>) {
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

  awaitable<void> run_limited(const timeout_scope& limits, const walk_below& below) {
    const duration limit = limits.limit(call_);
    const passage within = limits.enter(call_.executor());
    if ((limit <= duration::zero() || limit == duration::max()) && !within.marks()) {
      keep(co_await below.start(*this, false, 0));
    } else {
      auto options = limit_after(limit, limits.mode(), limits.name());
      options.marks = within.marks();
      const bool detach = limits.mode() == on_timeout::detach;
      auto limited = co_await run_child<outcome<T>, reporting>(std::move(options), below.start(*this, detach, 0));
      limited ? keep(*std::move(limited)) : call_.fail(std::move(limited).why());
    }
  }

  awaitable<void> run_hedged(hedge_scope& hedges, const walk_below& below) {
    if (is_bare_pool(call_.executor())) {  // the attempts need one strand
      const auto here = [&] { return race_attempts(hedges, below); };
      co_await spawn_on(call_.executor(), here);
    } else {
      co_await race_attempts(hedges, below);
    }
  }

  awaitable<void> race_attempts(hedge_scope& hedges, const walk_below& below) {
    const bool leave = below.can_be_left_behind && hedges.leaves_losers();
    const auto make = [&, leave](std::uint32_t index) { return below.start(*this, leave, index); };
    auto ended = co_await run_race<T>(hedges, leave, make);
    call_.count_attempts(ended.started - 1);
    keep(std::move(ended.result));
  }

  const Stages& stages_;
  cofferdam::call call_;
  value_box<T> box_;
  admitted<Stages> admitted_;
  std::size_t substituting_ = 0;
  admission waited_for_ = admission::reject;
};

/// The walk itself: one coroutine that awaits what its state asks for. Its frame is kept small, so that Asio's
/// allocator recycles it: what is rare happens in coroutines of its own.
template <class Report, class Stages, class Work, class Info>
class walk : private walk_state<Stages, typename Work::value_type> {
 public:
  using value = typename Work::value_type;
  using result = typename Report::template type<value>;

  static awaitable<result> run(Stages stages, Work work, Info info, call::origin from) {
    using raw = typename Work::raw_type;
    constexpr bool reports = is_outcome<raw>;  // the task itself says failure without throwing
    const net::any_io_executor executor = co_await net::this_coro::executor;
    walk here(stages, work, info, executor, from);
    for (step ended = step::begin;;) {
      const step next = here.advance(ended);
      if (next == step::done) break;
      // A coroutine that was cancelled and goes on throws at its next co_await: that is the failure of this step.
      try {
        if (next == step::wait) {
          here.waited_for(co_await here.wait());
        } else if (next != step::task) {
          co_await here.leave(next);
        } else {
          work.number(here.call().attempts());
          if constexpr (reports && Work::plain) {
            here.keep(work.invoke());
          } else if constexpr (reports) {
            here.keep(co_await work.start());
          } else if constexpr (Work::plain && std::is_void_v<raw>) {
            work.invoke();
            here.box().value = true;
          } else if constexpr (Work::plain) {
            here.box().value.emplace(work.invoke());
          } else if constexpr (std::is_void_v<raw>) {
            co_await work.start();
            here.box().value = true;
          } else {
            here.box().value.emplace(co_await work.start());
          }
        }
      } catch (const std::exception& e) {
        here.call().fail(failure::current(e));
      } catch (...) {
        here.call().fail(failure::current());
      }
      ended = next;
    }
    if constexpr (std::is_same_v<Report, throw_result>) {
      if (here.call().why()) here.call().why().raise();
      if constexpr (!std::is_void_v<value>) co_return std::move(*here.box().value);
    } else {
      if (here.call().why()) co_return here.call().release_failure();
      if constexpr (std::is_void_v<value>) {
        co_return outcome<void>();
      } else {
        co_return std::move(*here.box().value);
      }
    }
  }

 private:
  using state = walk_state<Stages, value>;
  using step = typename state::step;

  walk(const Stages& stages, Work& work, const Info& info, const net::any_io_executor& executor,
       const call::origin& from) noexcept
      : state(stages, told(info), executor, from), work_(work), info_(info) {}

  static const call_info& told(const call_info& info) noexcept { return info; }
  static const call_info& told(const no_info&) noexcept { return call::nothing_said; }

  /// Away from the straight way down and up.
  awaitable<void> leave(step which) {
    if constexpr (state::has_scope) {
      static constexpr typename state::walk_below rest{start_below, borrowed::can_be_left_behind};
      if (which == step::below) return this->run_below(rest);
    }
    return this->detour(which);
  }

  using borrowed = decltype(borrow(std::declval<Work&>()));

  /// The walk below the first scope. One that may outlive us has a task and arguments of its own.
  /// @param earlier  attempts of this scope that were started before.
  static awaitable<outcome<value>> start_below(state& above, bool owned, std::uint32_t earlier) {
    auto& self = static_cast<walk&>(above);
    auto stages = self.stages().below();
    using rest_of_stages = decltype(stages);
    const call::origin from = self.call().part_after(earlier);
    if (!owned) {
      return walk<report_result, rest_of_stages, borrowed, Info>::run(std::move(stages), borrow(self.work_), self.info_,
                                                                      from);
    }
    if constexpr (borrowed::can_be_left_behind) {
      return walk<report_result, rest_of_stages, typename borrowed::owner, Info>::run(
          std::move(stages), borrow(self.work_).own(), self.info_, from);
    } else {
      throw std::logic_error("what may be left behind needs a task and arguments that can be copied");
    }
  }

  Work& work_;
  const Info& info_;
};

}  // namespace detail
}  // namespace cofferdam::inline COFFERDAM_ABI
