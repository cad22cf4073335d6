// Timers: the wheel against a model, the service against real time.
#include "async_test.hpp"

#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/random.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timeout.hpp>
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

TEST_CASE("real time fires no entry early, each once, in order of time to within a tick", "[core][timer]") {
  net::io_context context(1);
  auto& timers = timers_of(context);
  struct waiting : timer_entry {
    timer_service* timers = nullptr;
    std::vector<time_point>* fired = nullptr;
    time_point due, at;
  };
  std::vector<time_point> fired;
  std::vector<waiting> entries(50);
  const auto begin = timers.now();
  for (std::size_t i = 0; i < entries.size(); ++i) {
    auto& entry = entries[(i * 17) % entries.size()];
    entry.timers = &timers;
    entry.fired = &fired;
    entry.due = begin + 100us * static_cast<int>((i * 17) % entries.size());
    entry.on_due = [](timer_entry& e) noexcept {
      auto& self = static_cast<waiting&>(e);
      self.at = self.timers->now();
      self.fired->push_back(self.due);
    };
    entry.on_shutdown = [](timer_entry&) noexcept {};
    timers.schedule(entry, entry.due, context.get_executor());
  }
  CHECK(timers.pending() == entries.size());
  const auto keep_running = net::make_work_guard(context);
  while (fired.size() < entries.size()) context.run_one();
  for (const auto& entry : entries) CHECK(entry.at >= entry.due);
  for (std::size_t i = 1; i < fired.size(); ++i) CHECK(fired[i] > fired[i - 1] - 263us);
  CHECK(timers.pending() == 0);
}

TEST_CASE("a context that ends hands back every entry once, and one that releases others is no trouble",
          "[core][timer]") {
  struct waiting : timer_entry {
    int shut_down = 0;
    waiting* other = nullptr;  // cancelled when this one is released, as the frames of coroutines do
    timer_service* timers = nullptr;
    bool cancelled = false;
  };
  std::vector<waiting> entries(100);
  {
    net::io_context context(1);
    auto& timers = timers_of(context);
    for (std::size_t i = 0; i < entries.size(); ++i) {
      entries[i].timers = &timers;
      if (i % 2 == 0) entries[i].other = &entries[i + 1];
      entries[i].on_due = [](timer_entry&) noexcept { FAIL("due"); };
      entries[i].on_shutdown = [](timer_entry& e) noexcept {
        auto& self = static_cast<waiting&>(e);
        ++self.shut_down;
        if (self.other != nullptr) self.other->cancelled = self.timers->cancel(*self.other);
      };
      timers.schedule(entries[i], i % 3 == 0 ? never : timers.now() + 1h * static_cast<int>(i + 1),
                      context.get_executor());
    }
    CHECK(timers.pending() == 66);
  }
  for (const auto& entry : entries) {
    if (entry.other != nullptr) CHECK(entry.shut_down == 1);
    if (entry.other != nullptr) CHECK(entry.other->shut_down + (entry.other->cancelled ? 1 : 0) >= 1);
  }
}

TEST_CASE("an entry that waits for ever is not pending and can be cancelled", "[core][timer]") {
  net::io_context context(1);
  auto& timers = timers_of(context);
  timer_entry entry;
  entry.on_due = entry.on_shutdown = [](timer_entry&) noexcept {};
  CHECK_FALSE(timers.cancel(entry));  // never scheduled
  timers.schedule(entry, never, context.get_executor());
  CHECK(timers.pending() == 0);
  context.run();  // returns: nothing to wait for
  CHECK(timers.cancel(entry));
  CHECK_FALSE(timers.cancel(entry));
}

TEST_CASE("cancelling the last of many timers lets run() return at once, each time", "[core][timer]") {
  net::io_context context(1);
  auto& timers = timers_of(context);
  for (int round = 0; round < 20; ++round) {
    const auto limited = [&]() -> awaitable<void> { co_await sleep_for(1h); };
    std::vector<spawned> jobs;
    for (int i = 0; i < 5; ++i) jobs.push_back(spawn(context, limited));
    context.restart();
    context.poll();
    CHECK(timers.pending() == 5);
    for (const auto& job : jobs) job.cancel();
    context.restart();
    context.run();  // an hour otherwise
    CHECK(timers.pending() == 0);
  }
}

TEST_CASE("a time limit that fires takes no work of others from its context", "[core][timer]") {
  for (int round = 0; round < 5; ++round) {
    net::io_context context(1);
    bool limited = false, other = false;
    const auto hang = []() -> awaitable<void> { co_await sleep_for(1h); };
    const auto body = [&]() -> awaitable<void> { limited = !(co_await try_with_timeout(1ms, hang)); };
    spawn(context, body);
    net::steady_timer timer(context, 20ms);
    timer.async_wait([&](const net::asio_error_code&) { other = true; });
    context.run();
    CHECK(limited);
    CHECK(other);  // run() returned too early otherwise
  }
}

TEST_CASE("timers that come and go around each tick never hold run() nor end it", "[core][timer]") {
  net::io_context context(1);
  auto& timers = timers_of(context);
  int rounds = 0;
  // Each tick cancels a timer far away, and schedules another.
  const auto body = [&]() -> awaitable<void> {
    const auto far = [](duration d) -> awaitable<void> { co_await sleep_for(d); };
    for (int i = 0; i < 30; ++i) {
      (void)co_await try_with_timeout(300us, far, i % 2 == 0 ? duration(1h) : duration(350us));
      ++rounds;
    }
  };
  spawn(context, body);
  spawn(context, body);
  const auto begin = timers.now();
  context.run();
  CHECK(rounds == 60);
  CHECK(timers.now() - begin < 1h);
  CHECK(timers.pending() == 0);
}
