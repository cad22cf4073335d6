// The nesting guard: what is within a call, and what only looks like it.
#include "async_test.hpp"
#include "harness.hpp"
#include "tasks.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/hedging.hpp>
#include <cofferdam/resilience/nesting_guard.hpp>
#include <cofferdam/resilience/retry.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

namespace {

/// A guarded bulkhead with one permit: who enters it twice would wait for itself.
struct guarded_pool {
  nesting_guard guard{"reports"};
  bulkhead pool{"reports", {.max_concurrent = 1, .max_queue = 10}};

  template <class F> awaitable<outcome<int>> enter(F task) {
    auto calls = guard | pool;
    co_return co_await calls.try_run(task);
  }
};

}  // namespace

ASYNC_TEST("a call that would wait for itself is refused in place of waiting for ever", "[nesting_guard]") {
  guarded_pool reports;
  outcome<int> inner = 0;
  const auto outer = [&]() -> awaitable<int> {
    inner = co_await reports.enter(fine);
    co_return 2;
  };
  const auto ended = co_await reports.enter(outer);
  CHECK(*ended == 2);
  REQUIRE_FALSE(inner.has_value());
  CHECK(inner.why().is_refusal(errc::nested_use));
  CHECK(inner.why().message().find("reports") != std::string::npos);
  CHECK(reports.guard.refused() == 1);
  CHECK(reports.pool.active_count() == 0);
  const auto again = co_await reports.enter(fine);  // one after the other is fine
  CHECK(again.has_value());
}

ASYNC_TEST("nested use is found through time limits, hedges, retries, other guards and other strands",
           "[nesting_guard]") {
  guarded_pool reports;
  nesting_guard other("other");
  const auto executor = co_await net::this_coro::executor;
  outcome<int> inner = 0;
  const auto enter = [&]() -> awaitable<void> { inner = co_await reports.enter(fine); };
  const auto limited = [&]() -> awaitable<int> {
    co_await with_timeout(1s, enter);
    co_return 1;
  };
  const auto elsewhere = [&]() -> awaitable<int> {
    co_await spawn_on(executor, enter);
    co_return 1;
  };
  const auto below_policies = [&]() -> awaitable<int> {
    auto calls = other | timeout(1s) | retry({.max_attempts = 2}) | hedging({.delay = 1ms});
    co_await calls.run(enter);
    co_return 1;
  };
  (void)co_await reports.enter(limited);
  CHECK(inner.why().is_refusal(errc::nested_use));
  inner = 0;
  (void)co_await reports.enter(elsewhere);
  CHECK(inner.why().is_refusal(errc::nested_use));
  inner = 0;
  (void)co_await reports.enter(below_policies);
  CHECK(inner.why().is_refusal(errc::nested_use));
  CHECK(reports.guard.refused() == 3);
  CHECK(other.refused() == 0);
}

ASYNC_TEST("what a call starts and leaves to itself is no nested use", "[nesting_guard]") {
  guarded_pool reports;
  std::vector<std::string> seen;
  const auto sibling = [&]() -> awaitable<void> {
    const auto ended = co_await reports.enter(fine);  // waits until the other call has ended
    seen.emplace_back(ended.has_value() ? "sibling" : ended.why().message());
  };
  const auto starter = [&]() -> awaitable<int> {
    const auto here = co_await net::this_coro::executor;
    spawn(here, sibling);
    co_await sleep_for(10ms);
    seen.emplace_back("starter");
    co_return 1;
  };
  (void)co_await reports.enter(starter);
  co_await sleep_for(1ms);
  CHECK(seen == std::vector<std::string>{"starter", "sibling"});
  CHECK(reports.guard.refused() == 0);
}

ASYNC_TEST("a job that outlives its call is within it no longer", "[nesting_guard]") {
  guarded_pool reports;
  outcome<int> late = 0;
  const auto job = [&]() -> awaitable<void> {
    co_await sleep_for(10ms);
    late = co_await reports.enter(fine);
  };
  const auto starter = [&]() -> awaitable<int> {
    const auto here = co_await net::this_coro::executor;
    net::co_spawn(here, job, net::detached);
    co_return 1;
  };
  (void)co_await reports.enter(starter);
  co_await sleep_for(20ms);
  CHECK(late.has_value());
  CHECK(*late == 1);
}

ASYNC_TEST("a guarded call keeps its deadline, and passes it on", "[nesting_guard]") {
  guarded_pool reports;
  time_point own = never, of_sibling = never;
  const auto look = [&]() -> awaitable<void> { of_sibling = co_await this_coro::deadline(); };
  const auto task = [&]() -> awaitable<int> {
    own = co_await this_coro::deadline();
    const auto here = co_await net::this_coro::executor;
    spawn(here, look);
    co_await sleep_for(1ms);
    co_return 1;
  };
  const time_point limit = time.now() + 5s;
  const auto limited = [&]() -> awaitable<void> { (void)co_await reports.enter(task); };
  co_await with_deadline(limit, limited);
  CHECK(own == limit);
  CHECK(of_sibling == limit);
  const auto hung = co_await try_with_timeout(20ms, [&]() { return reports.enter(hanging); });
  CHECK(hung.why().is_refusal(errc::timed_out));
  CHECK(reports.pool.active_count() == 0);
}

TEST_CASE("a cancelled guarded call gives its permit back, whenever it is cancelled", "[nesting_guard]") {
  guarded_pool reports;
  const auto operation = [&]() -> awaitable<void> {
    const auto task = [&]() -> awaitable<int> {
      co_await sleep_for(1ms);
      (void)co_await reports.enter(fine);
      co_return 1;
    };
    (void)co_await reports.enter(task);
  };
  const auto check = [&] {
    CHECK(reports.pool.active_count() == 0);
    CHECK(reports.pool.pending_count() == 0);
  };
  CHECK(cancel_at_every_step(operation, check) > 2);
}

TEST_CASE("a run-time list guards as a static one does", "[nesting_guard]") {
  net::io_context context(1);
  virtual_time time(context);
  const auto guard = std::make_shared<nesting_guard>("list");
  const auto pool = std::make_shared<bulkhead>("list", bulkhead_options{.max_concurrent = 2, .max_queue = 1});
  pipeline calls("list", {guard, pool});
  const auto body = [&]() -> awaitable<void> {
    const auto outer = [&]() -> awaitable<int> {
      const auto inner = co_await calls.try_run(fine);
      CHECK(inner.why().is_refusal(errc::nested_use));  // although a permit is free
      co_return 1;
    };
    const int value = co_await calls.run(outer);
    CHECK(value == 1);
  };
  time.run(body);
  CHECK(calls.describe() == "list: nesting guard\nlist: bulkhead, 2 at once, 1 waiting");
}

TEST_CASE("nested use is told from use at the same time on many threads", "[nesting_guard][concurrent]") {
  guarded_pool reports;
  net::thread_pool threads(3);
  std::atomic<int> nested{0}, done{0};
  const auto inner = [&]() -> awaitable<void> {
    const auto ended = co_await reports.enter(fine);
    nested += !ended.has_value() && ended.why().is_refusal(errc::nested_use) ? 1 : 0;
  };
  const auto outer = [&]() -> awaitable<int> {
    co_await with_timeout(1min, inner);
    co_return 1;
  };
  const auto caller = [&]() -> awaitable<void> {
    for (int i = 0; i < 50; ++i) {
      const auto ended = co_await reports.enter(outer);
      done += ended.has_value() ? 1 : 0;
    }
  };
  for (int i = 0; i < 4; ++i) spawn(threads, caller);
  threads.join();
  CHECK(nested == 200);
  CHECK(done == 200);
}
