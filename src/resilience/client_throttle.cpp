#include <cofferdam/core/units.hpp>
#include <cofferdam/resilience/client_throttle.hpp>
#include <cofferdam/resilience/detail/validation.hpp>

#include <algorithm>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

constexpr std::int64_t buckets = 24;
constexpr std::int64_t looks_per_window = 1200;  // how often the share is computed at most

}  // namespace

std::vector<std::string> validate(const client_throttle_options& options) {
  std::vector<std::string> problems;
  const auto require = [&](bool fine, const char* problem) {
    if (!fine) problems.emplace_back(problem);
  };
  require(options.multiplier > 1.0 && options.multiplier <= 1000.0, "multiplier: must be above 1 and at most 1000");
  require(options.window >= std::chrono::milliseconds(1), "window: must be at least 1ms");
  require(options.max_rejection > 0.0 && options.max_rejection <= 1.0, "max_rejection: must be above 0 and at most 1");
  require(options.minimum_calls >= 1, "minimum_calls: must be at least 1");
  return problems;
}

client_throttle::client_throttle(std::string name, const client_throttle_options& options)
    : name_(std::make_shared<const std::string>(std::move(name))),
      options_((detail::require_valid("client_throttle '" + *name_ + "'", validate(options)), options)),
      calls_(static_cast<std::size_t>(buckets), options.window / buckets, false) {}

double client_throttle::rejection_of(const detail::window_counts& counts) const noexcept {
  if (counts.calls < options_.minimum_calls) return 0.0;
  const auto requests = static_cast<double>(counts.calls);
  const auto accepted = static_cast<double>(counts.calls - counts.failures);
  return std::clamp((requests - options_.multiplier * accepted) / (requests + 1.0), 0.0, options_.max_rejection);
}

double client_throttle::rejection_at(time_point now) noexcept {
  if (calls_.slice_of(now) - last_refusal_.load(std::memory_order_relaxed) >= buckets) return 0.0;
  const std::int64_t present = now.time_since_epoch().count();
  if (present >= good_until_.load(std::memory_order_relaxed)) {
    good_until_.store(present + options_.window.count() / looks_per_window, std::memory_order_relaxed);
    rejection_.store(rejection_of(calls_.sum(0, calls_.slice_of(now))), std::memory_order_relaxed);
  }
  return rejection_.load(std::memory_order_relaxed);
}

void client_throttle::count(bool accepted, time_point now) noexcept {
  if (accepted) {
    (void)calls_.add_good(0, now);
    return;
  }
  const std::int64_t slice = calls_.slice_of(now);
  (void)calls_.add(0, slice, true, false);
  std::int64_t last = last_refusal_.load(std::memory_order_relaxed);
  while (last < slice && !last_refusal_.compare_exchange_weak(last, slice, std::memory_order_relaxed)) {
  }
}

admission client_throttle::admit(call& c, policy_slot& slot) noexcept {
  // The cheap clock: windows are long.
  const time_point now = slot.emplace<time_point>() = c.coarse_now();
  const double rejection = rejection_at(now);
  if (rejection <= 0.0) [[likely]]
    return admission::go;
  try {
    if (c.random().uniform() >= rejection) return admission::go;
  } catch (...) {
    return admission::go;  // no randomness to be had: nothing is held back
  }
  count(false, now);
  throttled_.fetch_add(1, std::memory_order_relaxed);
  return c.refuse(errc::throttled, name_);
}

verdict client_throttle::settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept {
  const auto result = classifier_(outcome);
  if (result == outcome_class::success || result == outcome_class::failure) {
    // A call that outlasted the window counts where the window begins.
    const time_point oldest = c.coarse_now() - options_.window * (buckets - 1) / buckets;
    count(result == outcome_class::success, std::max(slot.get<time_point>(), oldest));
  }
  return verdict::deliver;
}

client_throttle_stats client_throttle::stats(time_point now) const noexcept {
  const auto counts = calls_.sum(0, calls_.slice_of(now));
  client_throttle_stats s;
  s.requests = counts.calls;
  s.accepted = counts.calls - counts.failures;
  s.rejection = rejection_of(counts);
  s.throttled = throttled_.load(std::memory_order_relaxed);
  return s;
}

std::string client_throttle::describe() const {
  return *name_ + ": client throttle, " + std::to_string(options_.multiplier).substr(0, 4) +
         " calls for each accepted one in " + to_string(options_.window);
}

}  // namespace cofferdam::inline COFFERDAM_ABI
