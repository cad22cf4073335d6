// with_timeout: a time limit on any task, right on every path.
#pragma once

#include <cofferdam/core/deadline.hpp>
#include <cofferdam/core/detail/child.hpp>
#include <cofferdam/core/task.hpp>
#include <cofferdam/core/timer_service.hpp>

#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {
namespace detail {

/// Options of a child with a time limit, or the reason not to start it. An inherited deadline that comes first needs no
/// timer of ours: its owner will cancel us, and then it is its timeout, not ours.
[[nodiscard]] outcome<child_options> limit_child(const net::any_io_executor& executor, time_point limit,
                                                 on_timeout mode, shared_name name);

template <class T, class F, class... Args>
awaitable<outcome<T>> run_limited(time_point limit, duration d, on_timeout mode, F task, Args... args) {
  const auto executor = co_await net::this_coro::executor;
  if (limit == never) limit = saturating_add(timers_of(executor).now(), d);
  auto options = limit_child(executor, limit, mode, nullptr);
  if (!options) co_return options.why();
  co_return co_await run_child<T>(*options, task, args...);
}

template <class T, class F, class... Args>
awaitable<T> run_limited_or_throw(time_point limit, duration d, on_timeout mode, F task, Args... args) {
  const auto executor = co_await net::this_coro::executor;
  if (limit == never) limit = saturating_add(timers_of(executor).now(), d);
  auto options = limit_child(executor, limit, mode, nullptr);
  if (!options) options.why().raise();
  auto result = co_await run_child<T>(*options, task, args...);
  co_return std::move(result).value();
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
/// Cost:         about 0.5 us: one spawned coroutine, one timer entry.
template <class F, class... Args>
  requires task_with<F, Args...>
[[nodiscard]] awaitable<task_value_t<F, Args...>> with_timeout(duration d, F&& task, Args&&... args) {
  COFFERDAM_GUARD_TASK(F);
  return detail::run_limited_or_throw<task_value_t<F, Args...>, std::decay_t<F>, std::decay_t<Args>...>(
      never, d, on_timeout::cancel, std::forward<F>(task), std::forward<Args>(args)...);
}

/// As above with a choice of what happens to work that does not end: `on_timeout::detach` returns at the limit and lets
/// the cancelled work end in the background, which must then own everything it touches.
template <class F, class... Args>
  requires task_with<F, Args...>
[[nodiscard]] awaitable<task_value_t<F, Args...>> with_timeout(duration d, on_timeout mode, F&& task, Args&&... args) {
  COFFERDAM_GUARD_TASK(F);
  return detail::run_limited_or_throw<task_value_t<F, Args...>, std::decay_t<F>, std::decay_t<Args>...>(
      never, d, mode, std::forward<F>(task), std::forward<Args>(args)...);
}

/// As `with_timeout` until a point in time of the context's timer service.
template <class F, class... Args>
  requires task_with<F, Args...>
[[nodiscard]] awaitable<task_value_t<F, Args...>> with_deadline(time_point limit, F&& task, Args&&... args) {
  COFFERDAM_GUARD_TASK(F);
  return detail::run_limited_or_throw<task_value_t<F, Args...>, std::decay_t<F>, std::decay_t<Args>...>(
      limit, duration::max(), on_timeout::cancel, std::forward<F>(task), std::forward<Args>(args)...);
}

/// `with_timeout` that reports instead of throwing.
template <class F, class... Args>
  requires task_with<F, Args...>
[[nodiscard]] awaitable<outcome<task_value_t<F, Args...>>> try_with_timeout(duration d, F&& task, Args&&... args) {
  COFFERDAM_GUARD_TASK(F);
  return detail::run_limited<task_value_t<F, Args...>, std::decay_t<F>, std::decay_t<Args>...>(
      never, d, on_timeout::cancel, std::forward<F>(task), std::forward<Args>(args)...);
}

}  // namespace cofferdam::inline COFFERDAM_ABI
