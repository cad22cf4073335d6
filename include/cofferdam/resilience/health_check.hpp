// Health checks for a circuit breaker: ask the dependency itself, beside the calls.
#pragma once

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/task.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

struct health_check_options {
  duration interval = std::chrono::seconds(5);  // from the end of one check to the next; the first comes at once
  duration timeout = std::chrono::seconds(1);   // of one check; a late one is a bad one
  std::size_t unhealthy_after = 1;              // bad checks in a row that open the circuit; 0 = never
  std::size_t healthy_after = 1;                // good checks in a row that end its break; 0 = never
};

[[nodiscard]] std::vector<std::string> validate(const health_check_options& options);

struct health_check_stats {
  std::uint64_t good = 0, bad = 0;
  std::size_t good_in_a_row = 0, bad_in_a_row = 0;
};

namespace detail {

/// What a running check shares with its handle.
struct health_watch;

template <class F> awaitable<outcome<void>> ask_for_health(std::shared_ptr<F> check) {
  auto answer = co_await outcome_of(*check);
  if (!answer) co_return std::move(answer).why();
  if constexpr (std::is_same_v<run_value_t<F&>, bool>) {
    if (!*answer) co_return failure::thrown(std::make_exception_ptr(std::runtime_error("the check said no")));
  }
  co_return outcome<void>();
}

}  // namespace detail

/// Asks again and again. Bad answers open the circuit; good ones do not close it but end its break, so that the next
/// call is a probe.
///
///     health_check pings{breaker, ping, {.interval = 2s}};
///     pings.start(context);
///
/// The check: any task without arguments; one that throws, is late, or returns false is bad.
/// Stopping:      by `stop` or with this object, for good: a check that still runs is cancelled and moves nothing.
/// Thread safety: every member from any thread, `on_failed` and `start` once, first. The breaker and the context must
/// outlive it. While it is started it is work of its context: `run()` does not return.
class health_check {
 public:
  /// Errors: `invalid_options_error`.
  template <class F>
    requires task_with<F&>
  health_check(circuit_breaker& breaker, F check, const health_check_options& options = {})
      : health_check(breaker, options,
                     [shared = std::make_shared<F>(std::move(check))] { return detail::ask_for_health<F>(shared); }) {}
  ~health_check() { stop(); }
  health_check(const health_check&) = delete;
  health_check& operator=(const health_check&) = delete;

  /// Calls `listen` for every bad check.
  health_check& on_failed(std::function<void(const failure&)> listen);
  void start(const net::any_io_executor& executor);
  template <class Context>
    requires std::derived_from<Context, net::execution_context>
  void start(Context& context) {
    start(net::any_io_executor(context.get_executor()));
  }
  /// No effect once stopped. When it returns, no check will touch the breaker any more.
  void stop() noexcept;
  [[nodiscard]] health_check_stats stats() const;

 private:
  health_check(circuit_breaker& breaker, const health_check_options& options,
               std::function<awaitable<outcome<void>>()> check);

  std::shared_ptr<detail::health_watch> watch_;
  std::optional<spawned> job_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
