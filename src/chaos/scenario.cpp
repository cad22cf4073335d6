#include <cofferdam/chaos/scenario.hpp>
#include <cofferdam/core/units.hpp>

#include "scenario_reader.hpp"

#include <array>

namespace cofferdam::inline COFFERDAM_ABI::chaos {
namespace reading {
namespace {

// In the order of fault_kind.
constexpr std::array fault_words{"slow",   "latency",  "error",     "hang",  "capacity", "load",  "kill_switch",
                                 "outage", "lost_ack", "duplicate", "pause", "crash",    "poison"};

constexpr double most_calls = 20e6;  // of one load; all are kept until they are judged

fault_spec read_fault(reader r, const scenario& s, const std::vector<std::string>& kinds) {
  fault_spec spec;
  spec.name = "fault[" + std::to_string(s.faults.size()) + "]";
  if (!r.is_object()) return spec;
  r.read("name", spec.name);
  if (const auto kind = r.require("kind")) {
    if (const auto index = kind->as_word(kinds)) {
      const auto word = std::ranges::find(fault_words, kinds[*index]);
      spec.kind = static_cast<fault_kind>(word - fault_words.begin());
    }
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
    case fault_kind::lost_ack:
    case fault_kind::duplicate:
      if (const auto rate = needs("rate")) spec.rate = rate->as_number(0, 1).value_or(0);
      break;
    case fault_kind::capacity:
      if (const auto workers = needs("workers")) spec.workers = workers->as_count(0).value_or(0);
      break;
    case fault_kind::poison:
      if (const auto every = needs("every")) spec.every = every->as_count(1).value_or(1);
      break;
    case fault_kind::kill_switch:
    case fault_kind::outage:
    case fault_kind::pause:
    case fault_kind::crash:
      break;
  }
  if (spec.length > s.length || spec.at > s.length - spec.length)
    r.problem("ends after the run (" + to_string(s.length) + ")");
  r.finish();
  return spec;
}

}  // namespace

std::vector<std::string> names_of_variants(const scenario& s) {
  std::vector<std::string> names;
  names.reserve(s.variants.size());
  for (const auto& [name, v] : s.variants) names.push_back(name);
  return names;
}

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

void read_work(reader& r, service_spec& spec) {
  r.read("workers", spec.workers, 1);
  if (const auto latency = r.find("latency")) spec.latency = read_latency(*latency);
  if (auto queue = r.find("queue"); queue && queue->is_object()) {
    read_limit(queue->find("limit"), spec.queue_limit);
    read_order(queue->find("order"), spec.order);
    queue->read("drop_expired", spec.drop_expired);
    queue->finish();
  }
}

void check_arrivals(const reader& r, const scenario& s, double rate, duration from, duration to) {
  if (to <= from) r.problem("\"to\" must be later than \"from\"");
  const double calls = rate * std::chrono::duration<double>(to - from).count();
  if (calls > most_calls)
    r.problem("would be " + nlohmann::json(calls).dump() + " calls; at most 2e7 can be simulated");
  if (to > s.length) r.problem("\"to\" lies after the end of the run (" + to_string(s.length) + ")");
}

void read_faults(reader& root, scenario& s, const std::vector<std::string>& kinds) {
  read_list(root, "faults", false, [&](const reader& r) { s.faults.push_back(read_fault(r, s, kinds)); });
}

reader fault_at(const reader& root, std::size_t index) {
  return {root.value()["faults"][index], "/faults/" + std::to_string(index), *root.problems()};
}

}  // namespace reading

namespace {

using namespace reading;

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
    if (const auto kind = root_.find("kind")) {
      if (const auto word = kind->as_word({"calls", "outbox", "saga"})) s_.kind = static_cast<scenario_kind>(*word);
    }
    read_clock();
    read_seeds();
    switch (s_.kind) {
      case scenario_kind::calls:
        read_calls(root_, s_);
        break;
      case scenario_kind::outbox:
        read_outbox(root_, s_);
        break;
      case scenario_kind::saga:
        read_saga(root_, s_);
        break;
    }
    read_expectations(root_, s_);
    if (auto report = root_.find("report"); report && report->is_object()) {
      report->read("timeline", s_.timeline, std::chrono::milliseconds(10));
      report->finish();
    }
    root_.finish();
    return std::move(s_);
  }

 private:
  void read_strings(const char* key, std::vector<std::string>& target) {
    read_list(root_, key, false, [&](const reader& r) { target.push_back(r.as_string().value_or("")); });
  }
  void read_clock() {
    auto clock = root_.require("clock");
    if (!clock || !clock->is_object()) return;
    if (const auto mode = clock->find("mode")) {
      s_.real = mode->as_word({"virtual", "real"}).value_or(0) == 1;
      if (s_.real && s_.kind != scenario_kind::outbox) mode->problem("only outbox scenarios run in real time");
    }
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
