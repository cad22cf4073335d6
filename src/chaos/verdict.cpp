#include <cofferdam/chaos/verdict.hpp>
#include <cofferdam/core/units.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace cofferdam::inline COFFERDAM_ABI::chaos {
namespace {

struct tally {
  double offered = 0, ok = 0, degraded = 0, rejected = 0, injected = 0, duplicated = 0, attempts = 0;
};

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, std::abs(value) < 10 ? "%.3f" : "%.1f", value);
  return text;
}

bool is_time(const std::string& metric) {
  return metric == "recovery_time" || metric == "p50" || metric == "p95" || metric == "p99";
}

std::string show(const std::string& metric, std::optional<double> value) {
  if (!value) return metric == "recovery_time" ? "never" : "undefined";
  if (!is_time(metric)) return number(*value);
  return *value < 1 ? number(*value * 1000) + " ms" : number(*value) + " s";
}

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

std::optional<double> quantile(const scenario& s, const run_result& run, const expectation& e, double q) {
  std::vector<duration> latencies;
  visit_calls(s, run, e.load, e.from, e.to, [&](const call_record& call) {
    if (call.ending == call_ending::ok || call.ending == call_ending::degraded) latencies.push_back(call.latency);
  });
  if (latencies.empty()) return std::nullopt;
  const auto rank = static_cast<std::size_t>(std::ceil(q * static_cast<double>(latencies.size()))) - 1;
  std::ranges::nth_element(latencies, latencies.begin() + static_cast<std::ptrdiff_t>(rank));
  return static_cast<double>(latencies[rank].count()) * 1e-9;
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

std::optional<double> measure(const scenario& s, const run_result& run, const expectation& e) {
  if (e.subject == "recovery_time") return recovery(s, run, e);
  if (e.subject == "p50") return quantile(s, run, e, 0.5);
  if (e.subject == "p95") return quantile(s, run, e, 0.95);
  if (e.subject == "p99") return quantile(s, run, e, 0.99);
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

namespace {

class judgement {
 public:
  judgement(const scenario& s, const std::vector<run_result>& results) : s_(s), results_(results) {}

  std::vector<verdict_line> all() {
    for (const auto& e : s_.expectations) {
      switch (e.what) {
        case expectation::kind::always:
          always(e);
          break;
        case expectation::kind::sometimes:
          sometimes(e);
          break;
        case expectation::kind::slo:
          slo(e);
          break;
        case expectation::kind::compare:
          compare(e);
          break;
      }
    }
    return std::move(lines_);
  }

 private:
  [[nodiscard]] std::vector<const run_result*> runs_of(const std::string& variant) const {
    std::vector<const run_result*> runs;
    for (const auto& run : results_) {
      if (variant.empty() || run.variant == variant) runs.push_back(&run);
    }
    return runs;
  }
  [[nodiscard]] std::string where(const expectation& e) const {
    std::string text;
    if (!e.load.empty()) text += " of " + e.load;
    if (e.after_fault) return text + " after " + s_.faults[*e.after_fault].name;
    return text + " from " + to_string(e.from) + " to " + to_string(e.to);
  }
  static std::string with_note(std::string text, const expectation& e) {
    return e.note.empty() ? text : text + " (" + e.note + ")";
  }

  void always(const expectation& e) {
    verdict_line line{true, with_note("always " + e.subject, e), "held in every run", e.variant, std::nullopt};
    for (const auto* run : runs_of(e.variant)) {
      for (const auto& violation : run->violations) {
        if (!violation.starts_with(e.subject) || !line.passed) continue;
        line.passed = false;
        line.observed = run->variant + ": " + violation;
        line.failing_seed = run->seed;
      }
    }
    lines_.push_back(std::move(line));
  }

  void sometimes(const expectation& e) {
    std::uint64_t most = 0;
    for (const auto* run : runs_of(e.variant)) {
      const auto found = run->events.find(e.subject);
      if (found != run->events.end()) most = std::max(most, found->second.count);
    }
    const bool passed = static_cast<double>(most) >= *e.at_least;
    lines_.push_back({passed, with_note("sometimes " + e.subject, e), std::to_string(most) + " times in a run",
                      e.variant, std::nullopt});
  }

  void slo(const expectation& e) {
    std::vector<std::string> variants;
    for (const auto& [name, v] : s_.variants) {
      if (e.variant.empty() || e.variant == name) variants.push_back(name);
    }
    for (const auto& variant : variants) {
      std::string text = e.subject + where(e);
      if (e.at_least) text += " >= " + show(e.subject, e.at_least);
      if (e.at_most) text += " <= " + show(e.subject, e.at_most);
      verdict_line line{true, with_note(text, e), "", variant, std::nullopt};
      for (const auto* run : runs_of(variant)) {
        const auto value = measure(s_, *run, e);
        const bool holds = value ? (!e.at_least || *value >= *e.at_least) && (!e.at_most || *value <= *e.at_most)
                                 : e.subject == "recovery_time" && !e.at_most;  // never is later than anything
        if (!line.passed) continue;
        line.observed = show(e.subject, value);
        if (holds) continue;
        line.passed = false;
        line.failing_seed = run->seed;
      }
      lines_.push_back(std::move(line));
    }
  }

  void compare(const expectation& e) {
    const auto better = runs_of(e.better), worse = runs_of(e.worse);
    const bool less_is_better = is_time(e.subject) || e.subject == "amplification" || e.subject == "max_in_flight" ||
                                e.subject == "rejected_ratio" || e.subject == "injected_ratio" ||
                                e.subject == "duplicated_ratio";
    char by[32];
    std::snprintf(by, sizeof by, "%g", e.by);
    verdict_line line{
        true, with_note(e.subject + where(e) + ": " + e.better + " better than " + e.worse + " by " + by + "x", e), "",
        e.better, std::nullopt};
    for (std::size_t i = 0; i < better.size() && i < worse.size() && line.passed; ++i) {
      const auto good = measure(s_, *better[i], e), bad = measure(s_, *worse[i], e);
      line.observed = show(e.subject, good) + " against " + show(e.subject, bad);
      // Undefined is as bad as can be.
      const bool holds = good && (!bad || (less_is_better ? *bad >= e.by * *good : *good >= e.by * *bad));
      if (holds) continue;
      line.passed = false;
      line.failing_seed = better[i]->seed;
    }
    lines_.push_back(std::move(line));
  }

  const scenario& s_;
  const std::vector<run_result>& results_;
  std::vector<verdict_line> lines_;
};

}  // namespace

std::vector<verdict_line> judge(const scenario& s, const std::vector<run_result>& results) {
  return judgement(s, results).all();
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
