#include <cofferdam/core/units.hpp>
#include <cofferdam/resilience/adaptive_limiter.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/detail/json_reader.hpp>
#include <cofferdam/resilience/nesting_guard.hpp>
#include <cofferdam/resilience/policy_spec.hpp>
#include <cofferdam/resilience/rate_limiter.hpp>

#include <algorithm>
#include <limits>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

using detail::json_reader;
using nlohmann::json;
using words = std::vector<std::string>;

// ------------------------------------------------------------------------------------------- the tables, one a policy

template <class V> void fields(V& v, backoff_options& o) {
  v.word("kind", o.kind, {"constant", "linear", "exponential"}, "how delays grow");
  v.time("base", o.base, "the first delay");
  v.number("factor", o.factor, 1, 1000, "growth of an exponential backoff");
  v.time("cap", o.cap, "the longest delay");
  v.word("jitter", o.jitter, {"none", "proportional", "equal", "full", "decorrelated", "decorrelated_v2", "stretched"},
         "how delays are spread");
  v.number("jitter_share", o.jitter_share, 0, 1, "of proportional jitter");
}

template <class V> void fields(V& v, retry_budget_options& o) {
  v.word("kind", o.kind, {"per_success", "per_call", "throttle"}, "what earns and what costs");
  v.number("ratio", o.ratio, 0, 1, "retries earned by each");
  v.number("max_tokens", o.max_tokens, 1, 1e9, "retries that can be saved up");
  v.number("min_retries_per_second", o.min_retries_per_second, 0, 1e6, "retries earned by time alone");
}

template <class V> void fields(V& v, timeout_spec& o) {
  v.time("limit", o.limit, "for everything below");
  v.word("mode", o.mode, {"cancel", "detach"}, "what happens to work that does not end");
}

template <class V> void fields(V& v, retry_spec& s) {
  auto& o = s.options;
  v.count("max_attempts", o.max_attempts, "the first one included", "forever");
  v.backoff("backoff", o.backoff);
  v.time("respect_retry_after_up_to", o.respect_retry_after_up_to, "how far a server may ask to wait");
  v.time("minimum_attempt", o.minimum_attempt, "no retry with less time left than this");
  v.budget("budget", s.budget);
}

template <class V> void fields(V& v, hedging_spec& s) {
  auto& o = s.options;
  v.count("max_attempts", o.max_attempts, "the first one included");
  v.time("delay", o.delay, "without an answer until the next attempt", "only_on_failure");
  v.number("percentile", o.percentile, 0, 1, "of recent calls, as the delay");
  v.count("minimum_samples", o.minimum_samples, "calls that must be known for that");
  v.time("minimum_delay", o.minimum_delay, "of what the percentile says");
  v.time("sample_window", o.sample_window, "how long calls are remembered");
  v.word("losing", o.losing, {"leave", "await"}, "whether the call waits for losers");
  v.budget("budget", s.budget);
}

template <class V> void fields(V& v, circuit_breaker_options& o) {
  v.number("failure_ratio", o.failure_ratio, 0, 1, "opens when at least this share failed");
  v.time("slow_call_duration", o.slow_call_duration, "longer calls are slow; 0s = off");
  v.number("slow_call_ratio", o.slow_call_ratio, 0, 1, "opens when at least this share is slow");
  v.count("minimum_calls", o.minimum_calls, "no judgement on fewer finished calls");
  v.count("consecutive_failures", o.consecutive_failures, "above 0: opens after so many in a row, too");
  v.count("failures_in_window", o.failures_in_window, "above 0: opens after so many in the window, too");
  v.count("slow_in_flight", o.slow_in_flight, "above 0: opens when so many calls in flight are slow already");
  v.time("warm_up", o.warm_up, "from the first call on: counts, but does not open");
  v.time("window", o.window, "how far back calls count");
  v.count("buckets", o.buckets, "resolution of that window");
  v.count("window_calls", o.window_calls, "above 0: the last so many calls count instead");
  v.count("probes", o.probes, "trial calls while half-open");
  v.number("probe_failure_ratio", o.probe_failure_ratio, 0, 1,
           "re-opens when at least this share fails; 0 = failure_ratio");
  v.time("probe_deadline", o.probe_deadline, "an older probe gives up its place; 0s = break_duration");
  v.time("break_duration", o.break_duration, "how long the first break lasts");
  v.number("break_growth", o.break_growth, 1, 1000, "factor for every further break without a closed time between");
  v.time("max_break_duration", o.max_break_duration, "limit of that growth");
  v.time("ramp", o.ramp, "above 0s: after a break, until all calls are let in again");
  v.time("probe_wait", o.probe_wait, "above 0s: how long a call may wait for the probes' verdict");
  v.word("abandoned", o.abandoned, {"ignore", "as_failure", "by_share"}, "what cancelled calls say");
  v.number("abandoned_ratio", o.abandoned_ratio, 0, 1, "of by_share");
  v.word("mode", o.mode, {"normal", "isolated", "disabled", "metrics_only"}, "at the start");
  v.flag("record_latency", o.record_latency, "percentiles in the statistics");
  v.flag("keep_window_on_close", o.keep_window_on_close, "a closed circuit remembers failures from before the break");
  v.flag("one_strand", o.one_strand, "all calls come from one thread or strand");
}

