// Eight requests, every third of which fails, through a breaker with opossum's settings: a window of ten seconds, no
// minimum volume, half of the calls may fail, one trial after the reset timeout. Prints every event and state.
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>

#include <cstdio>
#include <stdexcept>
#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

awaitable<std::string> request(int id) {
  co_await sleep_for(5ms);
  if (id % 3 == 0) throw std::runtime_error("service down");
  co_return "order " + std::to_string(id);
}

awaitable<void> walk() {
  circuit_breaker breaker{"orders",
                          {.failure_ratio = 0.3,  // errorThresholdPercentage
                           .minimum_calls = 1,    // volumeThreshold
                           .window = 10s,         // rollingCountTimeout
                           .buckets = 10,         // rollingCountBuckets
                           .probes = 1,
                           .break_duration = 100ms,  // resetTimeout
                           .break_growth = 1}};
  for (const auto kind : {circuit_event_kind::fire, circuit_event_kind::success, circuit_event_kind::failure,
                          circuit_event_kind::reject, circuit_event_kind::fallback, circuit_event_kind::opened,
                          circuit_event_kind::half_opened, circuit_event_kind::closed}) {
    breaker.on(kind, [](const circuit_event& e) { std::printf("  %s", std::string(to_string(e.kind)).c_str()); });
  }
  breaker.fallback([](const failure& why) { return "(" + why.message() + ")"; });
  auto orders = breaker.guard(request);

  for (int id = 1; id <= 8; ++id) {
    std::printf("request %d:", id);
    const std::string answer = co_await orders.fire(id);
    std::printf("\n  -> %s, circuit %s\n", answer.c_str(), std::string(to_string(breaker.state())).c_str());
    if (id == 4 || id == 7) co_await sleep_for(100ms);  // long enough for a trial
  }

  std::printf("by hand:");
  breaker.open();
  const std::string refused = co_await orders.fire(1);
  breaker.close();
  const std::string passed = co_await orders.fire(1);
  std::printf("\n  -> %s, then %s\n", refused.c_str(), passed.c_str());

  const auto stats = breaker.stats();
  std::printf("%llu fired, %llu succeeded, %llu failed, %llu rejected, %llu fallbacks, opened %llu times\n",
              static_cast<unsigned long long>(stats.fires), static_cast<unsigned long long>(stats.successes),
              static_cast<unsigned long long>(stats.failed), static_cast<unsigned long long>(stats.rejected),
              static_cast<unsigned long long>(stats.fallbacks), static_cast<unsigned long long>(stats.opens));
}

}  // namespace

int main() {
  net::io_context context;
  virtual_time time(context);
  time.run(walk);
}
