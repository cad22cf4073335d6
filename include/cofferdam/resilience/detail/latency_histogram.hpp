// Latencies of the last one to two windows: log-linear buckets (eight per octave, so quantiles are exact to 6 %), two
// generations that take turns.
#pragma once

#include <cofferdam/core/time.hpp>
#include <cofferdam/resilience/circuit_options.hpp>

#include <array>
#include <atomic>
#include <cstdint>

namespace cofferdam::inline COFFERDAM_ABI::detail {

/// Thread safety: `record` from any thread; `rotate` and `stats` under the owner's lock.
class latency_histogram {
 public:
  void record(duration latency) noexcept;
  [[nodiscard]] std::int64_t period() const noexcept { return period_.load(std::memory_order_relaxed); }
  /// Forgets the older generation if `period` differs from the last one seen; both if it is far.
  void rotate(std::int64_t period) noexcept;
  [[nodiscard]] latency_stats stats() const noexcept;
  /// Nearest rank; zero when fewer than `minimum` latencies are known.
  [[nodiscard]] duration quantile(double share, std::uint64_t minimum) const noexcept;

 private:
  static constexpr unsigned sub_bits = 3, first_octave = 10, octaves = 33;  // 1 us to 2.4 h
  static constexpr std::size_t size = octaves << sub_bits;
  struct generation {
    std::array<std::atomic<std::uint32_t>, size> buckets{};
    std::atomic<std::int64_t> sum{0}, max{0};
  };

  /// Both generations, at one time.
  struct sum_of_both;

  [[nodiscard]] static std::size_t bucket_of(duration latency) noexcept;
  [[nodiscard]] static duration middle_of(std::size_t bucket) noexcept;
  static void clear(generation& g) noexcept;

  std::array<generation, 2> generations_;
  std::atomic<unsigned> current_{0};
  std::atomic<std::int64_t> period_{0};
};

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
