// Time limits that follow what calls take. What a limit does once it is known: tests/core/timeout_test.cpp.
#include "async_test.hpp"
#include "tasks.hpp"

#include <cofferdam/resilience/retry.hpp>
#include <cofferdam/resilience/timeout.hpp>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

namespace {

derived_timeout by_median() {
  derived_timeout options;
  options.percentile = 0.5;
  options.factor = 3;
  options.least = 10ms;
  options.most = 1s;
  options.minimum_samples = 10;
  options.window = 10min;
  return options;
}

/// How long a task that hangs is waited for.
awaitable<duration> patience(timeout& limit, virtual_time& time) {
  const duration begin = time.elapsed();
  (void)co_await limit.try_run(hanging);
  co_return time.elapsed() - begin;
}

}  // namespace

ASYNC_TEST("a limit follows a percentile of recent calls, once enough are known", "[timeout]") {
  auto limit = timeout(500ms).derived(by_median());
  const duration at_first = co_await patience(limit, time);
  CHECK(at_first == 500ms);
  for (int i = 0; i < 20; ++i) (void)co_await limit.run(lasting, 40ms);
  co_await sleep_for(1min);
  const duration later = co_await patience(limit, time);
  CHECK(later >= 112ms);  // three times 40 ms, to within the sixteenth that percentiles are exact to
  CHECK(later <= 128ms);
}

ASYNC_TEST("a derived limit has bounds", "[timeout]") {
  auto quick = timeout(500ms).derived(by_median());
  for (int i = 0; i < 20; ++i) (void)co_await quick.run(lasting, 1ms);
  auto slow = timeout(10min).derived(by_median());
  for (int i = 0; i < 20; ++i) (void)co_await slow.try_run(lasting, 10s);
  co_await sleep_for(1min);
  const duration least = co_await patience(quick, time);
  CHECK(least == 10ms);
  const duration most = co_await patience(slow, time);
  CHECK(most == 1s);
}

ASYNC_TEST("calls that were cut off count as long as they lasted, failures and cancelled ones not at all",
           "[timeout]") {
  auto limit = timeout(200ms).derived(by_median());
  for (int i = 0; i < 50; ++i) (void)co_await limit.try_run(broken);
  co_await sleep_for(1min);
  const duration unknown = co_await patience(limit, time);
  CHECK(unknown == 200ms);
  for (int i = 0; i < 30; ++i) (void)co_await limit.try_run(hanging);  // 200 ms each
  co_await sleep_for(1min);
  const duration longer = co_await patience(limit, time);
  CHECK(longer >= 560ms);  // it does not follow itself down
}

ASYNC_TEST("each attempt has the limit of its time", "[timeout]") {
  auto calls = retry({.max_attempts = 2, .backoff = {.kind = backoff_kind::constant, .base = 0ns}}) |
               timeout(100ms).derived(by_median());
  const auto result = co_await calls.try_run(hanging);
  CHECK(result.why().is_refusal(errc::timed_out));
  CHECK(time.elapsed() == 200ms);
}

TEST_CASE("derived limits that cannot work are refused", "[timeout]") {
  CHECK(validate(derived_timeout{}).empty());
  CHECK(validate(derived_timeout{.percentile = 0}).size() == 1);
  CHECK(validate(derived_timeout{.factor = 0.5}).size() == 1);
  CHECK(validate(derived_timeout{.least = 0s}).size() == 1);
  CHECK(validate(derived_timeout{.most = 1ms}).size() == 1);
  CHECK(validate(derived_timeout{.minimum_samples = 0}).size() == 1);
  CHECK(validate(derived_timeout{.window = 0s}).size() == 1);
  CHECK_THROWS_AS(timeout(1s).derived(derived_timeout{.percentile = 2}), invalid_options_error);
}
