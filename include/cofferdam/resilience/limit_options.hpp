// The vocabulary of adaptive limits.
#pragma once

#include <cofferdam/core/time.hpp>
#include <cofferdam/resilience/bulkhead.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

enum class limit_algorithm : std::uint8_t {
  gradient,  ///< by latency, and by drops
  aimd,      ///< by drops alone: one more, or so many per cent less
};

struct adaptive_limiter_options {
  limit_algorithm algorithm = limit_algorithm::gradient;
  std::size_t initial_limit = 20;             // between the two below
  std::size_t min_limit = 1;                  // >= 1
  std::size_t max_limit = 200;                // up to 1e6
  duration window = std::chrono::seconds(1);  // how often the limit changes at most
  std::size_t minimum_samples = 10;           // a window lasts until so many calls are measured; 1 to 500
  double tolerance = 1.5;                     // of gradient: up to so many times the baseline there is no queue; >= 1
  double backoff = 0.9;                       // what a window with drops leaves of the limit, in (0, 1)
  std::size_t rebaseline_after = 60;          // of gradient: windows between measurements of the baseline; 0 = never
  std::size_t max_queue = 0;                  // as of a bulkhead
  duration max_wait = duration::max();        // as of a bulkhead
  queue_order order = queue_order::fifo;      // as of a bulkhead
  friend bool operator==(const adaptive_limiter_options&, const adaptive_limiter_options&) = default;
};

[[nodiscard]] std::vector<std::string> validate(const adaptive_limiter_options& options);

}  // namespace cofferdam::inline COFFERDAM_ABI
