// Corners of the pure cores that no ordinary call comes to: clocks that lag, memory that is out, results that are told
// before anybody asks for the verdict.
#include "allocation.hpp"
#include "catch.hpp"

#include <cofferdam/core/backoff.hpp>
#include <cofferdam/core/random.hpp>
#include <cofferdam/resilience/detail/circuit_core.hpp>
#include <cofferdam/resilience/detail/rate_core.hpp>

#include <memory>
#include <new>
#include <optional>
#include <string>
#include <vector>

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
  CHECK(only_problem({.ramp = -1ns}) == "ramp");
  CHECK(only_problem({.probe_wait = -1ns}) == "probe_wait");
  CHECK(only_problem({.buckets = 0}) == "buckets");
  CHECK(only_problem({.buckets = 101}) == "buckets");
  CHECK(only_problem({.probe_failure_ratio = -0.1}) == "probe_failure_ratio");
  CHECK(only_problem({.probe_failure_ratio = 1.1}) == "probe_failure_ratio");
  CHECK(validate({.slow_call_duration = 30s, .window = 30s, .window_calls = 1}).empty());
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

TEST_CASE("a verdict on a count window stands, though calls that end meanwhile push out its reason", "[circuit]") {
  circuit_breaker_options options{.minimum_calls = 3, .window_calls = 4};
  const auto trip = [](circuit_core& core) {
    std::vector<circuit_permit> permits;
    for (int i = 0; i < 7; ++i) permits.push_back(entered(core));
    (void)core.record(permits[0], bad, present);
    (void)core.record(permits[1], bad, present);
    CHECK(core.record(permits[2], good, present));
    for (std::size_t i = 3; i < permits.size(); ++i) (void)core.record(permits[i], good, present);
    CHECK(core.stats(present).failures == 0);
    return permits[2];
  };
  {
    circuit_core core(a_name(), options);
    const auto last = trip(core);
    core.evaluate(last, present, nullptr);
    CHECK(core.state() == circuit_state::open);
  }
  {  // unless other rules came into force, a person was faster, or it only measures
    circuit_core core(a_name(), options);
    const auto last = trip(core);
    options.break_duration = 1s;
    core.reconfigure(options);
    core.evaluate(last, present, nullptr);
    CHECK(core.state() == circuit_state::closed);
    const auto again = trip(core);
    core.reset();
    core.evaluate(again, present, nullptr);
    core.evaluate(entered(core), present, nullptr);
    CHECK(core.state() == circuit_state::closed);
  }
  options.mode = circuit_mode::metrics_only;
  circuit_core core(a_name(), options);
  int would_open = 0;
  const auto listening = core.events().subscribe([&would_open](const circuit_event& e) {
    if (e.kind == circuit_event_kind::would_open) ++would_open;
  });
  const auto last = trip(core);
  core.evaluate(last, present, nullptr);
  core.drain_events();
  CHECK(would_open == 1);
  core.set_mode(circuit_mode::normal);
  core.evaluate(entered(core), present, nullptr);
  CHECK(core.state() == circuit_state::closed);
}

