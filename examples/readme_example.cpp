// The example of the README.
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/retry.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include <cstdio>

// [readme]
using namespace cofferdam;
using namespace std::chrono_literals;

awaitable<int> fetch_price(int item) {  // any coroutine on Asio
  co_await sleep_for(20ms);
  co_return item * 100;
}

awaitable<void> shop() {
  circuit_breaker breaker{"prices", {.failure_ratio = 0.5, .window = 30s}};
  bulkhead pool{"prices", {.max_concurrent = 10, .max_queue = 100}};
  auto calls = retry({.max_attempts = 3}) | breaker | pool | timeout(200ms);

  const int price = co_await calls.run(fetch_price, 7);          // throws refusals
  const auto tried = co_await breaker.try_fire(fetch_price, 8);  // outcome<int>: refusals are values
  std::printf("%d, %d\n", price, tried ? *tried : -1);
}
// [readme]

int main() {
  net::io_context context;
  virtual_time time(context);  // leave this line out, and time is real
  time.run(shop);
}
