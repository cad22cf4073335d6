#include <cofferdam/core/backoff.hpp>

#include <algorithm>
#include <cmath>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

// All arithmetic in double nanoseconds: 2^1000 * base is then merely large, and the cap brings it back.
double raw_delay(const backoff_options& options, std::uint32_t retry) noexcept {
  const auto base = static_cast<double>(options.base.count());
  switch (options.kind) {
    case backoff_kind::constant:
      return base;
    case backoff_kind::linear:
      return base * retry;
    case backoff_kind::exponential:
      return base * std::pow(options.factor, retry - 1.0);
  }
  return base;
}

double smooth_curve(double t) noexcept { return std::exp2(t) * std::tanh(std::sqrt(4.0 * t)); }

}  // namespace

std::vector<std::string> validate(const backoff_options& options) {
  std::vector<std::string> problems;
  if (options.base < duration::zero()) {
    problems.emplace_back("backoff.base: must not be negative");
  } else if (options.base == duration::zero() && options.kind != backoff_kind::constant) {
    problems.emplace_back("backoff.base: must be positive, or constant");
  }
  if (!(options.factor >= 1.0)) problems.emplace_back("backoff.factor: must be at least 1");
  if (!(options.jitter_share >= 0.0 && options.jitter_share <= 1.0)) {
    problems.emplace_back("backoff.jitter_share: must be between 0 and 1");
  }
  if (options.cap < options.base) problems.emplace_back("backoff.cap: must not be less than backoff.base");
  return problems;
}

duration backoff_delay(const backoff_options& options, std::uint32_t retry, backoff_state& state,
                       random_source& random) noexcept {
  if (options.base == duration::zero()) return duration::zero();
  const auto base = static_cast<double>(options.base.count());
  const auto cap = static_cast<double>(options.cap.count());
  const double raw = raw_delay(options, retry);
  const double capped = std::min(raw, cap);
  double delay = capped;
  switch (options.jitter) {
    case jitter_kind::none:
      break;
    case jitter_kind::proportional:
      delay = raw * (1.0 + options.jitter_share * (2.0 * random.uniform() - 1.0));
      break;
    case jitter_kind::equal:
      delay = capped / 2 + random.uniform() * capped / 2;
      break;
    case jitter_kind::full:
      delay = random.uniform() * capped;
      break;
    case jitter_kind::decorrelated: {
      const auto previous = std::max(static_cast<double>(state.previous.count()), base);
      delay = base + random.uniform() * (3.0 * previous - base);
      break;
    }
    case jitter_kind::decorrelated_v2: {
      const double curve = smooth_curve(retry - 1 + random.uniform());
      delay = (curve - state.previous_curve) * base / 1.4;
      state.previous_curve = curve;
      break;
    }
    case jitter_kind::stretched:
      delay = raw * (1.0 + random.uniform());
      break;
  }
  // Infinite, or the difference of two infinities, which is not a number: the comparison is written so that both give
  // the cap. Not by way of a double, which rounds the largest cap up to what no duration can hold.
  state.previous = delay < cap ? duration(static_cast<std::int64_t>(std::max(delay, 0.0))) : options.cap;
  return state.previous;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
