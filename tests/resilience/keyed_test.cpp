// One policy per key: who shares, who is forgotten, and that what matters is not.
#include "async_test.hpp"
#include "harness.hpp"
#include "tasks.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/keyed.hpp>
#include <cofferdam/resilience/rate_limiter.hpp>
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

call_info about(std::string_view key) {
  call_info info;
  info.key = key;
  return info;
}

std::shared_ptr<policy> quick_breaker(std::string_view key) {
  return std::make_shared<circuit_breaker>(
      std::string(key), circuit_breaker_options{.minimum_calls = 1, .window_calls = 1, .break_duration = 1s});
}

/// Has nothing to lose but that it refuses.
class closed_door final : public runnable_policy<closed_door> {
 public:
  admission admit(call& c, policy_slot&) noexcept override { return c.refuse(errc::circuit_open, nullptr); }
  verdict settle(call&, policy_slot&, const outcome_view&) noexcept override { return verdict::deliver; }
  [[nodiscard]] bool is_tripped() const noexcept override { return true; }
  [[nodiscard]] std::string describe() const override { return "closed door"; }
};

}  // namespace

ASYNC_TEST("each key has a policy of its own", "[keyed]") {
  keyed hosts("hosts", quick_breaker);
  (void)co_await hosts.try_run(about("a"), broken);
  const auto a = co_await hosts.try_run(about("a"), fine);
  const auto b = co_await hosts.try_run(about("b"), fine);
  CHECK(a.why().is_refusal(errc::circuit_open));
  CHECK(a.why().policy() == "a");
  CHECK(b.has_value());
  CHECK(hosts.find<circuit_breaker>("a")->state() == circuit_state::open);
  CHECK(hosts.find<circuit_breaker>("c") == nullptr);
  CHECK(hosts.find<bulkhead>("a") == nullptr);
  CHECK(hosts.stats().keys == 2);
  CHECK(hosts.stats().tripped == 1);
  co_await sleep_for(1s);
  const auto healed = co_await hosts.try_run(about("a"), fine);
  CHECK(healed.has_value());
}

ASYNC_TEST("the key used longest ago is forgotten, never an open circuit, nor one with a call in flight", "[keyed]") {
  keyed hosts("hosts", quick_breaker, {.max_keys = 3});
  const auto executor = co_await net::this_coro::executor;
  (void)co_await hosts.try_run(about("open"), broken);
  spawn(executor, [&hosts]() -> awaitable<void> { (void)co_await hosts.try_run(about("flying"), lasting, 1h); });
  co_await sleep_for(1ms);
  for (const char* key : {"x", "y", "z"}) (void)co_await hosts.try_run(about(key), fine);
  CHECK(hosts.find<circuit_breaker>("open") != nullptr);
  CHECK(hosts.find<circuit_breaker>("flying") != nullptr);
  CHECK(hosts.find<circuit_breaker>("x") == nullptr);
  CHECK(hosts.find<circuit_breaker>("z") != nullptr);
  CHECK(hosts.stats().keys == 3);
  CHECK(hosts.stats().evicted == 2);
  co_await sleep_for(1h);
}

ASYNC_TEST("whatever refuses calls is not forgotten, even if it calls itself idle", "[keyed]") {
  keyed hosts("hosts", [](std::string_view) { return std::make_shared<closed_door>(); }, {.max_keys = 1});
  (void)co_await hosts.try_run(about("a"), fine);
  (void)co_await hosts.try_run(about("b"), fine);
  CHECK(hosts.find<closed_door>("a") != nullptr);
  CHECK(hosts.stats().evicted == 0);
}

