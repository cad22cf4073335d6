// Forms in which things lie in databases, the same in every folder and for ever.
#pragma once

#include <cofferdam/core/config.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string_view>

namespace cofferdam::inline COFFERDAM_ABI::detail {

/// Dates are microseconds since 1970.
[[nodiscard]] inline std::int64_t to_microseconds(std::chrono::system_clock::time_point date) noexcept {
  return std::chrono::floor<std::chrono::microseconds>(date.time_since_epoch()).count();
}
[[nodiscard]] inline std::chrono::system_clock::time_point date_from(std::int64_t microseconds) noexcept {
  constexpr std::int64_t farthest = 9'223'372'036'854'775;  // what a date of nanoseconds can hold
  const std::chrono::microseconds since(std::clamp(microseconds, -farthest, farthest));
  return std::chrono::system_clock::time_point(std::chrono::duration_cast<std::chrono::system_clock::duration>(since));
}

/// FNV-1a, 64 bits, as a column holds it: against mistakes and for spreading, not against attacks.
[[nodiscard]] inline std::int64_t hash_of(std::string_view text) noexcept {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  return static_cast<std::int64_t>(hash);
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
