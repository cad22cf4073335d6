#include <cofferdam/chaos/fault_switch.hpp>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

fault_switch& all_faults() noexcept {
  static constinit fault_switch instance;
  return instance;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
