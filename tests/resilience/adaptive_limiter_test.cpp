// The adaptive limiter against simulated services: it finds their size, follows them, and does not drift.
#include "async_test.hpp"
#include "tasks.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/resilience/adaptive_limiter.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include <algorithm>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

namespace {

/// Works on so many requests at once, the others queue.
class small_service {
 public:
  small_service(std::size_t workers, duration takes)
      : workers_("service", {.max_concurrent = workers, .max_queue = 100'000}), takes_(takes) {}
  void set_duration(duration takes) { takes_ = takes; }
  void set_workers(std::size_t workers) { workers_.resize(workers); }
  [[nodiscard]] std::size_t queued() const { return workers_.pending_count(); }
  awaitable<int> operator()() { return workers_.run(lasting, takes_); }

 private:
  bulkhead workers_;
  duration takes_;
};

/// Sends a call every `gap` until the end; nobody waits for another one's answer.
awaitable<void> load(adaptive_limiter& limiter, small_service& service, duration gap, duration length) {
  const auto executor = co_await net::this_coro::executor;
  for (duration passed{}; passed < length; passed += gap) {
    spawn(executor, [&limiter, &service]() -> awaitable<void> { (void)co_await limiter.try_run(std::ref(service)); });
    co_await sleep_for(gap);
  }
}

}  // namespace

ASYNC_TEST("it grows to what a service can do at once, and not to a queue in front of it", "[adaptive_limiter]") {
  adaptive_limiter limiter("search", {.initial_limit = 2});
  small_service service(10, 20ms);            // 500 calls a second
  co_await load(limiter, service, 1ms, 55s);  // twice that
  // Where limit * 1.5 * 10 / limit + sqrt(limit) = limit: at 19.4, with a queue of half the workers' number and a
  // little.
  CHECK(limiter.limit() >= 17);
  CHECK(limiter.limit() <= 21);
  CHECK(service.queued() <= 11);
  const auto s = limiter.stats();
  CHECK(s.baseline == 20ms);
  CHECK(s.recent <= 42ms);
  CHECK(s.rejected > 20'000);
  co_await sleep_for(1s);
}

ASYNC_TEST("it shrinks when the service does", "[adaptive_limiter]") {
  adaptive_limiter limiter("search", {.initial_limit = 30, .rebaseline_after = 0});
  small_service service(20, 20ms);
  co_await load(limiter, service, 500us, 15s);
  CHECK(limiter.limit() >= 30);
  service.set_workers(4);
  co_await load(limiter, service, 500us, 25s);
  CHECK(limiter.limit() >= 6);
  CHECK(limiter.limit() <= 12);
  co_await sleep_for(1s);
}

ASYNC_TEST("a service that has become slower for good does not starve", "[adaptive_limiter]") {
  adaptive_limiter limiter("search", {.initial_limit = 20, .rebaseline_after = 10});
  small_service service(20, 10ms);
  co_await load(limiter, service, 1ms, 12s);
  CHECK(limiter.stats().baseline == 10ms);
  service.set_duration(60ms);
  co_await load(limiter, service, 1ms, 75s);
  CHECK(limiter.stats().baseline == 60ms);
  CHECK(limiter.limit() >= 20);
  CHECK(limiter.limit() <= 40);
  co_await sleep_for(1s);
}

ASYNC_TEST("under a steady overload the baseline does not drift", "[adaptive_limiter]") {
  adaptive_limiter limiter("search", {.initial_limit = 10, .rebaseline_after = 10});
  small_service service(5, 20ms);
  co_await load(limiter, service, 2ms, 15s);
  const auto early = limiter.stats();
  co_await load(limiter, service, 2ms, 100s);
  const auto late = limiter.stats();
  CHECK(early.baseline == 20ms);
  CHECK(late.baseline == 20ms);
  CHECK(late.limit <= early.limit + 3);
  CHECK(late.baselines >= 8);
  co_await sleep_for(1s);
}

ASYNC_TEST("timeouts are drops, other failures and cancelled calls say nothing", "[adaptive_limiter]") {
  adaptive_limiter limiter("search", {.window = 10ms, .minimum_samples = 1});
  auto calls = limiter | timeout(20ms);
  (void)co_await calls.try_run(lasting, 1h);
  CHECK(limiter.stats().dropped == 1);
  (void)co_await calls.try_run(broken);
  CHECK(limiter.stats().dropped == 1);
  const auto executor = co_await net::this_coro::executor;
  const auto job = spawn(executor, [&]() -> awaitable<void> { (void)co_await limiter.try_run(hanging); });
  co_await sleep_for(50ms);
  job.cancel();
  co_await sleep_for(1ms);
  CHECK(limiter.stats().dropped == 1);
  CHECK(limiter.stats().baselines == 0);
  adaptive_limiter strict("strict");
  strict.classify([](const failure&) { return true; });
  (void)co_await strict.try_run(broken);
  CHECK(strict.stats().dropped == 1);
}

TEST_CASE("a limiter that cannot work is refused", "[adaptive_limiter]") {
  CHECK_THROWS_AS(adaptive_limiter("bad", {.min_limit = 0}), invalid_options_error);
}
