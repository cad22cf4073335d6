// Scenarios of orders, relays and brokers: what is refused, what is measured, what small runs yield.
#include "catch.hpp"

#include <cofferdam/chaos/verdict.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace outbox_cases {

nlohmann::json document() {
  return nlohmann::json::parse(R"({
    "version": 1, "kind": "outbox", "title": "small", "clock": { "duration": "20s" },
    "producer": { "rate": "20/s", "arrivals": "constant", "to": "15s", "keys": 10 },
    "broker": { "workers": 10, "latency": { "dist": "constant", "mean": "5ms" } },
    "relays": { "relay": { "lease": "2s", "policies": [{ "retry": { "max_attempts": 3, "backoff": "50ms..500ms" } }] } },
    "consumers": { "shipping": { "workers": 4, "latency": { "dist": "constant", "mean": "1ms" } } },
    "variants": { "outbox": {} }
  })");
}

std::vector<std::string> problems_of(const nlohmann::json& d) {
  try {
    (void)chaos::parse_scenario(d);
  } catch (const chaos::scenario_error& e) {
    return e.problems();
  }
  return {};
}

chaos::expectation of(const char* metric, duration from = {}, duration to = 20s) {
  chaos::expectation e;
  e.subject = metric;
  e.from = from;
  e.to = to;
  return e;
}

}  // namespace outbox_cases

TEST_CASE("mistakes in an outbox scenario are reported at once, where they stand", "[chaos]") {
  auto d = outbox_cases::document();
  CHECK(outbox_cases::problems_of(d).empty());
  d["producer"]["publsh"] = "outbox";
  d["relays"]["relay"]["policies"].push_back({{"bulkhead", {{"max_concurrent", 1}}}});
  d["variants"]["other"] = {{"consumers", {{"shipping", {{"inbx", false}}}}}, {"brokr", {{"workers", 1}}}};
  d["faults"] = {{{"at", "1s"}, {"for", "1s"}, {"target", "relai"}, {"kind", "pause"}},
                 {{"at", "1s"}, {"for", "1s"}, {"target", "broker"}, {"kind", "crash"}},
                 {{"at", "1s"}, {"for", "1s"}, {"target", "shipping"}, {"kind", "poison"}, {"every", 5}}};
  d["operator"] = {{{"at", "2s"}, {"replay", "rely"}}};
  d["expect"]["slo"] = {{{"metric", "drain_time"}, {"lte", "1s"}}, {{"metric", "amplification"}, {"lte", 1}}};
  const auto problems = outbox_cases::problems_of(d);
  const auto has = [&](const std::string& text) {
    for (const auto& p : problems) UNSCOPED_INFO(p);
    INFO(text);
    CHECK(std::ranges::count_if(problems, [&](const std::string& p) { return p.starts_with(text); }) == 1);
  };
  has("/producer/publsh: unknown key; did you mean \"publish\"?");
  has("/relays/relay/policies/1: a relay takes retry (without a budget), circuit_breaker and timeout");
  has("/variants/other/consumers/shipping/inbx: unknown key; did you mean \"inbox\"?");
  has("/variants/other/brokr: unknown key; did you mean \"broker\"?");
  has("/faults/0: nothing is called \"relai\"; did you mean \"relay\"?");
  has("/faults/1: this does not happen to \"broker\"");
  has("/faults/2: poison needs \"broker\": \"in_process\"");
  has("/operator/0/replay: no relay is called \"rely\"; did you mean \"relay\"?");
  has("/expect/slo/0: drain_time needs \"after\"");
  has("/expect/slo/1/metric: unknown word \"amplification\"");
}

TEST_CASE("metrics of messages are what their records say", "[chaos]") {
  auto d = outbox_cases::document();
  d["faults"] = {{{"at", "4s"}, {"for", "2s"}, {"target", "broker"}, {"kind", "outage"}}};
  const auto s = chaos::parse_scenario(d);
  chaos::run_result run;
  run.consumers.resize(1);
  run.consumers[0].name = "shipping";
  run.consumers[0].reordered = 4;
  run.consumers[0].most_in_memory = std::vector<std::size_t>(21, 3);
  const auto order = [&run](duration accepted, duration published, duration effect, std::uint32_t times) {
    chaos::call_record call;
    call.start = accepted == chaos::not_yet ? 1s : accepted;
    run.calls.push_back(call);
    run.messages.push_back({accepted, published, times, false});
    run.consumers[0].effects.push_back({effect, times});
  };
  using chaos::not_yet;
  order(1s, 2s, 3s, 1);
  order(4s, 7s, 8s, 1);
  order(5s, 8s, 9s, 3);
  order(6s, not_yet, not_yet, 0);
  order(7s, not_yet, not_yet, 0);
  order(not_yet, 2s, 3s, 1);
  run.messages[4].parked = true;
  const auto measured = [&](const char* metric, duration from = {}, duration to = 20s) {
    return chaos::measure(s, run, outbox_cases::of(metric, from, to));
  };
  CHECK(measured("lost") == 1.0);
  CHECK(measured("phantom") == 1.0);
  CHECK(measured("parked") == 1.0);
  CHECK(measured("repeated") == 2.0);
  CHECK(measured("duplicates") == 2.0);
  CHECK(measured("duplicates", 6s) == 0.0);
  CHECK(measured("reordered") == 4.0);
  CHECK(measured("in_memory") == 3.0);
  CHECK(measured("backlog") == 3.0);
  CHECK(measured("backlog", 0s, 4s) == 1.0);
  CHECK(measured("backlog", 2500ms, 3500ms) == 0.0);
  CHECK(measured("throughput", 0s, 5s) == 1.0);  // two effects, one of them of no order
  CHECK(measured("delivery_p50") == 4.0);
  auto drain = outbox_cases::of("drain_time");
  drain.after_fault = 0;
  CHECK_FALSE(chaos::measure(s, run, drain));  // two never go, and one was the most before
  run.messages[3].published = 9s;
  CHECK(chaos::measure(s, run, drain) == 3.0);
}

