// Which faults of a scenario strike at the moment, and what they come to together.
#pragma once

#include <cofferdam/chaos/scenario.hpp>
#include <cofferdam/chaos/service.hpp>

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

/// Faults of one kind on one target that are on at once act together, and the end of one leaves the others.
class faults_in_force {
 public:
  struct sum {
    bool any = false;
    double factor = 1, rate = 0;
    duration add{}, jitter{};
    std::optional<std::size_t> workers;
    std::size_t every = 0;
  };

  void begin(const fault_spec& fault) { all_.push_back(&fault); }
  void end(const fault_spec& fault) { std::erase(all_, &fault); }
  [[nodiscard]] sum of(fault_kind kind, const std::string& target) const;

 private:
  std::vector<const fault_spec*> all_;
};

/// Faults of a service: slow, latency, error, hang, capacity. Others are nothing to it.
void apply(simulated_service& service, fault_kind kind, const faults_in_force::sum& faults);

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
