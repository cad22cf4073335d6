// Parking: resumed exactly once, by whoever comes first, or destroyed with the context.
#include "async_test.hpp"

#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>

#include <atomic>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace parked_test {
namespace {

/// Parks and notes why it was resumed.
awaitable<void> wait_for_it(detail::parked_reference& who, time_point until, std::optional<wake_reason>& why) {
  const auto enlist = [&](const detail::parked_reference& self) { who = self; };
  why = co_await park(until, enlist);
}

ASYNC_TEST("a parked coroutine is resumed by its waker, by time, or by its cancellation, and says which",
           "[core][parked]") {
  const auto executor = co_await net::this_coro::executor;
  detail::parked_reference who;
  std::optional<wake_reason> why;
  const auto start = [&](time_point until) {
    why.reset();
    return spawn(executor, [&, until] { return wait_for_it(who, until, why); });
  };
  start(never);
  co_await sleep_for(1s);
  CHECK_FALSE(why);
  CHECK(who->wake(wake_reason::woken));
  CHECK_FALSE(why);  // resumed by a posted handler, never from within
  co_await sleep_for(0s);
  CHECK(why == wake_reason::woken);

  start(time.now() + 5s);
  co_await sleep_for(5s);
  co_await sleep_for(0s);
  CHECK(why == wake_reason::timed_out);

  const auto job = start(never);
  co_await sleep_for(1s);
  job.cancel();
  co_await sleep_for(0s);
  CHECK(why == wake_reason::cancelled);
}

ASYNC_TEST("only the first of several wakers wins", "[core][parked]") {
  const auto executor = co_await net::this_coro::executor;
  detail::parked_reference who;
  std::optional<wake_reason> why;
  const auto job = spawn(executor, [&] { return wait_for_it(who, time.now() + 5s, why); });
  co_await sleep_for(1s);
  CHECK(who->wake(wake_reason::woken));
  CHECK_FALSE(who->wake(wake_reason::cancelled));
  job.cancel();
  co_await sleep_for(10s);
  CHECK(why == wake_reason::woken);
  CHECK_FALSE(who->wake(wake_reason::woken));  // long gone
  CHECK(timers_of(executor).pending() == 0);
}

ASYNC_TEST("a waker that is there at once wakes all the same", "[core][parked]") {
  const auto at_once = [](const detail::parked_reference& self) { self->wake(wake_reason::woken); };
  const auto why = co_await park(never, at_once);
  CHECK(why == wake_reason::woken);
  const auto nobody = [](const detail::parked_reference&) {};
  const auto late = co_await park(time.now() - 1s, nobody);
  CHECK(late == wake_reason::timed_out);
  CHECK(time.elapsed() == 0s);
}

TEST_CASE("a context that ends destroys what is parked, and a late waker finds nobody", "[core][parked]") {
  auto witness = std::make_shared<int>(0);
  detail::parked_reference asleep, woken;
  {
    net::io_context context(1);
    const auto body = [](std::shared_ptr<int> held, detail::parked_reference* who) -> awaitable<void> {
      std::optional<wake_reason> why;
      co_await wait_for_it(*who, never, why);
      (void)held;
    };
    spawn(context, body, witness, &asleep);
    spawn(context, body, witness, &woken);
    context.poll();
    CHECK(woken->wake(wake_reason::woken));  // posted, but never run
    CHECK(witness.use_count() >= 3);
  }
  CHECK(witness.use_count() == 1);
  CHECK_FALSE(asleep->wake(wake_reason::woken));
  CHECK_FALSE(woken->wake(wake_reason::woken));
}

TEST_CASE("a parked coroutine keeps run() going until it is woken from another thread", "[core][parked][concurrent]") {
  for (int round = 0; round < 50; ++round) {
    net::io_context context(1);
    detail::parked_reference who;
    std::optional<wake_reason> why;
    std::atomic<bool> parked{false};
    const auto body = [&]() -> awaitable<void> {
      const auto enlist = [&](const detail::parked_reference& self) {
        who = self;
        parked.store(true, std::memory_order_release);
      };
      why = co_await park(never, enlist);
    };
    spawn(context, body);
    std::thread waker([&] {
      while (!parked.load(std::memory_order_acquire)) std::this_thread::yield();
      CHECK(who->wake(wake_reason::woken));
    });
    context.run();
    waker.join();
    CHECK(why == wake_reason::woken);
  }
}

TEST_CASE("of many threads that wake at once, exactly one does, also against time and cancellation",
          "[core][parked][concurrent]") {
  net::thread_pool pool(4);
  std::atomic<int> resumed{0}, claimed{0}, by_others{0};
  constexpr int count = 200;
  std::vector<spawned> jobs;
  for (int i = 0; i < count; ++i) {
    const auto body = [&, i]() -> awaitable<void> {
      const auto enlist = [&](const detail::parked_reference& self) {
        for (int t = 0; t < 3; ++t) {
          net::post(pool, [&claimed, self] {
            if (self->wake(wake_reason::woken)) ++claimed;
          });
        }
      };
      const auto executor = co_await net::this_coro::executor;
      const auto until = timers_of(executor).now() + std::chrono::microseconds(i);
      const auto why = co_await park(until, enlist);
      if (why != wake_reason::woken) ++by_others;
      ++resumed;
    };
    jobs.push_back(spawn(pool, body));
    if (i % 3 == 0) jobs.back().cancel();
  }
  pool.join();
  CHECK(claimed + by_others == resumed);
  CHECK(resumed <= count);  // one that was cancelled before its first step never parked
  CHECK(resumed >= count - (count + 2) / 3);
}

TEST_CASE("on a bare thread pool a wait that is over at once resumes its coroutine once",
          "[core][parked][concurrent]") {
  net::thread_pool pool(4);
  std::atomic<int> enlisted{0}, resumed{0};
  const auto waits = [&]() -> awaitable<void> {
    for (int i = 0; i < 500; ++i) {
      auto here = std::make_unique<std::atomic<int>>(0);  // gone with the frame, as the waiters of a queue are
      const auto enlist = [&, mine = here.get()](const detail::parked_reference&) {
        ++*mine;
        ++enlisted;
      };
      (void)co_await park(time_point(1ns), enlist);
      here.reset();
      ++resumed;
    }
  };
  for (int i = 0; i < 8; ++i) net::co_spawn(pool, waits, net::detached);
  pool.join();
  CHECK(enlisted == 8 * 500);
  CHECK(resumed == 8 * 500);
}

}  // namespace
}  // namespace parked_test
