// No policy loses a permit, or its mind, when memory runs out.
#include "allocation.hpp"
#include "catch.hpp"
#include "tasks.hpp"

#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/fallback.hpp>
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
