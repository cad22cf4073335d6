// Corners of the pure cores that no ordinary call comes to: clocks that lag, memory that is out, results that are told
// before anybody asks for the verdict.
#include "allocation.hpp"
#include "catch.hpp"

#include <cofferdam/core/backoff.hpp>
#include <cofferdam/core/random.hpp>
#include <cofferdam/resilience/detail/circuit_core.hpp>
#include <cofferdam/resilience/detail/moving_percentile.hpp>
#include <cofferdam/resilience/detail/rate_core.hpp>

#include <memory>
#include <new>
#include <string>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

namespace core_corners {
namespace {

using detail::circuit_core;
using detail::circuit_permit;

constexpr auto good = outcome_class::success;
constexpr auto bad = outcome_class::failure;
constexpr time_point present{1h};

shared_name a_name() { return std::make_shared<const std::string>("corner"); }

circuit_permit entered(circuit_core& core, time_point now = present) {
  circuit_permit permit;
  const auto why = core.admit(permit, now);
  REQUIRE_FALSE(why);
  return permit;
}
void end(circuit_core& core, const circuit_permit& permit, outcome_class result, time_point now = present) {
  if (result == good && core.record_clean_success(permit)) return;
  if (core.record(permit, result, now)) core.evaluate(permit, now, nullptr);
}
void call(circuit_core& core, outcome_class result, time_point now = present) {
  end(core, entered(core, now), result, now);
}

}  // namespace

TEST_CASE("each option of a circuit that cannot work is named", "[circuit]") {
  const auto only_problem = [](const circuit_breaker_options& options) {
    const auto problems = validate(options);
    REQUIRE(problems.size() == 1);
    return problems[0].substr(0, problems[0].find(':'));
  };
  CHECK(only_problem({.window = 0s}) == "window");
  CHECK(only_problem({.failures_in_window = 5, .window_calls = 4}) == "failures_in_window");
  CHECK(only_problem({.slow_in_flight = 1}) == "slow_in_flight");
  CHECK(only_problem({.buckets = 0}) == "buckets");
  CHECK(only_problem({.buckets = 101}) == "buckets");
  CHECK(only_problem({.probe_failure_ratio = -0.1}) == "probe_failure_ratio");
  CHECK(only_problem({.probe_failure_ratio = 1.1}) == "probe_failure_ratio");
}

TEST_CASE("good calls are counted in whatever slice they come", "[circuit]") {
  circuit_core core(a_name(), {.window = 10s, .buckets = 10});
  for (int i = 0; i < 5; ++i) call(core, good, present + i * 1s);
  CHECK(core.stats(present + 4s).calls == 5);
}

TEST_CASE("timeouts and fallbacks are counted, also across other options", "[circuit]") {
  circuit_breaker_options options;
  circuit_core core(a_name(), options);
  call(core, bad);
  for (int i = 0; i < 2; ++i) core.count_timeout();
  for (int i = 0; i < 3; ++i) core.count_fallback();
  options.window_calls = 50;
  core.reconfigure(options);
  core.count_timeout();
  CHECK(core.stats(present).timeouts == 3);
  CHECK(core.stats(present).fallbacks == 3);
}

TEST_CASE("a closed circuit says so in its snapshot", "[circuit]") {
  circuit_core core(a_name(), {});
  CHECK(core.snapshot(present).state == circuit_state::closed);
  CHECK(core.snapshot(present).remaining_break == 0s);
}

TEST_CASE("a row of failures outlasts other options, and another kind of window", "[circuit]") {
  circuit_breaker_options options{.minimum_calls = 100, .consecutive_failures = 3};
  circuit_core core(a_name(), options);
  call(core, bad);
  call(core, bad);
  options.window_calls = 50;
  core.reconfigure(options);
  CHECK(core.state() == circuit_state::closed);
  call(core, bad);
  CHECK(core.state() == circuit_state::open);
}

TEST_CASE("one slow call in flight is enough where one is asked for", "[circuit]") {
  circuit_core core(a_name(), {.slow_call_duration = 1s, .minimum_calls = 1000, .slow_in_flight = 1});
  const auto hanging = entered(core);
  circuit_permit refused;
  CHECK(core.admit(refused, present + 2s).is_refusal(errc::circuit_open));
  core.abandon(hanging);
}

TEST_CASE("a watch that was off for a while knows nothing of the calls before", "[circuit]") {
  circuit_breaker_options options{.slow_call_duration = 1s, .minimum_calls = 1000, .slow_in_flight = 2};
  circuit_core core(a_name(), options);
  const auto before = entered(core);
  options.slow_in_flight = 0;
  core.reconfigure(options);
  options.slow_in_flight = 2;
  core.reconfigure(options);
  const auto first = entered(core), second = entered(core);
  end(core, before, good);
  circuit_permit refused;
  CHECK(core.admit(refused, present + 2s).is_refusal(errc::circuit_open));  // two, not one
  core.abandon(first);
  core.abandon(second);
}

TEST_CASE("a good call ends a row of failures, also in a slice that cannot trip any more", "[circuit]") {
  circuit_core core(a_name(), {.failure_ratio = 0.9, .minimum_calls = 2, .consecutive_failures = 3});
  for (int i = 0; i < 10; ++i) call(core, good);
  for (int i = 0; i < 5; ++i) {
    call(core, bad);
    call(core, bad);
    call(core, good);
  }
  CHECK(core.state() == circuit_state::closed);
  for (int i = 0; i < 3; ++i) call(core, bad);
  CHECK(core.state() == circuit_state::open);
}

TEST_CASE("an abandoned call neither ends nor lengthens a row of failures", "[circuit]") {
  circuit_core core(a_name(),
                    {.minimum_calls = 100, .consecutive_failures = 2, .abandoned = abandoned_policy::by_share});
  call(core, bad);
  call(core, outcome_class::abandoned);
  CHECK(core.state() == circuit_state::closed);
  call(core, bad);
  CHECK(core.state() == circuit_state::open);
}

TEST_CASE("calls by a clock that lags behind the window are not counted in it", "[circuit]") {
  circuit_core core(a_name(), {.minimum_calls = 1, .window = 10s});
  const auto old_good = entered(core, time_point(1s)), old_bad = entered(core, time_point(1s));
  call(core, good, present);
  CHECK_FALSE(core.record_clean_success(old_good));
  CHECK_FALSE(core.record(old_bad, bad, time_point(2s)));
  CHECK(core.state() == circuit_state::closed);
  CHECK(core.stats(present).calls == 1);
  CHECK(core.stats(present).failed == 1);
}

TEST_CASE("a verdict that is asked for too early is none", "[circuit]") {
  circuit_core core(a_name(), {.slow_call_duration = 1s,
                               .minimum_calls = 1,
                               .consecutive_failures = 3,
                               .slow_in_flight = 2,
                               .window_calls = 2,
                               .probes = 2,
                               .break_duration = 1s});
  call(core, good);
  const auto first = entered(core);
  core.evaluate(first, present, nullptr);
  CHECK(core.state() == circuit_state::closed);
  end(core, first, bad);
  REQUIRE(core.state() == circuit_state::open);  // one of two
  const time_point later = present + 1s;
  const auto probe = entered(core, later);
  core.evaluate(probe, later, nullptr);
  CHECK(core.state() == circuit_state::half_open);
}

TEST_CASE("when all probes have told and nobody has asked for the verdict yet, further calls are refused",
          "[circuit]") {
  circuit_core core(a_name(), {.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 1s});
  call(core, bad);
  const auto probe = entered(core, present + 1s);
  REQUIRE(core.record(probe, good, present + 1s));
  circuit_permit next;
  const auto why = core.admit(next, present + 1s);
  CHECK(why.is_refusal(errc::circuit_open));
  CHECK_FALSE(why.retry_after());
  core.evaluate(probe, present + 1s, nullptr);
  CHECK(core.state() == circuit_state::closed);
}

TEST_CASE("a circuit that is not open is not refused for being open", "[circuit]") {
  circuit_core core(a_name(), {});
  CHECK_FALSE(core.refuse_while_open(present));
  call(core, good);
  CHECK_FALSE(core.refuse_while_open(present));
  const auto flying = entered(core);
  core.evaluate(flying, present, nullptr);
  CHECK(core.state() == circuit_state::closed);
  end(core, flying, good);
}

TEST_CASE("a late result nobody listens for is counted", "[circuit]") {
  circuit_core core(a_name(), {.minimum_calls = 1, .window_calls = 1});
  const auto late = entered(core);
  call(core, bad);
  end(core, late, bad);
  CHECK(core.stats(present).late == 1);
}

TEST_CASE("a disabled circuit watches no calls in flight", "[circuit]") {
  circuit_core core(a_name(), {.slow_call_duration = 1s, .slow_in_flight = 1});
  core.set_mode(circuit_mode::disabled);
  const auto flying = entered(core);
  CHECK_FALSE(flying.watched);
  end(core, flying, bad, present + 2s);
  CHECK(core.stats(present + 2s).failed == 0);
}

TEST_CASE("reconfiguring to what is in force changes nothing, to another kind of window or more probes does",
          "[circuit]") {
  circuit_breaker_options o{.minimum_calls = 100};
  circuit_core core(a_name(), o);
  call(core, bad);
  const auto* before = &core.options();
  core.reconfigure(o);
  CHECK(&core.options() == before);
  CHECK(core.stats(present).failures == 1);
  o.probes = 9;
  core.reconfigure(o);
  CHECK(core.options().probes == 9);
  o.window_calls = 5;  // what a window of time holds has no order
  core.reconfigure(o);
  CHECK(core.stats(present).failures == 0);
  call(core, bad);
  o.record_latency = true;
  core.reconfigure(o);
  CHECK(core.stats(present).failures == 1);
  CHECK(core.stats(present).failed == 2);
}

TEST_CASE("a snapshot without a count of openings opens for the first time", "[circuit]") {
  circuit_core core(a_name(), {});
  core.restore({.state = circuit_state::open, .remaining_break = 3s});
  CHECK(core.state() == circuit_state::open);
  CHECK(core.stats(present).consecutive_opens == 1);
  circuit_permit permit;
  CHECK(core.admit(permit, present).retry_after() == duration(3s));
}

TEST_CASE("a circuit without memory opens, refuses to promise anything, and counts when there is some again",
          "[circuit][allocation]") {
  circuit_core core(a_name(), {});
  {
    const failing_allocation none(0);
    core.count_rejection();
  }
  CHECK(core.stats(present).rejected == 0);
  {
    const failing_allocation none(0);
    core.open();
  }
  CHECK(core.state() == circuit_state::open);
  circuit_permit permit;
  bool thrown = false;
  {
    const failing_allocation none(0);
    try {
      (void)core.admit(permit, present);
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
  }
  CHECK(thrown);
  CHECK(core.admit(permit, present).is_refusal(errc::circuit_open));
  core.count_rejection();
  CHECK(core.stats(present).rejected == 2);
}

TEST_CASE("what a newer version may say has a name, too", "[circuit]") {
  CHECK(to_string(static_cast<circuit_state>(99)) == "?");
  CHECK(to_string(static_cast<circuit_mode>(99)) == "?");
  CHECK(to_string(static_cast<circuit_cause>(99)) == "?");
  CHECK(to_string(static_cast<circuit_event_kind>(99)) == "?");
}

TEST_CASE("a backoff of a kind nobody knows is constant, a jitter none", "[retry][backoff]") {
  random_source random(1);
  backoff_state state;
  const backoff_options options{
      .kind = static_cast<backoff_kind>(99), .base = 7ms, .jitter = static_cast<jitter_kind>(99)};
  CHECK(backoff_delay(options, 5, state, random) == 7ms);
}

TEST_CASE("a watch of calls in flight rounds its slices up, and takes calls from long ago for slow", "[circuit]") {
  detail::flight_watch watch(15ns);
  watch.enter(present);
  CHECK(watch.slow(present + 15ns) == 0);
  watch.enter(present - 1s);
  CHECK(watch.slow(present + 15ns) == 1);
  watch.leave(present - 1s);
  CHECK(watch.slow(present + 15ns) == 0);
  CHECK(watch.slow(present + 30ns) == 1);
  watch.leave(present);
  CHECK(watch.slow(present + 30ns) == 0);
}

TEST_CASE("a moving percentile remembers this period and the last, and looks again when there is reason to",
          "[timeout][latency]") {
  detail::moving_percentile median(0.5, 2, 10s);
  CHECK(median.value(present) == 0s);
  median.record(100ms, present);
  median.record(100ms, present);
  CHECK(median.value(present) == 0s);        // looked a moment ago
  CHECK(median.value(present + 1s) > 90ms);  // in a while it is looked at again
  CHECK(median.value(present + 1s) < 110ms);
  for (int i = 0; i < 10; ++i) median.record(1ms, present + 11s);
  CHECK(median.value(present + 12s) < 2ms);
  CHECK(median.value(present + 1h) == 0s);
}

TEST_CASE("a paced rate is unused when its next call may come at once", "[rate_limiter]") {
  detail::rate_core rate({.permits = 10, .period = 1s, .algorithm = rate_algorithm::smooth});
  CHECK(rate.is_unused(present));
  CHECK(rate.take(1, present, 0s).given);
  CHECK_FALSE(rate.is_unused(present));
  CHECK(rate.is_unused(present + 100ms));
}

}  // namespace core_corners
