// What a run makes of overlapping faults, of injected failures, and of runs that cannot be repeated.
#include "catch.hpp"

#include <cofferdam/chaos/verdict.hpp>

#include <nlohmann/json.hpp>

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
