#include "faults_in_force.hpp"

#include <algorithm>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

faults_in_force::sum faults_in_force::of(fault_kind kind, const std::string& target) const {
  sum total;
  constexpr duration longest = duration::max() / 2;
  for (const fault_spec* fault : all_) {
    if (fault->kind != kind || fault->target != target) continue;
    total.any = true;
    total.factor *= fault->factor;
    total.rate += fault->rate - total.rate * fault->rate;  // struck by one or the other
    total.add = std::min(total.add, longest) + std::min(fault->add, longest);
    total.jitter = std::min(total.jitter, longest) + std::min(fault->jitter, longest);
    total.workers = std::min(total.workers.value_or(fault->workers), fault->workers);
    total.every = fault->every;
  }
  return total;
}

void apply(simulated_service& service, fault_kind kind, const faults_in_force::sum& faults) {
  switch (kind) {
    case fault_kind::slow:
      service.set_slowdown(faults.factor);
      break;
    case fault_kind::latency:
      service.set_extra_latency(faults.add, faults.jitter);
      break;
    case fault_kind::error:
      service.set_error_rate(faults.rate);
      break;
    case fault_kind::hang:
      service.set_hang_rate(faults.rate);
      break;
    case fault_kind::capacity:
      service.set_workers(faults.workers.value_or(service.normal_workers()));
      break;
    default:
      break;
  }
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
