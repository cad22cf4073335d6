// Pipelines: both spellings, one behaviour.
#include "async_test.hpp"
#include "harness.hpp"
#include "tasks.hpp"

#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/fallback.hpp>
#include <cofferdam/resilience/retry.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include <memory>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

namespace {

/// Notes what it is asked.
class probe_policy final : public runnable_policy<probe_policy> {
 public:
  probe_policy(std::string name, std::vector<std::string>& log) : name_(std::move(name)), log_(&log) {}
  admission admit(call&, policy_slot&) noexcept override { return note("+"), admission::go; }
  verdict settle(call&, policy_slot&, const outcome_view& o) noexcept override {
    return note(o.has_value() ? "-" : "!"), verdict::deliver;
  }
  void abandon(policy_slot&) noexcept override { note("~"); }
  std::string describe() const override { return name_; }

 private:
  void note(const char* what) { log_->push_back(what + name_); }
  std::string name_;
  std::vector<std::string>* log_;
};

}  // namespace

ASYNC_TEST("policies are passed from the outside in and settled from the inside out", "[pipeline]") {
  std::vector<std::string> log;
  probe_policy a("a", log), b("b", log);
  auto fixed = a | b | probe_policy("c", log);
  const int value = co_await fixed.run(fine);
  CHECK(value == 1);
  CHECK(log == std::vector<std::string>{"+a", "+b", "+c", "-c", "-b", "-a"});
  CHECK(fixed.describe() == "a\nb\nc");
  log.clear();
  pipeline made("made", {std::make_shared<probe_policy>("a", log), std::make_shared<timeout>(1s),
                         std::make_shared<probe_policy>("b", log)});
  const auto failed = co_await made.try_run(broken);
  CHECK(failed.why().message() == "down");
  CHECK(log == std::vector<std::string>{"+a", "+b", "!b", "!a"});
  CHECK(made.describe() == "a\ntimeout: timeout 1s\nb");
}

ASYNC_TEST("both spellings give the same results", "[pipeline]") {
  const auto run_with = [](auto& calls) -> awaitable<std::string> {
    std::string text;
    for (const auto d : {1ms, 300ms}) {
      const auto result = co_await calls.try_run(lasting, d);
      text += result ? std::to_string(*result) : result.why().message();
      text += " ";
    }
    const auto failed = co_await calls.try_run(broken);
    text += std::to_string(*failed);
    co_return text;
  };
  circuit_breaker breaker("breaker");
  bulkhead pool("pool");
  auto fixed = fallback([] { return -1; }) | retry({.max_attempts = 2}) | breaker | pool | timeout(200ms);
  pipeline made(
      "made", {std::make_shared<fallback>([] { return -1; }), std::make_shared<retry>(retry_options{.max_attempts = 2}),
               std::make_shared<circuit_breaker>("breaker"), std::make_shared<bulkhead>("pool"),
               std::make_shared<timeout>(200ms)});
  const auto a = co_await run_with(fixed);
  const auto b = co_await run_with(made);
  CHECK(a == "1 -1 -1");
  CHECK(b == a);
  CHECK(pool.active_count() == 0);
}

ASYNC_TEST("a time limit inside a retry bounds each attempt, outside it bounds the call", "[pipeline]") {
  const backoff_options at_once{.kind = backoff_kind::constant, .base = 0ms, .jitter = jitter_kind::none};
  int attempts = 0;
  const auto task = [&]() -> awaitable<int> {
    ++attempts;
    co_await sleep_for(1h);
    co_return 1;
  };
  auto inside = retry({.max_attempts = 3, .backoff = at_once}) | timeout(100ms);
  const auto first = co_await inside.try_run(task);
  CHECK(first.why().is_refusal(errc::timed_out));
  CHECK(first.why().policy() == "timeout");
  CHECK(attempts == 3);
  CHECK(time.elapsed() == 300ms);
  auto outside = timeout(100ms).named("total") | retry({.max_attempts = 3, .backoff = at_once});
  const auto second = co_await outside.try_run(task);
  CHECK(second.why().policy() == "total");
  CHECK(attempts == 4);
  CHECK(time.elapsed() == 400ms);
}

