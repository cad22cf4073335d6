#include <cofferdam/resilience/detail/rate_core.hpp>

#include <algorithm>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

std::vector<std::string> validate(const rate_limiter_options& options) {
  std::vector<std::string> problems;
  const auto require = [&](bool fine, const char* problem) {
    if (!fine) problems.emplace_back(problem);
  };
  const std::size_t most = options.algorithm == rate_algorithm::sliding_window ? 1'000'000 : 1'000'000'000;
  require(options.permits >= 1, "permits: must be at least 1");
  require(options.permits <= most, "permits: must be at most 1e9, of a sliding_window 1e6");
  require(options.period > duration::zero() && options.period <= std::chrono::hours(24 * 366),
          "period: must be positive and at most a year");
  require(options.permits <= static_cast<std::uint64_t>(std::max<std::int64_t>(options.period.count(), 1)),
          "period: must be at least 1 ns for each of the permits");
  require(options.burst == 0 || options.algorithm == rate_algorithm::token_bucket,
          "burst: only a token_bucket has one");
  // So that the time a full bucket is worth fits into 64 bits.
  require(options.permits == 0 || static_cast<double>(options.burst) / static_cast<double>(options.permits) *
                                          static_cast<double>(options.period.count()) <=
                                      1e18,
          "burst: would take more than thirty years to fill");
  require(options.max_wait >= duration::zero(), "max_wait: must not be negative; 0 means no waiting");
  return problems;
}

