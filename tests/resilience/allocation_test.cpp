// No policy loses a permit, or its mind, when memory runs out.
#include "allocation.hpp"
#include "catch.hpp"
#include "tasks.hpp"

#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/resilience/adaptive_limiter.hpp>
#include <cofferdam/resilience/batcher.hpp>
#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/cache.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/client_throttle.hpp>
#include <cofferdam/resilience/fallback.hpp>
#include <cofferdam/resilience/hedging.hpp>
#include <cofferdam/resilience/keyed.hpp>
#include <cofferdam/resilience/priority_shedder.hpp>
#include <cofferdam/resilience/rate_limiter.hpp>
#include <cofferdam/resilience/retry.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

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

/// Calls side by side in virtual time, and what of them is still there.
class calls_at_once {
 public:
  calls_at_once() : time_(context_) {}

  template <class Call> void start(Call call) { net::co_spawn(context_, watched(alive_, call), net::detached); }
  void run() { time_.run(); }
  /// So many runs of the task under the policies, to their ends.
  template <class Policies, class Task> void run(int count, Policies policies, Task task) {
    for (int i = 0; i < count; ++i) {
      start([&]() -> awaitable<void> { (void)co_await policies.try_run(task); });
    }
    run();
  }
  [[nodiscard]] int alive() const noexcept { return alive_; }

 private:
  struct mark {
    explicit mark(int& count) noexcept : count_(count) { ++count_; }
    mark(const mark&) = delete;
    mark& operator=(const mark&) = delete;
    ~mark() { --count_; }
    int& count_;
  };
  template <class Call> static awaitable<void> watched(int& alive, Call call) {
    const mark here(alive);
    co_await call();
  }

  int alive_ = 0;
  net::io_context context_{1};
  virtual_time time_;
};

void check_that_all_returned(calls_at_once& calls, const bulkhead& pool) {
  calls.run();
  CHECK(calls.alive() == 0);
  CHECK(pool.active_count() == 0);
  CHECK(pool.pending_count() == 0);
}

awaitable<int> briefly() { return lasting(10ms); }
awaitable<int> failing_later() {
  co_await sleep_for(10ms);
  co_return co_await broken();
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

TEST_CASE("at whatever allocation memory runs out, calls that wait end, and give back what they hold",
          "[pipeline][allocation]") {
  calls_at_once calls;
  bulkhead pool("pool", {.max_concurrent = 1, .max_queue = 5});
  rate_limiter rate("rate", {.permits = 1, .period = 5ms, .max_wait = 1s});
  circuit_breaker breaker("breaker", {.minimum_calls = 2, .window_calls = 4, .probe_wait = 1s});
  retry again({.max_attempts = 2, .backoff = {.kind = backoff_kind::constant, .base = 20ms}});
  const auto scenario = [&](auto task) {
    return [&, task] {
      calls.run(3, timeout(1s) | again | pool | rate | breaker | timeout(200ms, on_timeout::detach), task);
    };
  };
  const auto check = [&] {
    check_that_all_returned(calls, pool);
    breaker.reset();
  };
  CHECK(fail_at_every_allocation(scenario(briefly), check) > 10);
  CHECK(fail_at_every_allocation(scenario(failing_later), check) > 10);
  CHECK(fail_at_every_allocation(scenario(hanging), check) > 10);
}

TEST_CASE("at whatever allocation memory runs out, a race ends with all its attempts", "[pipeline][allocation]") {
  calls_at_once calls;
  bulkhead pool("pool", {.max_concurrent = 2, .max_queue = 5});
  const auto scenario = [&](losers losing, auto task) {
    return [&, losing, task] {
      calls.run(2, hedging({.max_attempts = 3, .delay = 5ms, .losing = losing}) | pool | timeout(100ms), task);
    };
  };
  const auto check = [&] { check_that_all_returned(calls, pool); };
  for (const auto losing : {losers::leave, losers::await}) {
    CHECK(fail_at_every_allocation(scenario(losing, briefly), check) > 10);
    CHECK(fail_at_every_allocation(scenario(losing, failing_later), check) > 10);
    CHECK(fail_at_every_allocation(scenario(losing, hanging), check) > 10);
  }
}

TEST_CASE("at whatever allocation memory runs out, nobody waits for ever for a loading, a batch or an item",
          "[pipeline][allocation]") {
  calls_at_once calls;
  bulkhead pool("pool", {.max_concurrent = 2});
  std::optional<cache<int, int>> known;
  std::optional<batcher<int, int>> squares;
  const auto square_all = [](std::vector<int> keys) -> awaitable<std::vector<int>> {
    co_await sleep_for(1ms);
    for (int& key : keys) key *= key;
    co_return keys;
  };
  const auto renew = [&] {
    known.emplace("known");
    squares.emplace("squares", square_all, batcher_options{.max_delay = 1ms});
  };
  const auto scenario = [&] {
    for (int i = 0; i < 3; ++i) {
      calls.start([&]() -> awaitable<void> { (void)co_await known->get(1, briefly); });
      calls.start([&, i]() -> awaitable<void> { (void)co_await squares->load(i / 2); });
    }
    calls.start([&]() -> awaitable<void> {
      std::vector<int> items{1, 2, 3};
      (void)co_await pool.map(std::move(items), [](int) { return briefly(); });
    });
    calls.run();
  };
  const auto check = [&] {
    check_that_all_returned(calls, pool);
    CHECK(squares->stats().running == 0);
    renew();
  };
  renew();
  CHECK(fail_at_every_allocation(scenario, check) > 20);
}
