#include <cofferdam/resilience/fallback.hpp>

namespace cofferdam::inline COFFERDAM_ABI {

verdict fallback::settle(call&, policy_slot&, const outcome_view& outcome) noexcept {
  if (outcome.has_value() || outcome.why().is_cancellation()) return verdict::deliver;
  if (substitutions_.find(outcome.type()) == nullptr) return verdict::deliver;
  try {
    if (when_ && !when_(outcome.why())) return verdict::deliver;
  } catch (...) {
    // A predicate that fails must not take the answer away.
  }
  used_.fetch_add(1, std::memory_order_relaxed);
  return verdict::substitute;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
