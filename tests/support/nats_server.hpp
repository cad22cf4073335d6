// A NATS server of the tests' own, in a directory that goes with it.
#pragma once

#include "temporary_directory.hpp"

#include <cofferdam/messaging/nats_process.hpp>

#include <csignal>
#include <cstdio>
#include <string>
#include <utility>

namespace cofferdam::test {

class nats_process : private temporary_directory, public cofferdam::nats_process {
 public:
  /// False, with a word why, where there is no server.
  static bool is_here() {
#if !defined(COFFERDAM_TEST_NATS)
    std::puts("built without NATS, its tests are skipped: apt-get install libnats-dev");
    return false;
#else
    if (!program().empty()) return true;
    std::puts("no NATS server here, its tests are skipped: apt-get install nats-server");
    return false;
#endif
  }

  /// @param settings  more lines of the server's configuration.
  explicit nats_process(std::string settings = {})
      : cofferdam::nats_process(temporary_directory::file(""), std::move(settings)) {}
};

}  // namespace cofferdam::test
