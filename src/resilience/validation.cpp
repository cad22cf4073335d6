#include <cofferdam/resilience/detail/validation.hpp>

namespace cofferdam::inline COFFERDAM_ABI::detail {

void require_valid(std::string_view who, const std::vector<std::string>& problems) {
  if (problems.empty()) return;
  std::string text;
  for (const auto& problem : problems) {
    if (!text.empty()) text += '\n';
    text.append(who).append(".").append(problem);
  }
  throw invalid_options_error(std::move(text));
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
