// Counts that a long run takes from its environment.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace cofferdam::test {

[[nodiscard]] inline std::uint64_t count_from(const char* variable, std::uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

}  // namespace cofferdam::test