template <class V> void fields(V& v, partition_limits& o) {
  v.count("reserved", o.reserved, "permits that nobody else gets");
  v.count("at_most", o.at_most, "permits at once, the reserved ones included", "unlimited");
}

template <class V> void fields(V& v, bulkhead_spec& s) {
  auto& o = s.options;
  v.count("max_concurrent", o.max_concurrent, "calls at once");
  v.count("max_queue", o.max_queue, "calls that may wait, in each partition");
  v.time("max_wait", o.max_wait, "how long each may wait", "forever");
  v.word("order", o.order, {"fifo", "lifo", "adaptive", "priority"}, "who is next");
  v.time("target_delay", o.target_delay, "how long calls may wait while the queue does not empty; 0s = off");
  v.time("interval", o.interval, "a queue that has not been empty for so long is overloaded");
  v.partitions("partitions", s.partitions);
}

template <class V> void fields(V& v, rate_limiter_options& o) {
  v.count("permits", o.permits, "per period");
  v.time("period", o.period, "of the permits");
  v.word("algorithm", o.algorithm, {"token_bucket", "smooth", "fixed_window", "sliding_window"},
         "how permits are counted");
  v.count("burst", o.burst, "what a full token bucket holds; 0 = permits");
  v.time("max_wait", o.max_wait, "how long a call may wait for its permits");
}

template <class V> void fields(V& v, client_throttle_options& o) {
  v.number("multiplier", o.multiplier, 1, 1000, "calls tolerated for each accepted one");
  v.time("window", o.window, "how far back calls count");
  v.number("max_rejection", o.max_rejection, 0, 1, "of calls");
  v.count("minimum_calls", o.minimum_calls, "never holds back on fewer calls");
}

template <class V> void fields(V& v, adaptive_limiter_options& o) {
  v.word("algorithm", o.algorithm, {"gradient", "aimd"}, "what the limit follows");
  v.count("initial_limit", o.initial_limit, "calls at once, at the start");
  v.count("min_limit", o.min_limit, "never fewer");
  v.count("max_limit", o.max_limit, "never more");
  v.time("window", o.window, "how often the limit changes at most");
  v.count("minimum_samples", o.minimum_samples, "a window lasts until so many calls are measured");
  v.number("tolerance", o.tolerance, 1, 100, "up to so many times the baseline there is no queue");
  v.number("backoff", o.backoff, 0, 1, "what a window with drops leaves of the limit");
  v.count("rebaseline_after", o.rebaseline_after, "windows between measurements of the baseline; 0 = never");
  v.count("max_queue", o.max_queue, "calls that may wait");
  v.time("max_wait", o.max_wait, "how long each may wait", "forever");
  v.word("order", o.order, {"fifo", "lifo"}, "who is next");
}

template <class V> void fields(V& v, shed_level& o) {
  v.integer("priority_below", o.priority_below, "for calls of lower priority than this");
  v.number("above", o.above, 0, 1000, "load up to which all of them pass; 1 = full");
  v.number("all_at", o.all_at, 0, 1000, "load from which on none passes");
}

template <class V> void fields(V& v, priority_shedder_spec& s) {
  auto& o = s.options;
  v.levels("levels", s.levels);
  v.number("steepness", o.steepness, 1, 10, "how gently the refused share begins to grow; 1 = a line");
  v.time("sample_interval", o.sample_interval, "how often the load is looked at; 0s = at every call");
  v.time("smoothing", o.smoothing, "of the load, a time constant; 0s = none");
  v.time("retry_after", o.retry_after, "what refused calls are told; 0s = nothing");
}

template <class V> void fields(V&, nesting_guard_spec&) {}

// ------------------------------------------------------------------------------------------------ who reads the tables

