// What a saga scenario is made of: steps that book amounts at participants, and ways in which these fail.
#pragma once

#include <cofferdam/core/time.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

enum class saga_step_kind : std::uint8_t { step, pivot, retriable };

struct saga_step_spec {
  std::string name;
  saga_step_kind kind = saga_step_kind::step;
  std::int64_t books = 0;  // of all steps together: zero
  duration latency = std::chrono::milliseconds(20);
};

enum class participant_fault : std::uint8_t {
  refuses,      ///< and nothing has happened
  unavailable,  ///< nothing happens for two attempts
  lost_answer,  ///< it happens, and the first answer does not come back
};

/// One way in which the world treats a saga.
struct saga_case_spec {
  std::string name;
  std::optional<std::size_t> step;  // at which a participant fails; nothing: at none
  participant_fault fails{};
};

struct saga_spec {
  std::vector<saga_step_spec> steps;
  std::vector<saga_case_spec> cases;
  bool journal = true;
  bool idempotency_keys = true;    // participants remember them
  bool client_tries_again = true;  // after the coordinator's death
  duration lease = std::chrono::seconds(15);
  duration restart_after = std::chrono::seconds(1);
};

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
