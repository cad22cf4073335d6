// Scenario files: what is accepted, what is refused and how; what a small run yields.
#include "async_test.hpp"

#include <cofferdam/chaos/fault_policy.hpp>
#include <cofferdam/chaos/verdict.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include <nlohmann/json.hpp>

#include <cctype>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

const char* const small = R"({
  "version": 1, "title": "small",
  "clock": { "duration": "10s" },
  "services": [{ "name": "a", "workers": 2, "latency": { "dist": "constant", "mean": "10ms" } }],
  "load": [{ "target": "a", "arrivals": "constant", "rate": "10/s" }],
  "policies": { "plain": { "a": [{ "timeout": "100ms" }] } },
  "faults": [{ "at": "4s", "for": "2s", "target": "a", "kind": "error", "rate": 1 }],
  "expect": {
    "always": [{ "invariant": "no_lost_call" }, { "invariant": "same_seed_same_trace" }],
    "slo": [{ "metric": "goodput", "window": ["0s", "4s"], "gte": 1 }, { "metric": "goodput", "window": ["4s", "6s"], "lte": 0 }]
  }
})";

nlohmann::json document() { return nlohmann::json::parse(small); }

std::vector<std::string> problems_of(const nlohmann::json& changed) {
  try {
    (void)chaos::parse_scenario(changed);
  } catch (const chaos::scenario_error& e) {
    return e.problems();
  }
  return {};
}

/// The names of all properties anywhere in a JSON schema.
void collect_properties(const nlohmann::json& schema, std::set<std::string>& names) {
  if (!schema.is_structured()) return;
  if (schema.is_object() && schema.contains("properties")) {
    for (const auto& [key, rule] : schema["properties"].items()) names.insert(key);
  }
  for (const auto& part : schema) collect_properties(part, names);
}

}  // namespace

TEST_CASE("a scenario runs, loses no call, and its faults strike when they should", "[chaos]") {
  const auto s = chaos::parse_scenario(document());
  const auto results = chaos::run_scenario(s);
  REQUIRE(results.size() == 1);
  CHECK(results[0].offered == 100);
  CHECK(results[0].calls.size() == 100);
  for (const auto& line : chaos::judge(s, results)) {
    INFO(line.text << ": " << line.observed);
    CHECK(line.passed);
  }
  CHECK(chaos::run_variant(s, 0, 1).trace == chaos::run_variant(s, 0, 1).trace);
}

TEST_CASE("mistakes are all reported at once, with path and nearest name", "[chaos]") {
  auto d = document();
  d["services"][0]["worker"] = 3;
  d["load"][0]["rate"] = 10;
  d["policies"]["plain"]["a"][0] = {{"timeot", "100ms"}};
  d["faults"][0]["target"] = "b";
  d["clock"]["duration"] = "10 s";
  const auto problems = problems_of(d);
  const auto has = [&](const std::string& text) {
    INFO(text);
    for (const auto& p : problems) UNSCOPED_INFO(p);
    CHECK(std::ranges::find(problems, text) != problems.end());
  };
  has("/services/0/worker: unknown key; did you mean \"workers\"?");
  has("/load/0/rate: expected a rate above zero such as \"850/s\" or \"30/min\"");
  has("/policies/plain/a/0/timeot: unknown key; did you mean \"timeout\"?");
  has("/faults/0: no service is called \"b\"; did you mean \"a\"?");
  has("/clock/duration: expected a duration such as \"500ms\" (units: ns us ms s min h)");
}

TEST_CASE("impossible values are refused", "[chaos]") {
  const auto refused = [&](const char* pointer, nlohmann::json value) {
    auto d = document();
    d[nlohmann::json::json_pointer(pointer)] = std::move(value);
    INFO(pointer);
    CHECK_FALSE(problems_of(d).empty());
  };
  refused("/version", 2);
  refused("/faults/0/rate", 1.5);
  refused("/faults/0/for", "1h");
  refused("/load/0/from", "11s");
  refused("/services/0/workers", 0);
  refused("/services/0/workers", -1);
  refused("/expect/slo/0/metric", "goodputt");
  refused("/expect/slo/0/variant", "none");
  refused("/expect/slo/0/window", nlohmann::json::array({"5s"}));
  refused("/policies/plain/a/0/timeout", "0s");
  refused("/policies/plain/a/1", {{"circuit_breaker", {{"buckets", 0}}}});
  refused("/policies/plain/a/1", {{"retry", {{"max_attempts", 0}}}});
  refused("/policies/plain/a/1", {{"retry", {{"backoff", "1s..50ms"}}}});
  refused("/policies/plain/a/1", {{"retry", {{"budget", "shared"}}}});
  refused("/clock/duration", "2000000h");
  refused("/load/0/rate", "1000000/ms");
  refused("/faults/0/at", "2500000h");
  refused("/policies", nlohmann::json::object());
  refused("/load", nlohmann::json::array());
  CHECK(problems_of(nlohmann::json::array()).size() == 1);
}

