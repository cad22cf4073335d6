// No policy loses a permit, or its mind, when memory runs out.
#include "allocation.hpp"
#include "catch.hpp"
#include "tasks.hpp"

#include <cofferdam/resilience/adaptive_limiter.hpp>
#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/client_throttle.hpp>
#include <cofferdam/resilience/fallback.hpp>
#include <cofferdam/resilience/keyed.hpp>
#include <cofferdam/resilience/priority_shedder.hpp>
#include <cofferdam/resilience/rate_limiter.hpp>
#include <cofferdam/resilience/retry.hpp>

#include <memory>
#include <string>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

namespace {

/// Runs a coroutine that does not suspend, and passes on what it throws.
template <class Make> void run_now(net::io_context& context, Make make) {
  std::exception_ptr error;
  net::co_spawn(context, make(), [&](const std::exception_ptr& e) { error = e; });
  context.restart();
  context.run();
  if (error) std::rethrow_exception(error);
}

}  // namespace

TEST_CASE("at whatever allocation memory runs out, permits return and circuits stay sound", "[pipeline][allocation]") {
  net::io_context context(1);
  (void)timers_of(context);  // services are made once per context; a failure then cannot be survived
  (void)random_of(context);
  bulkhead pool("pool", {.max_concurrent = 1, .max_queue = 1});
  std::unique_ptr<circuit_breaker> breaker;
  const backoff_options at_once{.kind = backoff_kind::constant, .base = 0ms, .jitter = jitter_kind::none};
  retry again({.max_attempts = 3, .backoff = at_once});
  fallback other([](const failure& why) { return static_cast<int>(why.message().size()); });
  const auto scenario = [&](auto task) {
    return [&, task] {
      auto calls = other | again | *breaker | pool;
      run_now(context, [&]() -> awaitable<void> {
        for (int i = 0; i < 3; ++i) (void)co_await calls.try_run(task);
      });
    };
  };
  const auto renew = [&] {
    breaker =
        std::make_unique<circuit_breaker>("breaker", circuit_breaker_options{.minimum_calls = 2, .window_calls = 4});
    breaker->on(circuit_event_kind::opened,
                [](const circuit_event& e) { (void)std::string(100, 'x').append(*e.circuit); });
  };
  const auto check = [&] {
    CHECK(pool.active_count() == 0);
    CHECK(pool.pending_count() == 0);
    renew();
  };
  renew();
  CHECK(fail_at_every_allocation(scenario(fine), check) > 0);
  CHECK(fail_at_every_allocation(scenario(broken), check) > 10);
}

TEST_CASE("at whatever allocation memory runs out, limits, rates and keys keep their counts",
          "[pipeline][allocation]") {
  net::io_context context(1);
  (void)timers_of(context);
  (void)random_of(context);
  adaptive_limiter limiter("limiter", {.initial_limit = 2, .min_limit = 1, .window = 1ns, .minimum_samples = 1});
  client_throttle throttle("throttle", {.minimum_calls = 1'000'000});
  rate_limiter rate("rate", {.permits = 1'000'000, .algorithm = rate_algorithm::sliding_window});
  priority_shedder shedder("shedder", {{.priority_below = 1, .above = 0.0, .all_at = 2.0}}, [] { return 0.1; });
  std::unique_ptr<keyed> hosts;
  const auto make = [](std::string_view key) {
    return std::make_shared<circuit_breaker>(std::string(key), circuit_breaker_options{.minimum_calls = 2});
  };
  const auto renew = [&] { hosts = std::make_unique<keyed>("hosts", make, keyed_options{.max_keys = 2}); };
  const auto scenario = [&](auto task) {
    return [&, task] {
      auto calls = shedder | throttle | rate | *hosts | limiter;
      run_now(context, [&]() -> awaitable<void> {
        for (const char* host : {"first", "second", "third", "first"}) {
          const call_info info{.key = host};
          (void)co_await calls.try_run(info, task);
        }
      });
    };
  };
  const auto check = [&] {
    CHECK(limiter.stats().active == 0);
    CHECK(limiter.stats().queued == 0);
    CHECK(hosts->stats().keys <= 2);
    renew();
  };
  renew();
  CHECK(fail_at_every_allocation(scenario(fine), check) > 5);
  CHECK(fail_at_every_allocation(scenario(broken), check) > 5);
}
