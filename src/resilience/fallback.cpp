#include <cofferdam/resilience/detail/validation.hpp>
#include <cofferdam/resilience/fallback.hpp>

namespace cofferdam::inline COFFERDAM_ABI {

fallback& fallback::max_concurrent(std::size_t calls, std::string name) & {
  if (calls < 1) detail::require_valid("fallback '" + name + "'", {"max_concurrent: must be at least 1"});
  state_->limit = calls;
  state_->name = std::make_shared<const std::string>(std::move(name));
  return *this;
}

fallback_stats fallback::stats() const noexcept {
  return {state_->used.load(std::memory_order_relaxed), state_->failed.load(std::memory_order_relaxed),
          state_->refused.load(std::memory_order_relaxed), state_->active.load(std::memory_order_relaxed)};
}

failure fallback::state::refusal(const failure& why) noexcept {
  refused.fetch_add(1, std::memory_order_relaxed);
  std::exception_ptr cause;
  try {
    cause = why.exception();
  } catch (...) {  // NOLINT(bugprone-empty-catch): no memory; the refusal is told without its cause
  }
  return failure::refused(errc::bulkhead_full, name, why.retry_after(), std::move(cause));
}

fallback::permit::permit(state& s, const failure& why) : state_(s) {
  if (s.active.fetch_add(1, std::memory_order_relaxed) >= s.limit) {
    s.active.fetch_sub(1, std::memory_order_relaxed);
    s.refusal(why).raise();
  }
  s.used.fetch_add(1, std::memory_order_relaxed);
}

verdict fallback::settle(call& c, policy_slot&, const outcome_view& outcome) noexcept {
  if (outcome.has_value() || outcome.why().is_cancellation()) return verdict::deliver;
  if (substitution(outcome.type()) == nullptr) return verdict::deliver;
  try {
    if (when_ && !when_(outcome.why())) return verdict::deliver;
  } catch (...) {
    // A predicate that fails must not take the answer away.
  }
  // Refuses by value where it can; the permit itself is taken by the answering coroutine, which surely gives it back.
  if (state_->active.load(std::memory_order_relaxed) >= state_->limit) {
    (void)c.refuse(state_->refusal(outcome.why()));
    return verdict::deliver;
  }
  return verdict::substitute;
}

const void* fallback::substitution(const std::type_info& type) const noexcept {
  for (const auto& e : chains_) {
    if (*e.type == type) return e.whole;
  }
  return nullptr;
}

std::string fallback::describe() const {
  if (state_->name == nullptr) return "fallback";
  return *state_->name + ": fallback, " + std::to_string(state_->limit) + " at once";
}

}  // namespace cofferdam::inline COFFERDAM_ABI
