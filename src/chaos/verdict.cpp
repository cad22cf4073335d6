#include <cofferdam/chaos/verdict.hpp>
#include <cofferdam/core/units.hpp>

#include "metrics.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

std::optional<double> measure(const scenario& s, const run_result& run, const expectation& e) {
  if (s.kind == scenario_kind::saga) return measure_sagas(run, e.subject);
  const bool is_of_calls = std::ranges::find(known_metrics(), e.subject) != known_metrics().end();
  if (s.kind == scenario_kind::calls) return measure_calls(s, run, e);
  if (!is_of_calls) return measure_messages(s, run, e);
  expectation of_orders = e;
  of_orders.load.clear();
  return measure_calls(s, run, of_orders);
}

namespace {

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, std::abs(value) < 10 ? "%.3f" : "%.1f", value);
  return text;
}

bool is_among(const std::string& metric, std::initializer_list<const char*> names) {
  return std::ranges::find(names, metric) != names.end();
}

bool is_time(const std::string& metric) {
  return metric.ends_with("_time") || metric.ends_with("p50") || metric.ends_with("p95") || metric.ends_with("p99");
}
bool is_count(const std::string& metric) {
  return is_among(
      metric, {"max_in_flight", "waiting", "lost", "phantom", "repeated", "parked", "backlog", "duplicates",
               "reordered", "in_memory", "dropped", "crash_points", "completed", "compensated", "half_done", "money"});
}
bool is_better_when_more(const std::string& metric) {
  return is_among(metric, {"goodput", "availability", "throughput", "crash_points", "completed", "compensated"});
}

}  // namespace

std::string show_metric(const std::string& metric, std::optional<double> value) {
  if (!value) return metric == "recovery_time" || metric == "drain_time" ? "never" : "undefined";
  if (is_count(metric)) return std::to_string(std::llround(*value));
  if (!is_time(metric)) return number(*value);
  return *value < 1 ? number(*value * 1000) + " ms" : number(*value) + " s";
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
    if (s_.kind == scenario_kind::saga) return text;
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
      if (e.at_least) text += " >= " + show_metric(e.subject, e.at_least);
      if (e.at_most) text += " <= " + show_metric(e.subject, e.at_most);
      verdict_line line{true, with_note(text, e), "", variant, std::nullopt};
      for (const auto* run : runs_of(variant)) {
        const auto value = measure(s_, *run, e);
        const bool holds = value ? (!e.at_least || *value >= *e.at_least) && (!e.at_most || *value <= *e.at_most)
                                 : e.subject.ends_with("_time") && !e.at_most;  // never is later than anything
        if (!line.passed) continue;
        line.observed = show_metric(e.subject, value);
        if (holds) continue;
        line.passed = false;
        line.failing_seed = run->seed;
      }
      lines_.push_back(std::move(line));
    }
  }

  void compare(const expectation& e) {
    const auto better = runs_of(e.better), worse = runs_of(e.worse);
    const bool less_is_better = !is_better_when_more(e.subject);
    char by[32];
    std::snprintf(by, sizeof by, "%g", e.by);
    verdict_line line{
        true, with_note(e.subject + where(e) + ": " + e.better + " better than " + e.worse + " by " + by + "x", e), "",
        e.better, std::nullopt};
    for (std::size_t i = 0; i < better.size() && i < worse.size() && line.passed; ++i) {
      const auto good = measure(s_, *better[i], e), bad = measure(s_, *worse[i], e);
      line.observed = show_metric(e.subject, good) + " against " + show_metric(e.subject, bad);
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
