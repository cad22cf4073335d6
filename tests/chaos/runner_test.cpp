// What a run makes of overlapping faults, of injected failures, and of runs that cannot be repeated.
#include "catch.hpp"

#include <cofferdam/chaos/verdict.hpp>

#include <nlohmann/json.hpp>

#include <fstream>
#include <map>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

/// One service that takes 10 ms, ten calls a second for ten seconds, and a variant without policies.
nlohmann::json ten_seconds() {
  return nlohmann::json::parse(R"({
    "version": 1, "title": "ten seconds", "clock": { "duration": "10s" },
    "services": [{ "name": "a", "workers": 100, "latency": { "dist": "constant", "mean": "10ms" } }],
    "load": [{ "target": "a", "arrivals": "constant", "rate": "10/s" }],
    "policies": { "plain": {} }
  })");
}

chaos::run_result first_run(const nlohmann::json& document) {
  return chaos::run_variant(chaos::parse_scenario(document), 0, 1);
}

/// Calls with this ending that began in [from, to).
std::size_t ended(const chaos::run_result& run, chaos::call_ending how, duration from, duration to) {
  return static_cast<std::size_t>(std::ranges::count_if(run.calls, [&](const chaos::call_record& call) {
    return call.ending == how && call.start >= from && call.start < to;
  }));
}

duration latency_of_call_at(const chaos::run_result& run, duration at) {
  const auto call = std::ranges::find(run.calls, at, &chaos::call_record::start);
  REQUIRE(call != run.calls.end());
  return call->latency;
}

}  // namespace

TEST_CASE("of two faults at once, the end of one leaves the other in force", "[chaos]") {
  auto document = ten_seconds();
  const auto overlapping = [&](const nlohmann::json& longer, const nlohmann::json& shorter) {
    document["faults"] = {longer, shorter};
    document["faults"][0].update({{"at", "1s"}, {"for", "8s"}});
    document["faults"][1].update({{"at", "3s"}, {"for", "2s"}});
    return first_run(document);
  };
  const auto of = [](const char* kind, const char* key, const nlohmann::json& value) {
    return nlohmann::json{{"kind", kind}, {"target", "a"}, {key, value}};
  };

  SECTION("errors: the second adds nothing to a certain failure") {
    const auto run = overlapping(of("error", "rate", 1), of("error", "rate", 0.5));
    CHECK(ended(run, chaos::call_ending::failed, 1s, 9s) == 80);
    CHECK(ended(run, chaos::call_ending::ok, 9s, 10s) == 10);
  }
  SECTION("slowness multiplies") {
    const auto run = overlapping(of("slow", "factor", 5), of("slow", "factor", 3));
    CHECK(latency_of_call_at(run, 500ms) == 10ms);
    CHECK(latency_of_call_at(run, 2s) == 50ms);
    CHECK(latency_of_call_at(run, 4s) == 150ms);
    CHECK(latency_of_call_at(run, 6s) == 50ms);
    CHECK(latency_of_call_at(run, 9500ms) == 10ms);
  }
  SECTION("slowness beyond all time never answers") {
    const auto run = overlapping(of("slow", "factor", 1e6), of("slow", "factor", 1e6));
    CHECK(run.calls.size() < 100);
  }
  SECTION("latencies add up") {
    const auto run = overlapping(of("latency", "add", "20ms"), of("latency", "add", "30ms"));
    CHECK(latency_of_call_at(run, 2s) == 30ms);
    CHECK(latency_of_call_at(run, 4s) == 60ms);
    CHECK(latency_of_call_at(run, 6s) == 30ms);
  }
  SECTION("of capacities the least is left") {
    const auto run = overlapping(of("capacity", "workers", 0), of("capacity", "workers", 50));
    CHECK(latency_of_call_at(run, 2s) == 7010ms);
    CHECK(latency_of_call_at(run, 6s) == 3010ms);
  }
  SECTION("hangs go on") {
    const auto run = overlapping(of("hang", "rate", 1), of("hang", "rate", 0.5));
    CHECK(run.calls.size() == 20);
  }
  SECTION("surges of a load multiply") {
    const auto run = overlapping(of("load", "factor", 2), of("load", "factor", 3));
    CHECK(ended(run, chaos::call_ending::ok, 2s, 3s) == 20);
    CHECK(ended(run, chaos::call_ending::ok, 4s, 5s) == 60);
    CHECK(ended(run, chaos::call_ending::ok, 7s, 8s) == 20);
  }
}

