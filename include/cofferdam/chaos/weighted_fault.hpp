// One of several faults, by weight.
#pragma once

#include <cofferdam/chaos/fault_policy.hpp>

#include <memory>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

struct weighted_choice {
  double weight = 1;                    // above 0; shares are relative to the sum of all
  std::shared_ptr<fault_policy> fault;  // not null, not itself weighted
};

/// Every problem, as "choices[1].weight: what". Of outcome faults there may be one: nobody could say which is meant.
[[nodiscard]] std::vector<std::string> validate(const std::vector<weighted_choice>& choices);

/// Strikes a share of calls, each with at most one of several faults. The one chosen then decides as if it stood alone:
/// with a rate of 1 it strikes always.
///
///     chaos::weighted_fault faults(0.05, {{3, std::make_shared<chaos::error_fault>(1.0)},
///                                         {1, std::make_shared<chaos::hang_fault>(1.0)}});
///
/// Both it and the chosen one count the strike and tell their listeners.
class weighted_fault final : public runnable_fault<weighted_fault> {
 public:
  static constexpr bool may_repeat = true;  // one of the choices may

  /// Errors: `invalid_options_error`.
  weighted_fault(double rate, std::vector<weighted_choice> choices);
  [[nodiscard]] const void* substitution(const std::type_info& type) const noexcept override;
  [[nodiscard]] std::string_view kind() const noexcept override { return "weighted"; }
  [[nodiscard]] std::string describe() const override;

 private:
  [[nodiscard]] fault_policy* choose(call& c) noexcept override;

  std::vector<weighted_choice> choices_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
