// Virtual time for one io_context: its clock moves only when nothing is ready to run, straight to the next deadline. An
// hour passes in microseconds, in the same order every time.
#pragma once

#include <cofferdam/core/detail/child.hpp>
#include <cofferdam/core/net.hpp>
#include <cofferdam/core/random.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/task.hpp>
#include <cofferdam/core/timer_service.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// Thrown by `virtual_time::run(task)` when the task waits and nothing will ever happen.
struct deadlock_error : std::logic_error {
  using std::logic_error::logic_error;
};

/// Switches `context` to virtual time for the rest of its life and drives it.
/// Only for programs whose every wait is on this context: no sockets, no other threads.
/// Thread safety: none; make it before anything is started on the context.
class virtual_time {
 public:
  /// @param seed  of the context's randomness, so that a run can be repeated.
  explicit virtual_time(net::io_context& context, std::uint64_t seed = 1, time_point start = time_point());
  virtual_time(const virtual_time&) = delete;
  virtual_time& operator=(const virtual_time&) = delete;

  [[nodiscard]] time_point now() const noexcept { return timers_.now(); }
  /// Time since the start.
  [[nodiscard]] duration elapsed() const noexcept { return now() - start_; }

  /// Runs until nothing is ready and nothing is pending; returns how often time jumped.
  std::size_t run() { return run_until(never); }
  /// Runs everything up to and including `until`, then stands at that time.
  std::size_t run_until(time_point until);
  /// Runs what is ready and moves to the next deadline; false when there is none.
  bool run_next() {
    run_ready();
    return jump(never);
  }
  std::size_t run_for(duration d) { return run_until(saturating_add(now(), d)); }

  /// Runs `task(args...)` to its end and returns its value.
  /// Errors: what the task throws; `deadlock_error` when it can never end.
  template <class F, class... Args>
    requires task_with<F, Args...>
  task_value_t<F, Args...> run(F&& task, Args&&... args) {
    using yields = task_value_t<F, Args...>;
    const auto result = std::make_shared<std::optional<outcome<yields>>>();  // a deadlocked task outlives this call
    net::co_spawn(context_,
                  supervise<yields, std::decay_t<F>, std::decay_t<Args>...>(result, std::forward<F>(task),
                                                                            std::forward<Args>(args)...),
                  net::detached);
    for (run_ready(); !*result; run_ready()) {
      if (!jump(never)) throw deadlock_error("the task waits and nothing will ever happen");
    }
    return std::move(**result).value();
  }

  /// A hash over every jump, the number of handlers run at each, and everything recorded: equal for equal runs.
  [[nodiscard]] std::uint64_t trace() const noexcept { return trace_; }
  /// Adds an observation of the program to the trace.
  void record(std::string_view observation) noexcept;

 private:
  template <class T, class F, class... Args>
  static awaitable<void> supervise(std::shared_ptr<std::optional<outcome<T>>> result, F task, Args... args) {
    auto ended =
        co_await detail::run_child<T, detail::reporting>(detail::child_options(), std::move(task), std::move(args)...);
    result->emplace(std::move(ended));
  }

  void run_ready();
  bool jump(time_point until);
  void fold(std::uint64_t value) noexcept;

  net::io_context& context_;
  timer_service& timers_;
  time_point start_;
  std::uint64_t trace_ = 0;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
