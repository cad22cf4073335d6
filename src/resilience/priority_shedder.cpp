#include <cofferdam/resilience/detail/validation.hpp>
#include <cofferdam/resilience/priority_shedder.hpp>

#include <algorithm>
#include <cmath>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

constexpr std::int64_t not_yet = INT64_MIN;

double busy_share(std::size_t active, std::size_t queued, std::size_t limit) {
  return static_cast<double>(active + queued) / static_cast<double>(std::max<std::size_t>(limit, 1));
}

}  // namespace

load_signal utilisation_of(const bulkhead& pool) {
  return [&pool] {
    const auto s = pool.stats();
    return busy_share(s.active, s.queued, s.limit);
  };
}

load_signal utilisation_of(const adaptive_limiter& limiter) {
  return [&limiter] {
    const auto s = limiter.stats();
    return busy_share(s.active, s.queued, s.limit);
  };
}

load_signal utilisation_of(std::function<duration()> delay, duration full) {
  if (full <= duration::zero()) detail::require_valid("utilisation_of", {"full: must be positive"});
  return [delay = std::move(delay), full] {
    return static_cast<double>(delay().count()) / static_cast<double>(full.count());
  };
}

std::vector<std::string> validate(const std::vector<shed_level>& levels, const priority_shedder_options& options) {
  std::vector<std::string> problems;
  const auto require = [&](bool fine, std::string problem) {
    if (!fine) problems.push_back(std::move(problem));
  };
  require(!levels.empty(), "levels: must not be empty");
  for (std::size_t i = 0; i < levels.size(); ++i) {
    const auto& level = levels[i];
    const std::string where = "levels[" + std::to_string(i) + "].";
    require(level.above >= 0.0 && std::isfinite(level.above), where + "above: must be at least 0");
    require(level.all_at > level.above && std::isfinite(level.all_at), where + "all_at: must be greater than above");
    if (i == 0) continue;
    const auto& before = levels[i - 1];
    require(level.priority_below > before.priority_below,
            where + "priority_below: must be greater than that of the level before");
    require(!(level.above < before.above), where + "above: must not be less than that of the level before");
    require(!(level.all_at < before.all_at), where + "all_at: must not be less than that of the level before");
  }
  require(options.steepness >= 1.0 && options.steepness <= 10.0, "steepness: must be in [1, 10]");
  require(options.sample_interval >= duration::zero(), "sample_interval: must not be negative");
  require(options.smoothing >= duration::zero(), "smoothing: must not be negative");
  require(options.retry_after >= duration::zero(), "retry_after: must not be negative; 0 = unknown");
  return problems;
}

priority_shedder::priority_shedder(std::string name, std::vector<shed_level> levels, load_signal signal,
                                   const priority_shedder_options& options)
    : name_(std::make_shared<const std::string>(std::move(name))),
      options_((detail::require_valid("priority_shedder '" + *name_ + "'", validate(levels, options)), options)),
      levels_(levels.size()) {
  for (std::size_t i = 0; i < levels.size(); ++i) levels_[i].rule = levels[i];
  watch(std::move(signal));
}

priority_shedder& priority_shedder::watch(load_signal signal) {
  if (!signal) detail::require_valid("priority_shedder '" + *name_ + "'", {"signal: must not be null"});
  signals_.push_back(std::move(signal));
  return *this;
}

/// Null for calls that always pass.
priority_shedder::level* priority_shedder::level_of(std::int32_t priority) noexcept {
  for (auto& one : levels_) {
    if (priority < one.rule.priority_below) return &one;
  }
  return nullptr;
}

double priority_shedder::share_of(const shed_level& rule, double load) const noexcept {
  if (load <= rule.above) return 0.0;
  if (load >= rule.all_at) return 1.0;
  return std::pow((load - rule.above) / (rule.all_at - rule.above), options_.steepness);
}

void priority_shedder::look(time_point now) noexcept {
  std::int64_t before = looked_at_.load(std::memory_order_relaxed);
  const std::int64_t present = now.time_since_epoch().count();
  if (before != not_yet && present - before < options_.sample_interval.count()) return;
  // Whoever wins looks; the others go on with what was seen last.
  if (!looked_at_.compare_exchange_strong(before, present, std::memory_order_relaxed)) return;
  double highest = -1.0;
  for (const auto& signal : signals_) {
    try {
      const double load = signal();
      if (std::isfinite(load)) highest = std::max(highest, load);
    } catch (...) {  // NOLINT(bugprone-empty-catch): a signal that fails says nothing
    }
  }
  if (highest < 0.0) return;
  double weight = 1.0;  // of what is seen now: a moving average over time, however often somebody looks
  if (before != not_yet && options_.smoothing > duration::zero()) {
    weight = -std::expm1(-static_cast<double>(present - before) / static_cast<double>(options_.smoothing.count()));
  }
  const double smoothed = load_.load(std::memory_order_relaxed);
  load_.store(smoothed + (highest - smoothed) * weight, std::memory_order_relaxed);
}

double priority_shedder::load_at(time_point now) noexcept {
  look(now);
  return load_.load(std::memory_order_relaxed);
}

admission priority_shedder::admit(call& c, policy_slot&) noexcept {
  const double load = load_at(c.coarse_now());
  if (load <= levels_.front().rule.above) [[likely]]
    return admission::go;
  level* const mine = level_of(c.info().priority);
  const double share = mine != nullptr ? share_of(mine->rule, load) : 0.0;
  if (share <= 0.0) return admission::go;
  if (share < 1.0) {
    try {
      if (c.random().uniform() >= share) return admission::go;
    } catch (...) {
      return admission::go;  // no randomness to be had: nothing is shed
    }
  }
  mine->shed.fetch_add(1, std::memory_order_relaxed);
  if (options_.retry_after == duration::zero()) return c.refuse(errc::shed, name_);
  return c.refuse(errc::shed, name_, options_.retry_after);
}

bool priority_shedder::is_idle(time_point) const noexcept {
  return load_.load(std::memory_order_relaxed) <= levels_.front().rule.above;
}

priority_shedder_stats priority_shedder::stats() const {
  priority_shedder_stats s;
  s.load = load_.load(std::memory_order_relaxed);
  for (const auto& one : levels_) {
    const auto shed = one.shed.load(std::memory_order_relaxed);
    s.levels.push_back({one.rule.priority_below, share_of(one.rule, s.load), shed});
    s.shed += shed;
  }
  return s;
}

std::string priority_shedder::describe() const {
  std::string text = *name_ + ": priority shedder";
  for (const auto& one : levels_) {
    text += ", below " + std::to_string(one.rule.priority_below) + " from " +
            std::to_string(one.rule.above).substr(0, 4) + " on";
  }
  return text;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
