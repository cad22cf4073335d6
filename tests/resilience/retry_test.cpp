// Retry: when it tries again, when it stops, and how long it waits.
#include "async_test.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/resilience/retry.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

backoff_options exact(backoff_kind kind, duration base, duration cap) {
  return {.kind = kind, .base = base, .jitter = jitter_kind::none, .cap = cap};
}

/// Fails so many times, then yields how often it was called.
struct flaky {
  int failures;
  int calls = 0;
  awaitable<int> operator()() {
    if (++calls <= failures) throw std::runtime_error("attempt " + std::to_string(calls));
    co_return calls;
  }
};

}  // namespace

ASYNC_TEST("a task is tried again after each delay until it succeeds", "[retry]") {
  retry policy({.max_attempts = 4, .backoff = exact(backoff_kind::exponential, 10ms, 1s)});
  flaky task{2};
  const int calls = co_await policy.run(std::ref(task));
  CHECK(calls == 3);
  CHECK(time.elapsed() == 30ms);
  CHECK(policy.stats().succeeded_after_retry == 1);
  CHECK(policy.stats().retries == 2);
}

ASYNC_TEST("the last error is the call's, unwrapped", "[retry]") {
  retry policy({.max_attempts = 3, .backoff = exact(backoff_kind::constant, 1ms, 1ms)});
  flaky task{100};
  const auto result = co_await policy.try_run(std::ref(task));
  CHECK(result.why().message() == "attempt 3");
  CHECK(task.calls == 3);
  CHECK(policy.stats().failed_after_retry == 1);
}

ASYNC_TEST("values can be retried, and rules say what is not", "[retry]") {
  retry policy({.max_attempts = 5, .backoff = exact(backoff_kind::constant, 1ms, 1ms)});
  policy.when([](const int& status) { return status == 503; });
  policy.when([](const failure& why) {
    return why.message() == "attempt 1" ? outcome_class::ignored : outcome_class::failure;
  });
  int calls = 0;
  const int status = co_await policy.run([&] { return ++calls < 3 ? 503 : 200; });
  CHECK(status == 200);
  flaky task{100};
  (void)co_await policy.try_run(std::ref(task));
  CHECK(task.calls == 1);
}

ASYNC_TEST("bail ends the retries and hands its own error up", "[retry]") {
  retry policy({.max_attempts = 5});
  int calls = 0;
  const auto task = [&]() -> awaitable<int> {
    ++calls;
    throw bail(std::make_exception_ptr(std::invalid_argument("no such order")));
    co_return 0;
  };
  std::string what;
  try {
    co_await policy.run(task);
  } catch (const std::invalid_argument& e) {
    what = e.what();
  }
  CHECK(what == "no such order");
  CHECK(calls == 1);
  CHECK(time.elapsed() == 0s);
}

ASYNC_TEST("a delay hook and a Retry-After hint replace or lengthen the backoff, up to a limit", "[retry]") {
  retry hooked(
      {.max_attempts = 2, .backoff = exact(backoff_kind::constant, 10ms, 10ms), .respect_retry_after_up_to = 5s});
  hooked.delay([](const retry_attempt& a) { return a.attempt == 1 ? std::optional<duration>(1h) : std::nullopt; });
  flaky task{1};
  co_await hooked.run(std::ref(task));
  CHECK(time.elapsed() == 5s);

  retry hinted({.max_attempts = 2, .backoff = exact(backoff_kind::constant, 10ms, 10ms)});
  int calls = 0;
  const auto refusing = [&]() -> awaitable<outcome<int>> {
    if (++calls == 1) co_return failure::refused(errc::injected_fault, nullptr, duration(2s));
    co_return calls;
  };
  const int value = co_await hinted.run(refusing);
  CHECK(value == 2);
  CHECK(time.elapsed() == 7s);
}

