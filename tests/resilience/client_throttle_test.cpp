// The client throttle: its share, its fixed point, and that it lets go again.
#include "async_test.hpp"
#include "tasks.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/resilience/client_throttle.hpp>

#include <stdexcept>
#include <thread>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

namespace {

/// A server that accepts every n-th call it hears.
class picky_server {
 public:
  explicit picky_server(int n) : every_(n) {}
  void accept_every(int n) { every_ = n; }
  [[nodiscard]] int heard() const { return heard_; }
  int operator()() {
    if (++heard_ % every_ != 0) throw std::runtime_error("overloaded");
    return 1;
  }

 private:
  int every_, heard_ = 0;
};

}  // namespace

ASYNC_TEST("a healthy server is never held back from, nor one that refuses half", "[client_throttle]") {
  client_throttle throttle("search");
  picky_server server(1);
  for (int i = 0; i < 100; ++i) (void)co_await throttle.try_run(std::ref(server));
  server.accept_every(2);
  for (int i = 0; i < 100; ++i) (void)co_await throttle.try_run(std::ref(server));
  CHECK(server.heard() == 200);
  const auto s = throttle.stats(time.now());
  CHECK(s.requests == 200);
  CHECK(s.accepted == 150);
  CHECK(s.rejection == 0);
}

ASYNC_TEST("a server that accepts a tenth of what it hears is held back from as far as may be", "[client_throttle]") {
  client_throttle throttle("search", {.window = 10s});
  picky_server server(10);
  for (int i = 0; i < 20'000; ++i) {
    (void)co_await throttle.try_run(std::ref(server));
    co_await sleep_for(2ms);
  }
  const auto s = throttle.stats(time.now());
  CHECK(s.rejection == 0.9);
  CHECK(s.requests > 4'500);
  CHECK(s.throttled + static_cast<std::uint64_t>(server.heard()) == 20'000);
  CHECK(s.throttled > 14'000);
}

ASYNC_TEST("a limited server gets twice its capacity", "[client_throttle]") {
  // Accepts 100 calls a second, whatever it hears; 1000 a second are wanted.
  client_throttle throttle("search", {.window = 10s});
  int this_second = 0, heard = 0;
  const auto server = [&]() -> int {
    ++heard;
    if (++this_second > 100) throw std::runtime_error("overloaded");
    return 1;
  };
  const int seconds = 60;
  int heard_before = 0;
  for (int second = 0; second < seconds; ++second) {
    this_second = 0;
    if (second == seconds / 2) heard_before = heard;
    for (int i = 0; i < 1000; ++i) {
      (void)co_await throttle.try_run(server);
      co_await sleep_for(1ms);
    }
  }
  // (requests - 2 * 100) / requests of 1000 are held back: 200 a second pass.
  const double passed = static_cast<double>(heard - heard_before) / (seconds - seconds / 2);
  CHECK(passed > 180);
  CHECK(passed < 220);
}

ASYNC_TEST("calls that take longer than the window are not forgotten before they end", "[client_throttle]") {
  client_throttle throttle("search", {.window = 10s});
  const auto hang = []() -> awaitable<void> {
    co_await sleep_for(30s);
    throw std::runtime_error("timed out");
  };
  const auto executor = co_await net::this_coro::executor;
  const auto caller = [&]() -> awaitable<void> { (void)co_await throttle.try_run(hang); };
  for (int i = 0; i < 100; ++i) spawn(executor, caller);
  co_await sleep_for(30s + 1ms);
  CHECK(throttle.stats(time.now()).requests == 100);
  CHECK(throttle.stats(time.now()).rejection > 0.8);
}

ASYNC_TEST("it lets go when the server has recovered", "[client_throttle]") {
  client_throttle throttle("search", {.window = 10s});
  picky_server server(1'000'000);
  for (int i = 0; i < 1000; ++i) {
    (void)co_await throttle.try_run(std::ref(server));
    co_await sleep_for(10ms);
  }
  CHECK(throttle.stats(time.now()).rejection == 0.9);
  server.accept_every(1);
  for (int i = 0; i < 2500; ++i) {
    (void)co_await throttle.try_run(std::ref(server));
    co_await sleep_for(10ms);
  }
  CHECK(throttle.stats(time.now()).rejection == 0);
  const int heard = server.heard();
  for (int i = 0; i < 100; ++i) (void)co_await throttle.try_run(std::ref(server));
  CHECK(server.heard() == heard + 100);
}

ASYNC_TEST("what counts as refused can be said, a refusal is an error of its own, few calls say nothing",
           "[client_throttle]") {
  client_throttle throttle("search", {.max_rejection = 1.0, .minimum_calls = 5});
  throttle.classify([](const failure& why) {
    return why.message() == "overloaded" ? outcome_class::failure : outcome_class::success;
  });
  for (int i = 0; i < 50; ++i) (void)co_await throttle.try_run(broken);
  CHECK(throttle.stats(time.now()).rejection == 0);
  client_throttle strict("strict", {.max_rejection = 1.0, .minimum_calls = 5});
  for (int i = 0; i < 4; ++i) (void)co_await strict.try_run(broken);
  CHECK(strict.stats(time.now()).rejection == 0);
  for (int i = 0; i < 200; ++i) (void)co_await strict.try_run(broken);
  co_await sleep_for(1s);
  bool refused = false;
  for (int i = 0; i < 50 && !refused; ++i) {
    const auto result = co_await strict.try_run(broken);
    refused = result.why().is_refusal(errc::throttled);
    if (refused) CHECK(result.why().policy() == "strict");
  }
  CHECK(refused);
  co_await sleep_for(5min);
  const auto afresh = co_await strict.try_run(fine);
  CHECK(afresh.has_value());
}

TEST_CASE("throttle options that cannot work are refused", "[client_throttle]") {
  CHECK(validate(client_throttle_options{}).empty());
  CHECK(validate(client_throttle_options{.multiplier = 1.0}).size() == 1);
  CHECK(validate(client_throttle_options{.window = 0s}).size() == 1);
  CHECK(validate(client_throttle_options{.max_rejection = 0}).size() == 1);
  CHECK(validate(client_throttle_options{.minimum_calls = 0}).size() == 1);
  CHECK_THROWS_AS(client_throttle("bad", {.multiplier = 0}), invalid_options_error);
}
