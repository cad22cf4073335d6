// Pipelines from JSON: what is refused and how it is said, round trip, reload.
#include "async_test.hpp"
#include "tasks.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/configuration.hpp>
#include <cofferdam/resilience/priority_shedder.hpp>
#include <cofferdam/resilience/rate_limiter.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;
using nlohmann::json;

namespace {

json payments_document() {
  return json::parse(R"({
    "version": 1,
    "budgets": { "shared": { "ratio": 0.2, "max_tokens": 10 } },
    "pipelines": {
      "payments": [
        { "timeout": "2s" },
        { "retry": { "max_attempts": 3, "backoff": "50ms..1s", "budget": "shared" } },
        { "circuit_breaker": { "failure_ratio": 0.25, "minimum_calls": 4 } },
        { "bulkhead": { "max_concurrent": 8, "max_queue": 16 } },
        { "timeout": { "limit": "500ms", "mode": "detach" } }
      ],
      "search": [
        { "rate_limiter": { "permits": 100, "period": "1s" } },
        { "hedging": { "percentile": 0.95, "budget": "shared" } }
      ]
    }
  })");
}

std::vector<std::string> mistakes_of(const json& document) {
  try {
    const configuration made(document);
    return {};
  } catch (const configuration_error& e) {
    return e.problems();
  }
}

/// The only mistake of the document with `value` at `pointer`.
std::string mistake(const char* pointer, json value) {
  json document = payments_document();
  document[json::json_pointer(pointer)] = std::move(value);
  const auto mistakes = mistakes_of(document);
  std::string all;
  for (const auto& line : mistakes) all += (all.empty() ? "" : "\n") + line;
  return all;
}

}  // namespace

ASYNC_TEST("a configured pipeline does what its policies do", "[configuration]") {
  const configuration config(payments_document());
  auto payments = config.at("payments");
  const int value = co_await payments.run(fine);
  CHECK(value == 1);
  const auto failed = co_await payments.try_run(broken);
  CHECK(failed.why().message() == "down");
  CHECK(time.elapsed() > 0s);  // it was tried again
  const auto breakers = payments.all<circuit_breaker>();
  REQUIRE(breakers.size() == 1);
  CHECK(breakers[0]->name() == "payments");
  CHECK(breakers[0]->stats().failed == 3);
  CHECK(breakers[0]->state() == circuit_state::open);
  const std::string text = payments.describe();
  CHECK(std::ranges::count(text, '\n') == 4);
  CHECK(text.find(breakers[0]->describe()) != std::string::npos);
  CHECK(config.names() == std::vector<std::string>{"payments", "search"});
}