ASYNC_TEST("keys that must stay do not keep idle ones from being forgotten", "[keyed]") {
  keyed hosts("hosts", quick_breaker, {.max_keys = 300});
  const auto call = [&](const std::string& key, auto task) { return hosts.try_run(about(key), task); };
  for (int i = 0; i < 200; ++i) (void)co_await call("down" + std::to_string(i), broken);
  for (int i = 0; i < 100; ++i) (void)co_await call("idle" + std::to_string(i), fine);
  for (int i = 0; i < 10; ++i) (void)co_await call("new" + std::to_string(i), fine);
  const auto s = hosts.stats();
  CHECK(s.tripped == 200);
  CHECK(s.overflowed == 3);  // while the search came past those that are open
  CHECK(s.evicted == 7);
  CHECK(hosts.find<circuit_breaker>("down0") != nullptr);
  CHECK(hosts.find<circuit_breaker>("idle0") == nullptr);
  CHECK(hosts.find<circuit_breaker>("idle99") != nullptr);
}

ASYNC_TEST("where nothing can be forgotten, further keys share one policy", "[keyed]") {
  keyed hosts("hosts", quick_breaker, {.max_keys = 2});
  (void)co_await hosts.try_run(about("a"), broken);
  (void)co_await hosts.try_run(about("b"), broken);
  (void)co_await hosts.try_run(about("c"), broken);
  const auto d = co_await hosts.try_run(about("d"), fine);
  CHECK(d.why().is_refusal(errc::circuit_open));
  CHECK(hosts.stats().keys == 2);
  CHECK(hosts.stats().overflowed == 2);
  // Healed and clean, they make room again.
  co_await sleep_for(1s);
  for (int i = 0; i < 5; ++i) (void)co_await hosts.try_run(about("a"), fine);
  (void)co_await hosts.try_run(about("e"), fine);
  CHECK(hosts.find<circuit_breaker>("e") != nullptr);
  CHECK(hosts.find<circuit_breaker>("b") != nullptr);
}

ASYNC_TEST("too many open circuits let calls pass", "[keyed]") {
  keyed hosts("hosts", quick_breaker, {.max_tripped_share = 0.5});
  for (const char* key : {"a", "b", "c", "d"}) (void)co_await hosts.try_run(about(key), fine);
  for (const char* key : {"a", "b"}) (void)co_await hosts.try_run(about(key), broken);
  const auto refused = co_await hosts.try_run(about("a"), fine);
  CHECK(refused.why().is_refusal(errc::circuit_open));
  (void)co_await hosts.try_run(about("c"), broken);
  CHECK(hosts.stats().tripped == 3);
  const auto passed = co_await hosts.try_run(about("a"), fine);
  CHECK(passed.has_value());
  CHECK(hosts.stats().failed_open == 1);
  co_await sleep_for(1s);
  (void)co_await hosts.try_run(about("c"), fine);  // a good probe or five closes it
  for (int i = 0; i < 10; ++i) (void)co_await hosts.try_run(about("c"), fine);
  CHECK(hosts.stats().tripped == 2);
  const auto again = co_await hosts.try_run(about("d"), fine);
  CHECK(again.has_value());
}

ASYNC_TEST("policies that make calls wait, or try again, work by key too", "[keyed]") {
  keyed tenants("tenants", [](std::string_view key) {
    return std::make_shared<bulkhead>(std::string(key), bulkhead_options{.max_concurrent = 1, .max_queue = 1});
  });
  const auto executor = co_await net::this_coro::executor;
  int done = 0;
  for (int i = 0; i < 2; ++i) {
    spawn(executor, [&]() -> awaitable<void> {
      (void)co_await tenants.try_run(about("a"), lasting, 10ms);
      ++done;
    });
  }
  co_await sleep_for(1ms);
  const auto third = co_await tenants.try_run(about("a"), fine);
  CHECK(third.why().is_refusal(errc::bulkhead_full));
  co_await sleep_for(30ms);
  CHECK(done == 2);
  CHECK(tenants.find<bulkhead>("a")->is_idle(time.now()));

  keyed patient("patient", [](std::string_view) { return std::make_shared<retry>(retry_options{.max_attempts = 3}); });
  (void)co_await patient.try_run(about("a"), broken);
  CHECK(patient.find<retry>("a")->stats().retries == 2);
}

