// The bulkhead: permits return exactly once, whatever happens to the call.
#include "async_test.hpp"
#include "harness.hpp"
#include "tasks.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/resilience/bulkhead.hpp>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

namespace {

/// Starts a call that notes when it begins.
auto start(const net::any_io_executor& executor, bulkhead& pool, std::vector<int>& begun, int id, duration d) {
  return spawn(executor, [&pool, &begun, id, d]() -> awaitable<void> {
    const auto task = [&]() -> awaitable<void> {
      begun.push_back(id);
      co_await sleep_for(d);
    };
    (void)co_await pool.try_run(task);
  });
}

}  // namespace

ASYNC_TEST("a bulkhead without a queue refuses what exceeds its limit", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 2});
  std::vector<int> begun;
  const auto executor = co_await net::this_coro::executor;
  start(executor, pool, begun, 1, 10ms);
  start(executor, pool, begun, 2, 10ms);
  co_await sleep_for(1ms);
  CHECK(pool.active_count() == 2);
  const auto third = co_await pool.try_run(lasting, 1ms);
  CHECK(third.why().is_refusal(errc::bulkhead_full));
  CHECK(third.why().policy() == "pool");
  co_await sleep_for(10ms);
  CHECK(pool.active_count() == 0);
  CHECK(pool.stats().rejected == 1);
}

ASYNC_TEST("the queue is strictly first in, first out; a newcomer passes nobody", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 1, .max_queue = 10});
  std::vector<int> begun;
  const auto executor = co_await net::this_coro::executor;
  for (int id = 0; id < 5; ++id) start(executor, pool, begun, id, 10ms);
  co_await sleep_for(10ms);  // the first has just ended; 1 was promised the permit
  start(executor, pool, begun, 5, 10ms);
  co_await sleep_for(1s);
  CHECK(begun == std::vector<int>{0, 1, 2, 3, 4, 5});
}

ASYNC_TEST("a LIFO queue lets the newest in first", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 1, .max_queue = 10, .order = queue_order::lifo});
  std::vector<int> begun;
  const auto executor = co_await net::this_coro::executor;
  for (int id = 0; id < 4; ++id) start(executor, pool, begun, id, 10ms);
  co_await sleep_for(1s);
  CHECK(begun == std::vector<int>{0, 3, 2, 1});
}

ASYNC_TEST("a full queue refuses, and a call waits no longer than it may", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 1, .max_queue = 1, .max_wait = 5ms});
  std::vector<int> begun;
  const auto executor = co_await net::this_coro::executor;
  start(executor, pool, begun, 0, 1s);
  co_await sleep_for(1ms);
  start(executor, pool, begun, 1, 1ms);
  co_await sleep_for(1ms);
  CHECK(pool.pending_count() == 1);
  const auto third = co_await pool.try_run(lasting, 1ms);
  CHECK(third.why().is_refusal(errc::bulkhead_full));
  co_await sleep_for(5ms);
  CHECK(pool.stats().queue_timeouts == 1);
  CHECK(pool.pending_count() == 0);
  const auto before = time.now();
  const auto waited = co_await pool.try_run(lasting, 1ms);
  CHECK(waited.why().is_refusal(errc::queue_timed_out));
  CHECK(time.now() - before == 5ms);
  co_await sleep_for(1s);  // the pool must outlive its calls
}

namespace {

/// Twice as many calls as one worker can do, for a while; how long each of those waited that were served at the end.
awaitable<std::vector<duration>> waits_under_overload(bulkhead& pool, virtual_time& time) {
  std::vector<duration> waited;
  const auto executor = co_await net::this_coro::executor;
  const auto caller = [&]() -> awaitable<void> {
    const duration asked = time.elapsed();
    duration began = -1ns;
    const auto task = [&]() -> awaitable<void> {
      began = time.elapsed();
      co_await sleep_for(10ms);
    };
    (void)co_await pool.try_run(task);
    if (began >= 0ns) waited.push_back(began - asked);
  };
  const duration begin = time.elapsed();
  for (int i = 0; i < 400; ++i) {
    spawn(executor, caller);
    co_await sleep_for(5ms);
    if (time.elapsed() - begin == 1s) waited.clear();
  }
  co_await sleep_for(1min);
  co_return waited;
}

}  // namespace