class from_json {
 public:
  explicit from_json(json_reader& reader) : reader_(reader) {}

  void time(const char* key, duration& target, const char*, const char* word_for_max = nullptr) {
    const auto member = reader_.find(key);
    if (!member) return;
    if (word_for_max != nullptr && member->value().is_string() && member->value() == word_for_max) {
      target = duration::max();
    } else {
      target = member->as_duration().value_or(target);
    }
  }
  template <class Count> void count(const char* key, Count& target, const char*, const char* word_for_max = nullptr) {
    const auto member = reader_.find(key);
    if (!member) return;
    if (word_for_max != nullptr && member->value().is_string() && member->value() == word_for_max) {
      target = std::numeric_limits<Count>::max();
    } else if (const auto read = member->as_count(0)) {
      target = static_cast<Count>(*read);
    }
  }
  void integer(const char* key, std::int32_t& target, const char*) {
    const auto member = reader_.find(key);
    if (!member) return;
    if (const auto read = member->as_integer(INT32_MIN, INT32_MAX)) target = static_cast<std::int32_t>(*read);
  }
  void number(const char* key, double& target, double least, double most, const char*) {
    reader_.read(key, target, least, most);
  }
  void flag(const char* key, bool& target, const char*) { reader_.read(key, target); }
  template <class Enum> void word(const char* key, Enum& target, const words& known, const char*) {
    if (const auto member = reader_.find(key)) {
      if (const auto index = member->as_word(known)) target = static_cast<Enum>(*index);
    }
  }
  void backoff(const char* key, backoff_options& target) {
    auto member = reader_.find(key);
    if (!member) return;
    if (!member->value().is_string()) {
      if (!member->is_object()) return;
      from_json inner(*member);
      fields(inner, target);
      member->finish();
      return;
    }
    // The short form: "50ms..1s", or "50ms" for a constant one.
    const auto text = member->value().get<std::string>();
    const auto dots = text.find("..");
    const auto base = parse_duration(text.substr(0, dots));
    const auto cap = dots == std::string::npos ? base : parse_duration(text.substr(dots + 2));
    if (!base || !cap || *base < duration::zero() || *cap < *base) {
      member->problem("expected a backoff such as \"50ms..1s\" or \"50ms\", or an object");
      return;
    }
    target.base = *base;
    target.cap = *cap;
    if (dots == std::string::npos) target.kind = backoff_kind::constant;
  }
  void partitions(const char* key, bulkhead_partitions& target) {
    const auto all = reader_.find(key);
    if (!all) return;
    for (auto& [name, member] : all->members()) {
      if (!member.is_object()) continue;
      from_json inner(member);
      fields(inner, target[name]);
      member.finish();
    }
  }
  void levels(const char* key, std::vector<shed_level>& target) {
    const auto all = reader_.find(key);
    if (!all) return;
    target.clear();
    for (auto& item : all->items()) {
      shed_level& level = target.emplace_back();
      if (!item.is_object()) continue;
      from_json inner(item);
      fields(inner, level);
      item.finish();
    }
  }
  void budget(const char* key, std::optional<budget_spec>& target) {
    const auto member = reader_.find(key);
    if (!member) return;
    target.emplace();
    if (member->value().is_string()) {
      target->shared = member->value().get<std::string>();
      if (target->shared.empty()) member->problem("names no budget");
    } else if (member->value().is_number()) {
      target->own.ratio = member->as_number(0, 1).value_or(0);
    } else if (member->value().is_object()) {
      target->own = detail::read_budget(*member);
    } else {
      member->problem("expected a ratio such as 0.1, an object, or the name of one of the \"budgets\"");
    }
  }

 private:
  json_reader& reader_;
};

/// Everything, defaults included.
class into_json {
 public:
  void time(const char* key, duration& d, const char*, const char* word_for_max = nullptr) {
    result[key] = word_for_max != nullptr && d == duration::max() ? word_for_max : to_string(d);
  }
  template <class Count> void count(const char* key, Count& n, const char*, const char* word_for_max = nullptr) {
    if (word_for_max != nullptr && n == std::numeric_limits<Count>::max()) {
      result[key] = word_for_max;
    } else {
      result[key] = n;
    }
  }
  void integer(const char* key, std::int32_t& n, const char*) { result[key] = n; }
  void number(const char* key, double& n, double, double, const char*) { result[key] = n; }
  void flag(const char* key, bool& b, const char*) { result[key] = b; }
  template <class Enum> void word(const char* key, Enum& e, const words& known, const char*) {
    result[key] = known.at(static_cast<std::size_t>(e));
  }
  void backoff(const char* key, backoff_options& o);
  void partitions(const char* key, bulkhead_partitions& all);
  void levels(const char* key, std::vector<shed_level>& all);
  void budget(const char* key, std::optional<budget_spec>& b) {
    if (b) result[key] = b->shared.empty() ? detail::write_budget(b->own) : json(b->shared);
  }
  json result = json::object();
};

