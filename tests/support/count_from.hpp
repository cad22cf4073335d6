// How long a test loops: little by default, as much as somebody asks for.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <string>

namespace cofferdam::test {

/// The number in an environment variable, or `otherwise`.
inline std::size_t count_from(const char* variable, std::size_t otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : static_cast<std::size_t>(std::stoull(text));
}

}  // namespace cofferdam::test
