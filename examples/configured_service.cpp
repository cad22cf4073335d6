// A service whose pipeline comes from a file, is reloaded while it runs, and survives a file with mistakes. Usage:
// configured_service [resilience.json]. Without a file it uses the same text as examples/resilience.json.
#include <cofferdam/core/units.hpp>
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/resilience/configuration.hpp>
#include <cofferdam/resilience/hedging.hpp>
#include <cofferdam/resilience/rate_limiter.hpp>

#include <nlohmann/json.hpp>

#include <cstdio>
#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

const char* const in_the_box = R"({
  "version": 1,
  "budgets": { "mirrors": { "ratio": 0.2, "max_tokens": 20 } },
  "pipelines": {
    "mirrors": [
      { "rate_limiter": { "permits": 200, "period": "1s", "max_wait": "50ms" } },
      { "retry": { "max_attempts": 2, "backoff": "20ms..200ms", "budget": "mirrors" } },
      { "hedging": { "max_attempts": 2, "delay": "60ms", "budget": "mirrors" } },
      { "circuit_breaker": { "failure_ratio": 0.5, "minimum_calls": 20 } },
      { "timeout": "300ms" }
    ]
  }
})";

/// Two mirrors: the first one has a bad day. Each attempt asks the next.
awaitable<std::string> fetch(attempt a, std::string page) {
  const bool first = a.number % 2 == 1;
  co_await sleep_for(first ? 250ms : 15ms);
  co_return page + " from mirror " + (first ? "one" : "two");
}

awaitable<void> serve(configuration& config, virtual_time& time) {
  auto mirrors = config.at("mirrors");
  std::printf("%s\n\n", mirrors.describe().c_str());

  const auto begin = time.elapsed();
  const std::string page = co_await mirrors.run(fetch, std::string("index"));
  std::printf("%s, after %s\n", page.c_str(), to_string(time.elapsed() - begin).c_str());

  auto changed = config.to_json();
  changed["pipelines"]["mirrors"][0]["rate_limiter"]["permits"] = 1;
  changed["pipelines"]["mirrors"][0]["rate_limiter"]["max_wait"] = "0s";
  config.reload(changed, "one call a second");
  int served = 0;
  for (int i = 0; i < 5; ++i) {
    const auto result = co_await mirrors.try_run(fetch, std::string("index"));
    if (result) ++served;
  }
  std::printf("at one call a second: %d of 5 served\n", served);

  changed["pipelines"]["mirrors"][3]["circuit_breaker"]["failure_rato"] = 0.5;
  try {
    config.reload(changed, "a file with a mistake");
  } catch (const configuration_error& e) {
    std::printf("%s\n", e.what());
  }
  std::printf("still in force: %zu pipeline, %s\n", config.names().size(),
              mirrors.all<rate_limiter>().front()->describe().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    configuration config =
        argc > 1 ? configuration::load(argv[1]) : configuration(nlohmann::json::parse(in_the_box), "in the box");
    config
        .subscribe([](const configuration_event& event) {
          std::printf("[%s: %s]\n", event.source.c_str(), event.accepted ? "in force" : "refused");
        })
        .detach();
    net::io_context context(1);
    virtual_time time(context);
    time.run(serve, std::ref(config), std::ref(time));
    time.run();  // losers of hedges end
  } catch (const configuration_error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return 0;
}