TEST_CASE("a verdict that comes while a circuit warms up is forgotten", "[circuit]") {
  circuit_core core(a_name(), {.minimum_calls = 2, .warm_up = 10s, .window_calls = 2});
  const auto first = entered(core), second = entered(core), third = entered(core), fourth = entered(core);
  end(core, first, bad);
  end(core, second, bad);
  CHECK(core.state() == circuit_state::closed);
  end(core, third, good);
  end(core, fourth, good);
  core.evaluate(entered(core, present + 11s), present + 11s, nullptr);
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

TEST_CASE("a paced rate is unused when its next call may come at once", "[rate_limiter]") {
  detail::rate_core rate({.permits = 10, .period = 1s, .algorithm = rate_algorithm::smooth});
  CHECK(rate.is_unused(present));
  CHECK(rate.take(1, present, 0s).given);
  CHECK_FALSE(rate.is_unused(present));
  CHECK(rate.is_unused(present + 100ms));
}

// -------------------------------------------------------------------- what the circuit says to whoever drives its core

TEST_CASE("however small the ratio, a circuit opens for failures alone", "[circuit]") {
  circuit_core core(a_name(), {.failure_ratio = 1e-12, .minimum_calls = 1, .window_calls = 10});
  call(core, good);
  CHECK(core.state() == circuit_state::closed);
  call(core, bad);
  CHECK(core.state() == circuit_state::open);
}

TEST_CASE("one failure is enough where one is asked for", "[circuit]") {
  circuit_breaker_options options{.minimum_calls = 100};
  SECTION("in a row") { options.consecutive_failures = 1; }
  SECTION("in the window") { options.failures_in_window = 1; }
  circuit_core core(a_name(), options);
  for (int i = 0; i < 5; ++i) call(core, good);
  call(core, bad);
  CHECK(core.state() == circuit_state::open);
}

TEST_CASE("a result is told whether a verdict is due", "[circuit]") {
  circuit_core core(a_name(), {.minimum_calls = 10, .consecutive_failures = 3, .probes = 1, .break_duration = 1s});
  const auto asks = [&](const circuit_permit& permit, outcome_class result, time_point now = present) {
    return core.record(permit, result, now);
  };
  const auto late = entered(core), trips = entered(core);
  CHECK_FALSE(asks(entered(core), good));  // nothing bad in the window
  CHECK_FALSE(asks(entered(core), bad));
  CHECK_FALSE(asks(entered(core), bad));   // two of three
  CHECK_FALSE(asks(entered(core), good));  // ends the row
  for (int i = 0; i < 10; ++i) CHECK_FALSE(asks(entered(core), good));
  for (int i = 0; i < 2; ++i) CHECK_FALSE(asks(entered(core), bad));
  REQUIRE(asks(trips, bad));
  core.evaluate(trips, present, nullptr);
  REQUIRE(core.state() == circuit_state::open);
  CHECK_FALSE(asks(late, bad));
  const auto hung = entered(core, present + 1s), probe = entered(core, present + 2s);
  CHECK_FALSE(asks(hung, good, present + 2s));  // lost its place
  CHECK(asks(probe, good, present + 2s));
}

TEST_CASE("a good call goes the short way unless it could trip the circuit", "[circuit]") {
  circuit_breaker_options options{.failure_ratio = 0.6, .minimum_calls = 4, .window = 10s, .buckets = 10};
  SECTION("of a window of time") {
    circuit_core core(a_name(), options);
    const auto is_short = [&](time_point now) {
      const auto permit = entered(core, now);
      if (core.record_clean_success(permit)) return true;
      CHECK_FALSE(core.record(permit, good, now));
      return false;
    };
    CHECK_FALSE(is_short(present));  // there was no window yet
    CHECK(is_short(present));
    CHECK(is_short(present + 1s));
    call(core, bad, present + 1s);  // with this one there are enough to judge
    CHECK(is_short(present + 1s));
    CHECK_FALSE(is_short(present + 2s));  // older calls may have left the window
    CHECK(is_short(present + 2s));
    CHECK_FALSE(is_short(present + 11s));  // the bad one has
    CHECK(is_short(present + 11s));
    CHECK(is_short(present + 12s));
    call(core, bad, present + 12s);
    core.reset();
    CHECK(is_short(present + 12s));
    CHECK(core.stats(present + 12s).successes == 10);
    CHECK(core.stats(present + 12s).calls == 1);
  }
  SECTION("of a window of calls") {
    options.window_calls = 4;
    circuit_core core(a_name(), options);
    for (int i = 0; i < 3; ++i) {
      const auto permit = entered(core);
      CHECK_FALSE(core.record_clean_success(permit));  // the window is not full
      CHECK_FALSE(core.record(permit, good, present));
    }
    call(core, bad);
    CHECK(core.record_clean_success(entered(core)));
    call(core, bad);
    for (int i = 0; i < 4; ++i) CHECK(core.record_clean_success(entered(core)));
    CHECK(core.stats(present).failures == 0);
    CHECK(core.stats(present).successes == 8);
    call(core, bad);
    call(core, outcome_class::ignored);
    CHECK(core.record_clean_success(entered(core)));
    options.slow_call_duration = 1s;  // now the time of a call's end matters
    core.reconfigure(options);
    CHECK_FALSE(core.record_clean_success(entered(core)));
  }
}

TEST_CASE("a good call is not taken for harmless where it can make others weigh more", "[circuit]") {
  // While they are half of all calls, the abandoned ones are failures among ten calls; with fewer, no calls.
  const std::size_t window_calls = GENERATE(std::size_t{0}, std::size_t{10});
  circuit_core core(a_name(), {.failure_ratio = 1,
                               .slow_call_duration = 1s,
                               .slow_call_ratio = 0.6,
                               .minimum_calls = 6,
                               .window = 10s,
                               .buckets = 1,
                               .window_calls = window_calls,
                               .abandoned = abandoned_policy::by_share,
                               .abandoned_ratio = 0.5});
  for (int i = 0; i < 5; ++i) call(core, outcome_class::abandoned);
  for (int i = 0; i < 4; ++i) end(core, entered(core), good, present + 2s);
  call(core, good);
  CHECK(core.stats(present).calls == 10);
  CHECK(core.state() == circuit_state::closed);
  call(core, good);  // four of six are slow
  CHECK(core.state() == circuit_state::open);
}

TEST_CASE("a window with as many failures as abandoned or slow calls is no clean one", "[circuit]") {
  SECTION("abandoned") {
    circuit_core core(a_name(), {.minimum_calls = 4, .abandoned = abandoned_policy::by_share});
    for (int i = 0; i < 2; ++i) call(core, bad);
    for (int i = 0; i < 2; ++i) call(core, outcome_class::abandoned);
    call(core, good);
    CHECK(core.state() == circuit_state::closed);
    call(core, good);  // two of four
    CHECK(core.state() == circuit_state::open);
  }
  SECTION("slow") {
    circuit_core core(a_name(), {.failure_ratio = 0.3, .slow_call_duration = 1s, .minimum_calls = 6});
    for (int i = 0; i < 2; ++i) call(core, bad);
    for (int i = 0; i < 2; ++i) end(core, entered(core), good, present + 2s);
    call(core, good);
    CHECK(core.state() == circuit_state::closed);
    call(core, good);  // two of six
    CHECK(core.state() == circuit_state::open);
  }
}

TEST_CASE("a slice that was harmless is so no longer when calls in it were abandoned", "[circuit]") {
  circuit_core core(a_name(), {.failure_ratio = 1,
                               .slow_call_duration = 1s,
                               .slow_call_ratio = 0.6,
                               .minimum_calls = 4,
                               .window = 10s,
                               .buckets = 1,
                               .abandoned = abandoned_policy::by_share,
                               .abandoned_ratio = 0.5});
  const auto slow_calls = [&](int count) {
    for (int i = 0; i < count; ++i) end(core, entered(core), good, present + 2s);
  };
  for (int i = 0; i < 3; ++i) call(core, good);
  slow_calls(1);  // harmless
  for (int i = 0; i < 9; ++i) call(core, outcome_class::abandoned);
  slow_calls(5);
  CHECK(core.stats(present).calls == 18);
  CHECK(core.state() == circuit_state::closed);
  call(core, good);  // the abandoned ones are less than half now: six of ten are slow
  CHECK(core.state() == circuit_state::open);
}

TEST_CASE("a slice that was harmless is so no longer when the calls before it have left the window", "[circuit]") {
  circuit_core core(a_name(), {.minimum_calls = 5, .window = 10s, .buckets = 10});
  for (int i = 0; i < 5; ++i) call(core, good);
  call(core, bad, present + 1s);  // harmless
  const auto one = entered(core, present + 1s), other = entered(core, present + 1s);
  for (int i = 0; i < 2; ++i) call(core, bad, present + 10s);
  for (const auto& longest : {one, other}) {
    CHECK(core.state() == circuit_state::closed);
    end(core, longest, good, present + 10s);
  }
  CHECK(core.state() == circuit_state::open);  // three of five
}

TEST_CASE("good calls that threads kept before a reset count in no window afterwards", "[circuit]") {
  circuit_core core(a_name(), {.failure_ratio = 1, .window_calls = 2});
  call(core, bad);
  call(core, good);  // full, and good calls cannot trip it
  for (int i = 0; i < 3; ++i) CHECK(core.record_clean_success(entered(core)));
  core.reset();
  core.reset();
  call(core, bad);
  CHECK(core.stats(present).calls == 1);
}

// ------------------------------------------------------------------------------------------------ judged at which time

TEST_CASE("a call that tells no time of its end is judged as of the newest failure", "[circuit]") {
  circuit_breaker_options options{.failure_ratio = 0.5, .minimum_calls = 5, .window = 10s, .buckets = 10};
  SECTION("a destroyed one") {
    options.abandoned = abandoned_policy::as_failure;
    circuit_core core(a_name(), options);
    const auto longest = entered(core);
    for (int i = 0; i < 4; ++i) call(core, bad, present + 5s);
    CHECK(core.state() == circuit_state::closed);
    CHECK(core.record(longest, outcome_class::abandoned, present));
  }
  SECTION("a good one, whatever good ones came since") {
    options.minimum_calls = 6;
    circuit_core core(a_name(), options);
    for (int i = 0; i < 10; ++i) call(core, good, present);
    const auto longest = entered(core, present + 1s);
    for (int i = 0; i < 4; ++i) call(core, bad, present + 1s);
    call(core, good, present + 10s);
    CHECK_FALSE(core.record(longest, good, present + 1s));  // four of fifteen
    CHECK(core.state() == circuit_state::closed);
  }
}

TEST_CASE("a time that was told already does not come again", "[circuit]") {
  circuit_core core(a_name(), {.minimum_calls = 1, .window_calls = 1, .break_duration = 10s});
  const auto ahead = entered(core);
  core.evaluate(ahead, present + 5s, nullptr);
  call(core, bad, present);
  CHECK(core.state() == circuit_state::open);
  CHECK(core.stats(present + 5s).remaining_break == 10s);
}

TEST_CASE("a circuit that failed while it warmed up opens with the first call afterwards, also a good one",
          "[circuit]") {
  circuit_core core(a_name(), {.minimum_calls = 2, .warm_up = 500ms, .window = 10s, .buckets = 10});
  for (int i = 0; i < 4; ++i) call(core, good);
  call(core, bad);
  for (int i = 0; i < 5; ++i) call(core, bad);
  CHECK(core.state() == circuit_state::closed);
  call(core, good, present + 600ms);
  CHECK(core.state() == circuit_state::open);
}

TEST_CASE("the first call to end begins no warm-up where none is asked for", "[circuit]") {
  circuit_core core(a_name(), {.minimum_calls = 1, .abandoned = abandoned_policy::as_failure});
  const auto earlier = entered(core, present), later = entered(core, present + 1ms);
  end(core, later, good, present + 1ms);
  core.abandon(earlier);
  CHECK(core.state() == circuit_state::open);
}

// ------------------------------------------------------------------------------------------------------- other options

TEST_CASE("a window of time that is to be longer begins anew, and trips", "[circuit]") {
  circuit_breaker_options options{.minimum_calls = 2, .window = 10s};
  circuit_core core(a_name(), options);
  call(core, bad);
  options.window = 1000s;
  core.reconfigure(options);
  CHECK(core.stats(present).calls == 0);
  call(core, bad);
  CHECK(core.state() == circuit_state::closed);
  call(core, bad);
  CHECK(core.state() == circuit_state::open);
}

TEST_CASE("after a reset no slice counts as harmless any more", "[circuit]") {
  circuit_core core(a_name(), {.failure_ratio = 0.6, .minimum_calls = 4});
  for (int i = 0; i < 5; ++i) call(core, good);
  call(core, bad);
  core.reset();
  for (int i = 0; i < 3; ++i) call(core, bad);
  CHECK(core.state() == circuit_state::closed);
  call(core, good);
  CHECK(core.state() == circuit_state::open);
}

TEST_CASE("a threshold that is lower now is passed by the next good call", "[circuit]") {
  circuit_breaker_options options{.failure_ratio = 0.9, .minimum_calls = 10};
  circuit_core core(a_name(), options);
  for (int i = 0; i < 4; ++i) call(core, good);
  for (int i = 0; i < 6; ++i) call(core, bad);
  options.failure_ratio = 0.5;
  core.reconfigure(options);
  call(core, good);
  CHECK(core.state() == circuit_state::open);
}

TEST_CASE("slow calls are measured from when they are asked for, and trip until they are not", "[circuit]") {
  circuit_breaker_options options{.minimum_calls = 4, .window_calls = 4};
  circuit_core core(a_name(), options);
  call(core, good);
  options.slow_call_duration = 1s;
  options.slow_call_ratio = 0.5;
  core.reconfigure(options);
  for (int i = 0; i < 2; ++i) end(core, entered(core), good, present + 2s);
  CHECK(core.stats(present).slow == 2);
  options.slow_call_duration = 0s;
  core.reconfigure(options);
  for (int i = 0; i < 2; ++i) call(core, good);
  CHECK(core.state() == circuit_state::closed);
}

TEST_CASE("a warm-up goes on under other options", "[circuit]") {
  circuit_breaker_options options{.minimum_calls = 2, .warm_up = 5s};
  circuit_core core(a_name(), options);
  call(core, good);
  options.window_calls = 10;
  core.reconfigure(options);
  for (int i = 0; i < 3; ++i) call(core, bad, present + 4s);
  CHECK(core.state() == circuit_state::closed);
  call(core, bad, present + 5s);
  CHECK(core.state() == circuit_state::open);
}

TEST_CASE("a row of one failure is ended by a good call, too", "[circuit]") {
  circuit_breaker_options options{
      .failure_ratio = 0.9, .minimum_calls = 2, .consecutive_failures = 1, .mode = circuit_mode::metrics_only};
  circuit_core core(a_name(), options);
  for (int i = 0; i < 5; ++i) call(core, good);
  call(core, bad);
  call(core, good);
  options.consecutive_failures = 2;
  options.mode = circuit_mode::normal;
  core.reconfigure(options);
  call(core, bad);
  CHECK(core.state() == circuit_state::closed);
  call(core, bad);
  CHECK(core.state() == circuit_state::open);
}

TEST_CASE("latencies are there only where they are asked for, and those of the past go", "[circuit]") {
  circuit_breaker_options options{.window = 10s, .window_calls = 5};
  circuit_core core(a_name(), options);
  call(core, bad);
  CHECK(core.stats(present).failed == 1);
  CHECK(core.stats(present).latency.count == 0);
  options.slow_call_duration = 1s;
  core.reconfigure(options);
  call(core, bad);
  CHECK(core.stats(present).latency.count == 1);
  options.window = 100s;
  core.reconfigure(options);
  call(core, bad);
  CHECK(core.stats(present + 10s).latency.count >= 1);
  CHECK(core.stats(present + 1000s).latency.count == 0);
}

// ----------------------------------------------------------------------------------------------------- calls in flight

TEST_CASE("a watch keeps to its threshold, and to the calls in flight while that is the same", "[circuit]") {
  circuit_breaker_options options{.slow_call_duration = 1s, .minimum_calls = 1000, .slow_in_flight = 1};
  circuit_core core(a_name(), options);
  CHECK(core.watches_flight());
  const auto flying = entered(core);
  circuit_permit next;
  SECTION("another threshold") {
    options.slow_call_duration = 3s;
    core.reconfigure(options);
    const auto longer = entered(core);
    CHECK_FALSE(core.admit(next, present + 2s));
    core.abandon(next);
    core.abandon(flying);  // of before: it leaves no watch
    core.abandon(longer);
    CHECK_FALSE(core.admit(next, present + 9s));
    CHECK(core.state() == circuit_state::closed);
  }
  SECTION("the same threshold") {
    options.minimum_calls = 500;
    core.reconfigure(options);
    CHECK(core.admit(next, present + 2s).is_refusal(errc::circuit_open));
  }
  SECTION("none") {
    options.slow_in_flight = 0;
    core.reconfigure(options);
    CHECK_FALSE(core.watches_flight());
    core.evaluate(entered(core, present + 2s), present + 2s, nullptr);
    CHECK(core.state() == circuit_state::closed);
  }
}

TEST_CASE("a kept window that good calls do not trip is not tripped by any other question", "[circuit]") {
  circuit_breaker_options options{.minimum_calls = 5, .probes = 1, .break_duration = 1s, .keep_window_on_close = true};
  SECTION("how many calls in flight are slow") {
    options.slow_call_duration = 1s;
    options.slow_in_flight = 100;
  }
  SECTION("how many failed in a row") { options.consecutive_failures = 100; }
  circuit_core core(a_name(), options);
  for (int i = 0; i < 5; ++i) call(core, bad);
  REQUIRE(core.state() == circuit_state::open);
  for (int i = 0; i < 4; ++i) call(core, good, present + 1s);
  CHECK(core.state() == circuit_state::closed);
  call(core, bad, present + 1s);
  CHECK(core.state() == circuit_state::open);
}

// ------------------------------------------------------------------------------------------------------ in which state

TEST_CASE("a circuit that is isolated on its ramp refuses all calls", "[circuit]") {
  circuit_core core(a_name(), {.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 1s, .ramp = 10s});
  call(core, bad);
  call(core, good, present + 1s);
  CHECK_FALSE(core.refuses_all());
  core.hold_isolated();
  CHECK(core.refuses_all());
  core.release_isolated();
  CHECK_FALSE(core.refuses_all());
}

TEST_CASE("a half-open circuit that is to measure only says with the next call that it would open", "[circuit]") {
  circuit_core core(a_name(), {.minimum_calls = 2, .break_duration = 1s});
  std::vector<circuit_event> events;
  const auto watch = core.events().subscribe([&](const circuit_event& e) { events.push_back(e); });
  for (int i = 0; i < 2; ++i) call(core, bad);
  (void)entered(core, present + 1s);
  REQUIRE(core.state() == circuit_state::half_open);
  core.set_mode(circuit_mode::metrics_only);
  call(core, good, present + 1s);
  core.drain_events();
  REQUIRE_FALSE(events.empty());
  CHECK(events.back().kind == circuit_event_kind::would_open);
  REQUIRE(events.back().circuit);
  CHECK(*events.back().circuit == "corner");
}

TEST_CASE("a verdict that somebody else was faster with is not asked for again", "[circuit]") {
  circuit_core core(a_name(), {.minimum_calls = 1, .window_calls = 2});
  int asked = 0;
  core.set_break_generator([&](const break_context&) {
    ++asked;
    return 1s;
  });
  const auto one = entered(core), other = entered(core);
  REQUIRE(core.record(one, bad, present));
  REQUIRE(core.record(other, bad, present));
  core.evaluate(one, present, nullptr);
  core.evaluate(other, present, nullptr);
  CHECK(asked == 1);
  CHECK(core.stats(present).opens == 1);
}

TEST_CASE("whoever is let in as a probe or on the ramp gets a permit without a past", "[circuit]") {
  circuit_core core(a_name(), {.slow_call_duration = 1s,
                               .minimum_calls = 10,
                               .consecutive_failures = 1,
                               .probes = 1,
                               .break_duration = 1s,
                               .ramp = 1s});
  circuit_permit permit{.word = 7, .started = present, .probe = 77, .recorded = false, .watched = true};
  const auto used = permit;
  call(core, bad);
  REQUIRE(core.state() == circuit_state::open);
  const time_point later = present + 1s;
  REQUIRE_FALSE(core.admit(permit, later));
  CHECK(permit.probe == 1);
  CHECK(permit.started == later);
  CHECK(permit.recorded);
  CHECK_FALSE(permit.watched);
  end(core, permit, good, later);
  REQUIRE(core.stats(later).ramping);
  permit = used;
  REQUIRE_FALSE(core.admit(permit, later));  // the first on the ramp
  CHECK(permit.probe == 0);
  CHECK(permit.started == later);
  CHECK(permit.recorded);
  CHECK_FALSE(permit.watched);
  end(core, permit, good, later);
  CHECK(core.stats(later).late == 0);
  CHECK(core.stats(later).calls == 1);
}

TEST_CASE("what was counted on the ramp, and who is on it, stays when it ends", "[circuit]") {
  circuit_core core(a_name(),
                    {.minimum_calls = 10, .consecutive_failures = 2, .probes = 1, .break_duration = 1s, .ramp = 1s});
  for (int i = 0; i < 2; ++i) call(core, bad);
  const time_point later = present + 1s;
  call(core, good, later);
  REQUIRE(core.stats(later).ramping);
  const auto on_the_ramp = entered(core, later);
  call(core, good, later + 1s);
  CHECK_FALSE(core.stats(later + 1s).ramping);
  end(core, on_the_ramp, bad, later + 1s);
  CHECK(core.stats(later + 1s).late == 0);
  CHECK(core.stats(later + 1s).calls == 2);
}

TEST_CASE("a watched call of a circuit that only measures knows when it began", "[circuit]") {
  circuit_core core(
      a_name(),
      {.slow_call_duration = 1s, .minimum_calls = 1000, .slow_in_flight = 1, .mode = circuit_mode::metrics_only});
  const auto hanging = entered(core);
  const auto next = entered(core, present + 2s);
  CHECK(next.started == present + 2s);
  CHECK(next.watched);
  core.abandon(hanging);
  core.abandon(next);
}

TEST_CASE("while it is open the cheap clock is enough, until ten milliseconds before the end of the break",
          "[circuit]") {
  circuit_core core(a_name(), {.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 30s});
  call(core, bad);
  CHECK(core.refuse_while_open(present + 10s).retry_after() == 20s);
  CHECK(core.stats(std::nullopt).remaining_break == 20s);
  CHECK(core.stats(std::nullopt).rejected == 1);
  circuit_permit permit;
  CHECK(core.admit(permit, present + 15s).retry_after() == duration(15s));  // by the exact one
  CHECK(core.stats(std::nullopt).remaining_break == 15s);
  CHECK(core.refuse_while_open(present + 30s - 10ms - 1ns).retry_after() == 10ms + 1ns);
  CHECK_FALSE(core.refuse_while_open(present + 30s - 10ms));
  CHECK(core.stats(std::nullopt).rejected == 3);
}

TEST_CASE("a break that began with a call is one for the cheap clock, one that was ended is not", "[circuit]") {
  circuit_core core(a_name(), {.probes = 1, .break_duration = 30s});
  core.end_break();
  CHECK(core.state() == circuit_state::closed);
  core.open();
  CHECK_FALSE(core.refuse_while_open(present));  // it has not begun
  circuit_permit permit;
  CHECK(core.admit(permit, present).retry_after() == duration(30s));
  CHECK(core.refuse_while_open(present + 10s).retry_after() == 20s);
  const auto epoch = core.stats(present).epoch;
  core.end_break();
  CHECK_FALSE(core.refuse_while_open(present + 10s));
  CHECK_FALSE(core.refuse_while_open(present - 1s));
  CHECK(core.stats(present).epoch == epoch);
  const auto probe = entered(core, present - 1s);  // also by a clock that lags
  REQUIRE(core.state() == circuit_state::half_open);
  core.end_break();
  end(core, probe, good, present + 10s);
  CHECK(core.state() == circuit_state::closed);
}

TEST_CASE("after a reset a circuit that was opened by hand begins its breaks when it trips", "[circuit]") {
  circuit_core core(a_name(), {.minimum_calls = 1, .break_duration = 5s});
  core.open();
  core.reset();
  call(core, bad);
  circuit_permit permit;
  CHECK(core.admit(permit, present + 2s).retry_after() == duration(3s));
}

TEST_CASE("the ratios are there from the first call on", "[circuit]") {
  circuit_core core(a_name(), {.minimum_calls = 1, .failures_in_window = 1, .break_duration = 10s});
  call(core, good);
  core.reset();
  CHECK(core.stats(present).failure_ratio == 0);
  CHECK(core.stats(present).slow_ratio == 0);
  for (int i = 0; i < 3; ++i) call(core, good);
  call(core, bad);
  CHECK(core.stats(present).failure_ratio == 0.25);
  core.end_break();
  CHECK(core.stats(present).failure_ratio == 0.25);
}

// ------------------------------------------------------------------------------------------------------ without memory

TEST_CASE("without memory a closed circuit lets calls go and counts none of them", "[circuit][allocation]") {
  circuit_core core(a_name(), {.minimum_calls = 1, .window_calls = 1});
  bool asks = true;
  {
    const failing_allocation none(0);
    circuit_permit permit;
    if (!core.admit(permit, present)) asks = core.record(permit, bad, present);
  }
  CHECK_FALSE(asks);
  CHECK(core.stats(present).failed == 0);
  CHECK(core.state() == circuit_state::closed);
}

TEST_CASE("a probe needs no memory", "[circuit][allocation]") {
  circuit_core core(a_name(), {.minimum_calls = 1, .window_calls = 1, .probes = 3, .break_duration = 1s});
  call(core, bad);
  circuit_permit probe;
  bool refused = true;
  {
    const failing_allocation none(0);
    refused = static_cast<bool>(core.admit(probe, present + 1s));
  }
  CHECK_FALSE(refused);
  CHECK(probe.probe != 0);
}

}  // namespace core_corners
