// Every way in which a policy makes a call wait: cancelled at whatever step, the call ends, nothing is held any more,
// and the next call finds everything as it should be.
#include "catch.hpp"
#include "harness.hpp"
#include "tasks.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/resilience/adaptive_limiter.hpp>
#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/cache.hpp>
#include <cofferdam/resilience/fallback.hpp>
#include <cofferdam/resilience/hedging.hpp>
#include <cofferdam/resilience/keyed.hpp>
#include <cofferdam/resilience/rate_limiter.hpp>
#include <cofferdam/resilience/retry.hpp>
#include <cofferdam/resilience/single_flight.hpp>
#include <cofferdam/resilience/standard.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include <memory>
#include <string>
#include <string_view>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

namespace cancellation {
namespace {

/// Holds a permit of `calls` for a while, beside the caller.
template <class Calls> awaitable<void> occupy(Calls& calls, duration d) {
  const auto executor = co_await net::this_coro::executor;
  const auto body = [&calls, d]() -> awaitable<void> { (void)co_await calls.try_run(lasting, d); };
  spawn(executor, body);
  co_await sleep_for(1ms);
}

TEST_CASE("cancelling a call that waits for an adaptive limit leaves the queue", "[cancellation]") {
  adaptive_limiter limiter("limiter", {.initial_limit = 1, .min_limit = 1, .max_limit = 1, .max_queue = 2});
  const auto operation = [&]() -> awaitable<void> {
    co_await occupy(limiter, 10ms);
    const int value = co_await limiter.run(lasting, 5ms);
    CHECK(value == 1);
  };
  const auto check = [&] {
    CHECK(limiter.stats().active == 0);
    CHECK(limiter.stats().queued == 0);
  };
  CHECK(cancel_at_every_step(operation, check) >= 3);
}

TEST_CASE("cancelling a call below a time limit ends it there, and what a limit left behind ends by itself",
          "[cancellation]") {
  for (const auto mode : {on_timeout::cancel, on_timeout::detach}) {
    bulkhead pool("pool", {.max_concurrent = 2});
    auto calls = timeout(5ms, mode) | pool;
    const auto operation = [&]() -> awaitable<void> {
      const auto ignores = [] { return stubborn(20ms, true); };
      (void)co_await calls.try_run(ignores);
      (void)co_await calls.try_run(lasting, 2ms);
    };
    CHECK(cancel_at_every_step(operation, [&] { CHECK(pool.active_count() == 0); }) >= 2);
  }
}

TEST_CASE("cancelling a call that rests between attempts ends it, and its budget keeps what it has", "[cancellation]") {
  retry_budget budget({.ratio = 0, .max_tokens = 1000});
  bulkhead outer("outer", {.max_concurrent = 1});
  auto again = retry({.max_attempts = 3, .backoff = {.base = 10ms}});
  again.budget(budget);
  auto calls = outer | again;
  const auto operation = [&]() -> awaitable<void> { (void)co_await calls.try_run(broken); };
  double before = budget.stats().balance;
  const auto check = [&] {
    CHECK(outer.active_count() == 0);
    const double spent = before - budget.stats().balance;
    CHECK((spent == 0 || spent == 1 || spent == 2));
    before = budget.stats().balance;
  };
  CHECK(cancel_at_every_step(operation, check) >= 2);
}

TEST_CASE("a call that shares a flight may be cancelled at any step, whoever it is", "[cancellation]") {
  for (const bool is_first : {true, false}) {
    auto flights = std::make_unique<single_flight<std::string, int>>();
    int others = 0;
    const auto other = [&]() -> awaitable<void> {
      const auto ended = co_await flights->try_run("key", lasting, 10ms);
      others += ended.has_value() ? 1 : 0;
    };
    const auto operation = [&]() -> awaitable<void> {
      const auto executor = co_await net::this_coro::executor;
      if (!is_first) spawn(executor, other);
      co_await sleep_for(1ms);
      if (is_first) spawn(executor, other);
      const int value = co_await flights->run("key", lasting, 10ms);
      CHECK(value == 1);
    };
    int rounds = 0;
    const auto check = [&] {
      CHECK(flights->stats().flying == 0);
      ++rounds;
    };
    CHECK(cancel_at_every_step(operation, check) >= 3);
    CHECK(others >= rounds - 3);  // but for the rounds in which it was not even started
  }
}

TEST_CASE("a call to a cache may be cancelled at any step: it loads, refreshes and serves afterwards",
          "[cancellation]") {
  std::unique_ptr<cache<std::string, int>> values;
  const auto renew = [&] {
    values = std::make_unique<cache<std::string, int>>("values", cache_options{.ttl = 10ms, .refresh_after = 5ms});
  };
  renew();
  const auto operation = [&]() -> awaitable<void> {
    for (const duration pause : {1ms, 7ms, 20ms}) {
      const int value = co_await values->get("key", lasting, 2ms);
      CHECK(value == 1);
      co_await sleep_for(pause);
    }
  };
  const auto check = [&] {
    net::io_context context(1);
    virtual_time time(context);
    int value = 0;
    const auto look = [&]() -> awaitable<void> {
      co_await sleep_for(1h);
      value = co_await values->get("key", lasting, 1ms);
    };
    time.run(look);
    CHECK(value == 1);
    renew();
  };
  CHECK(cancel_at_every_step(operation, check) >= 5);
}

TEST_CASE("calls to whole pipelines may be cancelled at any step", "[cancellation]") {
  const auto check_all = [](auto& calls, auto task, const auto& idle) {
    const auto operation = [&]() -> awaitable<void> {
      (void)co_await calls.try_run({.key = "host", .weight = 1}, task);
      (void)co_await calls.try_run(broken);
    };
    return cancel_at_every_step(operation, idle);
  };
  const auto hedged = [](attempt a) -> awaitable<int> {
    co_await sleep_for(a.number == 2 ? 20ms : 2s);
    co_return 1;
  };
  // With room for one call each, so that a permit that is lost shows.
  const bulkhead_options narrow{.max_concurrent = 1};
  auto client = client_pipeline("client", {.bulkhead = narrow, .retry = {.backoff = {.base = 1ms}}});
  auto both = hedged_client_pipeline("hedged", {.bulkhead = narrow, .hedging = {.delay = 5ms}});
  auto server = server_pipeline("server", {.limiter = {.initial_limit = 1, .min_limit = 1, .max_limit = 1}});
  const auto lets_in = [](pipeline& calls) {
    net::io_context context(1);
    virtual_time time(context);
    const auto call = [&] { return calls.try_run(fine); };
    CHECK(time.run(call).has_value());
  };
  CHECK(check_all(client, [] { return lasting(5ms); }, [&] { lets_in(client); }) >= 4);
  CHECK(check_all(both, hedged, [&] { lets_in(both); }) >= 4);
  CHECK(check_all(server, [] { return lasting(5ms); }, [&] { lets_in(server); }) >= 2);

  keyed hosts("hosts", [](std::string_view) {
    return std::make_shared<bulkhead>("host", bulkhead_options{.max_concurrent = 1});
  });
  bulkhead pool("pool", {.max_concurrent = 3, .max_queue = 3});
  rate_limiter rate("rate", {.permits = 1000, .algorithm = rate_algorithm::smooth, .max_wait = 1h});
  fallback other([] { return 2; });
  auto all = other | timeout(1h) | rate | pool | hosts | retry({.max_attempts = 2});
  const auto idle = [&] {
    CHECK(pool.active_count() == 0);
    CHECK(pool.pending_count() == 0);
    const auto host = hosts.find<bulkhead>("host");
    CHECK((host == nullptr || host->active_count() == 0));
  };
  CHECK(check_all(all, [] { return lasting(5ms); }, idle) >= 4);
}

}  // namespace
}  // namespace cancellation
