// Virtual time: as fast as the machine, as exact as arithmetic, the same every time.
#include "async_test.hpp"

#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/random.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace virtual_time_test {
namespace {

/// Three coroutines that sleep for random times and note when they wake.
std::uint64_t trace_of(std::uint64_t seed, int sleepers = 3) {
  net::io_context context(1);
  virtual_time time(context, seed);
  const auto sleeper = [&](int id) -> awaitable<void> {
    const auto executor = co_await net::this_coro::executor;
    for (int i = 0; i < 10; ++i) {
      co_await sleep_for(duration(static_cast<std::int64_t>(random_of(executor).uniform() * 1e9)));
      time.record(std::to_string(id));
    }
  };
  for (int id = 0; id < sleepers; ++id) spawn(context, sleeper, id);
  time.run();
  return time.trace();
}

TEST_CASE("an hour of virtual time is a jump, and exact", "[core][time]") {
  net::io_context context(1);
  virtual_time time(context, 1, time_point(5s));
  CHECK(time.now() == time_point(5s));
  int ticks = 0;
  const auto clockwork = [&]() -> awaitable<void> {
    for (; ticks < 3600; ++ticks) co_await sleep_for(1s);
  };
  spawn(context, clockwork);
  CHECK(time.run() == 3600);
  CHECK(ticks == 3600);
  CHECK(time.elapsed() == 1h);
  CHECK(time.now() == time_point(1h + 5s));
  CHECK(time.run() == 0);  // nothing pending: time stands
  CHECK(time.elapsed() == 1h);
}

TEST_CASE("equal seeds give equal traces, other seeds and other programs do not", "[core][time]") {
  CHECK(trace_of(1) == trace_of(1));
  CHECK(trace_of(1) != trace_of(2));
  CHECK(trace_of(1) != trace_of(1, 4));
}

TEST_CASE("run_until fires what is due at its limit and stands there", "[core][time]") {
  net::io_context context(1);
  virtual_time time(context);
  std::vector<int> woken;
  const auto sleeper = [&](int id, duration d) -> awaitable<void> {
    co_await sleep_for(d);
    woken.push_back(id);
  };
  spawn(context, sleeper, 1, 10ms);
  spawn(context, sleeper, 2, 20ms);
  spawn(context, sleeper, 3, 20ms + 1ns);
  time.run_until(time_point(15ms));
  CHECK(woken == std::vector<int>{1});
  CHECK(time.elapsed() == 15ms);
  time.run_for(5ms);
  CHECK(woken == std::vector<int>{1, 2});
  CHECK(time.elapsed() == 20ms);
  time.run_until(time_point(1ms));  // never back
  CHECK(time.elapsed() == 20ms);
  CHECK(time.run_next());
  CHECK(time.elapsed() == 20ms + 1ns);
  CHECK_FALSE(time.run_next());
  CHECK(woken == std::vector<int>{1, 2, 3});
}

TEST_CASE("run(task) gives the task's value or throws what it throws", "[core][time]") {
  net::io_context context(1);
  virtual_time time(context);
  const auto slow = [](int n) -> awaitable<std::unique_ptr<int>> {
    co_await sleep_for(1min);
    co_return std::make_unique<int>(n);
  };
  const auto value = time.run(slow, 5);
  CHECK(*value == 5);
  CHECK(time.elapsed() == 1min);
  const auto broken = []() -> awaitable<void> {
    co_await sleep_for(1s);
    throw std::runtime_error("mine");
  };
  CHECK_THROWS_WITH(time.run(broken), "mine");
  CHECK(time.run([] { return 3; }) == 3);
}

TEST_CASE("a task that waits for nothing is a deadlock, not a hang", "[core][time]") {
  net::io_context context(1);
  virtual_time time(context);
  const auto body = []() -> awaitable<void> { co_await sleep_until(never); };
  CHECK_THROWS_AS(time.run(body), deadlock_error);
}

TEST_CASE("what sleeps for ever does not keep run() from returning", "[core][time]") {
  net::io_context context(1);
  virtual_time time(context);
  const auto body = []() -> awaitable<void> { co_await sleep_until(never); };
  spawn(context, body);
  CHECK(time.run() == 0);
  CHECK(time.elapsed() == 0s);
}

ASYNC_TEST("sleeps of equal length end in the order they began, whatever came between", "[core][time]") {
  std::vector<int> order;
  const auto executor = co_await net::this_coro::executor;
  const auto sleeper = [&](int id, time_point until) -> awaitable<void> {
    co_await sleep_until(until);
    order.push_back(id);
  };
  const auto end = time.now() + 1s;
  for (int i = 0; i < 100; ++i) {
    spawn(executor, sleeper, i, end);
    co_await sleep_for(1ms);
  }
  co_await sleep_until(end + 1s);
  CHECK(std::ranges::is_sorted(order));
  CHECK(order.size() == 100);
}

ASYNC_TEST("sleeping for nothing lets the others run, and takes no time", "[core][time]") {
  std::vector<int> order;
  const auto executor = co_await net::this_coro::executor;
  const auto other = [&]() -> awaitable<void> {
    order.push_back(1);
    co_return;
  };
  for (const duration none : {duration(0s), duration(-1s), duration::min()}) {
    order.clear();
    spawn(executor, other);
    co_await sleep_for(none);
    order.push_back(2);
    CHECK(order == std::vector<int>{1, 2});
  }
  co_await sleep_until(time_point::min());
  CHECK(time.elapsed() == 0s);
}

TEST_CASE("a deadlocked task may be woken after the call that ran it has thrown", "[core][time]") {
  net::io_context context(1);
  virtual_time time(context);
  detail::parked_reference parked;
  bool ended = false;
  const auto waits = [&]() -> awaitable<int> {
    const auto enlist = [&](const detail::parked_reference& self) { parked = self; };
    (void)co_await park(never, enlist);
    ended = true;
    co_return 7;
  };
  CHECK_THROWS_AS(time.run(waits), deadlock_error);
  parked->wake(wake_reason::woken);
  time.run();
  CHECK(ended);
}

}  // namespace
}  // namespace virtual_time_test
