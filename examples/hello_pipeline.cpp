// Four policies around a function that fails twice and then answers. In virtual time: runs at once, prints the same
// every time.
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/retry.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include <cstdio>
#include <stdexcept>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

struct warehouse {
  int calls = 0;

  awaitable<int> stock_of(int item) {
    ++calls;
    co_await sleep_for(10ms);
    if (calls <= 2) throw std::runtime_error("connection reset");
    co_return item * 3;
  }
};

awaitable<void> ask(virtual_time& time) {
  warehouse store;
  circuit_breaker breaker{"warehouse", {.failure_ratio = 0.5, .window = 30s}};
  bulkhead pool{"warehouse", {.max_concurrent = 10}};
  retry again({.max_attempts = 3, .backoff = {.base = 50ms, .jitter = jitter_kind::none, .cap = 1s}});
  again.on_retry([&](const retry_attempt& a) {
    std::printf("attempt %u failed: %s\n", a.attempt, a.outcome->why().message().c_str());
  });

  auto calls = again | breaker | pool | timeout(200ms);
  std::printf("%s\n", calls.describe().c_str());

  const int stock = co_await calls.run(&warehouse::stock_of, &store, 14);
  std::printf("%d in stock, after %d calls and %lld ms\n", stock, store.calls,
              static_cast<long long>(time.elapsed() / 1ms));
  std::printf("the circuit is %s and has seen %llu failures\n", std::string(to_string(breaker.state())).c_str(),
              static_cast<unsigned long long>(breaker.stats().failed));
}

}  // namespace

int main() {
  net::io_context context;
  virtual_time time(context);
  time.run(ask, std::ref(time));
}