TEST_CASE("every mistake is named by its path, with a hint", "[configuration]") {
  CHECK(mistakes_of(payments_document()).empty());
  CHECK(mistake("/version", 2) == "/version: expected 1, the only version there is");
  CHECK(mistake("/pipelnes", json::object()) == "/pipelnes: unknown key; did you mean \"pipelines\"?");
  CHECK(mistake("/pipelines/payments/1/retry/max_atempts", 3) ==
        "/pipelines/payments/1/retry/max_atempts: unknown key; did you mean \"max_attempts\"?");
  CHECK(mistake("/pipelines/search/0", {{"rate_limter", json::object()}}) ==
        "/pipelines/search/0/rate_limter: unknown key; did you mean \"rate_limiter\"?");
  CHECK(mistake("/pipelines/search/0", {{"retry", json::object()}, {"timeout", "1s"}}) ==
        "/pipelines/search/0: expected exactly one policy, such as { \"timeout\": \"500ms\" }");
  CHECK(mistake("/pipelines/payments/0/timeout", 500) ==
        "/pipelines/payments/0/timeout: expected a duration such as \"500ms\" (units: ns us ms s min h)");
  CHECK(mistake("/pipelines/payments/1/retry/backoff", "1s..50ms") ==
        "/pipelines/payments/1/retry/backoff: expected a backoff such as \"50ms..1s\" or \"50ms\", or an object");
  CHECK(mistake("/pipelines/payments/1/retry/backoff", {{"base", "0s"}}) ==
        "/pipelines/payments/1/retry/backoff/base: must be positive, or constant");
  CHECK(mistake("/pipelines/payments/1/retry/budget", "shraed") ==
        "/pipelines/payments/1/retry/budget: \"shraed\" is none of the \"budgets\"; did you mean \"shared\"?");
  CHECK(mistake("/pipelines/payments/1/retry/budget", json::array()) ==
        "/pipelines/payments/1/retry/budget: expected a ratio such as 0.1, an object, or the name of one of the "
        "\"budgets\"");
  CHECK(mistake("/pipelines/payments/2/circuit_breaker/failure_ratio", 1.5) ==
        "/pipelines/payments/2/circuit_breaker/failure_ratio: expected a number between 0.0 and 1.0");
  CHECK(mistake("/pipelines/payments/2/circuit_breaker/probes", -1) ==
        "/pipelines/payments/2/circuit_breaker/probes: expected a whole number of at least 0");
  CHECK(mistake("/pipelines/payments/2/circuit_breaker/probes", 0) ==
        "/pipelines/payments/2/circuit_breaker/probes: must be between 1 and 1000");
  CHECK(mistake("/pipelines/payments/3/bulkhead/order", "filo") ==
        "/pipelines/payments/3/bulkhead/order: unknown word \"filo\"; did you mean \"fifo\"? (known: fifo, lifo, "
        "adaptive, priority)");
  CHECK(mistake("/pipelines/search/0/rate_limiter/permits", 0) ==
        "/pipelines/search/0/rate_limiter/permits: must be at least 1");
  CHECK(mistake("/budgets/shared/ratio", 2).starts_with("/budgets/shared/ratio: expected a number between"));

  json several = payments_document();
  several["pipelines"]["payments"][0] = {{"timeout", "0s"}};
  several["pipelines"]["search"][1]["hedging"]["max_attempts"] = 1;
  several.erase("version");
  CHECK(mistakes_of(several).size() == 3);
  CHECK(mistakes_of(json::array()) == std::vector<std::string>{"/: expected an object"});
  CHECK(mistakes_of(json::object()).size() == 2);
}

