// The arithmetic of rate limits: no Asio, no clock. Two ways of counting: a theoretical arrival time for token buckets
// and pacing (one atomic, as in the generic cell rate algorithm of ATM), a short history under a mutex for windows.
#pragma once

#include <cofferdam/core/time.hpp>
#include <cofferdam/resilience/rate_options.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::detail {

/// Thread safety: every member from any thread.
class rate_core {
 public:
  struct grant {
    bool given = false;
    duration wait{};                  // given: until the permits count; refused: until trying again may help
    std::int64_t mark = 0, cost = 0;  // for `put_back`
  };

  /// @param options  valid ones.
  explicit rate_core(const rate_limiter_options& options);

  /// Permits that one call can have at most.
  [[nodiscard]] std::size_t most_at_once() const noexcept { return most_at_once_.load(std::memory_order_relaxed); }
  /// Takes `permits` (1 to `most_at_once`) now or, if that is at most `max_wait` away, in the future. Those who came
  /// first are served first.
  [[nodiscard]] grant take(std::size_t permits, time_point now, duration max_wait) noexcept;
  /// Gives back what was taken for the future, unless somebody has reserved behind it since.
  bool put_back(const grant& given) noexcept;
  /// How many permits could be had right now.
  [[nodiscard]] std::size_t available(time_point now) const noexcept;
  /// Whether all permits could be had.
  [[nodiscard]] bool is_unused(time_point now) const noexcept {
    return available(now) == (algorithm_ == rate_algorithm::smooth ? 1 : most_at_once());
  }
  /// What was granted stays granted. Errors: std::bad_alloc.
  void change(const rate_limiter_options& options);
  [[nodiscard]] rate_limiter_options options() const noexcept;

 private:
  struct cycle_state {
    std::int64_t cycle = INT64_MIN;
    std::int64_t left = 0;
  };

  [[nodiscard]] bool paces() const noexcept {
    return algorithm_ == rate_algorithm::token_bucket || algorithm_ == rate_algorithm::smooth;
  }
  [[nodiscard]] grant take_by_arrival(std::int64_t permits, std::int64_t now, std::int64_t max_wait) noexcept;
  [[nodiscard]] grant take_of_cycle(std::int64_t permits, std::int64_t now, std::int64_t max_wait) noexcept;
  [[nodiscard]] grant take_of_history(std::size_t permits, std::int64_t now, std::int64_t max_wait) noexcept;
  [[nodiscard]] cycle_state cycle_at(std::int64_t now) const noexcept;

  const rate_algorithm algorithm_;
  std::atomic<std::size_t> most_at_once_;

  // Token bucket and pacing: when a stream of calls at exactly the allowed rate would have its next one. Up to
  // `tolerance_` early is early enough.
  std::atomic<std::int64_t> arrival_{INT64_MIN};
  std::atomic<std::int64_t> spacing_{1}, tolerance_{0};

  // Windows.
  mutable std::mutex mutex_;
  rate_limiter_options options_;
  std::int64_t period_ = 1, permits_ = 1;
  std::int64_t sequence_ = 0;          // of the last change
  cycle_state last_, before_last_;     // fixed window: where the last grants count
  std::vector<std::int64_t> history_;  // sliding window: when the last permits count from, a ring
  std::size_t oldest_ = 0;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
