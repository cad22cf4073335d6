// A percentile of recent latencies that is cheap to ask for: computed now and then, remembered between.
#pragma once

#include <cofferdam/resilience/detail/latency_histogram.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>

namespace cofferdam::inline COFFERDAM_ABI::detail {

/// Thread safety: every member from any thread.
class moving_percentile {
 public:
  /// @param window  latencies are remembered once to twice as long.
  moving_percentile(double share, std::size_t minimum_samples, duration window) noexcept
      : share_(share), minimum_(minimum_samples), window_(window) {}

  void record(duration latency, time_point now) noexcept;
  /// As of a short while ago; zero when too few latencies are known.
  [[nodiscard]] duration value(time_point now) noexcept;

 private:
  const double share_;
  const std::size_t minimum_;
  const duration window_;
  latency_histogram latencies_;
  std::atomic<std::int64_t> value_{0}, good_until_{INT64_MIN};
  std::mutex mutex_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
