// What is expected of a scenario, and the words for it.
#include <cofferdam/chaos/scenario.hpp>

#include "scenario_reader.hpp"

#include <cstdlib>

namespace cofferdam::inline COFFERDAM_ABI::chaos {
namespace {

struct vocabulary {
  std::vector<std::string> metrics, events, invariants;
};

const vocabulary& words_of(scenario_kind kind) {
  static const vocabulary calls{{"goodput", "availability", "amplification", "recovery_time", "p50", "p95", "p99",
                                 "max_in_flight", "rejected_ratio", "injected_ratio", "duplicated_ratio"},
                                {"circuit_opened", "circuit_closed", "circuit_half_opened", "retry_denied",
                                 "fallback_used", "bulkhead_rejected", "timed_out", "overloaded", "fault_injected"},
                                {"no_lost_call", "bulkhead_never_exceeded", "same_seed_same_trace"}};
  static const vocabulary outbox{
      {"goodput", "recovery_time", "p50", "p95", "p99", "lost", "phantom", "repeated", "parked", "backlog",
       "drain_time", "duplicates", "reordered", "delivery_p50", "delivery_p99", "throughput", "in_memory", "dropped"},
      {"lease_taken", "lease_lost", "broker_troubled", "key_parked", "relay_paused", "relay_crashed", "replayed",
       "repetition_noticed", "bulkhead_rejected"},
      {"no_lost_call", "no_lost_message", "effects_once", "order_per_key", "same_seed_same_trace"}};
  static const vocabulary saga{
      {"crash_points", "completed", "compensated", "half_done", "duplicates", "money", "resume_time", "end_time"},
      {"coordinator_killed", "saga_resumed"},
      {"ends_well", "effects_once", "money_is_zero", "same_seed_same_trace"}};
  switch (kind) {
    case scenario_kind::outbox:
      return outbox;
    case scenario_kind::saga:
      return saga;
    case scenario_kind::calls:
      break;
  }
  return calls;
}

}  // namespace

const std::vector<std::string>& known_metrics(scenario_kind kind) { return words_of(kind).metrics; }
const std::vector<std::string>& known_events(scenario_kind kind) { return words_of(kind).events; }
const std::vector<std::string>& known_invariants(scenario_kind kind) { return words_of(kind).invariants; }

namespace reading {
namespace {

void read_variant(reader& r, const char* key, const scenario& s, std::string& target) {
  const auto member = r.find(key);
  if (!member) return;
  if (const auto index = member->as_word(names_of_variants(s))) target = names_of_variants(s)[*index];
}

void read_whose(reader& r, const char* key, const std::vector<std::string>& names, std::string& target) {
  const auto member = r.find(key);
  if (!member) return;
  if (const auto index = member->as_word(names)) target = names[*index];
}

/// Bounds are numbers, or durations for metrics that are times.
std::optional<double> read_bound(const reader& r) {
  if (r.value().is_string()) {
    const auto d = r.as_duration();
    if (!d) return std::nullopt;
    return static_cast<double>(d->count()) * 1e-9;
  }
  return r.as_number(-any, any);
}

void read_window(reader& r, const scenario& s, expectation& e) {
  e.from = s.warmup;
  e.to = s.length;
  if (const auto window = r.find("window")) {
    const auto ends = window->items();
    if (ends.size() != 2) {
      window->problem("expected two times, such as [\"20s\", \"30s\"]");
    } else {
      e.from = ends[0].as_duration().value_or(e.from);
      e.to = ends[1].as_duration().value_or(e.to);
      if (e.to <= e.from || e.to > s.length) window->problem("must end after it begins and within the run");
    }
  }
  if (const auto after = r.find("after")) {
    const auto text = after->as_string().value_or("");
    for (std::size_t i = 0; i < s.faults.size(); ++i) {
      if (text == s.faults[i].name || text == "fault[" + std::to_string(i) + "]") e.after_fault = i;
    }
    if (!e.after_fault) after->problem("no such fault; faults are named, or counted as \"fault[0]\"");
  }
}

std::optional<expectation> read_expectation(reader r, const scenario& s, expectation::kind kind) {
  if (!r.is_object()) return std::nullopt;
  expectation e;
  e.what = kind;
  const bool invariant = kind == expectation::kind::always, event = kind == expectation::kind::sometimes;
  const auto& words = invariant ? known_invariants(s.kind) : event ? known_events(s.kind) : known_metrics(s.kind);
  if (const auto subject = r.require(invariant ? "invariant" : event ? "event" : "metric")) {
    if (const auto index = subject->as_word(words)) e.subject = words[*index];
  }
  read_variant(r, "variant", s, e.variant);
  if (event) {
    e.at_least = 1;
    if (const auto least = r.find("at_least")) e.at_least = least->as_number(1, any);
  }
  if (kind == expectation::kind::slo || kind == expectation::kind::compare) {
    if (s.kind != scenario_kind::saga) read_window(r, s, e);
    if (s.kind == scenario_kind::calls) read_whose(r, "load", names_in(s.loads), e.load);
    if (s.kind == scenario_kind::outbox && !s.variants.empty()) {
      read_whose(r, "consumer", names_in(s.variants.front().second.outbox.consumers), e.load);
    }
    const bool is_after = e.subject == "recovery_time" || e.subject == "drain_time";
    if (is_after && !e.after_fault) r.problem(e.subject + " needs \"after\": \"fault[0]\"");
  }
  if (kind == expectation::kind::slo) {
    if (const auto bound = r.find("gte")) e.at_least = read_bound(*bound);
    if (const auto bound = r.find("lte")) e.at_most = read_bound(*bound);
    if (!e.at_least && !e.at_most) r.problem("needs a bound: \"gte\" or \"lte\"");
  }
  if (kind == expectation::kind::compare) {
    read_variant(r, "better", s, e.better);
    read_variant(r, "than", s, e.worse);
    if (e.better.empty() || e.worse.empty()) r.problem("needs \"better\" and \"than\", each a variant");
    if (const auto by = r.find("by")) {
      auto text = by->as_string().value_or("");
      const bool times = text.ends_with('x');
      if (times) text.pop_back();
      char* end = nullptr;
      e.by = std::strtod(text.c_str(), &end);
      if (!times || text.empty() || *end != '\0' || e.by < 1) by->problem("expected a factor such as \"10x\"");
    }
  }
  r.read("note", e.note);
  r.finish();
  return e;
}

}  // namespace

void read_expectations(reader& root, scenario& s) {
  auto expect = root.find("expect");
  if (!expect || !expect->is_object()) return;
  constexpr std::pair<const char*, expectation::kind> kinds[] = {{"always", expectation::kind::always},
                                                                 {"sometimes", expectation::kind::sometimes},
                                                                 {"slo", expectation::kind::slo},
                                                                 {"compare", expectation::kind::compare}};
  for (const auto& [key, kind] : kinds) {
    const auto list = expect->find(key);
    if (!list) continue;
    for (const auto& item : list->items()) {
      if (auto e = read_expectation(item, s, kind)) s.expectations.push_back(std::move(*e));
    }
  }
  expect->finish();
}

}  // namespace reading
}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