ASYNC_TEST("no retry that could not start before the deadline", "[retry]") {
  retry policy({.max_attempts = 10, .backoff = exact(backoff_kind::constant, 100ms, 100ms), .minimum_attempt = 50ms});
  flaky task{100};
  const auto body = [&]() -> awaitable<int> { co_return co_await policy.run(std::ref(task)); };
  const auto result = co_await try_with_timeout(250ms, body);
  CHECK(result.why().message() == "attempt 2");
  CHECK(time.elapsed() == 100ms);
  CHECK(policy.stats().out_of_time == 1);
}

ASYNC_TEST("hooks that throw change nothing, and on_retry sees attempt and delay", "[retry]") {
  std::vector<std::string> seen;
  retry policy({.max_attempts = 3, .backoff = exact(backoff_kind::exponential, 10ms, 1s)});
  policy.on_retry([&](const retry_attempt& a) {
    seen.push_back(std::to_string(a.attempt) + ":" + std::to_string(a.delay / 1ms));
    throw std::runtime_error("hook");
  });
  policy.delay([](const retry_attempt&) -> std::optional<duration> { throw std::runtime_error("hook"); });
  flaky task{2};
  const int calls = co_await policy.run(std::ref(task));
  CHECK(calls == 3);
  CHECK(seen == std::vector<std::string>{"1:10", "2:20"});
}

ASYNC_TEST("cancellation ends the wait between attempts", "[retry]") {
  retry policy({.max_attempts = 10, .backoff = exact(backoff_kind::constant, 1h, 1h)});
  flaky task{100};
  bool cancelled = false;
  const auto body = [&]() -> awaitable<void> {
    const auto result = co_await policy.try_run(std::ref(task));
    cancelled = result.why().is_cancellation();
  };
  const auto executor = co_await net::this_coro::executor;
  const auto job = spawn(executor, body);
  co_await sleep_for(1ms);
  job.cancel();
  co_await sleep_for(1ms);
  CHECK(cancelled);
  CHECK(task.calls == 1);
}

ASYNC_TEST("a budget of a tenth allows a tenth of retries", "[retry]") {
  retry_budget budget({.ratio = 0.1, .max_tokens = 10});
  retry policy({.max_attempts = 3, .backoff = exact(backoff_kind::constant, 1ms, 1ms)});
  policy.budget(budget);
  for (int i = 0; i < 100; ++i) {
    flaky task{100};
    (void)co_await policy.try_run(std::ref(task));
  }
  CHECK(policy.stats().retries == 10);  // what the balance began with
  for (int i = 0; i < 100; ++i) (void)co_await policy.try_run([] { return 1; });
  CHECK(budget.stats().balance == Approx(10));
  CHECK(budget.stats().withdrawals == 10);
}

TEST_CASE("bad options of a retry are all named", "[retry]") {
  try {
    retry policy({.max_attempts = 0, .backoff = {.base = 2s, .factor = 0.5, .cap = 1s}});
    FAIL("accepted");
  } catch (const invalid_options_error& e) {
    const std::string text = e.what();
    CHECK(text.find("retry.max_attempts") != std::string::npos);
    CHECK(text.find("retry.backoff.factor") != std::string::npos);
    CHECK(text.find("retry.backoff.cap") != std::string::npos);
  }
}

ASYNC_TEST("a cancelled call is never tried again, whatever a rule says", "[retry]") {
  auto policy = retry({.max_attempts = retry_forever, .backoff = exact(backoff_kind::constant, 0ns, 0ns)})
                    .when([](const outcome_view& o) { return !o.has_value(); });
  int begun = 0;
  failure why;
  const auto task = [&]() -> awaitable<void> {
    ++begun;
    co_await sleep_for(1h);
  };
  const auto body = [&]() -> awaitable<void> { why = (co_await policy.try_run(task)).why(); };
  const auto executor = co_await net::this_coro::executor;
  const auto job = spawn(executor, body);
  co_await sleep_for(1ms);
  job.cancel();
  co_await sleep_for(1ms);
  CHECK(why.is_cancellation());
  CHECK(begun == 1);
}