ASYNC_TEST("a generated limit may be none, and a detached one leaves the work behind", "[pipeline]") {
  auto generated = timeout(1ms).generated([](call&) { return duration::zero(); }) | timeout(1h);
  const int value = co_await generated.run(lasting, 10ms);
  CHECK(value == 1);
  auto done = std::make_shared<bool>(false);
  const auto stubborn = [](std::shared_ptr<bool> flag) -> awaitable<int> {
    co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
    co_await sleep_for(50ms);
    *flag = true;
    co_return 1;
  };
  timeout limit(20ms, on_timeout::detach);
  const auto left = co_await limit.try_run(stubborn, done);
  CHECK(left.why().is_refusal(errc::timed_out));
  CHECK(time.elapsed() == 30ms);
  CHECK_FALSE(*done);
  co_await sleep_for(30ms);
  CHECK(*done);
}

ASYNC_TEST("values may be void or move-only, tasks awaitables or plain functions", "[pipeline]") {
  bulkhead pool("pool");
  co_await pool.run([] {});
  const auto nothing = co_await pool.try_run([]() -> awaitable<void> { co_return; });
  CHECK(nothing.has_value());
  const auto pointer = co_await pool.run([] { return std::make_unique<int>(3); });
  CHECK(*pointer == 3);
  const int awaited = co_await pool.run(fine());
  CHECK(awaited == 1);
}

ASYNC_TEST("a shared policy lives as long as the pipeline", "[pipeline]") {
  auto calls = retry() | std::make_shared<bulkhead>("pool");
  const int value = co_await calls.run(fine);
  CHECK(value == 1);
}

ASYNC_TEST("a run-time pipeline may have many policies", "[pipeline]") {
  std::vector<std::string> log;
  std::vector<std::shared_ptr<policy>> many;
  for (int i = 0; i < 20; ++i) many.push_back(std::make_shared<probe_policy>("p", log));
  pipeline calls("many", std::move(many));
  const int value = co_await calls.run(fine);
  CHECK(value == 1);
  CHECK(log.size() == 40);
}

TEST_CASE("a run that is destroyed abandons what it was admitted to", "[pipeline]") {
  std::vector<std::string> log;
  probe_policy a("a", log), b("b", log);
  auto calls = a | timeout(1h) | b;
  {
    net::io_context context(1);
    virtual_time time(context);
    const auto body = [&]() -> awaitable<void> { (void)co_await calls.try_run(lasting, 1h); };
    net::co_spawn(context, body, net::detached);
    time.run_for(1s);
  }
  std::ranges::sort(log);
  CHECK(log == std::vector<std::string>{"+a", "+b", "~a", "~b"});
}

ASYNC_TEST("a fallback sees why, is selective, and its own error is the call's", "[pipeline]") {
  auto choosy = fallback([](const failure& why) {
                  return why.message() == "down" ? 7 : 8;
                }).when([](const failure& why) { return why.message() == "down"; });
  const int value = co_await choosy.run(broken);
  CHECK(value == 7);
  const auto passed = co_await choosy.try_run([]() -> int { throw std::runtime_error("other"); });
  CHECK(passed.why().message() == "other");
  fallback failing([]() -> int { throw std::runtime_error("twice"); });
  const auto twice = co_await failing.try_run(broken);
  CHECK(twice.why().message() == "twice");
}

ASYNC_TEST("a call whose task ignored its cancellation ends, and try_run reports it", "[pipeline]") {
  // Asio throws at the next co_await of a cancelled coroutine: a pause, another attempt, a fallback.
  auto resting = retry({.max_attempts = 3, .backoff = {.base = 1s}});
  auto at_once = retry({.max_attempts = 3, .backoff = {.kind = backoff_kind::constant, .base = 0ns}});
  auto replacing = fallback([] { return 7; }) | retry({.max_attempts = 1});
  auto limited = retry({.max_attempts = 3, .backoff = {.base = 1s}}) | timeout(1h);
  std::vector<failure> ends;
  const auto body = [&](auto* calls) -> awaitable<void> {
    const auto result = co_await calls->try_run(stubborn, 1h, false);
    ends.push_back(result.why());
  };
  const auto executor = co_await net::this_coro::executor;
  const spawned jobs[] = {spawn(executor, body, &resting), spawn(executor, body, &at_once),
                          spawn(executor, body, &replacing), spawn(executor, body, &limited)};
  co_await sleep_for(1ms);
  for (const auto& job : jobs) job.cancel();
  co_await sleep_for(1ms);
  CHECK(ends.size() == 4);
  for (const auto& end : ends) CHECK(end.is_cancellation());
}

