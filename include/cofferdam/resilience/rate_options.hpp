// The vocabulary of rate limits.
#pragma once

#include <cofferdam/core/time.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

enum class rate_algorithm : std::uint8_t {
  token_bucket,    ///< `permits` per `period` in the long run, up to `burst` at once after a quiet time
  smooth,          ///< one permit every `period / permits`, never two at once
  fixed_window,    ///< `permits` in each of the periods that follow each other: up to twice as many around a border
  sliding_window,  ///< at most `permits` in any stretch of time as long as `period`, exactly; 8 bytes a permit
};

struct rate_limiter_options {
  std::size_t permits = 100;                  // per period; 1 to 1e9, for sliding_window to 1e6
  duration period = std::chrono::seconds(1);  // at least 1 ns a permit
  rate_algorithm algorithm = rate_algorithm::token_bucket;
  std::size_t burst = 0;  // of token_bucket: permits it holds when full; 0 = `permits`
  duration max_wait{};    // how long a call may wait for its permits; 0 = refuse at once
  friend bool operator==(const rate_limiter_options&, const rate_limiter_options&) = default;
};

[[nodiscard]] std::vector<std::string> validate(const rate_limiter_options& options);

}  // namespace cofferdam::inline COFFERDAM_ABI
