#include <cofferdam/resilience/detail/moving_percentile.hpp>

namespace cofferdam::inline COFFERDAM_ABI::detail {

void moving_percentile::record(duration latency, time_point now) noexcept {
  const std::int64_t period = now.time_since_epoch() / window_;
  if (period > latencies_.period()) {
    const std::lock_guard lock(mutex_);
    latencies_.rotate(period);
  }
  latencies_.record(latency);
}

duration moving_percentile::value(time_point now) noexcept {
  const std::int64_t present = now.time_since_epoch().count();
  if (present >= good_until_.load(std::memory_order_acquire)) {
    // Whoever comes while another one counts takes the old value.
    if (const std::unique_lock lock(mutex_, std::try_to_lock); lock.owns_lock()) {
      latencies_.rotate(now.time_since_epoch() / window_);
      const duration found = latencies_.quantile(share_, minimum_);
      value_.store(found.count(), std::memory_order_relaxed);
      // Nothing known yet: look again soon.
      const duration good_for = found == duration::zero() ? window_ / 1024 : window_ / 64;
      good_until_.store(saturating_add(now, good_for).time_since_epoch().count(), std::memory_order_release);
    }
  }
  return duration(value_.load(std::memory_order_relaxed));
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
