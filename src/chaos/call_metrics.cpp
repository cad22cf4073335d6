#include "metrics.hpp"

#include <algorithm>
#include <cmath>

namespace cofferdam::inline COFFERDAM_ABI::chaos {
namespace {

struct tally {
  double offered = 0, ok = 0, degraded = 0, rejected = 0, injected = 0, duplicated = 0, attempts = 0;
};

template <class Visit>
void visit_calls(const scenario& s, const run_result& run, const std::string& load, duration from, duration to,
                 Visit visit) {
  for (const auto& call : run.calls) {
    if (call.start < from || call.start >= to) continue;
    if (load.empty() || s.loads[call.load].name == load) visit(call);
  }
}

tally count(const scenario& s, const run_result& run, const std::string& load, duration from, duration to) {
  tally t;
  visit_calls(s, run, load, from, to, [&](const call_record& call) {
    ++t.offered;
    t.attempts += call.attempts;
    if (call.ending == call_ending::ok) ++t.ok;
    if (call.ending == call_ending::degraded) ++t.degraded;
    if (call.ending == call_ending::rejected) ++t.rejected;
    if (call.injected) ++t.injected;
    if (call.effects > 1) ++t.duplicated;
  });
  return t;
}

std::optional<double> quantile_of_calls(const scenario& s, const run_result& run, const expectation& e, double q) {
  std::vector<duration> latencies;
  visit_calls(s, run, e.load, e.from, e.to, [&](const call_record& call) {
    if (call.ending == call_ending::ok || call.ending == call_ending::degraded) latencies.push_back(call.latency);
  });
  return quantile(std::move(latencies), q);
}

std::optional<double> recovery(const scenario& s, const run_result& run, const expectation& e) {
  using std::chrono::seconds;
  const auto& fault = s.faults[*e.after_fault];
  const duration end = fault.at + fault.length;
  std::vector<tally> per_second(static_cast<std::size_t>(s.length / seconds(1)) + 1);
  visit_calls(s, run, e.load, end, s.length, [&](const call_record& call) {
    auto& t = per_second[static_cast<std::size_t>((call.start - end) / seconds(1))];
    ++t.offered;
    if (call.ending == call_ending::ok) ++t.ok;
  });
  const auto steps = static_cast<std::size_t>((s.length - end) / seconds(1));
  for (std::size_t i = 0; i + 3 <= steps; ++i) {
    const double offered = per_second[i].offered + per_second[i + 1].offered + per_second[i + 2].offered;
    const double ok = per_second[i].ok + per_second[i + 1].ok + per_second[i + 2].ok;
    if (offered > 0 && ok > 0.99 * offered) return static_cast<double>(i);
  }
  return std::nullopt;
}

}  // namespace

std::optional<double> quantile(std::vector<duration> values, double q) {
  if (values.empty()) return std::nullopt;
  const auto rank = static_cast<std::size_t>(std::ceil(q * static_cast<double>(values.size()))) - 1;
  std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(rank));
  return static_cast<double>(values[rank].count()) * 1e-9;
}

std::optional<double> measure_calls(const scenario& s, const run_result& run, const expectation& e) {
  if (e.subject == "recovery_time") return recovery(s, run, e);
  if (e.subject == "p50") return quantile_of_calls(s, run, e, 0.5);
  if (e.subject == "p95") return quantile_of_calls(s, run, e, 0.95);
  if (e.subject == "p99") return quantile_of_calls(s, run, e, 0.99);
  if (e.subject == "max_in_flight") {
    std::size_t highest = 0;
    for (const auto& [at, count] : run.in_flight) {
      if (at >= e.from && at < e.to) highest = std::max(highest, count);
    }
    return static_cast<double>(highest);
  }
  const tally t = count(s, run, e.load, e.from, e.to);
  if (t.offered == 0) return std::nullopt;
  if (e.subject == "goodput") return t.ok / t.offered;
  if (e.subject == "availability") return (t.ok + t.degraded) / t.offered;
  if (e.subject == "amplification") return t.attempts / t.offered;
  if (e.subject == "rejected_ratio") return t.rejected / t.offered;
  if (e.subject == "injected_ratio") return t.injected / t.offered;
  if (e.subject == "duplicated_ratio") return t.duplicated / t.offered;
  return std::nullopt;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
