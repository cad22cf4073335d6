// How often a long test goes round: a small number, or what the environment says.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace cofferdam::test {

/// @param variable  COFFERDAM_...
[[nodiscard]] inline std::uint64_t count_of(const char* variable, std::uint64_t otherwise) {
  const char* const text = std::getenv(variable);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

}  // namespace cofferdam::test
