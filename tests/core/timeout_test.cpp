// with_timeout: both modes, every ending, every executor.
#include "async_test.hpp"

#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timeout.hpp>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

awaitable<int> answer() { co_return 42; }
awaitable<int> answer_after(duration d) {
  co_await sleep_for(d);
  co_return 42;
}
awaitable<int> throw_after(duration d) {
  co_await sleep_for(d);
  throw std::runtime_error("mine");
}
awaitable<std::unique_ptr<int>> move_only() { co_return std::make_unique<int>(7); }

/// Does not care about cancellation: swallows it and goes on until its time is over.
awaitable<int> stubborn(duration d) {
  const auto executor = co_await net::this_coro::executor;
  const auto end = timers_of(executor).now() + d;
  for (;;) {
    co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
    co_await sleep_until(end);
    co_return 13;
  }
}

/// Takes `d` to clean up when it is cancelled.
awaitable<int> tidy(duration d) {
  try {
    co_await sleep_until(never);
  } catch (const net::asio_system_error&) {  // NOLINT(bugprone-empty-catch): told below
  }
  co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
  co_await sleep_for(d);
  throw net::asio_system_error(net::error::operation_aborted);
}

struct no_default {
  explicit no_default(int v) : value(v) {}
  int value;
};
awaitable<no_default> make_no_default() { co_return no_default(5); }

}  // namespace

ASYNC_TEST("with_timeout returns the value of a task that is in time", "[core][timeout]") {
  const int immediate = co_await with_timeout(1s, answer);
  CHECK(immediate == 42);
  const int suspended = co_await with_timeout(1s, answer_after, 999ms);
  CHECK(suspended == 42);
  CHECK(time.elapsed() == 999ms);
  const auto pointer = co_await with_timeout(1s, move_only);
  CHECK(*pointer == 7);
  const auto odd = co_await with_timeout(1s, make_no_default);
  CHECK(odd.value == 5);
  co_await with_timeout(1s, [] {});
  const int plain = co_await with_timeout(1s, [] { return 3; });
  CHECK(plain == 3);
  const int awaited = co_await with_timeout(1s, answer());
  CHECK(awaited == 42);
}

ASYNC_TEST("with_timeout runs a deferred Asio operation", "[core][timeout]") {
  net::steady_timer timer(co_await net::this_coro::executor, std::chrono::steady_clock::time_point());
  co_await with_timeout(1s, [&](auto token) { return timer.async_wait(token); });
  co_await with_timeout(1s, timer.async_wait(net::deferred));
}

ASYNC_TEST("with_timeout passes the task's exception on at once and unchanged", "[core][timeout]") {
  std::string what;
  try {
    co_await with_timeout(1s, throw_after, 5ms);
  } catch (const std::runtime_error& e) {
    what = e.what();
  }
  CHECK(what == "mine");
  CHECK(time.elapsed() == 5ms);
}

ASYNC_TEST("with_timeout cancels a late task and reports a timeout", "[core][timeout]") {
  bool timed_out = false;
  try {
    co_await with_timeout(50ms, answer_after, 1h);
  } catch (const timeout_error& e) {
    timed_out = e.code() == errc::timed_out;
  }
  CHECK(timed_out);
  CHECK(time.elapsed() == 50ms);
}

ASYNC_TEST("a result that arrives while the task is being cancelled is kept", "[core][timeout]") {
  const int value = co_await with_timeout(50ms, stubborn, 80ms);
  CHECK(value == 13);
  CHECK(time.elapsed() == 80ms);
}

ASYNC_TEST("a detached task is left behind at the limit and ends in the background", "[core][timeout]") {
  auto done = std::make_shared<bool>(false);
  const auto task = [](std::shared_ptr<bool> flag) -> awaitable<int> {
    const int value = co_await stubborn(80ms);
    *flag = true;
    co_return value;
  };
  bool timed_out = false;
  try {
    co_await with_timeout(50ms, on_timeout::detach, task, done);
  } catch (const timeout_error&) {
    timed_out = true;
  }
  CHECK(timed_out);
  CHECK(time.elapsed() == 50ms);
  CHECK_FALSE(*done);
  co_await sleep_for(30ms);
  CHECK(*done);
}

ASYNC_TEST("the caller's cancellation is never reported as a timeout", "[core][timeout]") {
  bool aborted = false;
  const auto body = [&]() -> awaitable<void> {
    try {
      co_await with_timeout(50ms, answer_after, 1h);
    } catch (const net::asio_system_error& e) {
      aborted = e.code() == net::error::operation_aborted;
      throw;
    }
  };
  const auto executor = co_await net::this_coro::executor;
  const auto job = spawn(executor, body);
  co_await sleep_for(20ms);
  job.cancel();
  co_await sleep_for(0ms);
  CHECK(aborted);
  CHECK(time.elapsed() == 20ms);
}

