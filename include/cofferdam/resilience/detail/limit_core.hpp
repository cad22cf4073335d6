// How an adaptive limit is found: no Asio, no clock, no lock.
#pragma once

#include <cofferdam/core/time.hpp>
#include <cofferdam/resilience/limit_options.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::detail {

class limit_core {
 public:
  /// @param options  valid ones.
  explicit limit_core(const adaptive_limiter_options& options);

  /// A call ended. True when that ended a window: `limit` may have changed.
  /// @param in_flight  calls at the time, this one included.
  bool measure(duration latency, std::size_t in_flight, time_point now) noexcept;
  bool drop(std::size_t in_flight, time_point now) noexcept;

  [[nodiscard]] std::size_t limit() const noexcept { return measuring_baseline_ ? probe_limit() : whole(limit_); }
  [[nodiscard]] duration baseline() const noexcept { return duration(static_cast<std::int64_t>(baseline_)); }
  [[nodiscard]] duration recent() const noexcept { return duration(static_cast<std::int64_t>(recent_)); }
  [[nodiscard]] std::uint64_t drops() const noexcept { return all_drops_; }
  [[nodiscard]] std::uint64_t adjustments() const noexcept { return adjustments_; }
  [[nodiscard]] std::uint64_t baselines() const noexcept { return baselines_; }

 private:
  static constexpr std::size_t most_samples = 500;

  [[nodiscard]] std::size_t whole(double limit) const noexcept;
  [[nodiscard]] std::size_t probe_limit() const noexcept;
  bool end_window_if_due(std::size_t in_flight, time_point now) noexcept;
  void end_window() noexcept;
  void follow_gradient() noexcept;

  adaptive_limiter_options options_;
  double limit_;
  double baseline_ = 0, recent_ = 0;  // nanoseconds
  // The window:
  time_point began_{};
  bool begun_ = false;
  std::vector<std::int64_t> samples_;
  std::uint64_t window_drops_ = 0;
  std::size_t most_in_flight_ = 0;
  // The baseline:
  std::size_t windows_since_baseline_ = 0;
  bool measuring_baseline_ = false, settling_ = false;
  std::uint64_t all_drops_ = 0, adjustments_ = 0, baselines_ = 0;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
