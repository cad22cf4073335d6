#include <cofferdam/chaos/fault_policy.hpp>
#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/units.hpp>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

bool fault_policy::strikes(call& c) noexcept {
  const double share = enabled() ? rate() : 0;
  // No draw where there is nothing to decide: switching a fault off leaves the other draws as they are.
  if (share <= 0 || (share < 1 && c.random().uniform() >= share)) return false;
  injected_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

awaitable<admission> latency_fault::wait(call& c, policy_slot&) {
  const auto extra = static_cast<std::int64_t>(c.random().uniform() * static_cast<double>(jitter_.count()));
  co_await sleep_for(add_ + duration(extra));
  co_return admission::go;
}

std::string latency_fault::describe() const { return "latency fault, " + to_string(add_); }

admission error_fault::admit(call& c, policy_slot&) noexcept {
  if (!strikes(c)) return admission::go;
  return error_ ? c.refuse(failure::thrown(error_)) : c.refuse(errc::injected_fault, nullptr);
}

awaitable<admission> hang_fault::wait(call& c, policy_slot&) {
  const auto nobody = [](const detail::parked_reference&) {};
  (void)co_await park(never, nobody);
  co_return c.refuse(failure::cancelled());
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
