// Starting coroutines: `spawn` gives each its own strand, which Asio's per-operation cancellation needs; `spawn_on`
// runs one on another executor and awaits it, with cancellation handed over properly.
#pragma once

#include <cofferdam/core/detail/child.hpp>
#include <cofferdam/core/detail/reference.hpp>
#include <cofferdam/core/net.hpp>
#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/task.hpp>

#include <mutex>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {
namespace detail {

/// A strand on `executor`; `executor` itself where it is one, or where virtual time says that one thread runs all. With
/// its deadline, but without its marks: who is not awaited is within nothing.
[[nodiscard]] net::any_io_executor own_strand(const net::any_io_executor& executor);

class spawned_state final : public counted {
 public:
  explicit spawned_state(net::any_io_executor strand) : strand_(std::move(strand)) {}
  void start(awaitable<void> body);
  void cancel();
  static awaitable<void> join(reference<spawned_state> self);

 private:
  void end();

  net::any_io_executor strand_;
  net::cancellation_signal signal_;  // emitted on strand_ only
  std::mutex mutex_;
  std::vector<parked_reference> joining_;
  bool has_ended_ = false;
};

template <class F, class... Args> awaitable<void> run_detached(F task, Args... args) {
  if constexpr (plain_task<F, Args...>) {
    (void)std::invoke(task, args...);
    co_return;
  } else {
    (void)co_await start_task(task, args...);
  }
}

template <class F, class... Args>
awaitable<task_value_t<F, Args...>> run_on(net::any_io_executor executor, F task, Args... args) {
  child_options options;
  options.on = &executor;
  co_return co_await run_child<task_value_t<F, Args...>, throwing>(std::move(options), std::move(task),
                                                                   std::move(args)...);
}

}  // namespace detail

/// A coroutine started by `spawn`. Destroying the handle leaves it running.
class spawned {
 public:
  explicit spawned(detail::reference<detail::spawned_state> state) noexcept : state_(std::move(state)) {}
  /// Asks the coroutine to stop: terminal cancellation, emitted on its strand. No effect once it has ended.
  /// Thread safety: from any thread, while the coroutine's context lives.
  void cancel() const { state_->cancel(); }
  /// Waits until the coroutine has ended: nothing that it used is used any more.
  /// Cancellation: the wait ends with a cancelled `failure`, the coroutine goes on.
  [[nodiscard]] awaitable<void> join() const { return detail::spawned_state::join(state_); }
  /// `cancel` and `join`: before what the coroutine works on goes.
  [[nodiscard]] awaitable<void> stop() const {
    state_->cancel();
    return join();
  }

 private:
  detail::reference<detail::spawned_state> state_;
};

/// Starts `task(args...)` as a thread of execution of its own, on a strand of its own.
/// Errors: an exception that leaves the task leaves the context's `run()`, except a cancellation, which just ends it.
template <class F, class... Args>
  requires task_with<F, Args...>
spawned spawn(const net::any_io_executor& executor, F&& task, Args&&... args) {
  detail::reference<detail::spawned_state> state(new detail::spawned_state(detail::own_strand(executor)));
  state->start(
      detail::run_detached<std::decay_t<F>, std::decay_t<Args>...>(std::forward<F>(task), std::forward<Args>(args)...));
  return spawned(std::move(state));
}
template <class Context, class F, class... Args>
  requires std::derived_from<Context, net::execution_context> && task_with<F, Args...>
spawned spawn(Context& context, F&& task, Args&&... args) {
  return spawn(net::any_io_executor(context.get_executor()), std::forward<F>(task), std::forward<Args>(args)...);
}

/// Runs `task(args...)` on a strand of `executor` and resumes the caller on its own executor with the result.
/// The caller's deadline is inherited. The task may run at the same time as other coroutines of the caller.
/// Errors:       whatever the task throws, unchanged.
/// Cancellation: the caller's is dispatched to the task's strand; the call ends when the task ends.
template <class F, class... Args>
  requires task_with<F, Args...>
[[nodiscard]] awaitable<task_value_t<F, Args...>> spawn_on(const net::any_io_executor& executor, F&& task,
                                                           Args&&... args) {
  COFFERDAM_GUARD_TASK(F);
  return detail::run_on<std::decay_t<F>, std::decay_t<Args>...>(executor, std::forward<F>(task),
                                                                std::forward<Args>(args)...);
}
template <class Context, class F, class... Args>
  requires std::derived_from<Context, net::execution_context> && task_with<F, Args...>
[[nodiscard]] awaitable<task_value_t<F, Args...>> spawn_on(Context& context, F&& task, Args&&... args) {
  COFFERDAM_GUARD_TASK(F);
  return detail::run_on<std::decay_t<F>, std::decay_t<Args>...>(net::any_io_executor(context.get_executor()),
                                                                std::forward<F>(task), std::forward<Args>(args)...);
}

}  // namespace cofferdam::inline COFFERDAM_ABI