TEST_CASE("cancelling at any step leaks nothing from any policy", "[pipeline]") {
  circuit_breaker breaker("breaker", {.minimum_calls = 1000});
  bulkhead pool("pool", {.max_concurrent = 1, .max_queue = 1});
  auto calls = retry({.max_attempts = 3}) | breaker | pool | timeout(5ms);
  const auto operation = [&]() -> awaitable<void> {
    (void)co_await calls.try_run(lasting, 2ms);
    (void)co_await calls.try_run(lasting, 1h);
  };
  const auto steps = test::cancel_at_every_step(operation, [&] {
    CHECK(pool.active_count() == 0);
    CHECK(pool.pending_count() == 0);
    CHECK(breaker.state() == circuit_state::closed);
  });
  CHECK(steps >= 10);
}

namespace {

/// Asks for another attempt after a rest, and counts what it holds.
struct holding_policy final : runnable_policy<holding_policy> {
  static constexpr bool may_repeat = true;
  int held = 0;
  admission admit(call&, policy_slot&) noexcept override {
    ++held;
    return admission::go;
  }
  verdict settle(call& c, policy_slot&, const outcome_view& outcome) noexcept override {
    if (!outcome.has_value() && !outcome.why().is_cancellation()) return c.again(10s);
    --held;
    return verdict::deliver;
  }
  void abandon(policy_slot&) noexcept override { --held; }
  [[nodiscard]] std::string describe() const override { return "holding"; }
};

}  // namespace

ASYNC_TEST("a policy that asked for another attempt is settled when the rest is cancelled", "[pipeline]") {
  holding_policy policy;
  failure why;
  const auto fails = [] { throw std::runtime_error("no"); };
  const auto body = [&]() -> awaitable<void> { why = (co_await policy.try_run(fails)).why(); };
  const auto executor = co_await net::this_coro::executor;
  const auto job = spawn(executor, body);
  co_await sleep_for(1s);
  CHECK(policy.held == 1);
  job.cancel();
  co_await sleep_for(1ms);
  CHECK(policy.held == 0);
  CHECK(why.is_cancellation());
}

TEST_CASE("a policy that asked for another attempt is abandoned with a call destroyed while it rests", "[pipeline]") {
  holding_policy policy;
  {
    net::io_context context(1);
    virtual_time time(context);
    const auto fails = [] { throw std::runtime_error("no"); };
    const auto body = [&]() -> awaitable<void> { (void)co_await policy.try_run(fails); };
    spawn(context, body);
    time.run_for(1s);
    CHECK(policy.held == 1);
  }
  CHECK(policy.held == 0);
}

ASYNC_TEST("a fallback for another type is not used, and not counted", "[pipeline]") {
  const auto fails = []() -> int { throw std::runtime_error("no"); };
  fallback other([] { return std::string("text"); });
  const auto plain = co_await other.try_run(fails);
  CHECK_FALSE(plain.has_value());
  CHECK(other.used() == 0);
  circuit_breaker breaker("breaker", {.minimum_calls = 1, .window_calls = 1});
  breaker.fallback([] { return std::string("text"); });
  const auto failed = co_await breaker.try_fire(fails);
  const auto refused = co_await breaker.try_fire(fails);
  CHECK(failed.why().message() == "no");
  CHECK(refused.why().is_refusal(errc::circuit_open));
  CHECK(breaker.stats().fallbacks == 0);
}

ASYNC_TEST("a rule may be noexcept, and a function", "[pipeline]") {
  struct is_negative {
    static bool of(const int& value) noexcept { return value < 0; }
  };
  retry by_function({.max_attempts = 2, .backoff = {.kind = backoff_kind::constant, .base = 0ns}});
  by_function.when(&is_negative::of);
  retry by_closure({.max_attempts = 2, .backoff = {.kind = backoff_kind::constant, .base = 0ns}});
  by_closure.when([](const int& value) noexcept { return value < 0; });
  for (auto* policy : {&by_function, &by_closure}) {
    int begun = 0;
    const auto task = [&] { return ++begun, -1; };
    (void)co_await policy->try_run(task);
    CHECK(begun == 2);
  }
}
