// A line of those who wait, linked through themselves: the most important first, among equals the first to come. Knows
// neither locks nor time; the bulkhead keeps one for each partition.
#pragma once

#include <cofferdam/core/config.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::detail {

/// @tparam T  has members `T* previous_`, `T* next_` and `std::int32_t priority_`, which must not change in the line.
/// Joining and leaving take a binary search among the priorities in use, and no allocation for each who waits.
template <class T> class wait_line {
 public:
  [[nodiscard]] bool empty() const noexcept { return first_ == nullptr; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  /// Who is next; `next_` leads on from there.
  [[nodiscard]] T* first() const noexcept { return first_; }
  /// The last to come of the least important; `previous_` leads on from there.
  [[nodiscard]] T* last() const noexcept { return last_; }

  /// Errors: std::bad_alloc for a priority that nobody in the line has; the line is as before.
  void join(T& one, bool before_equals) {
    const auto place = place_of(one.priority_);
    T* before = place == levels_.begin() ? nullptr : std::prev(place)->last;
    if (place == levels_.end() || place->priority != one.priority_) {
      levels_.insert(place, level{one.priority_, &one, &one});
    } else if (before_equals) {
      place->first = &one;
    } else {
      before = std::exchange(place->last, &one);
    }
    one.previous_ = before;
    one.next_ = before != nullptr ? before->next_ : first_;
    (one.previous_ != nullptr ? one.previous_->next_ : first_) = &one;
    (one.next_ != nullptr ? one.next_->previous_ : last_) = &one;
    ++size_;
  }

  void leave(T& one) noexcept {
    const auto place = place_of(one.priority_);
    if (place->first == place->last) {
      levels_.erase(place);
    } else if (place->first == &one) {
      place->first = one.next_;
    } else if (place->last == &one) {
      place->last = one.previous_;
    }
    (one.previous_ != nullptr ? one.previous_->next_ : first_) = one.next_;
    (one.next_ != nullptr ? one.next_->previous_ : last_) = one.previous_;
    one.previous_ = one.next_ = nullptr;
    --size_;
  }

 private:
  struct level {
    std::int32_t priority;
    T* first;
    T* last;
  };
  [[nodiscard]] auto place_of(std::int32_t priority) noexcept {
    return std::ranges::lower_bound(levels_, priority, std::greater<>(), &level::priority);
  }

  T* first_ = nullptr;
  T* last_ = nullptr;
  std::size_t size_ = 0;
  std::vector<level> levels_;  // the priorities in use, the highest first; none is empty
};

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
