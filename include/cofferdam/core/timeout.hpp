// with_timeout: a time limit on any task, right on every path.
#pragma once

#include <cofferdam/core/deadline.hpp>
#include <cofferdam/core/detail/child.hpp>
#include <cofferdam/core/task.hpp>
#include <cofferdam/core/timer_service.hpp>

#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {
namespace detail {

[[nodiscard]] inline child_options limit_after(duration d, on_timeout mode = on_timeout::cancel,
                                               shared_name name = nullptr) {
  child_options options;
  options.after = d;
  options.mode = mode;
  options.name = std::move(name);
  return options;
}
[[nodiscard]] inline child_options limit_at(time_point limit) {
  child_options options;
  options.limit = limit;
  return options;
}

}  // namespace detail

/// Runs `task(args...)` under a time limit.
/// The limit is the earlier of `d` from now and every enclosing deadline; the task sees it as `this_coro::deadline()`.
/// @param d     zero or negative: timed out without starting the task.
/// @param task  any task (see task.hpp); moved into the call together with its arguments.
/// @return      the task's value, also one that arrived while it was being cancelled.
/// Errors:       `timeout_error` only if the limit passed, the task ended by cancellation and the caller did not
/// cancel;
///               whatever the task throws, unchanged.
/// Cancellation: forwarded to the task; the call ends when the task ends.
/// Executor:     the task runs on the caller's executor, on a thread pool's bare executor within a strand of its own.
/// Cost:         one spawned coroutine and one timer entry: two to three times Asio's own `co_spawn` (see README).
template <class F, class... Args>
  requires task_with<F, Args...>
[[nodiscard]] awaitable<task_value_t<F, Args...>> with_timeout(duration d, F&& task, Args&&... args) {
  COFFERDAM_GUARD_TASK(F);
  return detail::run_child<task_value_t<F, Args...>, detail::throwing, std::decay_t<F>, std::decay_t<Args>...>(
      detail::limit_after(d), std::forward<F>(task), std::forward<Args>(args)...);
}

/// As above with a choice of what happens to work that does not end: `on_timeout::detach` returns at the limit and lets
/// the cancelled work end in the background, which must then own everything it touches.
template <class F, class... Args>
  requires task_with<F, Args...>
[[nodiscard]] awaitable<task_value_t<F, Args...>> with_timeout(duration d, on_timeout mode, F&& task, Args&&... args) {
  COFFERDAM_GUARD_TASK(F);
  return detail::run_child<task_value_t<F, Args...>, detail::throwing, std::decay_t<F>, std::decay_t<Args>...>(
      detail::limit_after(d, mode), std::forward<F>(task), std::forward<Args>(args)...);
}

/// As `with_timeout` until a point in time of the context's timer service.
template <class F, class... Args>
  requires task_with<F, Args...>
[[nodiscard]] awaitable<task_value_t<F, Args...>> with_deadline(time_point limit, F&& task, Args&&... args) {
  COFFERDAM_GUARD_TASK(F);
  return detail::run_child<task_value_t<F, Args...>, detail::throwing, std::decay_t<F>, std::decay_t<Args>...>(
      detail::limit_at(limit), std::forward<F>(task), std::forward<Args>(args)...);
}

/// `with_timeout` that reports instead of throwing.
template <class F, class... Args>
  requires task_with<F, Args...>
[[nodiscard]] awaitable<outcome<task_value_t<F, Args...>>> try_with_timeout(duration d, F&& task, Args&&... args) {
  COFFERDAM_GUARD_TASK(F);
  return detail::run_child<task_value_t<F, Args...>, detail::reporting, std::decay_t<F>, std::decay_t<Args>...>(
      detail::limit_after(d), std::forward<F>(task), std::forward<Args>(args)...);
}

}  // namespace cofferdam::inline COFFERDAM_ABI