namespace detail {
namespace {

constexpr std::int64_t long_ago = INT64_MIN / 4;

/// Rounded towards minus infinity.
constexpr std::int64_t floor_div(std::int64_t a, std::int64_t b) noexcept { return a / b - (a % b < 0 ? 1 : 0); }

constexpr std::int64_t nanoseconds(time_point t) noexcept { return t.time_since_epoch().count(); }

}  // namespace

rate_core::rate_core(const rate_limiter_options& options) : algorithm_(options.algorithm), most_at_once_(0) {
  change(options);
}

void rate_core::change(const rate_limiter_options& options) {
  const auto permits = static_cast<std::int64_t>(options.permits);
  const std::lock_guard lock(mutex_);
  if (algorithm_ == rate_algorithm::sliding_window && options.permits != history_.size()) {
    // The newest grants stay; what a larger window has room for counts as long ago.
    std::vector<std::int64_t> changed(options.permits, long_ago);
    const std::size_t kept = std::min(changed.size(), history_.size());
    for (std::size_t i = 1; i <= kept; ++i) {
      changed[changed.size() - i] = history_[(oldest_ + history_.size() - i) % history_.size()];
    }
    history_ = std::move(changed);
    oldest_ = 0;
  }
  // Another length: the borders move, and what was promised counts in the cycle that its time falls into.
  if (last_.cycle != INT64_MIN) last_ = {floor_div(last_.cycle * period_, options.period.count()), 0};
  ++sequence_;
  options_ = options;
  period_ = options.period.count();
  permits_ = permits;
  const std::int64_t spacing = (period_ + permits - 1) / permits;  // up: never more than was asked for
  const std::size_t burst = options.burst > 0 ? options.burst : options.permits;
  spacing_.store(spacing, std::memory_order_relaxed);
  tolerance_.store(static_cast<std::int64_t>(burst) * spacing, std::memory_order_relaxed);
  most_at_once_.store(algorithm_ == rate_algorithm::token_bucket ? burst : options.permits, std::memory_order_relaxed);
}

rate_limiter_options rate_core::options() const noexcept {
  const std::lock_guard lock(mutex_);
  return options_;
}

rate_core::grant rate_core::take(std::size_t permits, time_point now, duration max_wait) noexcept {
  const auto count = static_cast<std::int64_t>(permits);
  const std::int64_t patience = std::min(max_wait.count(), INT64_MAX / 4);
  if (paces()) return take_by_arrival(count, nanoseconds(now), patience);
  const std::lock_guard lock(mutex_);
  return algorithm_ == rate_algorithm::fixed_window ? take_of_cycle(count, nanoseconds(now), patience)
                                                    : take_of_history(permits, nanoseconds(now), patience);
}

rate_core::grant rate_core::take_by_arrival(std::int64_t permits, std::int64_t now, std::int64_t max_wait) noexcept {
  const std::int64_t cost = permits * spacing_.load(std::memory_order_relaxed);
  // A paced call may come when the one before has had its time, however heavy it is itself.
  const std::int64_t tolerance =
      algorithm_ == rate_algorithm::smooth ? cost : tolerance_.load(std::memory_order_relaxed);
  std::int64_t seen = arrival_.load(std::memory_order_relaxed);
  for (;;) {
    const std::int64_t next = std::max(seen, now) + cost;
    const std::int64_t wait = std::max<std::int64_t>(next - tolerance - now, 0);
    if (wait > max_wait) return {false, duration(wait)};
    if (arrival_.compare_exchange_weak(seen, next, std::memory_order_relaxed))
      return {true, duration(wait), next, cost};
  }
}

rate_core::cycle_state rate_core::cycle_at(std::int64_t now) const noexcept {
  const std::int64_t present = floor_div(now, period_);
  return present > last_.cycle ? cycle_state{present, permits_} : last_;
}

rate_core::grant rate_core::take_of_cycle(std::int64_t permits, std::int64_t now, std::int64_t max_wait) noexcept {
  cycle_state next = cycle_at(now);
  // All permits of a call come out of one cycle, and not out of one that earlier calls have passed over.
  if (next.left < permits) next = {next.cycle + 1, permits_};
  const std::int64_t wait = std::max<std::int64_t>(next.cycle * period_ - now, 0);
  if (wait > max_wait) return {false, duration(wait)};
  next.left -= permits;
  before_last_ = std::exchange(last_, next);
  return {true, duration(wait), ++sequence_, permits};
}

rate_core::grant rate_core::take_of_history(std::size_t permits, std::int64_t now, std::int64_t max_wait) noexcept {
  const std::size_t size = history_.size();
  const std::int64_t newest = history_[(oldest_ + size - 1) % size];
  // The last of these permits counts when the one `size` before it has left the window.
  const std::int64_t leaves = history_[(oldest_ + permits - 1) % size] + period_;
  const std::int64_t at = std::max({now, leaves, newest});
  if (at - now > max_wait) return {false, duration(at - now)};
  for (std::size_t i = 0; i < permits; ++i) {
    history_[oldest_] = at;
    if (++oldest_ == size) oldest_ = 0;
  }
  return {true, duration(at - now), ++sequence_, static_cast<std::int64_t>(permits)};
}

bool rate_core::put_back(const grant& given) noexcept {
  if (paces()) {
    std::int64_t mine = given.mark;
    return arrival_.compare_exchange_strong(mine, mine - given.cost, std::memory_order_relaxed);
  }
  const std::lock_guard lock(mutex_);
  if (sequence_ != given.mark) return false;
  ++sequence_;
  if (algorithm_ == rate_algorithm::fixed_window) {
    last_ = before_last_;
    return true;
  }
  // Those that these permits pushed out are forgotten, but they were no later than this, and in order.
  const std::size_t size = history_.size();
  const auto count = static_cast<std::size_t>(given.cost);
  std::int64_t before = history_[(oldest_ + size - 1) % size] - period_;
  if (count < size) before = std::min(before, history_[oldest_]);
  for (std::size_t i = 0; i < count; ++i) {
    oldest_ = (oldest_ + size - 1) % size;
    history_[oldest_] = before;
  }
  return true;
}

std::size_t rate_core::available(time_point time) const noexcept {
  const std::int64_t now = nanoseconds(time);
  if (paces()) {
    const std::int64_t ahead = std::max<std::int64_t>(arrival_.load(std::memory_order_relaxed), now) - now;
    if (algorithm_ == rate_algorithm::smooth) return ahead == 0 ? 1 : 0;
    const std::int64_t room = tolerance_.load(std::memory_order_relaxed) - ahead;
    return static_cast<std::size_t>(std::max<std::int64_t>(room, 0) / spacing_.load(std::memory_order_relaxed));
  }
  const std::lock_guard lock(mutex_);
  if (algorithm_ == rate_algorithm::fixed_window) {
    const cycle_state state = cycle_at(now);
    return state.cycle * period_ <= now ? static_cast<std::size_t>(state.left) : 0;
  }
  std::size_t free = 0;
  while (free < history_.size() && history_[(oldest_ + free) % history_.size()] + period_ <= now) ++free;
  return history_[(oldest_ + history_.size() - 1) % history_.size()] > now ? 0 : free;
}

}  // namespace detail
}  // namespace cofferdam::inline COFFERDAM_ABI
