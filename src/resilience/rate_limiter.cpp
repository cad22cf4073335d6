#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/units.hpp>
#include <cofferdam/resilience/detail/validation.hpp>
#include <cofferdam/resilience/rate_limiter.hpp>

#include <algorithm>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

using grant = detail::rate_core::grant;

/// A reservation that was not used goes back, also when the waiting coroutine is destroyed.
class reservation {
 public:
  reservation(detail::rate_core& core, const grant& given) noexcept : core_(&core), given_(given) {}
  reservation(const reservation&) = delete;
  reservation& operator=(const reservation&) = delete;
  ~reservation() {
    if (core_ != nullptr) core_->put_back(given_);
  }
  void use() noexcept { core_ = nullptr; }

 private:
  detail::rate_core* core_;
  grant given_;
};

void do_nothing() {}

}  // namespace

rate_limiter::rate_limiter(std::string name, const rate_limiter_options& options)
    : name_(std::make_shared<const std::string>(std::move(name))),
      max_wait_((detail::require_valid("rate_limiter '" + *name_ + "'", validate(options)), options.max_wait)),
      core_(options) {}

awaitable<void> rate_limiter::acquire(std::size_t permits) {
  call_info info;
  info.weight = permits;
  return run(info, &do_nothing);
}

void rate_limiter::change_rate(std::size_t permits, duration period, std::size_t burst) {
  rate_limiter_options changed = core_.options();
  changed.permits = permits;
  changed.period = period;
  changed.burst = burst;
  detail::require_valid("rate_limiter '" + *name_ + "'", validate(changed));
  core_.change(changed);
}

admission rate_limiter::admit(call& c, policy_slot& slot) noexcept {
  const std::size_t weight = std::max<std::size_t>(c.info().weight, 1);
  if (weight > core_.most_at_once()) [[unlikely]] {
    rejected_.fetch_add(1, std::memory_order_relaxed);
    return c.refuse(errc::weight_too_large, name_);
  }
  const time_point now = c.now();
  duration patience = max_wait_;
  if (patience > duration::zero() && c.deadline() != never) patience = std::min(patience, c.deadline() - now);
  const grant& given = slot.emplace<grant>() = core_.take(weight, now, patience);
  if (!given.given) [[unlikely]] {
    rejected_.fetch_add(1, std::memory_order_relaxed);
    return c.refuse(errc::rate_limited, name_, given.wait);
  }
  admitted_.add_one();
  if (given.wait == duration::zero()) [[likely]]
    return admission::go;
  delayed_.fetch_add(1, std::memory_order_relaxed);
  return admission::wait;
}

awaitable<admission> rate_limiter::wait(call& c, policy_slot& slot) {
  reservation mine(core_, slot.get<grant>());
  co_await sleep_until(c.now() + slot.get<grant>().wait);
  mine.use();
  co_return admission::go;
}

rate_limiter_stats rate_limiter::stats() const noexcept {
  return {admitted_.sum(), delayed_.load(std::memory_order_relaxed), rejected_.load(std::memory_order_relaxed)};
}

std::string rate_limiter::describe() const {
  const auto options = core_.options();
  std::string text =
      *name_ + ": rate limiter, " + std::to_string(options.permits) + " per " + to_string(options.period);
  switch (options.algorithm) {
    case rate_algorithm::token_bucket:
      if (options.burst > 0) text += ", " + std::to_string(options.burst) + " at once";
      break;
    case rate_algorithm::smooth:
      text += ", evenly";
      break;
    case rate_algorithm::fixed_window:
      text += ", in fixed windows";
      break;
    case rate_algorithm::sliding_window:
      text += ", in any window";
      break;
  }
  return options.max_wait > duration::zero() ? text + ", waiting up to " + to_string(options.max_wait) : text;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