ASYNC_TEST("under a standing queue calls wait no longer than the target", "[bulkhead]") {
  bulkhead patient("patient", {.max_concurrent = 1, .max_queue = 1000, .max_wait = 1s});
  const auto long_waits = co_await waits_under_overload(patient, time);
  CHECK(std::ranges::count_if(long_waits, [](duration d) { return d > 900ms; }) > 80);

  bulkhead controlled("controlled", {.max_concurrent = 1, .max_queue = 1000, .max_wait = 1s, .target_delay = 20ms});
  const auto waits = co_await waits_under_overload(controlled, time);
  CHECK(waits.size() >= 95);                                                       // the worker is as busy
  CHECK(std::ranges::count_if(waits, [](duration d) { return d > 20ms; }) <= 12);  // of the intervals between
  CHECK(controlled.stats().queue_timeouts > 100);

  bulkhead newest(
      "newest",
      {.max_concurrent = 1, .max_queue = 1000, .max_wait = 1s, .order = queue_order::adaptive, .target_delay = 20ms});
  const auto short_waits = co_await waits_under_overload(newest, time);
  CHECK(short_waits.size() >= 95);
  CHECK(std::ranges::count_if(short_waits, [](duration d) { return d <= 10ms; }) > 80);
}

ASYNC_TEST("a queue that empties now and then is left alone", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 1,
                         .max_queue = 100,
                         .max_wait = 1s,
                         .order = queue_order::adaptive,
                         .target_delay = 5ms,
                         .interval = 100ms});
  std::vector<int> begun;
  const auto executor = co_await net::this_coro::executor;
  for (int id = 0; id < 8; ++id) start(executor, pool, begun, id, 10ms);
  co_await sleep_for(1s);
  CHECK(begun == std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7});
  CHECK(pool.stats().queue_timeouts == 0);
}

ASYNC_TEST("clear_queue completes every waiting call with an error", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 1, .max_queue = 10});
  std::vector<int> begun;
  int cleared = 0;
  const auto executor = co_await net::this_coro::executor;
  start(executor, pool, begun, 0, 10ms);
  co_await sleep_for(1ms);
  const auto waiting = [&]() -> awaitable<void> {
    const auto result = co_await pool.try_run(lasting, 1ms);
    if (result.why().is_refusal(errc::queue_cleared)) ++cleared;
  };
  for (int i = 0; i < 3; ++i) spawn(executor, waiting);
  co_await sleep_for(1ms);
  CHECK(pool.clear_queue() == 3);
  co_await sleep_for(1ms);
  CHECK(cleared == 3);
  CHECK(pool.active_count() == 1);
  co_await sleep_for(10ms);  // the pool must outlive its calls
}

ASYNC_TEST("resizing lets waiting calls in at once and never interrupts running ones", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 1, .max_queue = 10});
  std::vector<int> begun;
  const auto executor = co_await net::this_coro::executor;
  for (int id = 0; id < 4; ++id) start(executor, pool, begun, id, 10ms);
  co_await sleep_for(1ms);
  pool.resize(3);
  co_await sleep_for(0ms);
  CHECK(begun.size() == 3);
  pool.resize(1);
  CHECK(pool.active_count() == 3);
  co_await sleep_for(9ms);
  co_await sleep_for(2ms);
  CHECK(begun.size() == 4);
  CHECK(pool.active_count() == 1);
  co_await sleep_for(20ms);
  CHECK(pool.active_count() == 0);
  CHECK_THROWS_AS(pool.resize(0), invalid_options_error);
}

ASYNC_TEST("a permit returns after a value, after an error, and after a cancelled wait", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 1, .max_queue = 1});
  const int value = co_await pool.run(lasting, 1ms);
  CHECK(value == 1);
  const auto failed = co_await pool.try_run([] { throw std::runtime_error("no"); });
  CHECK(failed.why().message() == "no");
  CHECK(pool.active_count() == 0);
  std::vector<int> begun;
  const auto executor = co_await net::this_coro::executor;
  start(executor, pool, begun, 0, 10ms);
  co_await sleep_for(1ms);
  const auto waiting = start(executor, pool, begun, 1, 10ms);
  co_await sleep_for(1ms);
  waiting.cancel();
  co_await sleep_for(1ms);
  CHECK(pool.pending_count() == 0);
  co_await sleep_for(10ms);
  CHECK(begun == std::vector<int>{0});
  CHECK(pool.active_count() == 0);
}

