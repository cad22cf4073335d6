// The circuit breaker around coroutines.
#include "async_test.hpp"
#include "harness.hpp"
#include "tasks.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

namespace {

const circuit_breaker_options trips_at_once{.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 5s};

}  // namespace

ASYNC_TEST("fire returns values, passes the task's exception on, and refuses with name, time and cause", "[circuit]") {
  circuit_breaker breaker("payments", trips_at_once);
  const int value = co_await breaker.fire(fine);
  CHECK(value == 1);
  std::string what;
  try {
    co_await breaker.fire(broken);
  } catch (const std::runtime_error& e) {
    what = e.what();
  }
  CHECK(what == "down");
  std::string cause;
  try {
    co_await breaker.fire(fine);
  } catch (const circuit_open_error& e) {
    CHECK(e.policy() == "payments");
    CHECK(e.retry_after() == duration(5s));
    try {
      std::rethrow_exception(e.cause());
    } catch (const std::runtime_error& behind) {
      cause = behind.what();
    }
  }
  CHECK(cause == "down");
}

ASYNC_TEST("a guarded function is fired with its arguments alone", "[circuit]") {
  circuit_breaker breaker("sum");
  auto guarded = breaker.guard([](int a, int b) -> awaitable<int> { co_return a + b; });
  const int sum = co_await guarded.fire(2, 3);
  CHECK(sum == 5);
  const auto tried = co_await guarded.try_fire(4, 5);
  CHECK(*tried == 9);
}

ASYNC_TEST("rules classify values and errors", "[circuit]") {
  circuit_breaker breaker("http", trips_at_once);
  breaker.classify([](const int& status) { return status >= 500; });
  breaker.classify(
      [](const failure& why) { return why.message() == "down" ? outcome_class::ignored : outcome_class::failure; });
  (void)co_await breaker.try_fire(broken);
  CHECK(breaker.state() == circuit_state::closed);
  CHECK(breaker.stats().ignored == 1);
  const int status = co_await breaker.fire([] { return 503; });
  CHECK(status == 503);
  CHECK(breaker.state() == circuit_state::open);
}

ASYNC_TEST("the fallback answers failures and refusals, and is counted", "[circuit]") {
  circuit_breaker breaker("payments", trips_at_once);
  breaker.fallback([](const failure& why) { return why.is_refusal(errc::circuit_open) ? -2 : -1; });
  const int failed = co_await breaker.fire(broken);
  const int refused = co_await breaker.fire(fine);
  CHECK(failed == -1);
  CHECK(refused == -2);
  CHECK(breaker.stats().fallbacks == 2);
  // A call of another type has no fallback and gets the refusal.
  const auto other = co_await breaker.try_fire([] { return std::string("x"); });
  CHECK(other.why().is_refusal(errc::circuit_open));
}

ASYNC_TEST("events come in opossum's order", "[circuit]") {
  circuit_breaker breaker("payments", trips_at_once);
  std::vector<std::string> seen;
  auto watch = breaker.subscribe([&](const circuit_event& e) { seen.emplace_back(to_string(e.kind)); });
  const auto take = [&] { return std::exchange(seen, {}); };
  using names = std::vector<std::string>;

  (void)co_await breaker.try_fire(fine);
  CHECK(take() == names{"fire", "success"});
  (void)co_await breaker.try_fire(broken);
  CHECK(take() == names{"fire", "failure", "opened"});
  (void)co_await breaker.try_fire(fine);
  CHECK(take() == names{"fire", "reject"});
  co_await sleep_for(5s);
  (void)co_await breaker.try_fire(fine);
  CHECK(take() == names{"fire", "half_opened", "closed", "success"});
  auto limited = breaker | timeout(10ms);
  (void)co_await limited.try_run(hanging);
  CHECK(take() == names{"fire", "timeout", "failure", "opened"});
}

ASYNC_TEST("a listener that throws disturbs neither the call nor the other listeners", "[circuit]") {
  circuit_breaker breaker("payments", trips_at_once);
  int heard = 0;
  breaker.on(circuit_event_kind::opened, [](const circuit_event&) { throw std::runtime_error("listener"); });
  breaker.on(circuit_event_kind::opened, [&](const circuit_event&) { ++heard; });
  const auto result = co_await breaker.try_fire(broken);
  CHECK(result.why().message() == "down");
  CHECK(heard == 1);
}

ASYNC_TEST("a listener may use the breaker it listens to", "[circuit]") {
  circuit_breaker breaker("payments", trips_at_once);
  breaker.on(circuit_event_kind::opened, [&](const circuit_event&) { breaker.close(); });
  (void)co_await breaker.try_fire(broken);
  CHECK(breaker.state() == circuit_state::closed);
}