TEST_CASE("a call that an injected error ended has failed; it was not rejected", "[chaos]") {
  auto document = ten_seconds();
  document["policies"]["plain"]["a"] = {{{"fault", {{"kind", "error"}, {"rate", 1}}}}};
  const auto run = first_run(document);
  CHECK(ended(run, chaos::call_ending::failed, 0s, 10s) == 100);
  CHECK(ended(run, chaos::call_ending::rejected, 0s, 10s) == 0);
}

TEST_CASE("every variant is run twice under its first seed, and one that differs is a violation", "[chaos]") {
  auto document = ten_seconds();
  document["policies"] = {{"first", nlohmann::json::object()}, {"second", nlohmann::json::object()}};
  document["seeds"] = {{"from", 7}, {"count", 2}};
  document["expect"]["always"] = {{{"invariant", "same_seed_same_trace"}}};
  const auto s = chaos::parse_scenario(document);

  std::map<std::pair<std::size_t, std::uint64_t>, int> runs;
  const auto unrepeatable_second = [&](const chaos::scenario& of, std::size_t variant, std::uint64_t seed) {
    auto result = chaos::run_variant(of, variant, seed);
    const int before = runs[{variant, seed}]++;
    if (variant == 1) result.trace += static_cast<std::uint64_t>(before);
    return result;
  };
  const auto results = chaos::run_scenario(s, unrepeatable_second);
  REQUIRE(results.size() == 4);
  CHECK(runs[{0, 7}] == 2);
  CHECK(runs[{0, 8}] == 1);
  CHECK(runs[{1, 7}] == 2);
  CHECK(runs[{1, 8}] == 1);
  CHECK(results[0].violations.empty());
  CHECK(results[2].violations == std::vector<std::string>{"same_seed_same_trace: two runs with the same seed differ"});
  CHECK_FALSE(chaos::judge(s, results).at(0).passed);
}

// ------------------------------------------------------------------------------------------- faults among the policies

namespace {

nlohmann::json with_fault(nlohmann::json document, nlohmann::json fault) {
  document["policies"]["plain"]["a"] = {{{"fault", std::move(fault)}}};
  return document;
}

std::uint64_t injected(const chaos::run_result& run) {
  const auto found = run.events.find("fault_injected");
  return found == run.events.end() ? 0 : found->second.count;
}

std::size_t with_effects(const chaos::run_result& run, std::uint16_t effects) {
  return static_cast<std::size_t>(std::ranges::count(run.calls, effects, &chaos::call_record::effects));
}

std::vector<std::string> problems_with_fault(nlohmann::json fault) {
  try {
    (void)chaos::parse_scenario(with_fault(ten_seconds(), std::move(fault)));
  } catch (const chaos::scenario_error& e) {
    return e.problems();
  }
  return {};
}

}  // namespace

TEST_CASE("a lost answer in a scenario: the work took effect, and the call failed by injection", "[chaos]") {
  const auto run = first_run(with_fault(ten_seconds(), {{"kind", "lost_answer"}, {"rate", 1}}));
  CHECK(ended(run, chaos::call_ending::failed, 0s, 10s) == 100);
  CHECK(std::ranges::all_of(run.calls, &chaos::call_record::injected));
  CHECK(with_effects(run, 1) == 100);
  CHECK(injected(run) == 100);
  CHECK(run.events.at("fault_injected").first == 10ms);
}

TEST_CASE("a duplicate in a scenario takes effect twice, unless the service is idempotent", "[chaos]") {
  auto document = with_fault(ten_seconds(), {{"kind", "duplicate"}, {"rate", 1}});
  auto run = first_run(document);
  CHECK(ended(run, chaos::call_ending::ok, 0s, 10s) == 100);
  CHECK(with_effects(run, 2) == 100);
  CHECK(run.calls.front().attempts == 2);
  document["overrides"]["plain"]["a"]["idempotent"] = true;
  run = first_run(document);
  CHECK(with_effects(run, 1) == 100);
  CHECK(run.calls.front().attempts == 2);
}

TEST_CASE("a duplicate that a detached time limit leaves behind is cancelled and not made again", "[chaos]") {
  auto document = ten_seconds();
  document["policies"]["plain"]["a"] = {{{"timeout", {{"limit", "5ms"}, {"mode", "detach"}}}},
                                        {{"fault", {{"kind", "duplicate"}, {"rate", 1}}}}};
  const auto run = first_run(document);
  CHECK(run.events.at("timed_out").count == 100);
  CHECK(run.calls.front().latency == 5ms);
  CHECK(run.calls.front().attempts == 1);
  CHECK(run.calls.front().effects == 1);
}

