// Those whom a saga calls: each has an account, and they fail as their scenario says.
#pragma once

#include <cofferdam/chaos/runner.hpp>
#include <cofferdam/saga/engine.hpp>

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

/// They live on when the coordinator dies.
class saga_participants {
 public:
  saga_participants(const saga_spec& spec, const saga_case_spec& of_case);

  /// Books the amount of a step. Errors: those of the case.
  awaitable<void> book(std::size_t step, std::string key);
  awaitable<void> take_back(std::size_t step, std::string key);
  /// What has come of all: fills in steps, effects and money.
  void sum_up(saga_record& record) const;

 private:
  struct account {
    std::int64_t booked = 0;  // how often, less how often it was taken back
    std::size_t attempts = 0;
  };
  [[nodiscard]] bool fails_at(std::size_t step, participant_fault how) const;

  const saga_spec& spec_;
  const saga_case_spec& case_;
  std::vector<account> accounts_;
  std::set<std::string> done_, undone_;  // idempotency keys
};

/// The saga: the steps of a scenario, one after the other. `define_saga` makes it known to an engine.
[[nodiscard]] saga::task<std::int64_t> run_steps(saga::scope& s, std::vector<int> kinds);
void define_saga(saga::engine& e, saga_participants& participants);
/// What `run_steps` is given.
[[nodiscard]] std::vector<int> kinds_of(const saga_spec& spec);

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
