// Fallbacks: chains of them, and how many answer at once.
#include "async_test.hpp"
#include "harness.hpp"
#include "tasks.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/fallback.hpp>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

namespace {

awaitable<int> standing_in(duration d, int value) {
  co_await sleep_for(d);
  co_return value;
}

/// Runs a task that fails under the fallback, and notes what came of it.
spawned fall_back(const net::any_io_executor& executor, fallback& policy, std::vector<outcome<int>>& ends) {
  const auto body = [](fallback* p, std::vector<outcome<int>>* e) -> awaitable<void> {
    auto result = co_await p->try_run(broken);
    e->push_back(std::move(result));
  };
  return spawn(executor, body, &policy, &ends);
}

}  // namespace

ASYNC_TEST("fallbacks are tried in order, each told the failure of the one before", "[fallback]") {
  std::vector<std::string> seen;
  auto chain = fallback([&](const failure& why) -> awaitable<int> {
                 seen.push_back(why.message());
                 co_await sleep_for(1ms);
                 throw std::runtime_error("mirror down");
               })
                   .then([&](const failure& why) -> int {
                     seen.push_back(why.message());
                     throw 42;
                   })
                   .then([&] { return 7; })
                   .then([&] { return 8; });
  const int value = co_await chain.run(broken);
  CHECK(value == 7);
  CHECK(seen == std::vector<std::string>{"down", "mirror down"});
  CHECK(chain.stats().used == 1);
  CHECK(chain.stats().failed == 0);
  CHECK(chain.stats().active == 0);
}

ASYNC_TEST("when all fallbacks fail, the last one's failure is the call's", "[fallback]") {
  circuit_breaker open("mirror", {.mode = circuit_mode::isolated});
  auto chain = fallback([]() -> int { throw std::runtime_error("first"); }).then([&] { return open.fire(fine); });
  const auto result = co_await chain.try_run(broken);
  CHECK(result.why().is_refusal(errc::circuit_isolated));
  CHECK(result.why().policy() == "mirror");
  CHECK(chain.stats().used == 1);
  CHECK(chain.stats().failed == 1);
}

ASYNC_TEST("each type of value has its own chain", "[fallback]") {
  auto mixed = fallback([]() -> int { throw std::runtime_error("no number"); })
                   .then([] { return 1; })
                   .then([] { return std::string("text"); })
                   .then([]() -> awaitable<void> { co_return; });
  const int number = co_await mixed.run(broken);
  const auto text = co_await mixed.run([]() -> std::string { throw std::runtime_error("down"); });
  const auto nothing = co_await mixed.try_run([]() { throw std::runtime_error("down"); });
  CHECK(number == 1);
  CHECK(text == "text");
  CHECK(nothing.has_value());
  // `otherwise` begins anew for its type.
  mixed.otherwise([] { return 2; });
  const int other = co_await mixed.run(broken);
  CHECK(other == 2);
  CHECK(mixed.used() == 4);
}

ASYNC_TEST("over its limit a fallback refuses, and says what it would have replaced", "[fallback]") {
  auto limited = fallback([] { return standing_in(10ms, 7); }).max_concurrent(2, "mirror");
  std::vector<outcome<int>> ends;
  const auto executor = co_await net::this_coro::executor;
  for (int i = 0; i < 3; ++i) fall_back(executor, limited, ends);
  co_await sleep_for(1ms);
  REQUIRE(ends.size() == 1);
  CHECK(ends[0].why().is_refusal(errc::bulkhead_full));
  CHECK(ends[0].why().policy() == "mirror");
  CHECK(failure::thrown(ends[0].why().cause()).message() == "down");
  CHECK(limited.stats().active == 2);
  co_await sleep_for(10ms);
  CHECK(ends.size() == 3);
  CHECK(*ends[1] == 7);
  const int later = co_await limited.run(broken);
  CHECK(later == 7);
  CHECK(limited.stats().used == 3);
  CHECK(limited.stats().refused == 1);
  CHECK(limited.stats().active == 0);
  CHECK(limited.describe() == "mirror: fallback, 2 at once");
}

ASYNC_TEST("a limit does not touch calls that need no fallback", "[fallback]") {
  auto limited = fallback([] { return standing_in(10ms, 7); }).max_concurrent(1);
  std::vector<outcome<int>> ends;
  const auto executor = co_await net::this_coro::executor;
  fall_back(executor, limited, ends);
  co_await sleep_for(1ms);
  const int value = co_await limited.run(fine);
  CHECK(value == 1);
  CHECK(limited.stats().refused == 0);
  CHECK(limited.stats().active == 1);
  co_await sleep_for(10ms);
  CHECK(ends.size() == 1);
}

ASYNC_TEST("a cancelled fallback hands over to nobody and gives its place back", "[fallback]") {
  bool tried = false;
  auto limited = fallback([] { return standing_in(1h, 7); })
                     .then([&] {
                       tried = true;
                       return 8;
                     })
                     .max_concurrent(1);
  std::vector<outcome<int>> ends;
  const auto executor = co_await net::this_coro::executor;
  const auto job = fall_back(executor, limited, ends);
  co_await sleep_for(1ms);
  job.cancel();
  co_await sleep_for(1ms);
  CHECK(limited.stats().active == 0);
  CHECK(limited.stats().failed == 0);
  CHECK_FALSE(tried);
}

TEST_CASE("cancelling a chain of fallbacks at any step gives its place back", "[fallback]") {
  std::unique_ptr<fallback> chain;
  const auto operation = [&]() -> awaitable<void> {
    chain = std::make_unique<fallback>([]() -> awaitable<int> {
      co_await sleep_for(1ms);
      throw std::runtime_error("mirror down");
    });
    chain->then([] { return standing_in(1ms, 7); }).max_concurrent(1);
    (void)co_await chain->try_run(broken);
  };
  const auto idle = [&] {
    if (chain) CHECK(chain->stats().active == 0);
  };
  CHECK(cancel_at_every_step(operation, idle) >= 2);
}

TEST_CASE("a context that ends takes a fallback's place back", "[fallback]") {
  auto limited = fallback([] { return standing_in(1h, 7); }).max_concurrent(1);
  std::vector<outcome<int>> ends;
  {
    net::io_context context(1);
    virtual_time time(context);
    fall_back(context.get_executor(), limited, ends);
    time.run_until(time.now() + 1ms);
    CHECK(limited.stats().active == 1);
  }
  CHECK(limited.stats().active == 0);
}

TEST_CASE("many threads share a fallback's limit", "[fallback][concurrent]") {
  std::atomic<int> active{0}, most{0}, answered{0}, refused{0};
  auto limited = fallback([&]() -> awaitable<int> {
                   const int now = ++active;
                   for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) continue;
                   co_await sleep_for(1us);
                   --active;
                   co_return 7;
                 }).max_concurrent(2);
  net::thread_pool threads(4);
  for (int t = 0; t < 8; ++t) {
    spawn(threads, [&]() -> awaitable<void> {
      for (int i = 0; i < 100; ++i) {
        const auto result = co_await limited.try_run(broken);
        ++(result.has_value() ? answered : refused);
      }
    });
  }
  threads.join();
  CHECK(most <= 2);
  CHECK(answered + refused == 800);
  CHECK(limited.stats().used == static_cast<std::uint64_t>(answered.load()));
  CHECK(limited.stats().refused == static_cast<std::uint64_t>(refused.load()));
  CHECK(limited.stats().active == 0);
}

TEST_CASE("a fallback that may answer nobody is refused", "[fallback]") {
  fallback policy([] { return 1; });
  CHECK_THROWS_AS(policy.max_concurrent(0), invalid_options_error);
}