ASYNC_TEST("a task that the caller cancelled did not time out, even if the limit passes before it ends",
           "[core][timeout]") {
  failure why;
  const auto body = [&]() -> awaitable<void> {
    const auto ended = co_await try_with_timeout(50ms, tidy, 100ms);
    why = ended.why();
  };
  const auto executor = co_await net::this_coro::executor;
  const auto job = spawn(executor, body);
  co_await sleep_for(20ms);
  job.cancel();
  co_await sleep_for(1s);
  CHECK(why.is_cancellation());
}

ASYNC_TEST("a nested limit belongs to whoever set it", "[core][timeout]") {
  // The inner one is earlier: the inner times out, the outer passes its error on.
  const auto inner = []() -> awaitable<int> { co_return co_await with_timeout(10ms, answer_after, 1h); };
  const auto first = co_await try_with_timeout(20ms, inner);
  CHECK(first.why().is_refusal(errc::timed_out));
  CHECK(time.elapsed() == 10ms);

  // The outer one is earlier: inside it is a cancellation, outside a timeout.
  bool inner_saw_cancellation = false;
  const auto outlived = [&]() -> awaitable<int> {
    auto result = co_await try_with_timeout(1h, answer_after, 2h);
    inner_saw_cancellation = result.why().is_cancellation();
    co_return std::move(result).value();
  };
  const auto second = co_await try_with_timeout(20ms, outlived);
  CHECK(inner_saw_cancellation);
  CHECK(second.why().is_refusal(errc::timed_out));
  CHECK(time.elapsed() == 30ms);
}

ASYNC_TEST("deadlines are inherited as the minimum of all enclosing limits", "[core][deadline]") {
  const auto start = time.now();
  time_point outside, outer, inner, wider;
  const auto read = []() -> awaitable<time_point> { co_return co_await this_coro::deadline(); };
  outside = co_await read();
  const auto nest = [&]() -> awaitable<void> {
    outer = co_await this_coro::deadline();
    inner = co_await with_timeout(100ms, read);
    wider = co_await with_timeout(10h, read);
  };
  co_await with_timeout(1s, nest);
  CHECK(outside == never);
  CHECK(outer == start + 1s);
  CHECK(inner == start + 100ms);
  CHECK(wider == start + 1s);
}

ASYNC_TEST("a spawned grandchild inherits the deadline", "[core][deadline]") {
  time_point seen;
  const auto grandchild = [&]() -> awaitable<void> { seen = co_await this_coro::deadline(); };
  const auto child = [&]() -> awaitable<void> {
    const auto executor = co_await net::this_coro::executor;
    co_await net::co_spawn(executor, grandchild, net::use_awaitable);
  };
  const auto start = time.now();
  co_await with_timeout(3s, child);
  CHECK(seen == start + 3s);
}

ASYNC_TEST("an inherited deadline is kept by whoever outlives the call that set it", "[core][deadline]") {
  std::optional<failure> seen;
  const auto job = [&]() -> awaitable<void> { seen = (co_await try_with_timeout(300ms, answer_after, 1h)).why(); };
  const auto starts_it = [&]() -> awaitable<void> {
    const auto executor = co_await net::this_coro::executor;
    spawn(executor, job);
  };
  co_await with_timeout(100ms, starts_it);
  co_await sleep_for(101ms);
  REQUIRE(seen);
  CHECK(seen->is_refusal(errc::deadline_exceeded));
}

ASYNC_TEST("an inherited deadline also holds below a body that ignores cancellation", "[core][deadline]") {
  time_point inner_ended;
  failure why;
  const auto shielded = [&]() -> awaitable<void> {
    co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
    why = (co_await try_with_timeout(300ms, answer_after, 1h)).why();
    inner_ended = time.now();
  };
  (void)co_await try_with_timeout(100ms, shielded);
  CHECK(why.is_refusal(errc::deadline_exceeded));
  CHECK(inner_ended == time_point(100ms));
}

ASYNC_TEST("a caller that cancels a detaching limit is let go at once, with a cancellation", "[core][timeout]") {
  std::optional<failure> seen;
  time_point ended;
  const auto body = [&]() -> awaitable<void> {
    const auto task = [] { return stubborn(500ms); };
    try {
      (void)co_await with_timeout(200ms, on_timeout::detach, task);
    } catch (const std::exception& e) {
      seen = failure::current(e);
      ended = time.now();
    }
  };
  const auto executor = co_await net::this_coro::executor;
  const auto job = spawn(executor, body);
  co_await sleep_for(50ms);
  job.cancel();
  co_await sleep_for(1s);
  REQUIRE(seen);
  CHECK(seen->is_cancellation());
  CHECK(ended == time_point(50ms));
}

