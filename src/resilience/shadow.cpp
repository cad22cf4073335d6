#include <cofferdam/resilience/keyed.hpp>
#include <cofferdam/resilience/shadow.hpp>

namespace cofferdam::inline COFFERDAM_ABI {

shadow::shadow(std::shared_ptr<policy> rehearsed) : rehearsed_(std::move(rehearsed)) {
  if (!rehearsed_) throw invalid_options_error("shadow: the policy is null");
  // What waits at the policy of a key keeps that key until it has waited.
  if (rehearsed_->as_scope() != nullptr || dynamic_cast<const keyed*>(rehearsed_.get()) != nullptr) {
    throw invalid_options_error("shadow: " + rehearsed_->describe() + ": cannot be asked without effect");
  }
}

shadow_stats shadow::stats() const noexcept {
  const auto read = [](const std::atomic<std::uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
  return {read(admitted_), read(refused_), read(waits_), read(tries_again_)};
}

admission shadow::admit(call& c, policy_slot& slot) noexcept {
  switch (rehearsed_->admit(c, slot)) {
    case admission::go:
      admitted_.fetch_add(1, std::memory_order_relaxed);
      return admission::go;
    case admission::wait:
      return pass_by(c, slot, waits_);
    case admission::substitute:
      rehearsed_->abandon(slot);  // it counts as admitted
      break;
    case admission::reject:
      break;
  }
  const failure why = c.take_failure();
  try {
    if (listen_) listen_(why);
  } catch (...) {  // NOLINT(bugprone-empty-catch): a listener decides nothing
  }
  return pass_by(c, slot, refused_);
}

admission shadow::pass_by(call& c, policy_slot& slot, std::atomic<std::uint64_t>& count) noexcept {
  try {
    const std::lock_guard lock(mutex_);
    passed_by_.insert(&slot);
  } catch (...) {
    return c.refuse(failure::current());  // no memory to tell it from one that was admitted
  }
  unknown_.fetch_add(1, std::memory_order_relaxed);
  count.fetch_add(1, std::memory_order_relaxed);
  return admission::go;
}

/// Asked once for each call, by the thread that admitted it or one that happens after it.
bool shadow::was_passed_by(const policy_slot& slot) noexcept {
  if (unknown_.load(std::memory_order_relaxed) == 0) return false;
  const std::lock_guard lock(mutex_);
  if (passed_by_.erase(&slot) == 0) return false;
  unknown_.fetch_sub(1, std::memory_order_relaxed);
  return true;
}

verdict shadow::settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept {
  if (was_passed_by(slot)) return verdict::deliver;
  switch (rehearsed_->settle(c, slot, outcome)) {
    case verdict::deliver:
      return verdict::deliver;
    case verdict::again:
      rehearsed_->abandon(slot);  // it takes itself for admitted to the next attempt
      break;
    case verdict::substitute:
      break;
  }
  tries_again_.fetch_add(1, std::memory_order_relaxed);
  return verdict::deliver;
}

void shadow::abandon(policy_slot& slot) noexcept {
  if (!was_passed_by(slot)) rehearsed_->abandon(slot);
}

}  // namespace cofferdam::inline COFFERDAM_ABI