/// What differs from a default one.
template <class Spec> json differences(Spec spec) {
  Spec standard{};
  into_json all, defaults;
  fields(all, spec);
  fields(defaults, standard);
  json changed = json::object();
  for (const auto& [key, value] : all.result.items()) {
    if (!defaults.result.contains(key) || defaults.result[key] != value) changed[key] = value;
  }
  return changed;
}

void into_json::backoff(const char* key, backoff_options& o) { result[key] = differences(o); }

void into_json::partitions(const char* key, bulkhead_partitions& all) {
  result[key] = json::object();
  for (const auto& [name, limits] : all) result[key][name] = differences(limits);
}

void into_json::levels(const char* key, std::vector<shed_level>& all) {
  result[key] = json::array();
  for (const auto& level : all) result[key].push_back(differences(level));
}

/// The schema of each field, with its default.
class into_schema {
 public:
  void time(const char* key, duration& d, const char* text, const char* word_for_max = nullptr) {
    json type = {{"$ref", "#/definitions/duration"}};
    if (word_for_max != nullptr) type = {{"anyOf", {type, {{"const", word_for_max}}}}};
    const bool by_word = word_for_max != nullptr && d == duration::max();
    add(key, std::move(type), by_word ? json(word_for_max) : json(to_string(d)), text);
  }
  template <class Count> void count(const char* key, Count& n, const char* text, const char* word_for_max = nullptr) {
    json type = {{"type", "integer"}, {"minimum", 0}, {"maximum", 1'000'000'000}};
    if (word_for_max != nullptr) type = {{"anyOf", {type, {{"const", word_for_max}}}}};
    const bool by_word = word_for_max != nullptr && n == std::numeric_limits<Count>::max();
    add(key, std::move(type), by_word ? json(word_for_max) : json(n), text);
  }
  void integer(const char* key, std::int32_t& n, const char* text) {
    add(key, {{"type", "integer"}, {"minimum", INT32_MIN}, {"maximum", INT32_MAX}}, n, text);
  }
  void number(const char* key, double& n, double least, double most, const char* text) {
    add(key, {{"type", "number"}, {"minimum", least}, {"maximum", most}}, n, text);
  }
  void flag(const char* key, bool& b, const char* text) { add(key, {{"type", "boolean"}}, b, text); }
  template <class Enum> void word(const char* key, Enum& e, const words& known, const char* text) {
    add(key, {{"enum", known}}, known.at(static_cast<std::size_t>(e)), text);
  }
  void backoff(const char* key, backoff_options& o) {
    into_schema inner;
    fields(inner, o);
    properties[key] = {{"anyOf", {{{"type", "string"}}, inner.object()}},
                       {"description", "\"50ms..1s\", \"50ms\", or an object"}};
  }
  void partitions(const char* key, bulkhead_partitions&) {
    into_schema inner;
    partition_limits standard;
    fields(inner, standard);
    properties[key] = {{"type", "object"},
                       {"additionalProperties", inner.object()},
                       {"description", "parts of the calls, by their key, with permits of their own"}};
  }
  void levels(const char* key, std::vector<shed_level>& standard) {
    into_schema inner;
    fields(inner, standard.front());
    into_json defaults;
    fields(defaults, standard.front());
    add(key, {{"type", "array"}, {"minItems", 1}, {"items", inner.object()}}, json::array({defaults.result}),
        "by rising priority: which calls are refused at which load");
  }
  void budget(const char* key, std::optional<budget_spec>&) {
    properties[key] = {
        {"anyOf", {{{"type", "string"}}, {{"type", "number"}, {"minimum", 0}, {"maximum", 1}}, budget_schema()}},
        {"description", "a ratio, an object, or the name of a shared budget"}};
  }
  [[nodiscard]] json object() const {
    return {{"type", "object"}, {"additionalProperties", false}, {"properties", properties}};
  }
  json properties = json::object();

 private:
  void add(const char* key, json type, json standard, const char* text) {
    type["description"] = text;
    type["default"] = std::move(standard);
    properties[key] = std::move(type);
  }
};

template <class Spec> json schema_of() {
  Spec standard{};
  into_schema visitor;
  fields(visitor, standard);
  return visitor.object();
}

// ---------------------------------------------------------------------------------------------------------- validation

std::vector<std::string> problems_of(const timeout_spec& spec) {
  if (spec.limit > duration::zero()) return {};
  return {"limit: must be positive"};
}
std::vector<std::string> problems_of(const retry_spec& spec) { return validate(spec.options); }
std::vector<std::string> problems_of(const hedging_spec& spec) { return validate(spec.options); }
std::vector<std::string> problems_of(const bulkhead_spec& spec) { return validate(spec.options, spec.partitions); }
std::vector<std::string> problems_of(const priority_shedder_spec& spec) { return validate(spec.levels, spec.options); }
std::vector<std::string> problems_of(const nesting_guard_spec&) { return {}; }
template <class Options> std::vector<std::string> problems_of(const Options& options) { return validate(options); }

/// A problem "field: text" belongs to the field's path, "a.b: text" to a/b, "a[1].b: text" to a/1/b.
void report(const json_reader& reader, const std::vector<std::string>& problems) {
  for (const std::string& problem : problems) {
    const auto colon = problem.find(": ");
    std::string field = problem.substr(0, colon);
    std::erase(field, ']');
    std::ranges::replace_if(field, [](char c) { return c == '.' || c == '['; }, '/');
    reader.problems()->push_back(reader.path() + "/" + field + problem.substr(colon));
  }
}

template <class Spec> Spec read_spec(json_reader reader) {
  Spec spec{};
  if (!reader.is_object()) return spec;
  const std::size_t before = reader.problems()->size();
  from_json visitor(reader);
  fields(visitor, spec);
  reader.finish();
  // What was not even read was reported; judging its default would only confuse.
  if (reader.problems()->size() == before) report(reader, problems_of(spec));
  return spec;
}

template <std::size_t I = 0> policy_spec read_alternative(std::size_t index, const json_reader& reader) {
  if constexpr (I < std::variant_size_v<policy_spec>) {
    if (index == I) return read_spec<std::variant_alternative_t<I, policy_spec>>(reader);
    return read_alternative<I + 1>(index, reader);
  } else {
    return {};
  }
}

template <std::size_t I = 0> void add_alternatives(json& schemas) {
  if constexpr (I < std::variant_size_v<policy_spec>) {
    const std::string& kind = policy_kinds()[I];
    json options = schema_of<std::variant_alternative_t<I, policy_spec>>();
    if (kind == "timeout") options = {{"anyOf", {{{"$ref", "#/definitions/duration"}}, options}}};
    schemas.push_back({{"type", "object"},
                       {"additionalProperties", false},
                       {"required", {kind}},
                       {"properties", {{kind, std::move(options)}}}});
    add_alternatives<I + 1>(schemas);
  }
}

}  // namespace

const std::vector<std::string>& policy_kinds() {
  static const words kinds{"timeout",      "retry",           "hedging",          "circuit_breaker",  "bulkhead",
                           "rate_limiter", "client_throttle", "adaptive_limiter", "priority_shedder", "nesting_guard"};
  static_assert(std::variant_size_v<policy_spec> == 10);
  return kinds;
}

const std::string& kind_of(const policy_spec& spec) { return policy_kinds()[spec.index()]; }

const budget_spec* budget_of(const policy_spec& spec) noexcept {
  const std::optional<budget_spec>* budget = nullptr;
  if (const auto* retry = std::get_if<retry_spec>(&spec)) budget = &retry->budget;
  if (const auto* hedging = std::get_if<hedging_spec>(&spec)) budget = &hedging->budget;
  return budget != nullptr && *budget ? &**budget : nullptr;
}

bool tells_load(const policy_spec& spec) noexcept {
  return std::holds_alternative<bulkhead_spec>(spec) || std::holds_alternative<adaptive_limiter_options>(spec);
}

bool tells_load(const policy& made) noexcept {
  return dynamic_cast<const bulkhead*>(&made) != nullptr || dynamic_cast<const adaptive_limiter*>(&made) != nullptr;
}

json to_json(const policy_spec& spec) {
  json options = std::visit([](const auto& s) { return differences(s); }, spec);
  const auto* limit = std::get_if<timeout_spec>(&spec);
  if (limit != nullptr && limit->mode == on_timeout::cancel) options = to_string(limit->limit);
  return {{kind_of(spec), std::move(options)}};
}

json policy_schema() {
  json schemas = json::array();
  add_alternatives(schemas);
  return {{"oneOf", std::move(schemas)}};
}

json budget_schema() { return schema_of<retry_budget_options>(); }

namespace detail {

retry_budget_options read_budget(json_reader reader) { return read_spec<retry_budget_options>(reader); }
json write_budget(const retry_budget_options& options) { return differences(options); }

std::optional<policy_spec> read_policy(json_reader reader, const std::vector<std::string>& other_kinds) {
  if (!reader.is_object()) return std::nullopt;
  if (reader.value().size() != 1) {
    reader.problem("expected exactly one policy, such as { \"timeout\": \"500ms\" }");
    return std::nullopt;
  }
  for (const auto& kind : other_kinds) (void)reader.find(kind);
  for (std::size_t index = 0; index < policy_kinds().size(); ++index) {
    const auto options = reader.find(policy_kinds()[index]);
    if (!options) continue;
    if (index == 0 && !options->value().is_object()) {  // the short form
      timeout_spec spec;
      spec.limit = options->as_duration(duration(1)).value_or(spec.limit);
      return spec;
    }
    return read_alternative(index, *options);
  }
  reader.finish();
  return std::nullopt;
}

}  // namespace detail

namespace {

/// The load of each policy that tells one; the signals keep them alive.
std::vector<load_signal> loads_of(std::span<const std::shared_ptr<policy>> policies) {
  std::vector<load_signal> signals;
  const auto add = [&](const auto& watched) {
    if (watched) signals.emplace_back([watched, load = utilisation_of(*watched)] { return load(); });
  };
  for (const auto& each : policies) {
    add(std::dynamic_pointer_cast<bulkhead>(each));
    add(std::dynamic_pointer_cast<adaptive_limiter>(each));
  }
  return signals;
}

std::shared_ptr<policy> make_shedder(const std::string& name, const priority_shedder_spec& spec,
                                     const std::vector<load_signal>& signals) {
  if (signals.empty()) {
    throw invalid_options_error("priority_shedder '" + name +
                                "': has no load to go by; put a bulkhead or an adaptive_limiter below it");
  }
  auto made = std::make_shared<priority_shedder>(name, spec.levels, signals.front(), spec.options);
  for (const auto& signal : std::span(signals).subspan(1)) made->watch(signal);
  return made;
}

}  // namespace

std::shared_ptr<policy> make_policy(const std::string& name, const policy_spec& spec, const budget_finder& find_budget,
                                    std::span<const std::shared_ptr<policy>> below) {
  if (const auto* s = std::get_if<timeout_spec>(&spec)) {
    return std::make_shared<timeout>(timeout(s->limit, s->mode).named(name));
  }
  // Aliased, so that whoever holds the policy holds its budget.
  const auto with_budget = [&](auto made, const std::optional<budget_spec>& budget) -> std::shared_ptr<policy> {
    using type = typename decltype(made)::element_type;
    if (!budget) return made;
    auto both =
        std::make_shared<std::pair<std::shared_ptr<retry_budget>, std::shared_ptr<type>>>(find_budget(*budget), made);
    made->budget(*both->first);
    return std::shared_ptr<policy>(both, made.get());
  };
  if (const auto* s = std::get_if<retry_spec>(&spec))
    return with_budget(std::make_shared<retry>(s->options), s->budget);
  if (const auto* s = std::get_if<hedging_spec>(&spec)) {
    return with_budget(std::make_shared<hedging>(s->options), s->budget);
  }
  if (const auto* o = std::get_if<circuit_breaker_options>(&spec)) return std::make_shared<circuit_breaker>(name, *o);
  if (const auto* s = std::get_if<bulkhead_spec>(&spec)) {
    auto made = std::make_shared<bulkhead>(name, s->options);
    for (const auto& [key, limits] : s->partitions) made->partition(key, limits);
    return made;
  }
  if (const auto* o = std::get_if<rate_limiter_options>(&spec)) return std::make_shared<rate_limiter>(name, *o);
  if (const auto* o = std::get_if<client_throttle_options>(&spec)) return std::make_shared<client_throttle>(name, *o);
  if (const auto* o = std::get_if<adaptive_limiter_options>(&spec)) return std::make_shared<adaptive_limiter>(name, *o);
  if (std::holds_alternative<nesting_guard_spec>(spec)) return std::make_shared<nesting_guard>(name);
  return make_shedder(name, std::get<priority_shedder_spec>(spec), loads_of(below));
}

}  // namespace cofferdam::inline COFFERDAM_ABI
