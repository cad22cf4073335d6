// How many calls in flight have already run longer than a threshold.
#pragma once

#include <cofferdam/core/time.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::detail {

/// Exact to a tenth of the threshold, by which a call is noticed late, never early. No synchronisation of its own.
class flight_watch {
 public:
  explicit flight_watch(duration threshold) noexcept
      : width_(std::max<std::int64_t>(threshold.count() / parts + (threshold.count() % parts != 0 ? 1 : 0), 1)) {}

  void enter(time_point started) noexcept {
    move_on(started);
    if (std::size_t* young = find(started)) {
      ++*young;
    } else {
      ++slow_;  // by a clock that lags far behind
    }
  }
  /// Once for each `enter`, with the same time.
  void leave(time_point started) noexcept {
    if (std::size_t* young = find(started)) {
      --*young;
    } else {
      --slow_;
    }
  }
  [[nodiscard]] std::size_t slow(time_point now) noexcept {
    move_on(now);
    return slow_;
  }
  void clear() noexcept {
    young_.fill(0);
    slow_ = 0;
  }

 private:
  static constexpr std::int64_t parts = 10;
  static constexpr std::size_t size = parts + 2;

  [[nodiscard]] std::int64_t slice_of(time_point at) const noexcept { return at.time_since_epoch().count() / width_; }
  [[nodiscard]] std::size_t* find(time_point started) noexcept {
    const std::int64_t slice = slice_of(started);
    return slice < oldest_ ? nullptr : &young_[static_cast<std::size_t>(slice) % size];
  }
  /// Calls of slices that ended a threshold ago are slow.
  void move_on(time_point now) noexcept {
    const std::int64_t oldest = std::max(oldest_, slice_of(now) - parts);
    for (std::int64_t passed = 0; oldest_ < oldest; ++oldest_, ++passed) {
      if (passed == static_cast<std::int64_t>(size)) {  // a full turn: the rest is empty
        oldest_ = oldest;
        return;
      }
      slow_ += std::exchange(young_[static_cast<std::size_t>(oldest_) % size], 0);
    }
  }

  std::int64_t width_;
  std::int64_t oldest_ = 0;  // slice that is still young
  std::array<std::size_t, size> young_{};
  std::size_t slow_ = 0;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
