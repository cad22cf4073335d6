#include <cofferdam/resilience/adaptive_limiter.hpp>
#include <cofferdam/resilience/detail/validation.hpp>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

bulkhead_options pool_options(const std::string& name, const adaptive_limiter_options& options) {
  detail::require_valid("adaptive_limiter '" + name + "'", validate(options));
  bulkhead_options result;
  result.max_concurrent = options.initial_limit;
  result.max_queue = options.max_queue;
  result.max_wait = options.max_wait;
  result.order = options.order;
  return result;
}

/// By default, of failures only those that speak of too much load are drops.
outcome_class by_load(const failure& why) {
  const bool overload = why.is_refusal(errc::timed_out) || why.is_refusal(errc::bulkhead_full) ||
                        why.is_refusal(errc::queue_timed_out) || why.is_refusal(errc::shed) ||
                        why.is_refusal(errc::rate_limited) || why.is_refusal(errc::throttled);
  return overload ? outcome_class::failure : outcome_class::ignored;
}

}  // namespace

adaptive_limiter::adaptive_limiter(std::string name, const adaptive_limiter_options& options)
    : pool_(name, pool_options(name, options)), core_(options) {}

/// What a call holds, and since when.
struct adaptive_limiter::measured_permit {
  bulkhead::permit held;
  time_point began;
};

/// The pool has put its permit into the slot.
void adaptive_limiter::start_measuring(call& c, policy_slot& slot) noexcept {
  const bulkhead::permit held = slot.get<bulkhead::permit>();
  slot.emplace<measured_permit>() = {held, c.now()};
}

admission adaptive_limiter::admit(call& c, policy_slot& slot) noexcept {
  const admission said = pool_.admit(c, slot);
  if (said == admission::go) start_measuring(c, slot);
  return said;
}

awaitable<admission> adaptive_limiter::wait(call& c, policy_slot& slot) {
  const admission said = co_await pool_.wait(c, slot);
  c.forget_time();
  if (said == admission::go) start_measuring(c, slot);  // waiting here says nothing about the service
  co_return said;
}

verdict adaptive_limiter::settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept {
  const auto [held, began] = slot.get<measured_permit>();
  auto result = classifier_(outcome);
  if (result == outcome_class::failure && classifier_.empty() && !outcome.has_value()) result = by_load(outcome.why());
  std::size_t limit = 0;
  if (result == outcome_class::success || result == outcome_class::failure) {
    const std::lock_guard lock(mutex_);
    const std::size_t in_flight = pool_.active_count();
    const bool changed = result == outcome_class::success ? core_.measure(c.now() - began, in_flight, c.now())
                                                          : core_.drop(in_flight, c.now());
    if (changed) limit = core_.limit();
  }
  if (limit > 0 && limit != pool_.limit()) {
    try {
      pool_.resize(limit);
    } catch (...) {
      // No memory to complain with: the next window tries again.
    }
  }
  pool_.give_back(held);
  return verdict::deliver;
}

void adaptive_limiter::abandon(policy_slot& slot) noexcept { pool_.give_back(slot.get<measured_permit>().held); }

bool adaptive_limiter::is_idle(time_point) const noexcept {
  const std::lock_guard lock(mutex_);
  return core_.adjustments() == 0 && core_.baselines() == 0 && pool_.active_count() == 0;
}

adaptive_limiter_stats adaptive_limiter::stats() const {
  const auto pool = pool_.stats();
  adaptive_limiter_stats s;
  s.limit = pool.limit;
  s.active = pool.active;
  s.queued = pool.queued;
  s.rejected = pool.rejected + pool.queue_timeouts;
  const std::lock_guard lock(mutex_);
  s.baseline = core_.baseline();
  s.recent = core_.recent();
  s.dropped = core_.drops();
  s.adjustments = core_.adjustments();
  s.baselines = core_.baselines();
  return s;
}

std::string adaptive_limiter::describe() const {
  return std::string(name()) + ": adaptive limit, " + std::to_string(limit()) + " at once now";
}

}  // namespace cofferdam::inline COFFERDAM_ABI
