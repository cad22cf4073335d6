// The one notion of time: 64-bit nanoseconds on a steady timeline. `clock` has no now(): the current time is asked of
// the timer service of an executor's context, so that virtual time reaches every policy.
#pragma once

#include <cofferdam/core/config.hpp>

#include <chrono>
#include <limits>

namespace cofferdam::inline COFFERDAM_ABI {

using duration = std::chrono::nanoseconds;

/// Tag of the steady timeline shared by all components of one execution context.
struct clock {
  using duration = cofferdam::duration;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<clock, duration>;
  static constexpr bool is_steady = true;
};

using time_point = clock::time_point;

/// A point that is never reached: "no deadline".
inline constexpr time_point never = time_point::max();

/// `start + d` without overflow: saturates at `never`.
[[nodiscard]] constexpr time_point saturating_add(time_point start, duration d) noexcept {
  if (d > duration::zero() && start > never - d) return never;
  if (d < duration::zero() && start < time_point::min() - d) return time_point::min();
  return start + d;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