TEST_CASE("weighted faults in a scenario strike each call at most once", "[chaos]") {
  const auto run = first_run(with_fault(
      ten_seconds(),
      {{"kind", "weighted"},
       {"rate", 1},
       {"choices",
        {{{"kind", "error"}, {"weight", 3}}, {{"kind", "latency"}, {"add", "90ms"}}, {{"kind", "outcome"}}}}}));
  const auto failed = ended(run, chaos::call_ending::failed, 0s, 10s);
  const auto slow = static_cast<std::size_t>(std::ranges::count(run.calls, 100ms, &chaos::call_record::latency));
  CHECK(injected(run) == 100);
  CHECK(failed > 40);
  CHECK(slow > 5);
  CHECK(failed + slow + ended(run, chaos::call_ending::degraded, 0s, 10s) == 100);
}

TEST_CASE("the keys of a fault in a scenario are loads", "[chaos]") {
  auto document = with_fault(ten_seconds(), {{"kind", "error"}, {"rate", 1}, {"keys", {"b"}}});
  document["load"].push_back(document["load"][0]);
  document["load"][1]["name"] = "b";
  const auto run = first_run(document);
  CHECK(run.calls.size() == 200);
  for (const auto& call : run.calls) CHECK((call.ending == chaos::call_ending::failed) == (call.load == 1));
}

TEST_CASE("a kill switch stops the faults among the policies for its time, also where two overlap", "[chaos]") {
  auto document = with_fault(ten_seconds(), {{"kind", "error"}, {"rate", 1}});
  document["faults"] = {{{"kind", "kill_switch"}, {"target", "a"}, {"at", "2s"}, {"for", "4s"}},
                        {{"kind", "kill_switch"}, {"target", "a"}, {"at", "3s"}, {"for", "1s"}}};
  const auto run = first_run(document);
  CHECK(ended(run, chaos::call_ending::failed, 0s, 2s) == 20);
  CHECK(ended(run, chaos::call_ending::ok, 2s, 6s) == 40);
  CHECK(ended(run, chaos::call_ending::failed, 6s, 10s) == 40);
}

TEST_CASE("reports count injected failures apart from real ones", "[chaos]") {
  auto document = with_fault(ten_seconds(), {{"kind", "error"}, {"rate", 0.3}});
  document["faults"] = {{{"kind", "error"}, {"target", "a"}, {"rate", 0.5}, {"at", "0s"}, {"for", "10s"}}};
  document["expect"]["slo"] = {{{"metric", "injected_ratio"}, {"gte", 0.2}},
                               {{"metric", "injected_ratio"}, {"lte", 0.4}}};
  document["expect"]["sometimes"] = {{{"event", "fault_injected"}}};
  const auto s = chaos::parse_scenario(document);
  const auto results = chaos::run_scenario(s);
  const auto verdicts = chaos::judge(s, results);
  CHECK(std::ranges::all_of(verdicts, &chaos::verdict_line::passed));
  const auto run = nlohmann::json::parse(chaos::report_json(s, results, verdicts))["runs"][0];
  CHECK(run["calls"]["failed_by_injection"] == injected(results[0]));
  CHECK(run["events"]["fault_injected"]["count"] == injected(results[0]));
  CHECK(run["calls"]["failed"] > 20);
  CHECK(run["calls"]["ok"].get<int>() + run["calls"]["failed"].get<int>() +
            run["calls"]["failed_by_injection"].get<int>() ==
        100);
}

TEST_CASE("mistakes in a fault among the policies are reported with path and nearest name", "[chaos]") {
  const std::string path = "/policies/plain/a/0/fault";
  const auto first = [](nlohmann::json fault) {
    const auto problems = problems_with_fault(std::move(fault));
    return problems.empty() ? std::string("none") : problems.front();
  };
  CHECK(first({{"kind", "lost_anser"}, {"rate", 1}})
            .starts_with(path + "/kind: unknown word \"lost_anser\"; did you mean \"lost_answer\"?"));
  CHECK(first({{"kind", "error"}}) == path + ": lacks \"rate\"");
  CHECK(first({{"kind", "error"}, {"rate", 2}}) == path + "/rate: expected a number between 0.0 and 1.0");
  CHECK(first({{"kind", "error"}, {"rate", 1}, {"add", "1s"}}).starts_with(path + "/add: unknown key"));
  CHECK(first({{"kind", "latency"}, {"rate", 1}}) == path + ": lacks \"add\"");
  CHECK(first({{"kind", "error"}, {"rate", 1}, {"keys", {"x"}}}).starts_with(path + "/keys/0: unknown word \"x\""));
  CHECK(first({{"kind", "error"}, {"rate", 1}, {"keys", nlohmann::json::array()}}) ==
        path + "/keys: must name at least one load");
  CHECK(first({{"kind", "weighted"}, {"rate", 1}}) == path + ": lacks \"choices\"");
  CHECK(problems_with_fault({{"kind", "weighted"},
                             {"rate", 1},
                             {"choices",
                              {{{"kind", "outcome"}, {"weigth", 3}},
                               {{"kind", "outcome"}, {"weight", 0}},
                               {{"kind", "error"}, {"rate", 1}}}}}) ==
        std::vector<std::string>{path + "/choices/0/weigth: unknown key; did you mean \"weight\"?",
                                 path + "/choices/1/weight: expected a number between 1e-06 and 1000000.0",
                                 path + "/choices/2/rate: unknown key",
                                 path + "/choices: at most one may be an outcome"});
}