TEST_CASE("cancelled by key at any step, nothing is left behind", "[keyed]") {
  keyed tenants("tenants",
                [](std::string_view key) {
                  return std::make_shared<bulkhead>(std::string(key),
                                                    bulkhead_options{.max_concurrent = 1, .max_queue = 1});
                },
                {.max_keys = 1});
  const auto operation = [&]() -> awaitable<void> {
    const auto executor = co_await net::this_coro::executor;
    spawn(executor, [&tenants]() -> awaitable<void> { (void)co_await tenants.try_run(about("a"), lasting, 5ms); });
    co_await sleep_for(1ms);
    (void)co_await tenants.try_run(about("a"), lasting, 5ms);
  };
  const auto steps = cancel_at_every_step(operation, [&] {
    const auto pool = tenants.find<bulkhead>("a");
    if (pool != nullptr) CHECK(pool->is_idle(time_point(1h)));
  });
  CHECK(steps >= 3);
}

ASYNC_TEST("what cannot be made is the call's failure", "[keyed]") {
  keyed broken_factory("broken", [](std::string_view) -> std::shared_ptr<policy> { throw std::runtime_error("no"); });
  const auto first = co_await broken_factory.try_run(about("a"), fine);
  CHECK(first.why().message() == "no");
  CHECK(broken_factory.stats().keys == 0);
  keyed null_factory("null", [](std::string_view) { return std::shared_ptr<policy>(); });
  const auto second = co_await null_factory.try_run(about("a"), fine);
  CHECK(second.why().is_refusal(errc::invalid_options));
  keyed scoped("scoped", [](std::string_view) { return std::make_shared<timeout>(1s); });
  const auto third = co_await scoped.try_run(about("a"), fine);
  CHECK(third.why().is_refusal(errc::invalid_options));
  CHECK_THROWS_AS(keyed("bad", quick_breaker, {.max_keys = 0}), invalid_options_error);
  CHECK_THROWS_AS(keyed("bad", quick_breaker, {.max_tripped_share = 1.5}), invalid_options_error);
  CHECK_THROWS_AS(keyed("bad", nullptr), invalid_options_error);
}

ASYNC_TEST("idle is what a new one would be", "[keyed]") {
  const auto now = [&time] { return time.now(); };
  rate_limiter limiter("limiter", {.permits = 2, .period = 1s});
  CHECK(limiter.is_idle(now()));
  co_await limiter.acquire();
  CHECK_FALSE(limiter.is_idle(now()));
  co_await sleep_for(500ms);
  CHECK(limiter.is_idle(now()));
  circuit_breaker breaker("breaker", {.minimum_calls = 100, .window = 10s});
  (void)co_await breaker.try_fire(broken);
  CHECK_FALSE(breaker.is_idle(now()));
  co_await sleep_for(11s);
  CHECK(breaker.is_idle(now()));
  breaker.isolate();
  CHECK(breaker.is_tripped());
  CHECK_FALSE(breaker.is_idle(now()));
}

TEST_CASE("many threads, many keys", "[keyed][concurrent]") {
  keyed hosts("hosts", quick_breaker, {.max_keys = 5, .max_tripped_share = 0.5});
  net::thread_pool threads(4);
  std::atomic<int> ended{0};
  const auto caller = [&](int first) -> awaitable<void> {
    for (int i = 0; i < 200; ++i) {
      const std::string key = "host" + std::to_string((i * 7 + first) % 9);
      (void)co_await hosts.try_run(about(key), [&] {
        if (i % 5 == 0) throw std::runtime_error("down");
      });
      ++ended;
    }
  };
  for (int t = 0; t < 8; ++t) spawn(threads, caller, t);
  threads.join();
  CHECK(ended == 1600);
  CHECK(hosts.stats().keys <= 5);
}