TEST_CASE("a count beyond a billion is refused, however large, signed or not", "[configuration]") {
  const char* queue = "/pipelines/payments/3/bulkhead/max_queue";
  CHECK(mistake(queue, std::int64_t{1'000'000'000}).empty());
  for (const json& count : {json(1'000'000'001U), json(1'000'000'001), json(INT64_MAX), json(UINT64_MAX)}) {
    CHECK(mistake(queue, count) == std::string(queue) + ": must be at most 1000000000");
  }
  CHECK(mistake(queue, INT64_MIN) == std::string(queue) + ": expected a whole number of at least 0");
}

TEST_CASE("what a file holds instead of a document is a mistake of the configuration", "[configuration]") {
  const std::string path = "not_a_document.json";
  const auto load = [&](const char* text) {
    std::ofstream(path) << text;
    (void)configuration::load(path);
  };
  const auto says = [](const std::string& what) { return Catch::Matchers::Contains(what); };
  CHECK_THROWS_WITH(load(" \n"), says(path) && says("is empty"));
  CHECK_THROWS_WITH(load(R"({"version": 1)"), says(path) && says("is not JSON"));
  CHECK_THROWS_AS(load(R"({"version": 1e999})"), configuration_error);  // more than a number can be
  std::remove(path.c_str());
}

TEST_CASE("policies that contradict each other are refused", "[configuration]") {
  CHECK(mistake("/pipelines/payments/0/timeout", "500ms") ==
        "/pipelines/payments/4/timeout: never comes true, since the timeout of 500ms at /pipelines/payments/0/timeout "
        "ends the call first; make it shorter than that");
  CHECK(mistake("/pipelines/payments/2/circuit_breaker/window", "999ms") ==
        "/pipelines/payments/2/circuit_breaker/window: must be at least twice the time limit of 500ms at "
        "/pipelines/payments/4/timeout, or calls leave the window before they end");
  CHECK(mistake("/pipelines/payments/2/circuit_breaker/probes", 25) ==
        "/pipelines/payments/2/circuit_breaker/probes: more than the bulkhead at /pipelines/payments/3/bulkhead lets "
        "in: trials would fail for that");
  CHECK(mistake("/pipelines/search/2", {{"timeout", "2s"}}) ==
        "/pipelines/search/1/hedging/delay: no hedge starts, since attempts end after the 2s at "
        "/pipelines/search/2/timeout; make it shorter, or \"only_on_failure\"");
  CHECK(mistake("/pipelines/search/1/hedging/delay", "only_on_failure").empty());
}

TEST_CASE("odd combinations are warned of", "[configuration]") {
  CHECK(configuration(payments_document()).warnings().empty());
  json document = payments_document();
  document["pipelines"]["payments"][0]["timeout"] = "1s";
  document["pipelines"]["odd"] =
      json::parse(R"([{"circuit_breaker": {}}, {"retry": {}}, {"retry": {}}, {"timeout": "1s"}])");
  const configuration config(document);
  const auto warned = config.warnings();
  const auto about = [&](const std::string& path) {
    return std::ranges::count_if(warned, [&](const std::string& text) { return text.starts_with(path + ": "); });
  };
  CHECK(about("/pipelines/payments/1/retry/max_attempts") == 1);
  CHECK(about("/pipelines/odd/0/circuit_breaker") == 1);
  CHECK(about("/pipelines/odd/2/retry") == 1);
  CHECK(warned.size() == 3);
}

TEST_CASE("what is written reads back as the same", "[configuration]") {
  const configuration config(payments_document());
  const json written = config.to_json();
  CHECK(configuration(written).to_json() == written);
  CHECK(written["pipelines"]["payments"][0] == json{{"timeout", "2s"}});
  CHECK(written["pipelines"]["payments"][4] == json{{"timeout", {{"limit", "500ms"}, {"mode", "detach"}}}});
  CHECK(written["pipelines"]["payments"][1]["retry"] ==
        json{{"backoff", {{"base", "50ms"}, {"cap", "1s"}}}, {"budget", "shared"}});
  // Every field of every policy away from its default.
  const json everything = json::parse(R"({ "version": 1, "pipelines": { "all": [
    { "retry": { "max_attempts": "forever", "respect_retry_after_up_to": "1s", "minimum_attempt": "2ms",
        "backoff": { "kind": "linear", "base": "1ms", "factor": 3.0, "cap": "2s", "jitter": "proportional", "jitter_share": 0.5 },
        "budget": { "kind": "throttle", "ratio": 0.5, "max_tokens": 7.0, "min_retries_per_second": 1.5 } } },
    { "hedging": { "max_attempts": 3, "delay": "only_on_failure", "percentile": 0.5, "minimum_samples": 3, "minimum_delay": "2ms",
        "sample_window": "9s", "losing": "await" } },
    { "circuit_breaker": { "failure_ratio": 0.75, "slow_call_duration": "1s", "slow_call_ratio": 0.5, "minimum_calls": 3,
        "consecutive_failures": 7, "warm_up": "1s",
        "window": "8s", "buckets": 5, "window_calls": 9, "probes": 2, "probe_failure_ratio": 0.5, "probe_deadline": "3s",
        "break_duration": "4s", "break_growth": 1.5, "max_break_duration": "5s", "abandoned": "by_share",
        "abandoned_ratio": 0.5, "mode": "metrics_only", "record_latency": true, "keep_window_on_close": true,
        "one_strand": true } },
    { "bulkhead": { "max_concurrent": 3, "max_queue": 4, "max_wait": "5s", "order": "adaptive", "target_delay": "20ms",
        "interval": "200ms", "partitions": { "gold": { "reserved": 2 }, "free": { "at_most": 1 } } } },
    { "rate_limiter": { "permits": 3, "period": "2s", "algorithm": "token_bucket", "burst": 4, "max_wait": "5s" } },
    { "client_throttle": { "multiplier": 1.5, "window": "1min", "max_rejection": 0.5, "minimum_calls": 3 } },
    { "adaptive_limiter": { "algorithm": "aimd", "initial_limit": 6, "min_limit": 3, "max_limit": 9, "window": "2s",
        "minimum_samples": 5, "tolerance": 2.5, "backoff": 0.5, "rebaseline_after": 7, "max_queue": 4, "max_wait": "5s",
        "order": "lifo" } },
    { "timeout": { "limit": "3s", "mode": "detach" } }
  ], "shed": [
    { "priority_shedder": { "levels": [ { "priority_below": -5, "above": 0.5, "all_at": 0.75 },
        { "priority_below": 3, "above": 0.9, "all_at": 2.0 } ], "steepness": 1.5, "sample_interval": "1ms",
        "smoothing": "2ms", "retry_after": "3s" } },
    { "bulkhead": {} }
  ] } })");
  json expected = everything;
  expected["pipelines"]["all"][4]["rate_limiter"].erase("algorithm");  // the default
  CHECK(configuration(everything).to_json() == expected);
}

