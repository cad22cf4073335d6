// How often a long test goes round: few times, unless an environment variable wants more.
#pragma once

#include <cstdlib>
#include <string>

namespace cofferdam::test {

inline int rounds(const char* variable, int usual) {
  const char* wanted = std::getenv(variable);
  return wanted == nullptr ? usual : std::stoi(wanted);
}

}  // namespace cofferdam::test