TEST_CASE("a file that is not there or not JSON says so", "[chaos]") {
  CHECK_THROWS_WITH(chaos::load_scenario("no/such.json"),
                    Catch::Matchers::Contains("no/such.json") && Catch::Matchers::Contains("cannot be read"));
}

TEST_CASE("the scenarios that ship are well-formed and the schema knows their keys", "[chaos]") {
  std::ifstream file(COFFERDAM_SOURCE_DIR "/docs/scenario.schema.json");
  const auto schema = nlohmann::json::parse(file);
  std::set<std::string> known;
  collect_properties(schema, known);
  for (const auto& metric : chaos::known_metrics())
    CHECK(schema.dump().find("\"" + metric + "\"") != std::string::npos);
  for (const auto& entry : std::filesystem::directory_iterator(COFFERDAM_SOURCE_DIR "/examples/chaos")) {
    if (entry.path().extension() != ".json") continue;
    CHECK_NOTHROW(chaos::load_scenario(entry.path().string()));
    std::ifstream scenario(entry.path());
    const auto flat = nlohmann::json::parse(scenario).flatten();
    for (const auto& [path, value] : flat.items()) {
      // Names of the scenario's own.
      const auto has_own_names = [&path](const char* key) { return path.starts_with(key); };
      constexpr const char* with_own_names[] = {"/policies/", "/overrides/", "/variants/",
                                                "/relays/",   "/consumers/", "/saga/cases/"};
      if (std::ranges::any_of(with_own_names, has_own_names)) continue;
      INFO(entry.path() << path);
      for (nlohmann::json::json_pointer at(path); !at.empty(); at.pop_back()) {
        const std::string key = at.back();
        CHECK((known.contains(key) || std::ranges::all_of(key, ::isdigit)));
      }
    }
  }
  // And every key of the schema's services is one the parser takes.
  for (const auto& [key, rule] : schema["properties"]["services"]["items"]["properties"].items()) {
    auto d = document();
    d["services"][0][key] = nlohmann::json::array();
    for (const auto& problem : problems_of(d)) CHECK(problem.find("unknown key") == std::string::npos);
  }
}

TEST_CASE("a scenario mutilated at random is read or refused, never more", "[chaos]") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  for (int i = 0; i < 3000; ++i) {
    auto d = document();
    auto flat = d.flatten();
    auto victim = flat.begin();
    std::advance(victim, static_cast<std::ptrdiff_t>(random() % flat.size()));
    const nlohmann::json values[] = {nullptr, -1, 1e300, "", "5s", nlohmann::json::array(), nlohmann::json::object(),
                                     true};
    try {
      d[nlohmann::json::json_pointer(victim.key())] = values[random() % std::size(values)];
      (void)chaos::parse_scenario(d);
    } catch (const chaos::scenario_error&) {
    }
  }
}

TEST_CASE("reports escape what they quote", "[chaos]") {
  auto d = document();
  d["title"] = "<a & \"b\">";
  const auto s = chaos::parse_scenario(d);
  const auto results = chaos::run_scenario(s);
  const auto verdicts = chaos::judge(s, results);
  CHECK(chaos::report_junit(s, verdicts).find("name=\"&lt;a &amp; &quot;b&quot;&gt;\"") != std::string::npos);
  CHECK(nlohmann::json::parse(chaos::report_json(s, results, verdicts))["runs"].size() == 1);
  CHECK(chaos::report_text(s, results, verdicts, "x.json").find("expectations hold") != std::string::npos);
}

ASYNC_TEST("fault policies strike at their rate, in any pipeline", "[chaos]") {
  chaos::error_fault errors(0.25);
  chaos::latency_fault slow(1.0, 10ms);
  auto calls = slow | errors;
  int failed = 0;
  for (int i = 0; i < 1000; ++i) {
    const auto result = co_await calls.try_run([] { return 1; });
    if (result.why().is_refusal(errc::injected_fault)) ++failed;
  }
  CHECK(failed == static_cast<int>(errors.injected()));
  CHECK(failed > 200);
  CHECK(failed < 300);
  CHECK(time.elapsed() == 10s);
  errors.enable(false);
  chaos::outcome_fault fake(1.0, [] { return 7; });
  auto faked = errors | fake;
  const int value = co_await faked.run([] { return 1; });
  CHECK(value == 7);
  auto hanging = timeout(5ms) | chaos::hang_fault(1.0);
  const auto hung = co_await hanging.try_run([] { return 1; });
  CHECK(hung.why().is_refusal(errc::timed_out));
}
