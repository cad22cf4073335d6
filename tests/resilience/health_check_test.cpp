// Health checks: what they do to a breaker, and that they stop.
#include "async_test.hpp"
#include "harness.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/resilience/health_check.hpp>

#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace health_check_test {
namespace {

struct patient {
  bool healthy = true;
  int asked = 0;
  bool operator()() { return ++asked, healthy; }
};

ASYNC_TEST("bad checks in a row open the circuit, good ones end its break but do not close it", "[health]") {
  circuit_breaker breaker("db", {.probes = 1, .break_duration = 1h, .max_break_duration = 1h});
  patient db;
  health_check check(breaker, std::ref(db), {.interval = 1s, .unhealthy_after = 2, .healthy_after = 2});
  check.start(co_await net::this_coro::executor);
  co_await sleep_for(2500ms);
  CHECK(db.asked == 3);  // the first at once
  CHECK(breaker.state() == circuit_state::closed);
  db.healthy = false;
  co_await sleep_for(1s);
  CHECK(breaker.state() == circuit_state::closed);
  co_await sleep_for(1s);
  CHECK(breaker.state() == circuit_state::open);
  const auto one = [] { return 1; };
  const auto refused = co_await breaker.try_fire(one);
  CHECK(refused.why().is_refusal(errc::circuit_open));
  db.healthy = true;
  co_await sleep_for(1s);
  const auto still = co_await breaker.try_fire(one);
  CHECK(still.why().is_refusal(errc::circuit_open));
  co_await sleep_for(1s);
  CHECK(breaker.state() == circuit_state::open);  // until somebody calls
  const auto probe = co_await breaker.try_fire(one);
  CHECK(probe.has_value());
  CHECK(breaker.state() == circuit_state::closed);
  CHECK(check.stats().good == 5);
  CHECK(check.stats().bad == 2);
  check.stop();
  co_await sleep_for(10s);
  CHECK(db.asked == 7);
}

ASYNC_TEST("a check that throws or is late is a bad one, and its listener hears why", "[health]") {
  circuit_breaker breaker("db");
  std::vector<std::string> heard;
  const auto hangs = []() -> awaitable<void> { co_await sleep_for(1h); };
  const auto throws = []() -> awaitable<void> {
    co_await sleep_for(1ms);
    throw std::runtime_error("down");
  };
  const auto executor = co_await net::this_coro::executor;
  health_check late(breaker, hangs, {.interval = 10s, .timeout = 100ms, .unhealthy_after = 0});
  health_check down(breaker, throws, {.interval = 10s});
  late.on_failed([&](const failure& why) { heard.push_back(why.is_refusal(errc::timed_out) ? "late" : "?"); });
  down.on_failed([&](const failure& why) {
    heard.push_back(why.message());
    throw std::logic_error("a listener does not decide");
  });
  late.start(executor);
  co_await sleep_for(1s);
  CHECK(breaker.state() == circuit_state::closed);
  down.start(executor);
  co_await sleep_for(1s);
  CHECK(breaker.state() == circuit_state::open);
  CHECK(heard == std::vector<std::string>{"late", "down"});
  late.stop();
  down.stop();
}

ASYNC_TEST("a stopped check is cancelled and moves nothing, also one that ignores it or is stopped by what it caused",
           "[health]") {
  circuit_breaker breaker("db");
  bool cancelled = false, went_on = false;
  const auto executor = co_await net::this_coro::executor;
  {
    const auto asks = [&]() -> awaitable<void> {
      const auto note = [&cancelled](void*) { cancelled = true; };
      const std::unique_ptr<void, decltype(note)> at_end(&cancelled, note);
      co_await sleep_for(500ms);
    };
    health_check check(breaker, asks);
    check.start(executor);
    co_await sleep_for(1ms);
  }
  co_await sleep_for(1ms);
  CHECK(cancelled);
  {
    const auto stubborn = [&]() -> awaitable<void> {
      co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
      co_await sleep_for(500ms);
      went_on = true;
      throw std::runtime_error("down");
    };
    health_check check(breaker, stubborn);
    check.start(executor);
    co_await sleep_for(1ms);
  }
  co_await sleep_for(1s);
  CHECK(went_on);
  CHECK(breaker.state() == circuit_state::closed);
  const auto down = []() -> bool { throw std::runtime_error("down"); };
  auto check = std::make_unique<health_check>(breaker, down);
  breaker.on(circuit_event_kind::opened, [&](const circuit_event&) { check.reset(); });
  check->start(executor);
  co_await sleep_for(1s);
  CHECK(check == nullptr);
  CHECK(breaker.stats().opens == 1);
}

TEST_CASE("a health check names its bad options", "[health]") {
  circuit_breaker breaker("db");
  const auto fine = [] {};
  try {
    const health_check check(breaker, fine, {.interval = 0s, .timeout = -1s});
    FAIL("accepted");
  } catch (const invalid_options_error& e) {
    const std::string text = e.what();
    CHECK(text.find("interval") != std::string::npos);
    CHECK(text.find("timeout") != std::string::npos);
    CHECK(text.find("db") != std::string::npos);
  }
}

TEST_CASE("a health check may be stopped by another thread while it asks", "[health][concurrent]") {
  for (int round = 0; round < 50; ++round) {
    net::thread_pool pool(2);
    auto breaker = std::make_unique<circuit_breaker>("db");
    const auto asks = []() -> awaitable<bool> {
      co_await sleep_for(10us);
      co_return false;
    };
    auto check = std::make_unique<health_check>(*breaker, asks, health_check_options{.interval = 10us});
    check->start(pool);
    while (check->stats().bad == 0) std::this_thread::yield();
    check.reset();
    breaker.reset();
    pool.join();
  }
}

}  // namespace
}  // namespace health_check_test