ASYNC_TEST("a cancelled probe gives its place back", "[circuit]") {
  circuit_breaker breaker("payments", trips_at_once);
  (void)co_await breaker.try_fire(broken);
  co_await sleep_for(5s);
  const auto executor = co_await net::this_coro::executor;
  const auto probe = spawn(executor, [&]() -> awaitable<void> { (void)co_await breaker.try_fire(hanging); });
  co_await sleep_for(1ms);
  const auto excess = co_await breaker.try_fire(fine);
  CHECK(excess.why().is_refusal(errc::circuit_open));
  probe.cancel();
  co_await sleep_for(1ms);
  CHECK(breaker.state() == circuit_state::half_open);
  const auto next = co_await breaker.try_fire(fine);
  CHECK(next.has_value());
  CHECK(breaker.state() == circuit_state::closed);
}

TEST_CASE("a probe destroyed with its context gives its place back", "[circuit]") {
  circuit_breaker breaker("payments", trips_at_once);
  breaker.open();
  {
    net::io_context context(1);
    virtual_time time(context);
    const auto probe = [&]() -> awaitable<void> {
      (void)co_await breaker.try_fire(fine);  // starts the break
      co_await sleep_for(5s);
      (void)co_await breaker.try_fire(hanging);
    };
    net::co_spawn(context, probe, net::detached);
    time.run();
    CHECK(breaker.state() == circuit_state::half_open);
  }
  CHECK(breaker.stats().abandoned == 1);
}

ASYNC_TEST("a task may fail by value", "[circuit]") {
  circuit_breaker breaker("payments", trips_at_once);
  const auto task = []() -> awaitable<outcome<int>> { co_return failure::refused(errc::injected_fault); };
  const auto result = co_await breaker.try_fire(task);
  CHECK(result.why().is_refusal(errc::injected_fault));
  CHECK(breaker.state() == circuit_state::open);
}

ASYNC_TEST("latency percentiles are kept on request", "[circuit]") {
  circuit_breaker breaker("slow", {.record_latency = true});
  for (int i = 1; i <= 100; ++i) {
    const auto task = [&]() -> awaitable<int> {
      co_await sleep_for(std::chrono::milliseconds(i));
      co_return i;
    };
    (void)co_await breaker.fire(task);
  }
  const auto latency = breaker.stats(time.now()).latency;
  CHECK(latency.count == 100);
  CHECK(latency.max == 100ms);
  CHECK(latency.mean == 50500us);
  CHECK(std::chrono::abs(latency.p50 - 50ms) < 3200us);  // the histogram's resolution: 1/16
  CHECK(std::chrono::abs(latency.p99 - 99ms) < 6200us);
}

TEST_CASE("an idle breaker is small", "[circuit]") { CHECK(sizeof(circuit_breaker) <= 512); }

namespace circuit_breaker_test {
namespace {

/// A breaker with one probe, half-open, and its probe in flight for `d`.
struct probing_breaker {
  explicit probing_breaker(duration probe_wait)
      : breaker("probing", {.minimum_calls = 1,
                            .window_calls = 1,
                            .probes = 1,
                            .probe_deadline = 10s,
                            .break_duration = 1s,
                            .probe_wait = probe_wait}) {}
  awaitable<void> probe(duration d, bool fails) {
    (void)co_await breaker.try_fire(throwing);
    co_await sleep_for(1s);
    const auto executor = co_await net::this_coro::executor;
    job = spawn(executor, [this, d, fails]() -> awaitable<void> {
      const auto task = [&]() -> awaitable<void> {
        co_await sleep_for(d);
        if (fails) throw std::runtime_error("still");
      };
      (void)co_await breaker.try_fire(task);
    });
    co_await sleep_for(1ms);
  }
  static int throwing() { throw std::runtime_error("no"); }