ASYNC_TEST("a cancellation of any type that the caller's filter lets through ends the task", "[core][timeout]") {
  for (const auto type :
       {net::cancellation_type::terminal, net::cancellation_type::partial, net::cancellation_type::total}) {
    net::cancellation_signal signal;
    bool aborted = false;
    const auto body = [&]() -> awaitable<void> {
      co_await net::this_coro::reset_cancellation_state(net::enable_total_cancellation());
      aborted = (co_await try_with_timeout(1h, answer_after, 2h)).why().is_cancellation();
    };
    const auto executor = co_await net::this_coro::executor;
    net::co_spawn(executor, body, net::bind_cancellation_slot(signal.slot(), net::detached));
    co_await sleep_for(1ms);
    signal.emit(type);
    co_await sleep_for(1ms);
    CHECK(aborted);
  }
}

ASYNC_TEST("a limit of zero times out without starting the task", "[core][timeout]") {
  bool started = false;
  const auto task = [&] { started = true; };
  const auto result = co_await try_with_timeout(0s, task);
  CHECK(result.why().is_refusal(errc::timed_out));
  CHECK_FALSE(started);
}

TEST_CASE("a context destroyed with a coroutine under a time limit destroys its frames", "[core][timeout]") {
  auto witness = std::make_shared<int>(0);
  {
    net::io_context context;
    const auto task = [](std::shared_ptr<int> held) -> awaitable<void> {
      co_await with_timeout(10h, answer_after, 20h);
      (void)held;
    };
    spawn(context, task, witness);
    context.poll();
    CHECK(witness.use_count() > 1);
  }
  CHECK(witness.use_count() == 1);
}

TEST_CASE("an awaitable that is never awaited releases its task", "[core][timeout]") {
  auto witness = std::make_shared<int>(0);
  {
    const auto task = [witness]() -> awaitable<void> { co_return; };
    auto never_awaited = with_timeout(1s, task);
  }
  CHECK(witness.use_count() == 1);
}

TEST_CASE("with_timeout works on a real io_context, a strand and a bare thread pool", "[core][timeout][concurrent]") {
  std::atomic<int> values{0}, timeouts{0};
  const auto work = [&]() -> awaitable<void> {
    for (int i = 0; i < 50; ++i) {
      const auto result = co_await try_with_timeout(200us, answer_after, i % 2 == 0 ? 0us : 50ms);
      ++(result ? values : timeouts);
    }
  };
  net::io_context context;
  spawn(context, work);
  context.run();
  net::thread_pool pool(3);
  for (int i = 0; i < 4; ++i) spawn(pool, work);
  for (int i = 0; i < 4; ++i) net::co_spawn(pool, work, net::detached);
  pool.join();
  CHECK(values + timeouts == 9 * 50);
  CHECK(timeouts >= 9 * 25);
}

TEST_CASE("spawn_on runs the task elsewhere and resumes the caller at home", "[core][spawn][concurrent]") {
  net::io_context context;
  net::thread_pool pool(2);
  const auto home = std::this_thread::get_id();
  std::thread::id inside, after;
  int value = 0;
  const auto where = [&] { return inside = std::this_thread::get_id(), 5; };
  spawn(context, [&]() -> awaitable<void> {
    value = co_await spawn_on(pool, where);
    after = std::this_thread::get_id();
  });
  context.run();
  CHECK(value == 5);
  CHECK(inside != home);
  CHECK(after == home);
}

TEST_CASE("cancelling work on another strand is free of races", "[core][spawn][concurrent]") {
  net::thread_pool pool(3);
  std::atomic<int> timed_out{0}, finished{0};
  const auto far = [](int i) -> awaitable<int> {
    for (int k = 0; k < 5; ++k) co_await sleep_for(std::chrono::microseconds(10 + i % 40));
    co_return i;
  };
  const auto worker = [&]() -> awaitable<void> {
    for (int i = 0; i < 100; ++i) {
      const auto elsewhere = [&]() -> awaitable<int> { co_return co_await spawn_on(pool, far, i); };
      const auto result = co_await try_with_timeout(std::chrono::microseconds(200 + 30 * i), elsewhere);
      ++(result ? finished : timed_out);
    }
  };
  for (int w = 0; w < 4; ++w) spawn(pool, worker);
  pool.join();
  CHECK(timed_out + finished == 400);
}
