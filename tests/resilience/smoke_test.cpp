#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/fallback.hpp>
#include <cofferdam/resilience/retry.hpp>
#include <cofferdam/resilience/timeout.hpp>
#include "async_test.hpp"
using namespace cofferdam;
using namespace std::chrono_literals;
ASYNC_TEST("everything together", "[resilience]") {
  circuit_breaker breaker("payments", {.minimum_calls = 4, .window = 10s});
  bulkhead pool("pool", {.max_concurrent = 2, .max_queue = 4});
  auto calls = fallback([] { return -1; }) | retry({.max_attempts = 3}) | breaker | pool | timeout(200ms);
  int runs = 0;
  const auto failing = [&]() -> awaitable<int> {
    ++runs;
    co_await sleep_for(1ms);
    throw std::runtime_error("no");
  };
  const auto fine = []() -> awaitable<int> { co_return 1; };
  const int a = co_await calls.run(fine);
  CHECK(a == 1);
  const int b = co_await calls.run(failing);
  CHECK(b == -1);
  CHECK(runs == 3);
  CHECK(breaker.state() == circuit_state::open);
  const int d = co_await calls.run(failing);
  CHECK(d == -1);
  CHECK(runs == 3);
  const auto refused = co_await breaker.try_fire(fine);
  CHECK(refused.why().is_refusal(errc::circuit_open));
  std::vector<int> items{1, 2, 3, 4, 5};
  const auto squares = co_await pool.map(items, [](int i) { return i * i; });
  CHECK(squares == std::vector<int>{1, 4, 9, 16, 25});
  INFO(calls.describe());
  CHECK(pool.active_count() == 0);
}