  circuit_breaker breaker;
  std::optional<spawned> job;
};

int one() { return 1; }

ASYNC_TEST("a call may wait for the probes' verdict: it goes when they close the circuit", "[circuit]") {
  probing_breaker p(5s);
  co_await p.probe(1s, false);
  const auto begin = time.now();
  const auto result = co_await p.breaker.try_fire(one);
  CHECK(result.has_value());
  CHECK(time.now() - begin == 999ms);
  CHECK(p.breaker.stats().rejected == 0);
}

ASYNC_TEST("a call that waits for the probes is refused when they re-open the circuit, at once", "[circuit]") {
  probing_breaker p(5s);
  int rejected = 0;
  p.breaker.on(circuit_event_kind::reject, [&](const circuit_event&) { ++rejected; });
  co_await p.probe(1s, true);
  const auto begin = time.now();
  const auto result = co_await p.breaker.try_fire(one);
  CHECK(result.why().is_refusal(errc::circuit_open));
  CHECK(result.why().retry_after() == duration(2s));
  CHECK(time.now() - begin == 999ms);
  CHECK(p.breaker.stats().rejected == 1);
  CHECK(rejected == 1);
}

ASYNC_TEST("a call waits for the probes no longer than it may, and leaves at once when it is cancelled", "[circuit]") {
  probing_breaker p(500ms);
  co_await p.probe(2s, false);
  const auto begin = time.now();
  const auto patient = co_await p.breaker.try_fire(one);
  CHECK(patient.why().is_refusal(errc::circuit_open));
  CHECK(time.now() - begin == 500ms);
  const auto firing = [&]() -> awaitable<int> { return p.breaker.fire(one); };
  const auto limited = co_await try_with_timeout(100ms, firing);
  CHECK(limited.why().is_refusal(errc::timed_out));
  CHECK(time.now() - begin == 600ms);
  co_await sleep_for(2s);
}

ASYNC_TEST("a waiting call takes the place of a probe that was cancelled, or that hangs", "[circuit]") {
  {
    probing_breaker p(5s);
    co_await p.probe(1h, false);
    bool went = false;
    const auto body = [&]() -> awaitable<void> { went = (co_await p.breaker.try_fire(one)).has_value(); };
    const auto executor = co_await net::this_coro::executor;
    spawn(executor, body);
    co_await sleep_for(1s);
    CHECK_FALSE(went);
    p.job->cancel();
    co_await sleep_for(1ms);
    CHECK(went);
  }
  probing_breaker hung(20s);
  co_await hung.probe(1h, false);
  const auto begin = time.now();
  const auto result = co_await hung.breaker.try_fire(one);
  CHECK(result.has_value());
  CHECK(time.now() - begin == 10s - 1ms);  // its deadline
  hung.job->cancel();
  co_await sleep_for(1ms);
}

ASYNC_TEST("a refused call that has waited is answered by the fallback", "[circuit]") {
  probing_breaker p(5s);
  p.breaker.fallback([] { return 7; });
  co_await p.probe(1s, true);
  const int value = co_await p.breaker.fire(one);
  CHECK(value == 7);
}

TEST_CASE("cancelling at any step leaves no call waiting for a probe", "[circuit]") {
  std::vector<std::unique_ptr<probing_breaker>> all;  // outlive the probes
  const auto operation = [&]() -> awaitable<void> {
    probing_breaker& p = *all.emplace_back(std::make_unique<probing_breaker>(5s));
    co_await p.probe(1s, true);
    (void)co_await p.breaker.try_fire(one);
    co_await sleep_for(2s);
    (void)co_await p.breaker.try_fire(one);
  };
  const auto steps = test::cancel_at_every_step(operation, [] {});
  CHECK(steps >= 5);
}

TEST_CASE("a switch isolates all of its breakers for as long as anybody holds it", "[circuit]") {
  isolation_switch region;
  circuit_breaker first("first"), second("second");
  first.isolated_by(region);
  {
    const auto hold = region.isolate();
    CHECK(region.is_on());
    second.isolated_by(region);  // also one that joins late
    CHECK(first.mode() == circuit_mode::isolated);
    CHECK(second.mode() == circuit_mode::isolated);
    std::optional<isolation_switch::hold> other(region.isolate());
    other.reset();
    CHECK(first.mode() == circuit_mode::isolated);
    {
      circuit_breaker gone("gone");
      gone.isolated_by(region);
    }
    first.set_mode(circuit_mode::disabled);  // what it will be afterwards
    CHECK(first.mode() == circuit_mode::isolated);
  }
  CHECK_FALSE(region.is_on());
  CHECK(first.mode() == circuit_mode::disabled);
  CHECK(second.mode() == circuit_mode::normal);
}

ASYNC_TEST("a breaker that obeys two switches is free when both are", "[circuit]") {
  auto region = std::make_unique<isolation_switch>();
  isolation_switch vendor;
  circuit_breaker breaker("breaker");
  std::vector<circuit_mode> modes;
  breaker.on(circuit_event_kind::mode_changed, [&](const circuit_event&) { modes.push_back(breaker.mode()); });
  breaker.isolated_by(*region).isolated_by(vendor);
  std::optional<isolation_switch::hold> one_hold(region->isolate()), other_hold(vendor.isolate());
  const auto refused = co_await breaker.try_fire(one);
  CHECK(refused.why().is_refusal(errc::circuit_isolated));
  region.reset();  // its hold goes on
  other_hold.reset();
  const auto still = co_await breaker.try_fire(one);
  CHECK(still.why().is_refusal(errc::circuit_isolated));
  one_hold.reset();
  const auto free = co_await breaker.try_fire(one);
  CHECK(free.has_value());
  CHECK(modes == std::vector<circuit_mode>{circuit_mode::isolated, circuit_mode::normal});
}

ASYNC_TEST("calls that wait for the probes are refused when nobody may wait any more", "[circuit]") {
  probing_breaker p(5s);
  co_await p.probe(2s, false);
  std::optional<outcome<int>> result;
  const auto body = [&]() -> awaitable<void> { result = co_await p.breaker.try_fire(one); };
  const auto executor = co_await net::this_coro::executor;
  spawn(executor, body);
  co_await sleep_for(100ms);
  CHECK_FALSE(result);
  auto options = p.breaker.options();
  options.probe_wait = 0s;
  p.breaker.reconfigure(options);
  co_await sleep_for(1ms);
  REQUIRE(result);
  CHECK(result->why().is_refusal(errc::circuit_open));
  co_await sleep_for(3s);
}

}  // namespace
}  // namespace circuit_breaker_test
