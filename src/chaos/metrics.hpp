// Metrics by kind of scenario; see measure() in verdict.hpp.
#pragma once

#include <cofferdam/chaos/runner.hpp>

#include <optional>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

[[nodiscard]] std::optional<double> measure_calls(const scenario& s, const run_result& run, const expectation& e);
[[nodiscard]] std::optional<double> measure_messages(const scenario& s, const run_result& run, const expectation& e);
[[nodiscard]] std::optional<double> measure_sagas(const run_result& run, const std::string& metric);

/// With its unit.
[[nodiscard]] std::string show_metric(const std::string& metric, std::optional<double> value);

/// The smallest of the values that a share `q` of them does not exceed, in seconds; nothing of none.
[[nodiscard]] std::optional<double> quantile(std::vector<duration> values, double q);

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