ASYNC_TEST("partitions and the order by priority come from a configuration", "[configuration]") {
  const auto document = [](std::size_t max_concurrent, std::size_t at_most) {
    json pool = {{"max_concurrent", max_concurrent}, {"max_queue", 4}, {"order", "priority"}};
    pool["partitions"] = {{"gold", {{"reserved", 2}}}, {"free", {{"reserved", 1}, {"at_most", at_most}}}};
    json whole = {{"version", 1}};
    whole["pipelines"]["orders"] = json::array({{{"bulkhead", pool}}});
    return whole;
  };
  configuration config(document(4, 2));
  const auto pool = config.at("orders").all<bulkhead>()[0];
  CHECK(pool->describe() ==
        "orders: bulkhead, 4 at once, free 1 reserved and 2 at most, gold 2 reserved, 4 waiting, the most important "
        "first");
  config.reload(document(5, 2));
  CHECK(config.at("orders").all<bulkhead>()[0] == pool);
  CHECK(pool->limit() == 5);
  config.reload(document(5, 1));
  CHECK(config.at("orders").all<bulkhead>()[0] != pool);
  CHECK(mistakes_of(document(2, 1)) ==
        std::vector<std::string>{"/pipelines/orders/0/bulkhead/partitions: reserve 3 permits together, but "
                                 "max_concurrent is 2"});
  CHECK(mistakes_of(document(4, 0)).at(0) ==
        "/pipelines/orders/0/bulkhead/partitions/free/at_most: must be at least 1");
  co_return;
}

ASYNC_TEST("a configured priority shedder goes by what is below it, also after a reload", "[configuration]") {
  const auto document = [](std::size_t permits, std::size_t queue) {
    json whole = {{"version", 1}};
    const json levels = json::array({{{"above", 0.1}, {"all_at", 0.5}}});
    whole["pipelines"]["api"] = json::array({{{"priority_shedder", {{"levels", levels}, {"smoothing", "0s"}}}},
                                             {{"bulkhead", {{"max_queue", queue}, {"max_concurrent", permits}}}}});
    return whole;
  };
  configuration config(document(2, 1));
  auto api = config.at("api");
  const auto shedder = api.all<priority_shedder>()[0];
  const auto executor = co_await net::this_coro::executor;
  const auto busy_call = [&]() -> awaitable<void> { (void)co_await api.try_run({.priority = 1}, lasting, 1h); };
  spawn(executor, busy_call);
  co_await sleep_for(100ms);
  const auto unimportant = co_await api.try_run(fine);
  CHECK(unimportant.why().is_refusal(errc::shed));
  const auto important = co_await api.try_run({.priority = 1}, fine);
  CHECK(important.has_value());

  config.reload(document(4, 1));  // the bulkhead stays, and so does who watches it
  CHECK(api.all<priority_shedder>()[0] == shedder);
  config.reload(document(2, 2));  // another bulkhead, in which nothing is going on
  CHECK(api.all<priority_shedder>()[0] != shedder);
  const auto again = co_await api.try_run(fine);
  CHECK(again.has_value());
}

ASYNC_TEST("a configured nesting guard tells a call from within another, also after a reload", "[configuration]") {
  json document = {{"version", 1}};
  document["pipelines"]["reports"] = json::array({{{"nesting_guard", json::object()}}, {{"bulkhead", json::object()}}});
  configuration config(document);
  auto reports = config.at("reports");
  const auto outer = [&]() -> awaitable<int> {
    config.reload(document);
    const auto inner = co_await reports.try_run(fine);
    CHECK(inner.why().is_refusal(errc::nested_use));
    co_return 1;
  };
  const int value = co_await reports.run(outer);
  CHECK(value == 1);
}