#if defined(COFFERDAM_TEST_DURABLE)

namespace outbox_cases {

std::map<std::string, chaos::run_result> run_all(const nlohmann::json& d) {
  const auto s = chaos::parse_scenario(d);
  std::map<std::string, chaos::run_result> results;
  for (auto& run : chaos::run_scenario(s)) results.insert_or_assign(run.variant, std::move(run));
  return results;
}

double value(const nlohmann::json& d, const chaos::run_result& run, const char* metric) {
  return chaos::measure(chaos::parse_scenario(d), run, of(metric)).value_or(-1);
}

std::uint64_t times(const chaos::run_result& run, const char* event) {
  const auto found = run.events.find(event);
  return found == run.events.end() ? 0 : found->second.count;
}

}  // namespace outbox_cases

TEST_CASE("in an outage a dual write loses what came meanwhile, and an outbox nothing", "[chaos]") {
  using outbox_cases::value;
  auto d = outbox_cases::document();
  d["faults"] = {{{"at", "5s"}, {"for", "4s"}, {"target", "broker"}, {"kind", "outage"}}};
  d["variants"] = {{"outbox", nlohmann::json::object()},
                   {"dual_write", {{"producer", {{"publish", "after_commit"}}}}},
                   {"publish_first", {{"producer", {{"publish", "before_commit"}}}}}};
  const auto runs = outbox_cases::run_all(d);
  const auto &safe = runs.at("outbox"), &dual = runs.at("dual_write"), &first = runs.at("publish_first");
  CHECK(safe.offered == 300);
  CHECK(value(d, safe, "lost") == 0);
  CHECK(value(d, safe, "duplicates") == 0);
  CHECK(value(d, safe, "backlog") >= 80);
  CHECK(safe.violations.empty());
  CHECK(value(d, dual, "lost") == 80);
  CHECK(value(d, dual, "goodput") == 1);
  CHECK_FALSE(dual.violations.empty());
  CHECK(value(d, first, "lost") == 0);
  CHECK(value(d, first, "goodput") == Approx(220.0 / 300));
}

TEST_CASE("a relay that dies or stands still loses nothing, and what comes twice has its effect once", "[chaos]") {
  auto d = outbox_cases::document();
  d["relays"]["other"] = d["relays"]["relay"];
  d["producer"]["arrivals"] = "poisson";
  d["producer"]["rate"] = "100/s";
  d["faults"] = {{{"at", "5s"}, {"for", "4s"}, {"target", "relay"}, {"kind", "pause"}},
                 {{"at", "11s"}, {"for", "1s"}, {"target", "other"}, {"kind", "crash"}},
                 {{"at", "0s"}, {"for", "15s"}, {"target", "broker"}, {"kind", "lost_ack"}, {"rate", 0.02}}};
  const auto run = outbox_cases::run_all(d).at("outbox");
  CHECK(outbox_cases::times(run, "relay_paused") == 1);
  CHECK(outbox_cases::times(run, "relay_crashed") == 1);
  CHECK(outbox_cases::times(run, "lease_taken") > 8);
  CHECK(outbox_cases::times(run, "repetition_noticed") > 0);
  CHECK(outbox_cases::value(d, run, "repeated") > 0);
  CHECK(run.violations.empty());
}

TEST_CASE("a poisoned order is put aside with those of its customer, and published when it is mended", "[chaos]") {
  auto d = outbox_cases::document();
  d["broker"] = "in_process";
  d["faults"] = {{{"at", "0s"}, {"for", "12s"}, {"target", "shipping"}, {"kind", "poison"}, {"every", 50}}};
  const auto before = outbox_cases::run_all(d).at("outbox");
  CHECK(outbox_cases::times(before, "key_parked") >= 2);
  CHECK(outbox_cases::value(d, before, "parked") >= 2);
  CHECK(outbox_cases::value(d, before, "lost") == 0);
  d["operator"] = {{{"at", "17s"}, {"replay", "relay"}}};
  const auto after = outbox_cases::run_all(d).at("outbox");
  CHECK(outbox_cases::value(d, after, "parked") == 0);
  CHECK(after.violations.empty());
}

TEST_CASE("a naive relay that went on after its lease publishes again what the other one has published", "[chaos]") {
  auto d = outbox_cases::document();
  d["relays"] = {{"a", {{"lease", "1s"}, {"naive", true}}}, {"b", {{"lease", "1s"}, {"naive", true}}}};
  d["broker"]["latency"]["mean"] = "60ms";  // slower than orders come: it is always at work
  d["faults"] = {{{"at", "5s"}, {"for", "3s"}, {"target", "a"}, {"kind", "pause"}}};
  d["variants"]["outbox"] = {{"consumers", {{"shipping", {{"inbox", false}}}}}};
  const auto run = outbox_cases::run_all(d).at("outbox");
  CHECK(outbox_cases::value(d, run, "repeated") >= 10);
  CHECK(outbox_cases::value(d, run, "duplicates") >= 10);
}

#else

TEST_CASE("without SQLite an outbox scenario can be read, and running it says what is missing", "[chaos]") {
  const auto s = chaos::parse_scenario(outbox_cases::document());
  CHECK_THROWS_WITH(chaos::run_scenario(s), Catch::Matchers::Contains("libsqlite3-dev"));
}

#endif