TEST_CASE("permits return when the context is destroyed with calls running, waiting and just let in", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 2, .max_queue = 10});
  {
    net::io_context context(1);
    virtual_time time(context);
    std::vector<int> begun;
    for (int id = 0; id < 6; ++id) start(context.get_executor(), pool, begun, id, 10ms);
    time.run_for(1ms);
    CHECK(pool.active_count() == 2);
    pool.resize(3);  // one more has its permit, but has not run yet
    CHECK(pool.active_count() == 3);
    CHECK(begun.size() == 2);
  }
  CHECK(pool.active_count() == 0);
  CHECK(pool.pending_count() == 0);
}

ASYNC_TEST("map keeps the order of the items and the limit", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 3, .max_queue = 0});
  std::size_t most = 0;
  const auto task = [&](int i) -> awaitable<int> {
    most = std::max(most, pool.active_count());
    co_await sleep_for(std::chrono::milliseconds(10 - i));
    co_return i* i;
  };
  std::vector<int> items{1, 2, 3, 4, 5, 6, 7};
  const auto squares = co_await pool.map(items, task);
  CHECK(squares == std::vector<int>{1, 4, 9, 16, 25, 36, 49});
  CHECK(most == 3);
}

ASYNC_TEST("map stops drawing at the first error and throws it when all has ended", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 2});
  int begun = 0;
  const auto task = [&](int i) -> awaitable<int> {
    ++begun;
    co_await sleep_for(1ms);
    if (i == 2) throw std::runtime_error("second");
    co_await sleep_for(9ms);
    co_return i;
  };
  std::string what;
  std::vector<int> items{1, 2, 3, 4, 5};
  try {
    (void)co_await pool.map(items, task);
  } catch (const std::runtime_error& e) {
    what = e.what();
  }
  CHECK(what == "second");
  CHECK(begun == 2);
  CHECK(time.elapsed() == 10ms);
  CHECK(pool.active_count() == 0);
}

ASYNC_TEST("a cancelled map whose function ignores it throws, and keeps no permit", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 2});
  std::size_t started = 0;
  std::exception_ptr error;
  const auto body = [&]() -> awaitable<void> {
    const auto function = [&](int) -> awaitable<int> {
      ++started;
      return stubborn(1h, true);
    };
    try {
      (void)co_await pool.map(std::vector<int>(5), function);
    } catch (const net::asio_system_error&) {
      error = std::current_exception();
    }
  };
  const auto executor = co_await net::this_coro::executor;
  const auto job = spawn(executor, body);
  co_await sleep_for(1ms);
  job.cancel();
  co_await sleep_for(1ms);
  CHECK(error != nullptr);
  CHECK(started == 2);
  CHECK(pool.active_count() == 0);
}

TEST_CASE("cancelling a queued call at any step leaks no permit", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 1, .max_queue = 2});
  const auto operation = [&]() -> awaitable<void> {
    const auto executor = co_await net::this_coro::executor;
    std::vector<int> begun;
    const auto holder = [&]() -> awaitable<void> { (void)co_await pool.try_run(lasting, 3ms); };
    spawn(executor, holder);
    co_await sleep_for(1ms);
    (void)co_await pool.try_run(lasting, 2ms);
  };
  const auto steps = test::cancel_at_every_step(operation, [&] {
    CHECK(pool.active_count() == 0);
    CHECK(pool.pending_count() == 0);
  });
  CHECK(steps >= 4);
}

ASYNC_TEST("a map of a function without results tells that it ran for each item", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 2});
  int sum = 0;
  const auto add = [&](int i) -> awaitable<void> {
    co_await sleep_for(1ms);
    sum += i;
  };
  const std::vector<int> items{1, 2, 3};
  const auto done = co_await pool.map(items, add);
  CHECK(done.size() == 3);
  CHECK(sum == 6);
}