// -------------------------------------------------------------------------------------------------------------- schema

namespace {

/// The words of all kinds of scenarios, each once.
template <class Words> std::vector<std::string> of_all_kinds(Words words) {
  std::vector<std::string> all;
  for (const auto kind : {chaos::scenario_kind::calls, chaos::scenario_kind::outbox, chaos::scenario_kind::saga}) {
    for (const auto& word : words(kind)) {
      if (std::ranges::find(all, word) == all.end()) all.push_back(word);
    }
  }
  return all;
}

nlohmann::json schema() {
  std::ifstream file(COFFERDAM_SOURCE_DIR "/docs/scenario.schema.json");
  return nlohmann::json::parse(file);
}

}  // namespace

TEST_CASE("the schema lists the words that the reader knows, no fewer and no more", "[chaos]") {
  const auto words = [all = schema()](const char* pointer) {
    return all.at(nlohmann::json::json_pointer(pointer)).get<std::vector<std::string>>();
  };
  CHECK(words("/definitions/fault_policy/properties/kind/enum") == chaos::known_fault_policies());
  auto choices = chaos::known_fault_policies();
  std::erase(choices, "weighted");
  CHECK(words("/definitions/fault_choice/properties/kind/enum") == choices);
  CHECK(words("/properties/expect/properties/always/items/properties/invariant/enum") ==
        of_all_kinds(chaos::known_invariants));
  CHECK(words("/properties/expect/properties/sometimes/items/properties/event/enum") ==
        of_all_kinds(chaos::known_events));
  CHECK(words("/properties/expect/properties/slo/items/properties/metric/enum") == of_all_kinds(chaos::known_metrics));
  CHECK(words("/properties/expect/properties/compare/items/properties/metric/enum") ==
        of_all_kinds(chaos::known_metrics));
}

TEST_CASE("the schema's policies are those of a configuration, and fallback and fault", "[chaos]") {
  const auto configured = policy_schema()["oneOf"];
  const auto in_scenarios = schema()["definitions"]["policy"]["oneOf"];
  REQUIRE(in_scenarios.size() == configured.size() + 2);
  for (std::size_t i = 0; i < configured.size(); ++i) CHECK(in_scenarios[i] == configured[i]);
  CHECK(in_scenarios[configured.size()]["properties"].contains("fallback"));
  CHECK(in_scenarios[configured.size() + 1]["properties"].contains("fault"));
}

TEST_CASE("every key that the schema gives a fault, and no other, is one the reader takes", "[chaos]") {
  const auto all = schema();
  const auto takes = [](const char* kind, const std::string& key, bool as_choice) {
    nlohmann::json fault{{"kind", kind}, {key, nlohmann::json::array()}};
    if (as_choice) fault = {{"kind", "weighted"}, {"rate", 1}, {"choices", {fault}}};
    return std::ranges::none_of(problems_with_fault(std::move(fault)),
                                [](const std::string& p) { return p.find("unknown key") != std::string::npos; });
  };
  const std::vector<std::string> keys{"kind", "rate", "keys", "add", "jitter", "choices", "weight", "probability"};
  for (const bool as_choice : {false, true}) {
    const auto& known = all["definitions"][as_choice ? "fault_choice" : "fault_policy"]["properties"];
    for (const auto& key : keys) {
      INFO(key << (as_choice ? " of a choice" : ""));
      const bool taken = takes("latency", key, as_choice) || takes(as_choice ? "error" : "weighted", key, as_choice);
      CHECK(known.contains(key) == (key == "kind" || taken));
    }
    CHECK(std::ranges::all_of(known.items(),
                              [&](const auto& item) { return std::ranges::find(keys, item.key()) != keys.end(); }));
  }
}
