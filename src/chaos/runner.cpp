#include <cofferdam/chaos/runner.hpp>

#include "run_kinds.hpp"

#include <algorithm>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

run_result run_variant(const scenario& s, std::size_t variant, std::uint64_t seed) {
  switch (s.kind) {
    case scenario_kind::outbox:
      return run_outbox(s, variant, seed);
    case scenario_kind::saga:
      return run_saga(s, variant, seed);
    case scenario_kind::calls:
      break;
  }
  return run_calls(s, variant, seed);
}

std::vector<run_result> run_scenario(const scenario& s, const variant_runner& run) {
  const bool twice =
      std::ranges::any_of(s.expectations, [](const expectation& e) { return e.subject == "same_seed_same_trace"; });
  std::vector<run_result> results;
  for (std::size_t variant = 0; variant < s.variants.size(); ++variant) {
    for (const auto seed : s.seeds) {
      results.push_back(run(s, variant, seed));
      // One seed shows what depends on anything but the seed; the policies of every variant may.
      const bool repeated = twice && seed == s.seeds.front();
      if (repeated && run(s, variant, seed).trace != results.back().trace) {
        results.back().violations.emplace_back("same_seed_same_trace: two runs with the same seed differ");
      }
    }
  }
  return results;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
