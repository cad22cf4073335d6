#include <cofferdam/resilience/detail/limit_core.hpp>

#include <algorithm>
#include <cmath>

namespace cofferdam::inline COFFERDAM_ABI {

std::vector<std::string> validate(const adaptive_limiter_options& o) {
  std::vector<std::string> problems;
  const auto require = [&](bool fine, const char* problem) {
    if (!fine) problems.emplace_back(problem);
  };
  require(o.min_limit >= 1, "min_limit: must be at least 1");
  require(o.max_limit >= o.min_limit && o.max_limit <= 1'000'000,
          "max_limit: must be at least min_limit and at most 1e6");
  require(o.initial_limit >= o.min_limit && o.initial_limit <= o.max_limit,
          "initial_limit: must be between min_limit and max_limit");
  require(o.window > duration::zero(), "window: must be positive");
  require(o.minimum_samples >= 1 && o.minimum_samples <= 500, "minimum_samples: must be between 1 and 500");
  require(o.tolerance >= 1.0 && o.tolerance <= 100.0, "tolerance: must be between 1 and 100");
  require(o.backoff > 0.0 && o.backoff < 1.0, "backoff: must be above 0 and below 1");
  require(o.max_wait > duration::zero(), "max_wait: must be positive");
  require(o.order == queue_order::fifo || o.order == queue_order::lifo, "order: must be fifo or lifo");
  return problems;
}

namespace detail {

limit_core::limit_core(const adaptive_limiter_options& options)
    : options_(options), limit_(static_cast<double>(options.initial_limit)) {
  samples_.reserve(most_samples);
}

std::size_t limit_core::whole(double limit) const noexcept {
  return std::clamp(static_cast<std::size_t>(limit), options_.min_limit, options_.max_limit);
}

/// Low enough that no queue builds up, unless the limit was far too high.
std::size_t limit_core::probe_limit() const noexcept { return std::max(options_.min_limit, whole(limit_) / 4); }

bool limit_core::measure(duration latency, std::size_t in_flight, time_point now) noexcept {
  if (samples_.size() < most_samples) samples_.push_back(std::max<std::int64_t>(latency.count(), 1));
  return end_window_if_due(in_flight, now);
}

bool limit_core::drop(std::size_t in_flight, time_point now) noexcept {
  ++window_drops_;
  ++all_drops_;
  return end_window_if_due(in_flight, now);
}

bool limit_core::end_window_if_due(std::size_t in_flight, time_point now) noexcept {
  most_in_flight_ = std::max(most_in_flight_, in_flight);
  if (!begun_) {
    begun_ = true;
    began_ = now;
  }
  if (now - began_ < options_.window) return false;
  if (samples_.size() < options_.minimum_samples && window_drops_ == 0) return false;
  end_window();
  samples_.clear();
  window_drops_ = 0;
  most_in_flight_ = 0;
  began_ = now;
  return true;
}

void limit_core::end_window() noexcept {
  if (!samples_.empty()) {
    const auto middle = samples_.begin() + static_cast<std::ptrdiff_t>(samples_.size() / 2);
    std::nth_element(samples_.begin(), middle, samples_.end());
    recent_ = static_cast<double>(*middle);
  }
  if (settling_) {  // calls of before the change are still among these
    settling_ = false;
    return;
  }
  if (measuring_baseline_) {
    measuring_baseline_ = false;
    settling_ = true;
    if (samples_.size() < options_.minimum_samples) return;
    baseline_ = std::min(recent_, 2 * baseline_);
    ++baselines_;
    return;
  }
  const double before = limit_;
  if (window_drops_ > 0) {
    limit_ = std::max(limit_ * options_.backoff, static_cast<double>(options_.min_limit));
  } else if (options_.algorithm == limit_algorithm::aimd) {
    if (most_in_flight_ * 2 >= whole(limit_)) limit_ += 1;
  } else {
    follow_gradient();
  }
  limit_ = std::min(limit_, static_cast<double>(options_.max_limit));
  if (whole(limit_) != whole(before)) ++adjustments_;
  const bool may_measure = options_.algorithm == limit_algorithm::gradient && options_.rebaseline_after > 0;
  if (may_measure && ++windows_since_baseline_ >= options_.rebaseline_after) {
    windows_since_baseline_ = 0;
    measuring_baseline_ = settling_ = true;
  }
}

void limit_core::follow_gradient() noexcept {
  if (baseline_ == 0 || recent_ < baseline_) {
    baseline_ = recent_;
    ++baselines_;
  }
  const double gradient = std::clamp(options_.tolerance * baseline_ / recent_, 0.5, 1.0);
  // A limit that nobody comes near says nothing about a higher one.
  if (gradient == 1.0 && most_in_flight_ * 2 < whole(limit_)) return;
  constexpr double smoothing = 0.2;
  const double wanted = limit_ * gradient + std::sqrt(limit_);
  limit_ = std::max(limit_ * (1 - smoothing) + wanted * smoothing, static_cast<double>(options_.min_limit));
}

}  // namespace detail
}  // namespace cofferdam::inline COFFERDAM_ABI
