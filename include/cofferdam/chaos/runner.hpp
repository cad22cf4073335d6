// Runs scenarios in virtual time: every variant meets the same arrivals and the same faults.
#pragma once

#include <cofferdam/chaos/scenario.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

enum class call_ending : std::uint8_t { ok, degraded, failed, rejected };

/// One call of a client, as it ended.
struct call_record {
  duration start{}, latency{};
  std::uint64_t id = 0;        // counted by start
  std::uint32_t attempts = 0;  // requests that reached the service
  std::uint16_t load = 0;
  std::uint16_t effects = 0;  // how often its work took effect, see service_spec::idempotent
  call_ending ending = call_ending::failed;
  bool injected = false;  // failed, since a fault among the policies struck it
};

struct event_record {
  std::uint64_t count = 0;
  duration first{}, last{};
};

/// What one variant did under one seed.
struct run_result {
  std::string variant;
  std::uint64_t seed = 0;
  std::uint64_t offered = 0;       // calls that were started
  std::vector<call_record> calls;  // calls that ended, by end
  std::map<std::string, event_record> events;
  std::map<std::string, std::size_t> max_concurrent;        // by bulkhead
  std::vector<std::string> violations;                      // of invariants
  std::vector<std::pair<duration, std::size_t>> in_flight;  // highest number of calls under way, per timeline step
  std::uint64_t trace = 0;
  std::size_t jumps = 0;
};

/// Runs one variant under one seed to its end, including what is still under way when the load stops.
[[nodiscard]] run_result run_variant(const scenario& s, std::size_t variant, std::uint64_t seed);

/// How one variant is run under one seed.
using variant_runner = std::function<run_result(const scenario& s, std::size_t variant, std::uint64_t seed)>;

/// Every variant under every seed, in that order. Where `same_seed_same_trace` is expected, each variant is run a
/// second time under its first seed: V variants under S seeds cost V * (S + 1) runs.
[[nodiscard]] std::vector<run_result> run_scenario(const scenario& s, const variant_runner& run = run_variant);

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
