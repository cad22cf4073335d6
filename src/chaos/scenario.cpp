#include <cofferdam/chaos/scenario.hpp>
#include <cofferdam/core/units.hpp>
#include <cofferdam/resilience/detail/json_reader.hpp>

#include <algorithm>
#include <set>

namespace cofferdam::inline COFFERDAM_ABI::chaos {
namespace {

using reader = detail::json_reader;
constexpr double any = 1e308;

// ------------------------------------------------------------------------------------------------------- the pieces

latency_spec read_latency(reader r) {
  latency_spec spec;
  if (!r.is_object()) return spec;
  if (const auto kind = r.find("dist")) {
    const auto index = kind->as_word({"constant", "exponential", "uniform", "lognormal"});
    if (index) spec.kind = static_cast<distribution>(*index);
  }
  r.read("mean", spec.mean, duration(1));
  r.read("spread", spec.spread, 0, spec.kind == distribution::uniform ? 1 : 10);
  r.finish();
  return spec;
}

void read_order(const std::optional<reader>& r, queue_order& order) {
  if (!r) return;
  if (const auto index = r->as_word({"fifo", "lifo"})) order = static_cast<queue_order>(*index);
}

void read_limit(const std::optional<reader>& r, std::optional<std::size_t>& limit) {
  if (r && !r->value().is_null()) limit = r->as_count(0);
}

service_spec read_service(reader r) {
  service_spec spec;
  if (!r.is_object()) return spec;
  if (const auto name = r.require("name")) spec.name = name->as_string().value_or("");
  r.read("workers", spec.workers, 1);
  if (const auto latency = r.find("latency")) spec.latency = read_latency(*latency);
  if (auto queue = r.find("queue"); queue && queue->is_object()) {
    read_limit(queue->find("limit"), spec.queue_limit);
    read_order(queue->find("order"), spec.order);
    queue->read("drop_expired", spec.drop_expired);
    queue->finish();
  }
  r.read("refusal_latency", spec.refusal_latency);
  r.read("idempotent", spec.idempotent);
  r.finish();
  return spec;
}

service_override read_override(reader r) {
  service_override spec;
  if (!r.is_object()) return spec;
  if (const auto workers = r.find("workers")) spec.workers = workers->as_count(1);
  if (auto queue = r.find("queue"); queue && queue->is_object()) {
    read_limit(queue->find("limit"), spec.queue_limit);
    if (const auto order = queue->find("order")) {
      auto value = queue_order::fifo;
      read_order(order, value);
      spec.order = value;
    }
    if (const auto drop = queue->find("drop_expired")) spec.drop_expired = drop->as_bool();
    queue->finish();
  }
  if (const auto idempotent = r.find("idempotent")) spec.idempotent = idempotent->as_bool();
  r.finish();
  return spec;
}

constexpr duration longest_run = std::chrono::hours(24);
constexpr double most_calls = 20e6;  // of one load; all are kept until they are judged

load_spec read_load(reader r, const scenario& s) {
  load_spec spec;
  spec.to = s.length;
  if (!r.is_object()) return spec;
  if (const auto target = r.require("target")) spec.target = target->as_string().value_or("");
  spec.name = spec.target;
  r.read("name", spec.name);
  r.read("pool", spec.pool);
  if (const auto arrivals = r.find("arrivals"))
    spec.poisson = arrivals->as_word({"poisson", "constant"}).value_or(0) == 0;
  if (const auto rate = r.require("rate")) spec.rate = rate->as_rate().value_or(1);
  r.read("from", spec.from);
  r.read("to", spec.to);
  if (spec.to <= spec.from) r.problem("\"to\" must be later than \"from\"");
  const double calls = spec.rate * std::chrono::duration<double>(spec.to - spec.from).count();
  if (calls > most_calls)
    r.problem("would be " + nlohmann::json(calls).dump() + " calls; at most 2e7 can be simulated");
  if (spec.to > s.length) r.problem("\"to\" lies after the end of the run (" + to_string(s.length) + ")");
  r.finish();
  return spec;
}

template <class Spec> std::vector<std::string> names_in(const std::vector<Spec>& list) {
  std::vector<std::string> names;
  names.reserve(list.size());
  for (const auto& spec : list) names.push_back(spec.name);
  return names;
}

fault_policy_spec read_fault_policy(reader r, const scenario& s, bool is_choice = false);

std::vector<fault_policy_spec> read_choices(const reader& r, const scenario& s) {
  std::vector<fault_policy_spec> choices;
  const auto items = r.items();
  choices.reserve(items.size());
  for (const auto& item : items) choices.push_back(read_fault_policy(item, s, true));
  if (items.empty()) r.problem("must be a list of at least one fault");
  if (std::ranges::count(choices, "outcome", &fault_policy_spec::kind) > 1) r.problem("at most one may be an outcome");
  return choices;
}

/// @param is_choice  of a weighted one, which has a weight and decides on the rest.
fault_policy_spec read_fault_policy(reader r, const scenario& s, bool is_choice) {
  fault_policy_spec spec;
  if (!r.is_object()) return spec;
  auto kinds = known_fault_policies();
  if (is_choice) std::erase(kinds, "weighted");
  if (const auto kind = r.require("kind")) {
    if (const auto index = kind->as_word(kinds)) spec.kind = kinds[*index];
  }
  if (is_choice) {
    r.read("weight", spec.weight, 1e-6, 1e6);
  } else {
    if (const auto rate = r.require("rate")) spec.rate = rate->as_number(0, 1).value_or(0);
    if (const auto keys = r.find("keys")) {
      const auto loads = names_in(s.loads);
      for (const auto& key : keys->items()) {
        if (const auto index = key.as_word(loads)) spec.keys.push_back(loads[*index]);
      }
      if (keys->value().empty()) keys->problem("must name at least one load");
    }
  }
  if (spec.kind == "latency") {
    if (const auto add = r.require("add")) spec.add = add->as_duration().value_or(duration());
    r.read("jitter", spec.jitter);
  }
  if (spec.kind == "weighted") {
    if (const auto choices = r.require("choices")) spec.choices = read_choices(*choices, s);
  }
  if (!spec.kind.empty()) r.finish();  // which keys there are depends on the kind
  return spec;
}

std::optional<any_policy_spec> read_any_policy(reader r, const scenario& s) {
  if (r.value().is_object() && r.value().size() == 1) {
    if (const auto options = r.find("fault")) return read_fault_policy(*options, s);
    if (const auto options = r.find("fallback")) {
      if (options->is_object()) options->finish();
      return fallback_spec{};
    }
  }
  auto policy = cofferdam::detail::read_policy(r, {"fallback", "fault"});
  if (!policy) return std::nullopt;
  if (const auto* budget = budget_of(*policy); budget != nullptr && !budget->shared.empty()) {
    r.problem("scenarios have no shared budgets; give a ratio such as 0.1, or an object");
  }
  return any_policy_spec(std::move(*policy));
}

fault_spec read_fault(reader r, const scenario& s, std::size_t index) {
  fault_spec spec;
  spec.name = "fault[" + std::to_string(index) + "]";
  if (!r.is_object()) return spec;
  r.read("name", spec.name);
  if (const auto kind = r.require("kind")) {
    const auto word = kind->as_word({"slow", "latency", "error", "hang", "capacity", "load", "kill_switch"});
    if (word) spec.kind = static_cast<fault_kind>(*word);
  }
  if (const auto target = r.require("target")) spec.target = target->as_string().value_or("");
  if (const auto at = r.require("at")) spec.at = at->as_duration().value_or(duration());
  if (const auto length = r.require("for")) spec.length = length->as_duration(duration(1)).value_or(duration(1));
  const auto needs = [&](const char* key) { return r.value().contains(key) ? r.find(key) : r.require(key); };
  switch (spec.kind) {
    case fault_kind::slow:
    case fault_kind::load:
      if (const auto factor = needs("factor")) spec.factor = factor->as_number(0.001, 1e6).value_or(1);
      break;
    case fault_kind::latency:
      if (const auto add = needs("add")) spec.add = add->as_duration().value_or(duration());
      r.read("jitter", spec.jitter);
      break;
    case fault_kind::error:
    case fault_kind::hang:
      if (const auto rate = needs("rate")) spec.rate = rate->as_number(0, 1).value_or(0);
      break;
    case fault_kind::capacity:
      if (const auto workers = needs("workers")) spec.workers = workers->as_count(0).value_or(0);
      break;
    case fault_kind::kill_switch:
      break;
  }
  if (spec.length > s.length || spec.at > s.length - spec.length)
    r.problem("ends after the run (" + to_string(s.length) + ")");
  r.finish();
  return spec;
}

// -------------------------------------------------------------------------------------------------- what is expected

std::vector<std::string> names_of(const scenario& s) {
  std::vector<std::string> names;
  names.reserve(s.variants.size());
  for (const auto& [name, v] : s.variants) names.push_back(name);
  return names;
}

void read_variant(reader& r, const char* key, const scenario& s, std::string& target) {
  const auto member = r.find(key);
  if (!member) return;
  if (const auto index = member->as_word(names_of(s))) target = names_of(s)[*index];
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
  const auto& words = invariant ? known_invariants() : event ? known_events() : known_metrics();
  if (const auto subject = r.require(invariant ? "invariant" : event ? "event" : "metric")) {
    if (const auto index = subject->as_word(words)) e.subject = words[*index];
  }
  read_variant(r, "variant", s, e.variant);
  if (event) {
    e.at_least = 1;
    if (const auto least = r.find("at_least")) e.at_least = least->as_number(1, any);
  }
  if (kind == expectation::kind::slo || kind == expectation::kind::compare) {
    read_window(r, s, e);
    if (const auto load = r.find("load")) {
      e.load = load->as_string().value_or("");
      const bool known = std::ranges::any_of(s.loads, [&](const load_spec& l) { return l.name == e.load; });
      if (!known) load->problem("no load has this name");
    }
    if (e.subject == "recovery_time" && !e.after_fault) r.problem("recovery_time needs \"after\": \"fault[0]\"");
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

// ---------------------------------------------------------------------------------------------------------- the whole

class parser {
 public:
  parser(const nlohmann::json& document, std::vector<std::string>& problems) : root_(document, "", problems) {}

  scenario parse() {
    if (!root_.is_object()) return std::move(s_);
    for (const char* known : {"$schema"}) (void)root_.find(known);
    if (const auto version = root_.require("version"); version && version->value() != 1) {
      version->problem("only version 1 is known");
    }
    if (const auto title = root_.require("title")) s_.title = title->as_string().value_or("");
    root_.read("description", s_.description);
    read_strings("tags", s_.tags);
    read_strings("references", s_.references);
    read_clock();
    read_seeds();
    read_list("services", true, [&](reader r) { add_named(s_.services, read_service(r), r); });
    read_list("pools", false, [&](reader r) { read_pool(r); });
    read_list("load", true, [&](reader r) { add_named(s_.loads, read_load(r, s_), r); });
    read_variants();
    read_list("faults", false, [&](reader r) { s_.faults.push_back(read_fault(r, s_, s_.faults.size())); });
    check_references();
    read_expectations();
    if (auto report = root_.find("report"); report && report->is_object()) {
      report->read("timeline", s_.timeline, std::chrono::milliseconds(10));
      report->finish();
    }
    root_.finish();
    return std::move(s_);
  }

 private:
  template <class Read> void read_list(const char* key, bool needed, Read read) {
    const auto list = needed ? root_.require(key) : root_.find(key);
    if (!list) return;
    const auto items = list->items();
    if (needed && items.empty() && list->value().is_array()) list->problem("must not be empty");
    for (const auto& item : items) read(item);
  }
  template <class Spec> void add_named(std::vector<Spec>& list, Spec spec, const reader& r) {
    if (std::ranges::find(list, spec.name, &Spec::name) != list.end())
      r.problem("the name \"" + spec.name + "\" is taken");
    list.push_back(std::move(spec));
  }
  void read_strings(const char* key, std::vector<std::string>& target) {
    read_list(key, false, [&](const reader& r) { target.push_back(r.as_string().value_or("")); });
  }
  void read_clock() {
    auto clock = root_.require("clock");
    if (!clock || !clock->is_object()) return;
    if (const auto mode = clock->find("mode")) (void)mode->as_word({"virtual"});
    if (const auto length = clock->require("duration"))
      s_.length = length->as_duration(std::chrono::seconds(1)).value_or(std::chrono::seconds(1));
    clock->read("warmup", s_.warmup);
    if (s_.length > longest_run) {
      clock->problem("duration must be at most " + to_string(longest_run));
      s_.length = longest_run;
    }
    if (s_.warmup >= s_.length) clock->problem("warmup must end within the run");
    clock->finish();
  }
  void read_seeds() {
    if (const auto seed = root_.find("seed")) s_.seeds = {seed->as_count(0).value_or(1)};
    auto seeds = root_.find("seeds");
    if (!seeds || !seeds->is_object()) return;
    std::size_t from = 1, count = 1;
    seeds->read("from", from);
    seeds->read("count", count, 1);
    seeds->finish();
    if (count > 10'000) seeds->problem("count must be at most 10000");
    s_.seeds.clear();
    for (std::size_t i = 0; i < std::min<std::size_t>(count, 10'000); ++i) s_.seeds.push_back(from + i);
  }
  void read_pool(reader r) {
    pool_spec spec;
    if (!r.is_object()) return;
    if (const auto name = r.require("name")) spec.name = name->as_string().value_or("");
    if (const auto limit = r.require("limit")) spec.limit = limit->as_count(1).value_or(1);
    r.finish();
    add_named(s_.pools, std::move(spec), r);
  }
  void check_service(const std::string& name, const reader& r) const {
    const auto names = names_in(s_.services);
    if (std::ranges::find(names, name) == names.end()) {
      r.problem("no service is called \"" + name + "\"" + detail::nearest_hint(name, names));
    }
  }
  static void check_shedders(const reader& list, const std::vector<any_policy_spec>& policies) {
    bool has_load = false;  // of what is further in
    for (auto policy = policies.rbegin(); policy != policies.rend(); ++policy) {
      const auto* spec = std::get_if<policy_spec>(&*policy);
      if (spec == nullptr) continue;
      has_load = has_load || tells_load(*spec);
      if (std::holds_alternative<priority_shedder_spec>(*spec) && !has_load) {
        list.problem("a priority_shedder has no load to go by; put a bulkhead or an adaptive_limiter below it");
      }
    }
  }
  void read_variants() {
    const auto policies = root_.require("policies");
    if (!policies) return;
    for (const auto& [name, services] : policies->members()) {
      variant_spec variant;
      for (const auto& [service, list] : services.members()) {
        check_service(service, list);
        auto& all = variant.policies[service];
        for (const auto& item : list.items()) {
          if (auto policy = read_any_policy(item, s_)) all.push_back(std::move(*policy));
        }
        check_shedders(list, all);
      }
      s_.variants.emplace_back(name, std::move(variant));
    }
    if (s_.variants.empty()) policies->problem("needs at least one variant");
    const auto overrides = root_.find("overrides");
    if (!overrides) return;
    for (const auto& [name, services] : overrides->members()) {
      const auto found = std::ranges::find(s_.variants, name, &std::pair<std::string, variant_spec>::first);
      if (found == s_.variants.end()) {
        services.problem("no variant has this name" + detail::nearest_hint(name, names_of(s_)));
        continue;
      }
      for (const auto& [service, changes] : services.members()) {
        check_service(service, changes);
        found->second.overrides[service] = read_override(changes);
      }
    }
  }
  void check_references() {
    const auto& document = root_.value();
    for (std::size_t i = 0; i < s_.loads.size(); ++i) {
      const reader at(document["load"][i], "/load/" + std::to_string(i), *problems());
      check_service(s_.loads[i].target, at);
      const auto& pool = s_.loads[i].pool;
      if (!pool.empty() && std::ranges::find(s_.pools, pool, &pool_spec::name) == s_.pools.end()) {
        at.problem("no pool is called \"" + pool + "\"");
      }
    }
    for (std::size_t i = 0; i < s_.faults.size(); ++i) {
      const reader at(document["faults"][i], "/faults/" + std::to_string(i), *problems());
      const auto& fault = s_.faults[i];
      if (fault.kind != fault_kind::load) {
        check_service(fault.target, at);
      } else if (std::ranges::find(s_.loads, fault.target, &load_spec::name) == s_.loads.end()) {
        at.problem("no load is called \"" + fault.target + "\"");
      }
    }
  }
  void read_expectations() {
    auto expect = root_.find("expect");
    if (!expect || !expect->is_object()) return;
    constexpr std::pair<const char*, expectation::kind> kinds[] = {{"always", expectation::kind::always},
                                                                   {"sometimes", expectation::kind::sometimes},
                                                                   {"slo", expectation::kind::slo},
                                                                   {"compare", expectation::kind::compare}};
    for (const auto& [key, kind] : kinds) {
      const auto list = expect->find(key);
      if (!list) continue;
      for (const auto& item : list->items()) {
        if (auto e = read_expectation(item, s_, kind)) s_.expectations.push_back(std::move(*e));
      }
    }
    expect->finish();
  }
  [[nodiscard]] std::vector<std::string>* problems() const noexcept { return root_.problems(); }

  reader root_;
  scenario s_;
};

std::string list_of(const std::string& source, const std::vector<std::string>& problems) {
  std::string text =
      source + ": " + std::to_string(problems.size()) + (problems.size() == 1 ? " problem" : " problems");
  for (const auto& problem : problems) text += "\n  " + problem;
  return text;
}

}  // namespace

scenario_error::scenario_error(const std::string& source, std::vector<std::string> problems)
    : std::runtime_error(list_of(source, problems)), problems_(std::move(problems)) {}

const std::vector<std::string>& known_fault_policies() {
  static const std::vector<std::string> names{"latency",     "error",     "hang",    "outcome",
                                              "lost_answer", "duplicate", "weighted"};
  return names;
}
const std::vector<std::string>& known_metrics() {
  static const std::vector<std::string> names{
      "goodput",       "availability",   "amplification",  "recovery_time",   "p50", "p95", "p99",
      "max_in_flight", "rejected_ratio", "injected_ratio", "duplicated_ratio"};
  return names;
}
const std::vector<std::string>& known_events() {
  static const std::vector<std::string> names{"circuit_opened", "circuit_closed", "circuit_half_opened",
                                              "retry_denied",   "fallback_used",  "bulkhead_rejected",
                                              "timed_out",      "overloaded",     "fault_injected"};
  return names;
}
const std::vector<std::string>& known_invariants() {
  static const std::vector<std::string> names{"no_lost_call", "bulkhead_never_exceeded", "same_seed_same_trace"};
  return names;
}

scenario parse_scenario(const nlohmann::json& document, const std::string& source) {
  std::vector<std::string> problems;
  auto result = parser(document, problems).parse();
  if (!problems.empty()) throw scenario_error(source, std::move(problems));
  return result;
}

scenario load_scenario(const std::string& path) {
  nlohmann::json document;
  try {
    document = cofferdam::detail::read_json_file(path);
  } catch (const std::runtime_error& e) {
    throw scenario_error(path, {e.what()});
  }
  return parse_scenario(document, path);
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
