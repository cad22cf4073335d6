// The rate limiter: so many calls per period, the rest waits or is refused.
//
//     rate_limiter limiter{"search", {.permits = 100, .period = 1s, .max_wait = 200ms}};
//     auto page = co_await limiter.run(fetch, url);
#pragma once

#include <cofferdam/resilience/detail/rate_core.hpp>
#include <cofferdam/resilience/detail/shards.hpp>
#include <cofferdam/resilience/pipeline.hpp>
#include <cofferdam/resilience/rate_options.hpp>

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

namespace cofferdam::inline COFFERDAM_ABI {

struct rate_limiter_stats {
  std::uint64_t admitted = 0;  // of these...
  std::uint64_t delayed = 0;   // ...had to wait
  std::uint64_t rejected = 0;
};

/// Permits are granted in the order of asking. A call that may wait reserves its permits at once and knows when they
/// come; it never waits past its deadline. A cancelled wait gives its permits back, unless a later call has reserved
/// behind them. `call_info::weight` says how many permits a call takes.
///
/// Errors of calls: `rate_limit_error`: `rate_limited` with `retry_after`, or `weight_too_large` when even an idle
/// limiter
///                  could not serve the call.
/// Thread safety:   every member from any thread.
/// Source:          generic cell rate algorithm (ITU-T I.371) for token buckets and pacing; cycles with reservations
/// after
///                  resilience4j.
class rate_limiter final : public runnable_policy<rate_limiter> {
 public:
  /// Errors: `invalid_options_error`.
  explicit rate_limiter(std::string name, const rate_limiter_options& options = {});
  rate_limiter(const rate_limiter&) = delete;
  rate_limiter& operator=(const rate_limiter&) = delete;

  /// Waits for permits alone. Errors and cancellation: as calls.
  [[nodiscard]] awaitable<void> acquire(std::size_t permits = 1);
  /// Another rate from now on; what was granted stays granted, and a fixed window in use stays as it is. The algorithm
  /// and `max_wait` cannot change. Errors: `invalid_options_error`.
  void change_rate(std::size_t permits, duration period, std::size_t burst = 0);

  [[nodiscard]] std::string_view name() const noexcept { return *name_; }
  /// Permits that could be had at `now`, a time of the callers' timer service.
  [[nodiscard]] std::size_t available(time_point now) const noexcept { return core_.available(now); }
  [[nodiscard]] rate_limiter_stats stats() const noexcept;

  // --- the policy
  [[nodiscard]] admission admit(call& c, policy_slot& slot) noexcept override;
  [[nodiscard]] awaitable<admission> wait(call& c, policy_slot& slot) override;
  [[nodiscard]] verdict settle(call&, policy_slot&, const outcome_view&) noexcept override { return verdict::deliver; }
  [[nodiscard]] bool is_idle(time_point now) const noexcept override { return core_.is_unused(now); }
  [[nodiscard]] std::string describe() const override;

 private:
  shared_name name_;
  duration max_wait_;
  detail::rate_core core_;
  detail::sharded_counter admitted_;
  std::atomic<std::uint64_t> delayed_{0}, rejected_{0};
};

}  // namespace cofferdam::inline COFFERDAM_ABI
