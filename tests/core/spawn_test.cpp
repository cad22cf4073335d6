// spawn and spawn_on: strands of their own, cancellation from anywhere, errors to where they belong.
#include "async_test.hpp"

#include <cofferdam/core/deadline.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timeout.hpp>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace spawn_test {
namespace {

TEST_CASE("an exception leaves run(), a cancellation just ends the coroutine", "[core][spawn]") {
  net::io_context context(1);
  virtual_time time(context);
  const auto broken = []() -> awaitable<void> {
    co_await sleep_for(1s);
    throw std::runtime_error("mine");
  };
  spawn(context, broken);
  CHECK_THROWS_WITH(time.run(), "mine");
  const auto endless = []() -> awaitable<void> { co_await sleep_until(never); };
  const auto job = spawn(context, endless);
  time.run();
  job.cancel();
  CHECK_NOTHROW(time.run());
  job.cancel();  // too late: no effect
  CHECK_NOTHROW(time.run());
}

TEST_CASE("plain functions and awaitables can be spawned; values are dropped", "[core][spawn]") {
  net::io_context context(1);
  virtual_time time(context);
  int ran = 0;
  const auto coroutine = [&]() -> awaitable<int> { co_return ++ran; };
  spawn(context, [&] { return ++ran; });
  spawn(context, coroutine());
  spawn(context, coroutine);
  spawn(context, [&](const std::unique_ptr<int>& p) { ran += *p; }, std::make_unique<int>(10));
  CHECK(ran == 0);  // nothing runs from within spawn
  time.run();
  CHECK(ran == 13);
}

TEST_CASE("the handle may go; the coroutine runs on", "[core][spawn]") {
  net::io_context context(1);
  virtual_time time(context);
  bool ended = false;
  const auto body = [&]() -> awaitable<void> {
    co_await sleep_for(1s);
    ended = true;
  };
  {
    const auto forgotten = spawn(context, body);
  }
  time.run();
  CHECK(ended);
}

ASYNC_TEST("a spawned coroutine is waited for, stopped or not", "[core][spawn]") {
  const auto executor = co_await net::this_coro::executor;
  int ended = 0;
  const auto body = [&](duration takes) -> awaitable<void> {
    try {
      co_await sleep_for(takes);
    } catch (const std::exception&) {
      ended += 10;
    }
    ++ended;
  };
  const auto shorter = spawn(executor, body, duration(1s));
  co_await shorter.join();
  CHECK(ended == 1);
  CHECK(time.elapsed() == 1s);
  co_await shorter.join();  // it has ended
  co_await shorter.stop();
  const auto longer = spawn(executor, body, duration(1h));
  const auto wait = [&longer] { return longer.join(); };
  const auto in_vain = co_await try_with_timeout(1s, wait);
  CHECK(in_vain.code() == errc::timed_out);
  CHECK(ended == 1);  // who waits no more does not stop it
  const auto another = spawn(executor, wait);
  co_await longer.stop();
  CHECK(ended == 12);
  co_await another.join();  // any number may wait
  CHECK(time.elapsed() == 2s);
}

TEST_CASE("a spawned coroutine is waited for from another thread", "[core][spawn][concurrent]") {
  net::thread_pool pool(2);
  std::atomic<int> ended{0};
  const auto nothing = [&]() -> awaitable<void> {
    ++ended;
    co_return;
  };
  const auto pair = [&]() -> awaitable<void> {
    const auto other = spawn(pool, nothing);
    co_await other.join();
    ++ended;
  };
  for (int i = 0; i < 200; ++i) spawn(pool, pair);
  pool.join();
  CHECK(ended == 400);
}

TEST_CASE("a coroutine cancelled before its first step never begins", "[core][spawn]") {
  net::io_context context(1);
  virtual_time time(context);
  auto witness = std::make_shared<int>(0);
  bool begun = false, finished = false;
  const auto body = [&](std::shared_ptr<int>) -> awaitable<void> {
    begun = true;
    co_await sleep_for(1h);
    finished = true;
  };
  spawn(context, body, witness).cancel();
  time.run();
  CHECK_FALSE(finished);
  CHECK(time.elapsed() == 0s);
  CHECK(witness.use_count() == 1);
  (void)begun;
}

ASYNC_TEST("spawn_on passes values, errors, deadlines and cancellation", "[core][spawn]") {
  net::io_context& context =
      static_cast<net::io_context&>(net::query(co_await net::this_coro::executor, net::execution::context));
  const auto pointer = co_await spawn_on(context, [] { return std::make_unique<int>(5); });
  CHECK(*pointer == 5);
  std::string what;
  const auto broken = []() -> awaitable<void> {
    co_await sleep_for(1s);
    throw std::runtime_error("there");
  };
  try {
    co_await spawn_on(context, broken);
  } catch (const std::runtime_error& e) {
    what = e.what();
  }
  CHECK(what == "there");

  const auto elsewhere = [&]() -> awaitable<time_point> {
    co_return co_await spawn_on(context, [] { return this_coro::deadline(); });
  };
  const auto begin = time.now();
  const auto seen = co_await with_timeout(3s, elsewhere);
  CHECK(seen == begin + 3s);

  bool reached = false;
  const auto far = [&]() -> awaitable<void> {
    try {
      co_await sleep_for(1h);
    } catch (...) {
      reached = true;
      throw;
    }
  };
  const auto going = [&]() -> awaitable<void> { co_await spawn_on(context, far); };
  const auto limited = co_await try_with_timeout(1s, going);
  CHECK(limited.why().is_refusal(errc::timed_out));
  CHECK(reached);
}

TEST_CASE("a spawned coroutine is cancelled from any thread, again and again", "[core][spawn][concurrent]") {
  net::thread_pool pool(3);
  std::atomic<int> cancelled{0}, ended{0};
  const auto body = [&]() -> awaitable<void> {
    const auto mark = [&](void*) { ++ended; };
    const std::unique_ptr<void, decltype(mark)> at_end(&ended, mark);
    try {
      co_await sleep_for(1h);
    } catch (const net::asio_system_error&) {
      ++cancelled;
      throw;
    }
  };
  std::vector<spawned> jobs;
  for (int i = 0; i < 100; ++i) jobs.push_back(spawn(pool, body));
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      for (const auto& job : jobs) job.cancel();
    });
  }
  for (auto& thread : threads) thread.join();
  pool.join();  // all ended, or this would take an hour
  CHECK(cancelled == ended);
  CHECK(ended <= 100);
}

TEST_CASE("every spawned coroutine has a strand of its own, kept through every wait", "[core][spawn][concurrent]") {
  net::thread_pool pool(4);
  std::atomic<int> overlaps{0};
  const auto body = [&]() -> awaitable<void> {
    const auto executor = co_await net::this_coro::executor;
    int inside = 0;  // no atomic: the strand is what protects it, and the thread sanitizer sees to it
    const auto poke = [&]() -> awaitable<void> {
      if (++inside != 1) ++overlaps;
      --inside;
      co_return;
    };
    for (int i = 0; i < 50; ++i) {
      net::co_spawn(executor, poke, net::detached);
      co_await sleep_for(10us);
      co_await poke();
    }
    co_await net::co_spawn(executor, poke, net::use_awaitable);  // the last one out
  };
  for (int i = 0; i < 8; ++i) spawn(pool, body);
  pool.join();
  CHECK(overlaps == 0);
}

}  // namespace
}  // namespace spawn_test
