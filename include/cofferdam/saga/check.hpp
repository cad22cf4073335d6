// A dry run before a new build takes traffic: are there sagas on their way that it would not continue as they began?
//
//     const auto report = co_await engine.check();  // performs nothing, writes nothing
//     for (const auto& drift : report.drifts) std::cerr << drift.message() << '\n';
#pragma once

#include <cofferdam/core/config.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::saga {

/// Where the journal of a saga and the definitions of this build disagree.
struct saga_drift {
  std::string id, definition;
  std::uint32_t version = 1;
  std::string place;    ///< key of a step or wait; empty: the saga as a whole
  std::string journal;  ///< what the saga did, or is, there
  std::string build;    ///< what this build does, or has, there
  [[nodiscard]] std::string message() const;
};

struct check_report {
  std::size_t checked = 0;  ///< sagas
  std::vector<saga_drift> drifts;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
