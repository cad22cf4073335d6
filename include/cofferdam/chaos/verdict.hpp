// From results to verdicts: metrics of a run, and whether the scenario's expectations hold.
#pragma once

#include <cofferdam/chaos/runner.hpp>

#include <optional>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

/// The metric of one run over calls that began in [e.from, e.to); nothing where it is undefined (no calls, no
/// recovery). Ratios are of calls offered: goodput (fresh answers), availability (fresh or degraded), rejected_ratio;
/// injected_ratio (failed by a fault among the policies), duplicated_ratio (whose work took effect more than once);
/// amplification is requests per call. Times are seconds: p50, p95, p99 of calls with an answer; recovery_time is the
/// time from the fault's end to the first three seconds with more than 99 % goodput. docs/scenarios.md has those of
/// outboxes and sagas.
[[nodiscard]] std::optional<double> measure(const scenario& s, const run_result& run, const expectation& e);

struct verdict_line {
  bool passed = false;
  std::string text;      // what was expected
  std::string observed;  // what was seen
  std::string variant;
  std::optional<std::uint64_t> failing_seed;
};

[[nodiscard]] std::vector<verdict_line> judge(const scenario& s, const std::vector<run_result>& results);

/// Reports. `file` is named in the re-run command of a failing seed.
[[nodiscard]] std::string report_text(const scenario& s, const std::vector<run_result>& results,
                                      const std::vector<verdict_line>& verdicts, const std::string& file);
[[nodiscard]] std::string report_json(const scenario& s, const std::vector<run_result>& results,
                                      const std::vector<verdict_line>& verdicts);
[[nodiscard]] std::string report_junit(const scenario& s, const std::vector<verdict_line>& verdicts);

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