ASYNC_TEST("items of a map wait for their permits, whatever the queue's limits say", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 2, .max_queue = 0, .max_wait = 1ms});
  const auto executor = co_await net::this_coro::executor;
  const auto one = [](int i) -> awaitable<int> {
    co_await sleep_for(1s);
    co_return i;
  };
  std::size_t done = 0;
  const std::vector<int> items{1, 2, 3, 4};
  const auto map_all = [&]() -> awaitable<void> { done += (co_await pool.map(items, one)).size(); };
  spawn(executor, map_all);
  spawn(executor, map_all);
  co_await sleep_for(500ms);
  pool.resize(1);
  const auto refused = co_await pool.try_run(one, 1);
  CHECK(refused.why().is_refusal(errc::bulkhead_full));
  co_await sleep_for(10s);
  CHECK(done == 8);
  CHECK(pool.active_count() == 0);
}

ASYNC_TEST("items of a map are not hurried by a target delay, and clear_queue reaches them", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 1, .max_queue = 10, .target_delay = 5ms, .interval = 10ms});
  const auto executor = co_await net::this_coro::executor;
  const auto one = [](int i) -> awaitable<int> {
    co_await sleep_for(1s);
    co_return i;
  };
  const std::vector<int> items{1, 2};
  std::optional<outcome<std::vector<int>>> first, second;
  const auto map_into = [&](std::optional<outcome<std::vector<int>>>* result) -> awaitable<void> {
    const auto mapping = [&] { return pool.map(items, one); };
    *result = co_await try_with_timeout(1h, mapping);
  };
  const auto late = [&]() -> awaitable<void> { (void)co_await pool.try_run(one, 1); };
  spawn(executor, map_into, &first);
  spawn(executor, map_into, &second);
  co_await sleep_for(100ms);
  spawn(executor, late);  // finds a standing queue, and drops whoever waited longer than 5 ms
  co_await sleep_for(100ms);
  CHECK(pool.pending_count() == 1);
  CHECK(pool.clear_queue() == 1);
  co_await sleep_for(10s);
  REQUIRE(first);
  REQUIRE(second);
  CHECK(first->has_value());
  CHECK(second->why().is_refusal(errc::queue_cleared));
}

ASYNC_TEST("a call that was cancelled while it waited was not cleared", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 1, .max_queue = 5});
  const auto executor = co_await net::this_coro::executor;
  failure why;
  const auto holder = [&]() -> awaitable<void> { (void)co_await pool.try_run(lasting, 1s); };
  const auto waiter = [&]() -> awaitable<void> { why = (co_await pool.try_run(lasting, 1s)).why(); };
  spawn(executor, holder);
  const auto waiting = spawn(executor, waiter);
  co_await sleep_for(1ms);
  waiting.cancel();
  CHECK(pool.clear_queue() <= 1);
  const auto cleared = pool.stats().cleared;
  co_await sleep_for(1ms);
  CHECK(why.is_cancellation() == (cleared == 0));
  co_await sleep_for(2s);
}

TEST_CASE("many threads never exceed the limit and lose no permit", "[bulkhead][concurrent]") {
  bulkhead pool("pool", {.max_concurrent = 3, .max_queue = 1000});
  std::atomic<int> inside{0}, most{0}, done{0};
  const auto task = [&]() -> awaitable<void> {
    const int now = ++inside;
    int seen = most;
    while (now > seen && !most.compare_exchange_weak(seen, now)) {
    }
    const auto executor = co_await net::this_coro::executor;
    co_await net::post(executor, net::use_awaitable);
    --inside;
  };
  const auto caller = [&]() -> awaitable<void> {
    for (int i = 0; i < 200; ++i) {
      (void)co_await pool.try_run(task);
      ++done;
    }
  };
  net::thread_pool threads(4);
  for (int i = 0; i < 16; ++i) spawn(threads, caller);
  threads.join();
  CHECK(done == 16 * 200);
  CHECK(most <= 3);
  CHECK(pool.active_count() == 0);
  CHECK(pool.pending_count() == 0);
}