TEST_CASE("a priority shedder without a load to go by is refused", "[configuration]") {
  CHECK(mistake("/pipelines/search/0", {{"priority_shedder", json::object()}}) ==
        "/pipelines/search/0/priority_shedder: has no load to go by; put a bulkhead or an adaptive_limiter below it");
  const auto level = [](json below, double above, double all_at) {
    return json{{"priority_below", std::move(below)}, {"above", above}, {"all_at", all_at}};
  };
  const auto wrong = [&](json levels) {
    return mistake("/pipelines/payments/0", {{"priority_shedder", {{"levels", std::move(levels)}}}});
  };
  const std::string path = "/pipelines/payments/0/priority_shedder/levels";
  CHECK(wrong(json::array()) == path + ": must not be empty");
  CHECK(wrong(json::array({level(1, 0.5, 0.8), level(1, 0.6, 0.9)})) ==
        path + "/1/priority_below: must be greater than that of the level before");
  CHECK(wrong(json::array({level(5'000'000'000, 0.5, 0.8)})) ==
        path + "/0/priority_below: expected a whole number between -2147483648 and 2147483647");
  CHECK(wrong(json::array({level(UINT64_MAX, 0.5, 0.8)}))
            .starts_with(path + "/0/priority_below: expected a whole number"));
  CHECK(wrong(json::array({level(0.5, 0.5, 0.8)})).starts_with(path + "/0/priority_below: expected a whole number"));
  CHECK(wrong(json::array({7})) == path + "/0: expected an object");
  CHECK(wrong(json::array({{{"abvoe", 1}}})) == path + "/0/abvoe: unknown key; did you mean \"above\"?");
}

TEST_CASE("the schema knows every key, and ships", "[configuration]") {
  std::ifstream file(COFFERDAM_SOURCE_DIR "/docs/configuration.schema.json");
  REQUIRE(file.good());
  CHECK(json::parse(file) == configuration::schema());
}

ASYNC_TEST("a reload keeps what has not changed, adapts what can be, and builds the rest anew", "[configuration]") {
  configuration config(payments_document());
  auto payments = config.at("payments");
  auto search = config.at("search");
  const auto breaker = payments.all<circuit_breaker>()[0];
  const auto pool = payments.all<bulkhead>()[0];
  const auto limiter = search.all<rate_limiter>()[0];
  json document = payments_document();
  document["pipelines"]["payments"][3]["bulkhead"]["max_concurrent"] = 20;
  document["pipelines"]["payments"].erase(0);  // positions move, identities do not
  document["pipelines"]["search"][0]["rate_limiter"]["permits"] = 5;
  document["pipelines"]["more"] = json::array();
  config.reload(document);
  CHECK(payments.all<circuit_breaker>()[0] == breaker);
  CHECK(payments.all<bulkhead>()[0] == pool);
  CHECK(pool->limit() == 20);
  CHECK(search.all<rate_limiter>()[0] == limiter);
  CHECK(limiter->available(time.now()) == 5);
  CHECK(config.at("more").describe().empty());

  document["pipelines"]["payments"][1]["circuit_breaker"]["minimum_calls"] = 5;
  config.reload(document);
  CHECK(payments.all<circuit_breaker>()[0] == breaker);
  CHECK(breaker->options().minimum_calls == 5);
  const auto again = payments.all<retry>()[0];
  document["pipelines"]["payments"][0]["retry"]["max_attempts"] = 7;
  config.reload(document);
  CHECK(payments.all<retry>()[0] != again);
  CHECK(payments.all<bulkhead>()[0] == pool);
  co_return;
}

ASYNC_TEST("listeners may ask the configuration whose reload they hear of", "[configuration]") {
  configuration config(payments_document());
  auto payments = config.at("payments");
  json document = payments_document();
  document["pipelines"]["payments"][2]["circuit_breaker"]["mode"] = "isolated";
  json seen;
  payments.all<circuit_breaker>()[0]->on(circuit_event_kind::mode_changed,
                                         [&](const circuit_event&) { seen = config.to_json(); });
  config.reload(document);
  CHECK(seen == config.to_json());
  co_return;
}

ASYNC_TEST("a reload with other thresholds leaves an open circuit open", "[configuration]") {
  configuration config(payments_document());
  auto payments = config.at("payments");
  const auto breaker = payments.all<circuit_breaker>()[0];
  breaker->open();
  json document = payments_document();
  document["pipelines"]["payments"][2]["circuit_breaker"]["failure_ratio"] = 0.9;
  config.reload(document);
  CHECK(breaker->state() == circuit_state::open);
  CHECK(breaker->options().failure_ratio == 0.9);
  const auto refused = co_await payments.try_run(lasting, 1ms);
  CHECK(refused.why().is_refusal(errc::circuit_open));
}

ASYNC_TEST("a call in flight ends on what it began with", "[configuration]") {
  configuration config(payments_document());
  auto payments = config.at("payments");
  const std::weak_ptr<circuit_breaker> old = payments.all<circuit_breaker>()[0];
  const auto executor = co_await net::this_coro::executor;
  spawn(executor, [&payments]() -> awaitable<void> { (void)co_await payments.try_run(lasting, 100ms); });
  co_await sleep_for(10ms);
  json document = payments_document();
  document["pipelines"]["payments"] = json::array({{{"timeout", "1s"}}});
  config.reload(document);
  CHECK(payments.all<circuit_breaker>().empty());
  CHECK_FALSE(old.expired());
  co_await sleep_for(100ms);
  CHECK(old.expired());
}

TEST_CASE("a bad configuration changes nothing and says so", "[configuration]") {
  configuration config(payments_document());
  std::vector<configuration_event> events;
  const auto listening = config.subscribe([&](const configuration_event& event) { events.push_back(event); });
  const json before = config.to_json();
  const auto breaker = config.at("payments").all<circuit_breaker>()[0];
  json document = payments_document();
  document["pipelines"]["payments"][3]["bulkhead"]["max_concurrent"] = 20;
  document["pipelines"]["search"][0]["rate_limiter"]["permits"] = 0;
  CHECK_THROWS_AS(config.reload(document, "new.json"), configuration_error);
  CHECK(config.to_json() == before);
  CHECK(config.at("payments").all<bulkhead>()[0]->limit() == 8);
  document = payments_document();
  document["pipelines"].erase("search");
  CHECK_THROWS_WITH(config.reload(document), Catch::Matchers::Contains("lacks \"search\", which is in use"));
  CHECK_THROWS_WITH(config.reload_file("no/such.json"),
                    Catch::Matchers::Contains("no/such.json") && Catch::Matchers::Contains("cannot be read"));
  config.reload(payments_document());
  CHECK(config.at("payments").all<circuit_breaker>()[0] == breaker);
  REQUIRE(events.size() == 4);
  CHECK_FALSE(events[0].accepted);
  CHECK(events[0].source == "new.json");
  CHECK(events[0].problems.size() == 1);
  CHECK(events[3].accepted);
  CHECK_THROWS_WITH(config.at("paymnts"), Catch::Matchers::Contains("did you mean \"payments\"?"));
}

ASYNC_TEST("pipelines share a named budget, and it keeps its balance over a reload", "[configuration]") {
  json document = payments_document();
  document["budgets"]["shared"] = {{"ratio", 0.0}, {"max_tokens", 1.0}};
  document["pipelines"]["search"][1] = {{"retry", {{"budget", "shared"}}}};
  configuration config(document);
  auto payments = config.at("payments");
  auto search = config.at("search");
  (void)co_await payments.try_run(broken);
  CHECK(payments.all<retry>()[0]->stats().retries == 1);
  config.reload(document);
  (void)co_await search.try_run(broken);
  CHECK(search.all<retry>()[0]->stats().retries == 0);
  CHECK(search.all<retry>()[0]->stats().denied_by_budget == 1);
}

TEST_CASE("reloading while calls run on other threads", "[configuration][concurrent]") {
  configuration config(payments_document());
  auto payments = config.at("payments");
  net::thread_pool threads(2);
  std::atomic<int> sum{0};
  const auto caller = [&]() -> awaitable<void> {
    for (int i = 0; i < 300; ++i) sum += co_await payments.run(fine);
  };
  for (int i = 0; i < 4; ++i) spawn(threads, caller);
  json document = payments_document();
  for (int i = 0; i < 100; ++i) {
    document["pipelines"]["payments"][2]["circuit_breaker"]["minimum_calls"] = 4 + i % 3;
    document["pipelines"]["payments"][3]["bulkhead"]["max_concurrent"] = 8 + i % 5;
    config.reload(document);
  }
  threads.join();
  CHECK(sum == 1200);
}
