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

TEST_CASE("the core: growth, drops, idle limits, windows", "[adaptive_limiter]") {
  const auto window = [](detail::limit_core& core, duration& now, duration latency, std::size_t in_flight,
                         int drops = 0) {
    for (int i = 0; i < 20; ++i) (void)core.measure(latency, in_flight, time_point(now));
    for (int i = 0; i < drops; ++i) (void)core.drop(in_flight, time_point(now));
    now += 1s;
    return core.measure(latency, in_flight, time_point(now));
  };
  SECTION("gradient") {
    detail::limit_core core({.initial_limit = 100, .rebaseline_after = 0});
    duration now{};
    CHECK_FALSE(core.measure(10ms, 100, time_point(now)));
    CHECK(window(core, now, 10ms, 100));
    CHECK(core.limit() == 102);  // + sqrt(100) * 0.2
    CHECK(window(core, now, 15ms, 100));
    CHECK(core.limit() == 104);  // within the tolerance
    CHECK(window(core, now, 30ms, 100));
    CHECK(core.limit() == 95);  // 0.8 * 104.02 + 0.2 * (104.02 / 2 + sqrt(104.02))
    CHECK(window(core, now, 10ms, 30));
    CHECK(core.limit() == 95);  // nobody comes near it
    CHECK(window(core, now, 10ms, 100, 1));
    CHECK(core.limit() == 86);  // 0.9 * 95.6
    CHECK(core.drops() == 1);
    CHECK(core.baseline() == 10ms);
  }
  SECTION("aimd") {
    detail::limit_core core({.algorithm = limit_algorithm::aimd, .initial_limit = 10, .max_limit = 12});
    duration now{};
    CHECK(window(core, now, 10ms, 10));
    CHECK(core.limit() == 11);
    CHECK(window(core, now, 10s, 10));
    CHECK(core.limit() == 12);
    CHECK(window(core, now, 10ms, 10));
    CHECK(core.limit() == 12);
    CHECK(window(core, now, 10ms, 10, 3));
    CHECK(core.limit() == 10);
    CHECK(window(core, now, 10ms, 4));
    CHECK(core.limit() == 10);
  }
  SECTION("few calls decide nothing") {
    detail::limit_core core({.minimum_samples = 5});
    for (int i = 0; i < 4; ++i) CHECK_FALSE(core.measure(1ms, 1, time_point(i * 10s)));
    CHECK(core.measure(1ms, 1, time_point(50s)));
  }
  SECTION("never below the least") {
    detail::limit_core core({.initial_limit = 3, .min_limit = 2});
    duration now{};
    for (int i = 0; i < 50; ++i) (void)window(core, now, 10ms, 3, 1);
    CHECK(core.limit() == 2);
  }
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

TEST_CASE("limits that cannot work are refused", "[adaptive_limiter]") {
  CHECK(validate(adaptive_limiter_options{}).empty());
  CHECK(validate(adaptive_limiter_options{.min_limit = 0}).size() == 1);
  CHECK(validate(adaptive_limiter_options{.max_limit = 10}).size() == 1);
  CHECK(validate(adaptive_limiter_options{.window = 0s}).size() == 1);
  CHECK(validate(adaptive_limiter_options{.minimum_samples = 0}).size() == 1);
  CHECK(validate(adaptive_limiter_options{.tolerance = 0.5}).size() == 1);
  CHECK(validate(adaptive_limiter_options{.backoff = 1.0}).size() == 1);
  CHECK(validate(adaptive_limiter_options{.max_wait = 0s}).size() == 1);
  CHECK_THROWS_AS(adaptive_limiter("bad", {.min_limit = 0}), invalid_options_error);
}
