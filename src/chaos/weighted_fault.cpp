#include <cofferdam/chaos/weighted_fault.hpp>
#include <cofferdam/resilience/detail/validation.hpp>

#include <cmath>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

std::vector<std::string> validate(const std::vector<weighted_choice>& choices) {
  std::vector<std::string> problems;
  if (choices.empty()) problems.emplace_back("choices: needs at least one");
  bool answers = false;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const auto& [weight, fault] = choices[i];
    const std::string field = "choices[" + std::to_string(i) + "].";
    if (!(weight > 0) || std::isinf(weight)) problems.push_back(field + "weight: must be above 0 and finite");
    if (!fault) {
      problems.push_back(field + "fault: must not be null");
    } else if (fault->kind() == "weighted") {
      problems.push_back(field + "fault: must not be weighted itself");
    } else if (fault->kind() == "outcome") {
      if (std::exchange(answers, true)) problems.push_back(field + "fault: is a second outcome fault");
    }
  }
  return problems;
}

weighted_fault::weighted_fault(double rate, std::vector<weighted_choice> choices)
    : runnable_fault("weighted_fault", {.rate = rate}),
      choices_((detail::require_valid("weighted_fault", validate(choices)), std::move(choices))) {}

fault_policy* weighted_fault::choose(call& c) noexcept {
  double sum = 0;
  for (const auto& choice : choices_) sum += choice.weight;
  double left = c.random().uniform() * sum;
  for (const auto& choice : choices_) {
    if (left < choice.weight) return choice.fault.get();
    left -= choice.weight;
  }
  return choices_.back().fault.get();  // rounding
}

const void* weighted_fault::substitution(const std::type_info& type) const noexcept {
  for (const auto& choice : choices_) {
    if (const void* found = choice.fault->substitution(type)) return found;
  }
  return nullptr;
}

std::string weighted_fault::describe() const {
  std::string text = "weighted fault";
  for (const auto& choice : choices_) text += (&choice == &choices_.front() ? ": " : ", ") + choice.fault->describe();
  return text;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
