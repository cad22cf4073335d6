// How long a test loops: little by default, as much as somebody asks for.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>

namespace cofferdam::test {

/// The number in an environment variable, or `otherwise`.
[[nodiscard]] inline std::uint64_t count_from(const char* variable, std::uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::stoull(text);
}

}  // namespace cofferdam::test
