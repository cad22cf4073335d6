// Shadow mode: the policy sees what it would see, and decides nothing.
#include "async_test.hpp"
#include "harness.hpp"
#include "tasks.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/fallback.hpp>
#include <cofferdam/resilience/hedging.hpp>
#include <cofferdam/resilience/keyed.hpp>
#include <cofferdam/resilience/rate_limiter.hpp>
#include <cofferdam/resilience/retry.hpp>
#include <cofferdam/resilience/shadow.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

ASYNC_TEST("a rate limiter in shadow refuses nobody and says whom it would", "[shadow]") {
  const auto limiter = std::make_shared<rate_limiter>("search", rate_limiter_options{.permits = 2, .period = 1s});
  std::vector<std::string> refusals;
  shadow rehearsal(limiter);
  rehearsal.on_refusal([&](const failure& why) {
    refusals.push_back(why.message());
    throw std::runtime_error("listeners decide nothing");
  });
  for (int i = 0; i < 5; ++i) {
    const int value = co_await rehearsal.run(fine);
    CHECK(value == 1);
  }
  CHECK(rehearsal.stats().would_admit == 2);
  CHECK(rehearsal.stats().would_refuse == 3);
  REQUIRE(refusals.size() == 3);
  CHECK(refusals[0].find("search") != std::string::npos);
  CHECK(rehearsal.describe() == "in shadow: " + limiter->describe());
  CHECK(rehearsal.is_idle(time.now()) == limiter->is_idle(time.now()));
}

ASYNC_TEST("permits in shadow are held by those that would be admitted, and only by them", "[shadow]") {
  for (const std::size_t max_queue : {std::size_t{0}, std::size_t{1}}) {
    const auto pool = std::make_shared<bulkhead>("pool", bulkhead_options{.max_concurrent = 1, .max_queue = max_queue});
    shadow rehearsal(pool);
    const auto executor = co_await net::this_coro::executor;
    int done = 0;
    const auto body = [&]() -> awaitable<void> { done += co_await rehearsal.run(lasting, 10ms); };
    for (int i = 0; i < 3; ++i) spawn(executor, body);
    co_await sleep_for(1ms);
    CHECK(pool->active_count() == 1);
    CHECK(pool->pending_count() == 0);
    co_await sleep_for(10ms);
    CHECK(done == 3);
    CHECK(pool->active_count() == 0);
    const auto s = rehearsal.stats();
    CHECK(s.would_admit == 1);
    CHECK((max_queue == 0 ? s.would_refuse : s.would_wait) == 2);
  }
}

ASYNC_TEST("a circuit in shadow opens, and calls go on", "[shadow]") {
  const auto breaker = std::make_shared<circuit_breaker>("breaker", circuit_breaker_options{.minimum_calls = 2});
  breaker->fallback([] { return 7; });
  shadow rehearsal(breaker);
  for (int i = 0; i < 2; ++i) (void)co_await rehearsal.try_run(broken);
  CHECK(breaker->state() == circuit_state::open);
  const auto ended = co_await rehearsal.try_run(fine);
  CHECK(*ended == 1);  // not the fallback's
  CHECK(rehearsal.stats().would_admit == 2);
  CHECK(rehearsal.stats().would_try_again == 2);  // the fallback would have answered
  CHECK(rehearsal.stats().would_refuse == 1);
}

ASYNC_TEST("a retry in shadow tries once", "[shadow]") {
  int made = 0;
  const auto task = [&]() -> awaitable<int> {
    ++made;
    return broken();
  };
  shadow rehearsal(std::make_shared<retry>(retry_options{.max_attempts = 3}));
  const auto ended = co_await rehearsal.try_run(task);
  CHECK(ended.why().message() == "down");
  CHECK(made == 1);
  CHECK(rehearsal.stats().would_try_again == 1);
}

TEST_CASE("what runs others below itself cannot be in shadow", "[shadow]") {
  CHECK_THROWS_AS(shadow(nullptr), invalid_options_error);
  CHECK_THROWS_WITH(shadow(std::make_shared<timeout>(1s)), Catch::Matchers::Contains("without effect"));
  CHECK_THROWS_AS(shadow(std::make_shared<hedging>()), invalid_options_error);
  const auto make = [](std::string_view) { return std::make_shared<bulkhead>("pool", bulkhead_options{}); };
  CHECK_THROWS_AS(shadow(std::make_shared<keyed>("hosts", make)), invalid_options_error);
}

TEST_CASE("a call in shadow may be cancelled at any step", "[shadow]") {
  const auto pool = std::make_shared<bulkhead>("pool", bulkhead_options{.max_concurrent = 1});
  shadow rehearsal(pool);
  const auto other = [&]() -> awaitable<void> { (void)co_await rehearsal.try_run(lasting, 3ms); };
  const auto operation = [&]() -> awaitable<void> {
    const auto executor = co_await net::this_coro::executor;
    spawn(executor, other);
    co_await sleep_for(1ms);
    (void)co_await rehearsal.try_run(lasting, 1ms);
    co_await sleep_for(5ms);
    (void)co_await rehearsal.try_run(lasting, 1ms);
  };
  CHECK(cancel_at_every_step(operation, [&] { CHECK(pool->active_count() == 0); }) >= 3);
}

TEST_CASE("many threads in shadow lose no permit", "[shadow][concurrent]") {
  const auto pool = std::make_shared<bulkhead>("pool", bulkhead_options{.max_concurrent = 2});
  shadow rehearsal(pool);
  net::thread_pool threads(3);
  std::atomic<int> done{0};
  const auto body = [&]() -> awaitable<void> {
    for (int i = 0; i < 100; ++i) done += co_await rehearsal.run(lasting, 1us);
  };
  for (int i = 0; i < 6; ++i) spawn(threads, body);
  threads.join();
  CHECK(done == 600);
  CHECK(pool->active_count() == 0);
  const auto s = rehearsal.stats();
  CHECK(s.would_admit + s.would_refuse == 600);
}
