// Timers, virtual time, randomness.
#include "async_test.hpp"

#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/random.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timer_service.hpp>

#include <map>
#include <random>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

TEST_CASE("the wheel agrees with an ordered map over 100000 random operations, ties in order of insertion",
          "[core][timer]") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  timer_wheel wheel;
  std::vector<timer_entry> entries(2000);
  std::multimap<std::uint64_t, timer_entry*> model;
  std::vector<std::multimap<std::uint64_t, timer_entry*>::iterator> where(entries.size(), model.end());
  for (int i = 0; i < 100'000; ++i) {
    const std::size_t index = random() % entries.size();
    if (where[index] != model.end()) {
      wheel.remove(entries[index]);
      model.erase(where[index]);
      where[index] = model.end();
    } else {
      const std::uint64_t due = wheel.present() + (random() >> (random() % 60 + 3));
      wheel.insert(entries[index], due);
      where[index] = model.emplace(due, &entries[index]);
    }
    if (random() % 3 != 0) continue;
    const std::uint64_t limit = wheel.present() + (random() >> (random() % 60 + 3));
    REQUIRE((model.empty() || wheel.lower_bound() <= model.begin()->first));
    for (timer_entry* due = wheel.advance(limit); due != nullptr; due = timer_wheel::next(*due)) {
      REQUIRE(model.begin()->second == due);
      REQUIRE(model.begin()->first <= limit);
      where[static_cast<std::size_t>(due - entries.data())] = model.end();
      model.erase(model.begin());
    }
  }
}

TEST_CASE("an hour passes at once, in order, and the same seed gives the same trace", "[core][time]") {
  const auto run = [](std::uint64_t seed) {
    net::io_context context(1);
    virtual_time time(context, seed);
    std::vector<int> order;
    const auto sleeper = [&](int id, duration step) -> awaitable<void> {
      const auto executor = co_await net::this_coro::executor;
      for (int i = 0; i < 3; ++i) {
        co_await sleep_for(step + duration(static_cast<std::int64_t>(random_of(executor).uniform() * 1e6)));
        order.push_back(id);
      }
    };
    spawn(context, sleeper, 1, 1h);
    spawn(context, sleeper, 2, 50min);
    time.run();
    CHECK(order == std::vector<int>{2, 1, 2, 1, 2, 1});
    CHECK(time.elapsed() >= 3h);
    return time.trace();
  };
  const auto first = run(1), again = run(1), other = run(2);
  CHECK(first == again);
  CHECK(first != other);
}

ASYNC_TEST("sleeps of equal length end in the order they began", "[core][time]") {
  std::vector<int> order;
  const auto executor = co_await net::this_coro::executor;
  for (int i = 0; i < 100; ++i) {
    spawn(executor, [&order, i]() -> awaitable<void> {
      co_await sleep_for(1s);
      order.push_back(i);
    });
  }
  co_await sleep_for(2s);
  CHECK(std::ranges::is_sorted(order));
  CHECK(order.size() == 100);
}

TEST_CASE("a task that waits for nothing is a deadlock, not a hang", "[core][time]") {
  net::io_context context(1);
  virtual_time time(context);
  const auto body = []() -> awaitable<void> { co_await sleep_until(never); };
  CHECK_THROWS_AS(time.run(body), deadlock_error);
}

TEST_CASE("run() returns when nothing waits any more, and a cancelled timer does not hold it", "[core][timer]") {
  net::io_context context;
  auto& timers = timers_of(context);
  timer_entry entry;
  entry.on_due = entry.on_shutdown = [](timer_entry&) noexcept {};
  timers.schedule(entry, timers.now() + 1h, context.get_executor());
  CHECK(timers.pending() == 1);
  CHECK(timers.cancel(entry));
  CHECK_FALSE(timers.cancel(entry));
  context.run();
  context.restart();
  bool slept = false;
  spawn(context, [&]() -> awaitable<void> {
    const auto begin = timers.now();
    co_await sleep_for(3ms);
    slept = timers.now() - begin >= 3ms;  // never early
  });
  context.run();
  CHECK(slept);
}

TEST_CASE("threads may schedule and cancel at once", "[core][timer][concurrent]") {
  net::thread_pool pool(4);
  std::atomic<int> slept{0};
  const auto sleeper = [&]() -> awaitable<void> {
    for (int i = 0; i < 50; ++i) co_await sleep_for(std::chrono::microseconds(50 + i));
    ++slept;
  };
  std::vector<spawned> doomed;
  const auto forever = []() -> awaitable<void> { co_await sleep_for(1h); };
  for (int i = 0; i < 20; ++i) spawn(pool, sleeper);
  for (int i = 0; i < 20; ++i) doomed.push_back(spawn(pool, forever));
  for (const auto& job : doomed) job.cancel();
  pool.join();
  CHECK(slept == 20);
}

TEST_CASE("streams split by name do not depend on each other's draws", "[core][random]") {
  random_source a(random_source::split(1, "arrivals")), b(random_source::split(1, "service"));
  const auto first = a();
  for (int i = 0; i < 100; ++i) (void)b();
  random_source again(random_source::split(1, "arrivals"));
  CHECK(again() == first);
  CHECK(random_source::split(1, "a") != random_source::split(2, "a"));
  double sum = 0;
  for (int i = 0; i < 100'000; ++i) sum += a.exponential(10);
  CHECK(sum / 100'000 == Approx(10).epsilon(0.02));
}
