#include <cofferdam/core/units.hpp>
#include <cofferdam/resilience/detail/moving_percentile.hpp>
#include <cofferdam/resilience/detail/validation.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include <algorithm>

namespace cofferdam::inline COFFERDAM_ABI {

std::vector<std::string> validate(const derived_timeout& options) {
  std::vector<std::string> problems;
  const auto require = [&](bool fine, const char* problem) {
    if (!fine) problems.emplace_back(problem);
  };
  require(options.percentile > 0.0 && options.percentile < 1.0, "percentile: must be above 0 and below 1");
  require(options.factor >= 1.0 && options.factor <= 1000.0, "factor: must be between 1 and 1000");
  require(options.least > duration::zero(), "least: must be positive");
  require(options.most >= options.least && options.most < duration::max(),
          "most: must be at least `least`, and finite");
  require(options.minimum_samples >= 1, "minimum_samples: must be at least 1");
  require(options.window > duration::zero(), "window: must be positive");
  return problems;
}

timeout::timeout(duration limit, on_timeout mode) : limit_(limit), mode_(mode) {}
timeout::timeout(timeout&&) noexcept = default;
timeout::~timeout() = default;

timeout& timeout::derived(const derived_timeout& options) & {
  detail::require_valid(*name_, validate(options));
  derived_ = options;
  latencies_ = std::make_unique<detail::moving_percentile>(options.percentile, options.minimum_samples, options.window);
  return *this;
}

duration timeout::limit(call& c) const {
  if (generator_) return generator_(c);
  if (!latencies_) return limit_;
  const duration known = latencies_->value(c.now());
  if (known == duration::zero()) return limit_;
  const double wanted = static_cast<double>(known.count()) * derived_.factor;
  if (wanted >= static_cast<double>(derived_.most.count())) return derived_.most;
  return std::max(duration(static_cast<std::int64_t>(wanted)), derived_.least);
}

void timeout::record(call& c, policy_slot& slot, const outcome_view& outcome) noexcept {
  // Without those that were cut off the limit would follow itself down.
  if (outcome.has_value() || outcome.why().is_refusal(errc::timed_out)) {
    latencies_->record(c.now() - slot.get<time_point>(), c.now());
  }
}

std::string timeout::describe() const {
  std::string limit = generator_ ? "generated" : to_string(limit_);
  if (latencies_ && !generator_) limit = "from percentiles, " + limit + " at first";
  return *name_ + ": timeout " + limit + (mode_ == on_timeout::detach ? ", detaches" : "");
}

}  // namespace cofferdam::inline COFFERDAM_ABI
