// Pipelines: a list of policies walked by ONE coroutine. Down the list it calls `admit`, then it awaits the task, and
// up the list it calls `settle`. Two spellings share this engine:
//
//     auto calls = retry({.max_attempts = 3}) | breaker | bulkhead | timeout(200ms);   // composed at compile time
//     pipeline calls("payments", {std::make_shared<retry>(), ...});                    // a list made at run time
//
//     auto value = co_await calls.run(fetch, url);       // throws refusals
//     auto result = co_await calls.try_run(fetch, url);  // outcome<T>: refusals are values
#pragma once

#include <cofferdam/resilience/detail/stages.hpp>
#include <cofferdam/resilience/detail/walk.hpp>
#include <cofferdam/resilience/policy.hpp>

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

namespace detail {
template <class F, class... Args> struct pipeline_value {};
template <class F, class... Args>
  requires task_with<F, Args...>
struct pipeline_value<F, Args...> {
  using type = run_value_t<F, Args...>;
};
template <class F, class... Args>
  requires(!task_with<F, Args...> && task_with<F, attempt, Args...>)
struct pipeline_value<F, Args...> {
  using type = run_value_t<F, attempt, Args...>;
};
}  // namespace detail

/// A task for a pipeline: one that takes these arguments, or an `attempt` before them.
template <class F, class... Args>
concept numbered_task_with = task_with<F, Args...> || task_with<F, attempt, Args...>;

/// What a pipeline's run of the task yields.
template <class F, class... Args> using pipeline_value_t = typename detail::pipeline_value<F, Args...>::type;

/// Gives a policy or pipeline its verbs, on top of `Derived::stages()`.
///
/// All verbs take any task (see task.hpp), move it into the call together with its arguments, and start nothing before
/// they are awaited. A task that yields an `outcome<T>` fails by value: the policies see its failure as if it had
/// thrown, at a fraction of the cost, and the call yields a T. Errors:       refusals of the policies, as typed
/// exceptions or as values; whatever the task throws, unchanged. Cancellation: reaches the task or the wait the call is
/// in; every permit is returned; the outcome is a cancellation. Executor:     the task runs on the caller's executor.
/// Lifetime:     the pipeline and its policies must outlive the call.
template <class Derived> class runnable {
 public:
  /// Runs `task(args...)` under the policies; throws when there is no value. The second form tells the policies about
  /// the call: `calls.run({.key = tenant}, fetch, url)`.
  template <class F, class... Args>
    requires numbered_task_with<F, Args...>
  [[nodiscard]] awaitable<pipeline_value_t<F, Args...>> run(F&& task, Args&&... args) {
    COFFERDAM_GUARD_TASK(F);
    return start<detail::throw_result>(detail::no_info(), std::forward<F>(task), std::forward<Args>(args)...);
  }
  template <class F, class... Args>
    requires numbered_task_with<F, Args...>
  [[nodiscard]] awaitable<pipeline_value_t<F, Args...>> run(const call_info& info, F&& task, Args&&... args) {
    COFFERDAM_GUARD_TASK(F);
    return start<detail::throw_result>(info, std::forward<F>(task), std::forward<Args>(args)...);
  }
  /// As `run`; a call without value is an `outcome` that says why, and no refusal costs an exception.
  template <class F, class... Args>
    requires numbered_task_with<F, Args...>
  [[nodiscard]] awaitable<outcome<pipeline_value_t<F, Args...>>> try_run(F&& task, Args&&... args) {
    COFFERDAM_GUARD_TASK(F);
    return start<detail::report_result>(detail::no_info(), std::forward<F>(task), std::forward<Args>(args)...);
  }
  template <class F, class... Args>
    requires numbered_task_with<F, Args...>
  [[nodiscard]] awaitable<outcome<pipeline_value_t<F, Args...>>> try_run(const call_info& info, F&& task,
                                                                         Args&&... args) {
    COFFERDAM_GUARD_TASK(F);
    return start<detail::report_result>(info, std::forward<F>(task), std::forward<Args>(args)...);
  }

 private:
  template <class Report, class Info, class F, class... Args> auto start(Info info, F&& task, Args&&... args) {
    auto stages = static_cast<Derived&>(*this).stages();
    using stages_type = decltype(stages);
    static_assert(
        repeatable_task<std::decay_t<F>> || !stages_type::may_repeat,
        "an awaitable is one run, already made: a pipeline that may retry needs a callable it can start again");
    if constexpr (task_with<F, Args...>) {
      using work = detail::owned_work<std::decay_t<F>, std::decay_t<Args>...>;
      return detail::walk<Report, stages_type, work, Info>::run(
          stages, work(std::in_place, std::forward<F>(task), std::forward<Args>(args)...), info, call::origin());
    } else {
      using work = detail::owned_work<std::decay_t<F>, attempt, std::decay_t<Args>...>;
      return detail::walk<Report, stages_type, work, Info>::run(
          stages, work(std::in_place, std::forward<F>(task), attempt(), std::forward<Args>(args)...), info,
          call::origin());
    }
  }
};

/// Base of a policy that can also be used alone: a pipeline of one.
template <class Derived> class runnable_policy : public policy, public runnable<Derived> {
 public:
  /// For the engine.
  [[nodiscard]] auto stages() noexcept { return detail::single_stage<Derived>(static_cast<Derived*>(this)); }
};

/// A pipeline composed at compile time: every policy's type is known and called directly.
/// Lvalue policies are referred to and must outlive it, temporaries are moved in.
template <class... Holders> class static_pipeline : public runnable<static_pipeline<Holders...>> {
 public:
  explicit static_pipeline(std::tuple<Holders...> policies) : policies_(std::move(policies)) {}

  /// For the engine.
  [[nodiscard]] auto stages() noexcept { return detail::static_stages<0, Holders...>({&policies_}); }
  [[nodiscard]] std::tuple<Holders...>&& release() && noexcept { return std::move(policies_); }
  [[nodiscard]] const std::tuple<Holders...>& policies() const noexcept { return policies_; }

  /// The policies from the outside in, one a line.
  [[nodiscard]] std::string describe() const {
    std::string text;
    std::apply([&](const Holders&... holder) { (detail::append_line(text, holder.get().describe()), ...); }, policies_);
    return text;
  }

 private:
  std::tuple<Holders...> policies_;
};

/// `outer | inner`: calls pass `outer` first.
template <class Outer, class Inner>
  requires(detail::pipeline_part<Outer> && detail::pipeline_part<Inner>)
[[nodiscard]] auto operator|(Outer&& outer, Inner&& inner) {
  return detail::make_static(
      std::tuple_cat(detail::to_holders(std::forward<Outer>(outer)), detail::to_holders(std::forward<Inner>(inner))));
}

/// A pipeline made at run time, owning its policies. Copies share them.
class pipeline : public runnable<pipeline> {
 public:
  /// @param policies  from the outside in.
  /// Errors: `invalid_options_error` for a null policy.
  pipeline(std::string name, std::vector<std::shared_ptr<policy>> policies);

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] std::string describe() const;
  /// For the engine.
  [[nodiscard]] detail::dynamic_stages stages() const noexcept { return detail::dynamic_stages(policies_, 0); }

 private:
  std::string name_;
  std::shared_ptr<const detail::policy_list> policies_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
