// The folder's command-line tool, run as its users do. Where it was not built, COFFERDAM_TOOL is not defined.
#pragma once

#include "catch.hpp"

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <string>

#if defined(COFFERDAM_TOOL)

namespace cofferdam::test {

struct tool_answer {
  int code = -1;
  std::string text;  // errors, too
};

/// @param arguments  as a shell reads them.
inline tool_answer run_tool(const std::string& arguments) {
  const std::string command = std::string(COFFERDAM_TOOL) + " " + arguments + " 2>&1";
  std::FILE* const pipe = ::popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  tool_answer answer;
  std::array<char, 4096> part{};
  for (std::size_t n = 0; (n = std::fread(part.data(), 1, part.size(), pipe)) > 0;) answer.text.append(part.data(), n);
  const int status = ::pclose(pipe);
  answer.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return answer;
}

}  // namespace cofferdam::test

#endif
