// The circuit breaker's state machine, driven by plain calls with made-up times.
#include "catch.hpp"

#include <cofferdam/resilience/detail/circuit_core.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <limits>
#include <optional>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;
using detail::circuit_core;
using detail::circuit_permit;

namespace {

shared_name named(const char* name) { return std::make_shared<const std::string>(name); }

/// A core with a clock of its own.
struct driven_core {
  explicit driven_core(const circuit_breaker_options& options) : core(named("test"), options) {
    watch = core.events().subscribe([this](const circuit_event& e) { events.push_back(e); });
  }
  bool enter(circuit_permit& permit) {
    const bool admitted = !core.admit(permit, now);
    core.drain_events();
    return admitted;
  }
  /// Successes go the short way, as those of a breaker do, which has no time for their end.
  void leave(const circuit_permit& permit, outcome_class result) {
    const auto& o = core.options();
    const duration slice = o.window / static_cast<std::int64_t>(o.buckets);
    const auto slice_of = [&](time_point at) { return at.time_since_epoch() / slice; };
    const bool is_short = o.window_calls > 0 || slice_of(now) == slice_of(permit.started);
    if (result == outcome_class::success && is_short && core.record_clean_success(permit)) return;
    if (core.record(permit, result, now)) core.evaluate(permit, now, nullptr);
    core.drain_events();
  }
  /// One call that ends at once; false when refused.
  bool call(outcome_class result) {
    circuit_permit permit;
    if (!enter(permit)) return false;
    leave(permit, result);
    return true;
  }
  void calls(std::size_t count, outcome_class result) {
    for (std::size_t i = 0; i < count; ++i) REQUIRE(call(result));
  }
  [[nodiscard]] std::size_t seen(circuit_event_kind kind) const {
    return static_cast<std::size_t>(std::ranges::count(events, kind, &circuit_event::kind));
  }

  circuit_core core;
  time_point now{1h};
  std::vector<circuit_event> events;
  subscription watch;
};

constexpr auto good = outcome_class::success;
constexpr auto bad = outcome_class::failure;

}  // namespace

TEST_CASE("a circuit opens when the failure ratio is reached, not only when it is passed", "[circuit]") {
  driven_core c({.failure_ratio = 0.5, .minimum_calls = 4, .window_calls = 10});
  c.calls(2, good);
  c.calls(1, bad);
  CHECK(c.core.state() == circuit_state::closed);
  c.calls(1, bad);
  CHECK(c.core.state() == circuit_state::open);
  CHECK(c.events.back().cause == circuit_cause::failure_rate);
  CHECK(c.events.back().failures == 2);
  CHECK(c.events.back().calls == 4);
}

TEST_CASE("a success is judged too: E E E S S with a minimum of five opens at the fifth call", "[circuit]") {
  for (const std::size_t window_calls : {std::size_t{0}, std::size_t{20}}) {
    driven_core c({.failure_ratio = 0.5, .minimum_calls = 5, .window_calls = window_calls});
    c.calls(3, bad);
    c.calls(1, good);
    CHECK(c.core.state() == circuit_state::closed);
    c.calls(1, good);
    CHECK(c.core.state() == circuit_state::open);
  }
}

TEST_CASE("a count window remembers exactly the last N calls", "[circuit]") {
  driven_core c({.failure_ratio = 0.5, .minimum_calls = 4, .window_calls = 4});
  c.calls(1, bad);
  c.calls(4, good);  // the failure has left the window
  c.calls(1, bad);
  CHECK(c.core.state() == circuit_state::closed);
  CHECK(c.core.stats(c.now).failures == 1);
  c.calls(1, bad);
  CHECK(c.core.state() == circuit_state::open);
}

TEST_CASE("a time window forgets by time", "[circuit]") {
  driven_core c(
      {.failure_ratio = 0.5, .minimum_calls = 2, .window = 10s, .buckets = 10, .mode = circuit_mode::metrics_only});
  c.calls(3, bad);
  CHECK(c.core.stats(c.now).failures == 3);
  CHECK(c.core.stats(c.now + 9s).failures == 3);
  CHECK(c.core.stats(c.now + 10s).failures == 0);
}

TEST_CASE("a success that follows the expiry of older successes can open", "[circuit]") {
  driven_core c({.failure_ratio = 0.5, .minimum_calls = 4, .window = 10s, .buckets = 10});
  c.calls(10, good);
  c.now += 8s;
  c.calls(4, bad);
  CHECK(c.core.state() == circuit_state::closed);
  c.now += 3s;  // the ten successes are gone: four failures of five
  c.calls(1, good);
  CHECK(c.core.state() == circuit_state::open);
}

TEST_CASE("slow calls open a circuit, and slow means strictly longer", "[circuit]") {
  driven_core c({.slow_call_duration = 100ms, .slow_call_ratio = 1.0, .minimum_calls = 2, .window_calls = 2});
  const auto lasting = [&](duration d) {
    circuit_permit permit;
    REQUIRE(c.enter(permit));
    c.now += d;
    c.leave(permit, good);
  };
  lasting(100ms);
  lasting(100ms);
  CHECK(c.core.state() == circuit_state::closed);
  lasting(100ms + 1ns);
  lasting(101ms);
  CHECK(c.core.state() == circuit_state::open);
  CHECK(c.events.back().cause == circuit_cause::slow_rate);
}

TEST_CASE("an open circuit refuses with the rest of the break and probes when it is over", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 5s});
  c.calls(1, bad);
  c.now += 2s;
  circuit_permit permit;
  const auto refused = c.core.admit(permit, c.now);
  CHECK(refused);
  CHECK(refused.is_refusal(errc::circuit_open));
  CHECK(refused.retry_after() == duration(3s));
  c.now += 3s;
  CHECK(c.call(good));
  CHECK(c.core.state() == circuit_state::closed);
}

TEST_CASE("a half-open circuit lets exactly its probes through and decides as early as it can", "[circuit]") {
  driven_core c({.failure_ratio = 0.5, .minimum_calls = 1, .window_calls = 1, .probes = 5, .break_duration = 1s});
  c.calls(1, bad);
  c.now += 1s;
  std::vector<circuit_permit> probes(5);
  for (auto& probe : probes) REQUIRE(c.enter(probe));
  circuit_permit sixth;
  CHECK_FALSE(c.enter(sixth));

  SECTION("three of five successes are enough to close") {
    c.leave(probes[0], good);
    c.leave(probes[1], bad);
    c.leave(probes[2], good);
    CHECK(c.core.state() == circuit_state::half_open);
    c.leave(probes[3], good);
    CHECK(c.core.state() == circuit_state::closed);
    c.leave(probes[4], bad);  // late: belongs to an epoch that is over
    CHECK(c.core.state() == circuit_state::closed);
    CHECK(c.core.stats(c.now).failures == 0);
    CHECK(c.core.stats(c.now).late == 1);
  }
  SECTION("three of five failures re-open, twice as long") {
    for (int i = 0; i < 3; ++i) c.leave(probes[static_cast<std::size_t>(i)], bad);
    CHECK(c.core.state() == circuit_state::open);
    CHECK(c.events.back().cause == circuit_cause::probe_failed);
    CHECK(c.events.back().break_duration == 2s);
  }
  SECTION("a cancelled and an ignored probe give their places back without a verdict") {
    c.leave(probes[0], outcome_class::abandoned);
    c.leave(probes[1], outcome_class::ignored);
    CHECK(c.core.state() == circuit_state::half_open);
    circuit_permit again, another, third;
    CHECK(c.enter(again));
    CHECK(c.enter(another));
    CHECK_FALSE(c.enter(third));
  }
}

TEST_CASE("a hung probe loses its place after the deadline, and its result is late", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .probes = 1, .probe_deadline = 10s, .break_duration = 1s});
  c.calls(1, bad);
  c.now += 1s;
  circuit_permit hung, next;
  REQUIRE(c.enter(hung));
  c.now += 9s;
  const auto refused = c.core.admit(next, c.now);
  CHECK(refused.retry_after() == duration(1s));
  c.now += 1s;
  REQUIRE(c.enter(next));
  c.leave(hung, good);
  CHECK(c.core.state() == circuit_state::half_open);
  CHECK(c.core.stats(c.now).late == 1);
  c.leave(next, good);
  CHECK(c.core.state() == circuit_state::closed);
  CHECK(c.seen(circuit_event_kind::probe_abandoned) == 1);
}

TEST_CASE("a late success of the previous epoch does not close a half-open circuit, a late failure does not re-open it",
          "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .probes = 2, .break_duration = 1s});
  circuit_permit before_good, before_bad;
  REQUIRE(c.enter(before_good));
  REQUIRE(c.enter(before_bad));
  c.calls(1, bad);
  c.now += 1s;
  circuit_permit probe;
  REQUIRE(c.enter(probe));
  c.leave(before_good, good);
  c.leave(before_bad, bad);
  CHECK(c.core.state() == circuit_state::half_open);
  CHECK(c.core.stats(c.now).late == 2);
}

TEST_CASE("breaks grow to their limit and start over after a closed time", "[circuit]") {
  driven_core c({.minimum_calls = 1,
                 .window_calls = 1,
                 .probes = 1,
                 .break_duration = 1s,
                 .break_growth = 3,
                 .max_break_duration = 5s});
  std::vector<duration> lengths;
  c.calls(1, bad);
  for (int i = 0; i < 3; ++i) {
    lengths.push_back(c.core.stats(c.now).remaining_break);
    c.now += lengths.back();
    c.calls(1, bad);
  }
  CHECK(lengths == std::vector<duration>{1s, 3s, 5s});
  c.now += 5s;
  c.calls(1, good);
  c.calls(1, bad);
  CHECK(c.core.stats(c.now).remaining_break == 1s);
}

TEST_CASE("a generator sets the break, is clamped, and may throw", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .break_duration = 2s, .max_break_duration = 10s});
  duration generated = 7s;
  c.core.set_break_generator([&](const break_context& context) {
    CHECK(context.consecutive_opens == 1);
    if (generated < duration::zero()) throw std::runtime_error("no idea");
    return generated;
  });
  const auto expect = [&](duration length) {
    c.calls(1, bad);
    CHECK(c.core.stats(c.now).remaining_break == length);
    c.core.reset();
  };
  expect(7s);
  generated = 1h;
  expect(10s);
  generated = -1s;
  expect(2s);
}

TEST_CASE("isolated refuses, disabled passes without recording, metrics_only says what it would do", "[circuit]") {
  driven_core c({.minimum_calls = 2, .window_calls = 2});
  c.core.set_mode(circuit_mode::isolated);
  circuit_permit permit;
  CHECK(c.core.admit(permit, c.now).is_refusal(errc::circuit_isolated));
  c.core.set_mode(circuit_mode::disabled);
  c.calls(10, bad);
  CHECK(c.core.state() == circuit_state::closed);
  CHECK(c.core.stats(c.now).failed == 0);
  c.core.set_mode(circuit_mode::metrics_only);
  c.calls(10, bad);
  CHECK(c.core.state() == circuit_state::closed);
  CHECK(c.seen(circuit_event_kind::would_open) == 1);
  c.core.set_mode(circuit_mode::normal);
  c.calls(1, bad);
  CHECK(c.core.state() == circuit_state::open);
}

TEST_CASE("abandoned calls are ignored, counted as failures, or counted by their share", "[circuit]") {
  const auto after_five_abandoned = [](abandoned_policy policy) {
    driven_core c({.minimum_calls = 3, .window_calls = 5, .abandoned = policy});
    for (int i = 0; i < 5; ++i) (void)c.call(outcome_class::abandoned);
    return c.core.state();
  };
  CHECK(after_five_abandoned(abandoned_policy::ignore) == circuit_state::closed);
  CHECK(after_five_abandoned(abandoned_policy::as_failure) == circuit_state::open);
  driven_core c({.minimum_calls = 3, .window_calls = 3, .abandoned = abandoned_policy::by_share});
  for (int i = 0; i < 10 && c.core.state() == circuit_state::closed; ++i) (void)c.call(outcome_class::abandoned);
  CHECK(c.core.state() == circuit_state::open);
}

TEST_CASE("state travels: an open circuit keeps the rest of its break, a half-open one probes at once", "[circuit]") {
  driven_core a({.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 10s});
  a.calls(1, bad);
  a.now += 4s;
  const auto open = a.core.snapshot(a.now);
  driven_core b({.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 10s});
  b.core.restore(open);
  circuit_permit permit;
  CHECK(b.core.admit(permit, b.now).retry_after() == duration(6s));

  a.now += 6s;
  REQUIRE(a.enter(permit));
  driven_core d({.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 10s});
  d.core.restore(a.core.snapshot(a.now));
  CHECK(d.core.state() == circuit_state::open);
  CHECK(d.call(good));
  CHECK(d.core.state() == circuit_state::closed);
}

TEST_CASE("open() and close() by hand are idempotent; an opened circuit's break starts with the next call",
          "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 5s});
  c.core.open();
  c.core.open();
  c.now += 1h;
  circuit_permit permit;
  CHECK(c.core.admit(permit, c.now).retry_after() == duration(5s));
  c.core.close();
  c.core.close();
  c.core.drain_events();
  CHECK(c.seen(circuit_event_kind::opened) == 1);
  CHECK(c.seen(circuit_event_kind::closed) == 1);
  CHECK(c.call(good));
}

TEST_CASE("bad options are all named at once", "[circuit]") {
  try {
    circuit_core core(named("payments"), {.failure_ratio = 2, .minimum_calls = 0, .probes = 0, .break_growth = 0.5});
    FAIL("accepted");
  } catch (const invalid_options_error& e) {
    const std::string text = e.what();
    for (const char* field : {"failure_ratio", "minimum_calls", "probes", "break_growth"}) {
      CHECK(text.find(std::string("circuit_breaker 'payments'.") + field) != std::string::npos);
    }
  }
}

TEST_CASE("a count window agrees with a plain queue over 100000 random calls", "[circuit][model]") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  driven_core c({.failure_ratio = 0.6, .minimum_calls = 7, .window_calls = 20, .probes = 1, .break_duration = 1s});
  std::deque<bool> model;
  for (int i = 0; i < 100'000; ++i) {
    if (c.core.state() != circuit_state::closed) {
      c.now += 1min;
      REQUIRE(c.call(good));
      REQUIRE(c.core.state() == circuit_state::closed);
      model.clear();
    }
    const bool failed = random() % 100 < static_cast<unsigned>(i / 1000 % 10) * 8;
    REQUIRE(c.call(failed ? bad : good));
    model.push_back(failed);
    if (model.size() > 20) model.pop_front();
    const auto failures = static_cast<std::size_t>(std::ranges::count(model, true));
    const bool open = model.size() >= 7 && failures * 10 >= model.size() * 6;
    REQUIRE((c.core.state() == circuit_state::open) == open);
  }
}

TEST_CASE("a time window agrees with a plain list over 100000 random calls", "[circuit][model]") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  detail::time_window window(10, 1s, true);
  std::deque<std::tuple<std::int64_t, bool, bool>> model;  // slice, failed, slow
  time_point now{1h};
  for (int i = 0; i < 100'000; ++i) {
    now += std::chrono::milliseconds(random() % (i % 1000 == 0 ? 30'000 : 300));
    const bool failed = random() % 3 == 0, slow = random() % 5 == 0;
    const auto slice = window.slice_of(now);
    REQUIRE(slice == now.time_since_epoch().count() / 1'000'000'000);
    REQUIRE(window.add(0, slice, failed, slow));
    model.emplace_back(slice, failed, slow);
    while (std::get<0>(model.front()) <= slice - 10) model.pop_front();
    const auto counts = window.sum(0, slice);
    REQUIRE(counts.calls == model.size());
    REQUIRE(counts.failures ==
            static_cast<std::uint64_t>(std::ranges::count_if(model, [](auto& m) { return std::get<1>(m); })));
    REQUIRE(counts.slow ==
            static_cast<std::uint64_t>(std::ranges::count_if(model, [](auto& m) { return std::get<2>(m); })));
  }
}

// ------------------------------------------------------------------------------------------------- the trip, in detail

TEST_CASE("nothing is judged before the minimum of calls, and a ratio is met in spite of rounding", "[circuit]") {
  driven_core c({.failure_ratio = 0.7, .minimum_calls = 10, .window_calls = 10});
  c.calls(3, good);
  c.calls(6, bad);
  CHECK(c.core.state() == circuit_state::closed);
  CHECK_FALSE(c.core.stats(c.now).enough_calls);
  c.calls(1, bad);  // seven of ten, though 0.7 * 10 > 7 in floating point
  CHECK(c.core.state() == circuit_state::open);
}

TEST_CASE("a count window smaller than the minimum of calls is judged when it is full", "[circuit]") {
  driven_core c({.minimum_calls = 20, .window_calls = 3});
  c.calls(2, bad);
  CHECK(c.core.state() == circuit_state::closed);
  c.calls(1, bad);
  CHECK(c.core.state() == circuit_state::open);
}

TEST_CASE("an ignored call moves nothing", "[circuit]") {
  driven_core c({.minimum_calls = 2, .window_calls = 4});
  c.calls(1, bad);
  c.calls(10, outcome_class::ignored);
  CHECK(c.core.state() == circuit_state::closed);
  CHECK(c.core.stats(c.now).calls == 1);
  CHECK(c.core.stats(c.now).ignored == 10);
}

TEST_CASE("a long success does not hide the failures that came while it ran", "[circuit]") {
  driven_core c({.failure_ratio = 0.5, .minimum_calls = 5, .window = 10s, .buckets = 10});
  circuit_permit longest;
  REQUIRE(c.enter(longest));
  c.now += 5s;
  c.calls(3, bad);
  // Whoever needs no end time may say that a success ended when it began.
  CHECK_FALSE(c.core.record(longest, good, longest.started));
  CHECK(c.core.state() == circuit_state::closed);
  c.calls(1, good);  // three of five
  CHECK(c.core.state() == circuit_state::open);
}

TEST_CASE("failures and slow calls have ratios of their own", "[circuit]") {
  const auto after = [](int failing, int slow) {
    driven_core c({.failure_ratio = 0.5,
                   .slow_call_duration = 100ms,
                   .slow_call_ratio = 0.5,
                   .minimum_calls = 6,
                   .window_calls = 6});
    for (int i = 0; i < 6; ++i) {
      circuit_permit permit;
      if (!c.enter(permit)) break;
      if (i < slow) c.now += 101ms;
      c.leave(permit, i >= 6 - failing ? bad : good);
    }
    return c.events.empty() ? circuit_cause::none : c.events.back().cause;
  };
  CHECK(after(2, 2) == circuit_cause::none);  // four of six troubled, but neither ratio reached
  CHECK(after(3, 0) == circuit_cause::failure_rate);
  CHECK(after(0, 3) == circuit_cause::slow_rate);
  CHECK(after(3, 3) == circuit_cause::failure_rate);
}

TEST_CASE("a slow failure counts as both", "[circuit]") {
  for (const std::size_t window_calls : {std::size_t{0}, std::size_t{20}}) {
    driven_core c({.slow_call_duration = 100ms, .minimum_calls = 10, .window_calls = window_calls});
    circuit_permit permit;
    REQUIRE(c.enter(permit));
    c.now += 200ms;
    c.leave(permit, bad);
    const auto s = c.core.stats(c.now);
    CHECK(s.calls == 1);
    CHECK(s.failures == 1);
    CHECK(s.slow == 1);
    CHECK(s.slow_ratio == 1.0);
    CHECK(s.slow_calls == 1);
  }
}

TEST_CASE("a call counts in the slice it began in", "[circuit]") {
  driven_core c({.minimum_calls = 10, .window = 10s, .buckets = 10});
  circuit_permit permit;
  REQUIRE(c.enter(permit));
  c.now += 7s;
  c.leave(permit, bad);
  CHECK(c.core.stats(c.now).failures == 1);
  CHECK(c.core.stats(c.now + 2s).failures == 1);
  CHECK(c.core.stats(c.now + 3s).failures == 0);
}

// ------------------------------------------------------------------------------------------------------- half-open

TEST_CASE("the ratio of the probes decides how early they decide", "[circuit]") {
  const auto decided_after = [](double ratio, outcome_class result) {
    driven_core c(
        {.minimum_calls = 1, .window_calls = 1, .probes = 10, .probe_failure_ratio = ratio, .break_duration = 1s});
    c.calls(1, bad);
    c.now += 1s;
    int calls = 0;
    do {
      REQUIRE(c.call(result));
      ++calls;
    } while (c.core.state() == circuit_state::half_open);
    REQUIRE(c.core.state() == (result == good ? circuit_state::closed : circuit_state::open));
    return calls;
  };
  CHECK(decided_after(0.01, bad) == 1);  // the first failure re-opens
  CHECK(decided_after(0.01, good) == 10);
  CHECK(decided_after(0.3, bad) == 3);
  CHECK(decided_after(0.3, good) == 8);
  CHECK(decided_after(0.5, bad) == 5);
  CHECK(decided_after(0.5, good) == 6);
  CHECK(decided_after(1.0, bad) == 10);
  CHECK(decided_after(1.0, good) == 1);  // one success is enough: not all can fail any more
  CHECK(decided_after(0, bad) == 5);     // 0 means failure_ratio, here 0.5
}

TEST_CASE("slow probes re-open a circuit at the ratio of slow calls", "[circuit]") {
  const auto decided_after = [](double slow_call_ratio, std::size_t slow) {
    driven_core c({.failure_ratio = 0.1,
                   .slow_call_duration = 100ms,
                   .slow_call_ratio = slow_call_ratio,
                   .minimum_calls = 1,
                   .window_calls = 1,
                   .probes = 4,
                   .break_duration = 1s});
    c.calls(1, bad);
    c.now += 1s;
    for (std::size_t i = 0; i < 4; ++i) {
      circuit_permit probe;
      REQUIRE(c.enter(probe));
      if (i < slow) c.now += 101ms;
      c.leave(probe, good);
      if (c.core.state() != circuit_state::half_open) return std::pair(i + 1, c.core.state());
    }
    return std::pair(std::size_t{0}, c.core.state());
  };
  CHECK(decided_after(1.0, 3) == std::pair(std::size_t{4}, circuit_state::closed));
  CHECK(decided_after(1.0, 4) == std::pair(std::size_t{4}, circuit_state::open));
  CHECK(decided_after(0.5, 1) == std::pair(std::size_t{4}, circuit_state::closed));
  CHECK(decided_after(0.5, 2) == std::pair(std::size_t{2}, circuit_state::open));
  CHECK(decided_after(0.1, 1) == std::pair(std::size_t{1}, circuit_state::open));
}

TEST_CASE("a slow call that the window would have forgotten cannot be asked for", "[circuit]") {
  const auto problems = validate(circuit_breaker_options{.slow_call_duration = 30s, .window = 30s});
  REQUIRE(problems.size() == 1);
  CHECK(problems[0].starts_with("slow_call_duration: must be less than window"));
  CHECK(validate(circuit_breaker_options{.slow_call_duration = 30s, .window = 30s, .window_calls = 5}).empty());
}

TEST_CASE("a slow probe is a failed probe", "[circuit]") {
  driven_core c(
      {.slow_call_duration = 100ms, .minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 1s});
  c.calls(1, bad);
  c.now += 1s;
  circuit_permit probe;
  REQUIRE(c.enter(probe));
  c.now += 101ms;
  c.leave(probe, good);
  CHECK(c.core.state() == circuit_state::open);
  CHECK(c.events.back().cause == circuit_cause::probe_failed);
}

TEST_CASE("a refusal of a half-open circuit says when the oldest probe gives up its place", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .probes = 2, .break_duration = 4s});
  c.calls(1, bad);
  c.now += 4s;
  circuit_permit oldest, other, excess;
  REQUIRE(c.enter(oldest));
  c.now += 1s;
  REQUIRE(c.enter(other));
  c.now += 1s;
  const auto refused = c.core.admit(excess, c.now);
  CHECK(refused.is_refusal(errc::circuit_open));
  CHECK(refused.retry_after() == duration(2s));  // without a probe_deadline the break_duration is the deadline
}

TEST_CASE("only as many places of hung probes are taken as there are calls for them", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .probes = 2, .probe_deadline = 1s, .break_duration = 1s});
  c.calls(1, bad);
  c.now += 1s;
  std::array<circuit_permit, 4> probes;
  REQUIRE(c.enter(probes[0]));
  REQUIRE(c.enter(probes[1]));
  c.now += 1s;
  REQUIRE(c.enter(probes[2]));
  CHECK(c.seen(circuit_event_kind::probe_abandoned) == 1);
  c.leave(probes[1], good);  // past its deadline, but its place was still its own
  CHECK(c.core.stats(c.now).late == 0);
  c.leave(probes[0], bad);
  CHECK(c.core.stats(c.now).late == 1);
  CHECK(c.seen(circuit_event_kind::late_result) == 1);
  CHECK(c.core.state() == circuit_state::half_open);
  c.leave(probes[2], good);
  CHECK(c.core.state() == circuit_state::closed);
}

TEST_CASE("a probe destroyed where abandoned calls are failures re-opens the circuit", "[circuit]") {
  driven_core c({.minimum_calls = 1,
                 .window_calls = 1,
                 .probes = 1,
                 .break_duration = 1s,
                 .abandoned = abandoned_policy::as_failure});
  c.calls(1, bad);
  c.now += 1s;
  circuit_permit probe;
  REQUIRE(c.enter(probe));
  c.core.abandon(probe);
  c.core.drain_events();
  CHECK(c.core.state() == circuit_state::open);
  c.now += 2s;
  CHECK(c.call(good));
  CHECK(c.core.state() == circuit_state::closed);
}

TEST_CASE("destroyed calls open a circuit where abandoned calls are failures", "[circuit]") {
  for (const std::size_t window_calls : {std::size_t{0}, std::size_t{20}}) {
    driven_core c({.minimum_calls = 3, .window_calls = window_calls, .abandoned = abandoned_policy::as_failure});
    for (int i = 0; i < 3; ++i) {
      CHECK(c.core.state() == circuit_state::closed);
      circuit_permit permit;
      REQUIRE(c.enter(permit));
      c.core.abandon(permit);
    }
    CHECK(c.core.state() == circuit_state::open);
    CHECK(c.core.stats(c.now).abandoned == 3);
  }
}

TEST_CASE("a destroyed call that is ignored moves nothing", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1});
  circuit_permit permit;
  REQUIRE(c.enter(permit));
  c.core.abandon(permit);
  CHECK(c.core.state() == circuit_state::closed);
  CHECK(c.core.stats(c.now).calls == 0);
  CHECK(c.core.stats(c.now).abandoned == 1);
}

TEST_CASE("the share of abandoned calls is that of the window, not of all time", "[circuit]") {
  SECTION("of time") {
    driven_core c({.minimum_calls = 10,
                   .window = 10s,
                   .buckets = 10,
                   .abandoned = abandoned_policy::by_share,
                   .abandoned_ratio = 0.5});
    for (int minute = 0; minute < 100; ++minute) {  // one of ten, for hours
      c.calls(9, good);
      c.calls(1, outcome_class::abandoned);
      c.now += 1min;
    }
    CHECK(c.core.stats(c.now - 1min).failures == 0);
    c.calls(10, good);
    c.calls(9, outcome_class::abandoned);
    CHECK(c.core.stats(c.now).failures == 0);
    CHECK(c.core.stats(c.now).calls == 10);  // until their share tells something, they are no calls at all
    c.calls(1, outcome_class::abandoned);    // ten of twenty
    CHECK(c.core.stats(c.now).failures == 10);
    CHECK(c.core.stats(c.now).calls == 20);
    CHECK(c.core.state() == circuit_state::open);
  }
  SECTION("of calls") {
    driven_core c(
        {.minimum_calls = 10, .window_calls = 20, .abandoned = abandoned_policy::by_share, .abandoned_ratio = 0.5});
    for (int i = 0; i < 100; ++i) {
      c.calls(9, good);
      c.calls(1, outcome_class::abandoned);
    }
    CHECK(c.core.stats(c.now).failures == 0);
    c.calls(20, good);
    c.calls(9, outcome_class::abandoned);
    CHECK(c.core.stats(c.now).failures == 0);
    c.calls(1, outcome_class::abandoned);  // ten of the last twenty
    CHECK(c.core.stats(c.now).failures == 10);
    CHECK(c.core.state() == circuit_state::open);
  }
}

TEST_CASE("a circuit where all calls are abandoned opens with the minimum of calls, and re-opens with its probes",
          "[circuit]") {
  for (const std::size_t window_calls : {std::size_t{0}, std::size_t{20}}) {
    driven_core c({.minimum_calls = 4,
                   .window_calls = window_calls,
                   .probes = 2,
                   .break_duration = 1s,
                   .abandoned = abandoned_policy::by_share});
    c.calls(3, outcome_class::abandoned);
    CHECK(c.core.state() == circuit_state::closed);
    c.calls(1, outcome_class::abandoned);
    REQUIRE(c.core.state() == circuit_state::open);
    c.now += 1s;
    c.calls(1, outcome_class::abandoned);
    CHECK(c.core.state() == circuit_state::half_open);
    c.calls(1, outcome_class::abandoned);
    CHECK(c.core.state() == circuit_state::open);
    CHECK(c.events.back().cause == circuit_cause::probe_failed);
  }
}

TEST_CASE("abandoned probes among good ones do not decide", "[circuit]") {
  driven_core c({.minimum_calls = 1,
                 .window_calls = 1,
                 .probes = 3,
                 .break_duration = 1s,
                 .abandoned = abandoned_policy::by_share});
  c.calls(1, bad);
  c.now += 1s;
  c.calls(1, good);
  c.calls(5, outcome_class::abandoned);
  CHECK(c.core.state() == circuit_state::half_open);
  c.calls(1, good);
  CHECK(c.core.state() == circuit_state::closed);
}

TEST_CASE("a call that outlasts the window counts where the window begins when it ends", "[circuit]") {
  driven_core c({.minimum_calls = 2, .window = 10s, .buckets = 10});
  circuit_permit first, second;
  REQUIRE(c.enter(first));
  REQUIRE(c.enter(second));
  c.now += 1min;
  c.leave(first, bad);
  c.leave(second, bad);
  CHECK(c.core.stats(c.now).late == 0);
  CHECK(c.core.state() == circuit_state::open);
}

TEST_CASE("a kept window opens the circuit on the next failure, not on a success", "[circuit]") {
  for (const std::size_t window_calls : {std::size_t{0}, std::size_t{10}}) {
    driven_core c({.minimum_calls = 5,
                   .window_calls = window_calls,
                   .probes = 1,
                   .break_duration = 1s,
                   .keep_window_on_close = true});
    c.calls(5, bad);
    c.now += 1s;
    c.calls(1, good);
    REQUIRE(c.core.state() == circuit_state::closed);
    CHECK(c.core.stats(c.now).failures == 5);
    c.calls(2, good);
    CHECK(c.core.state() == circuit_state::closed);
    c.calls(1, bad);
    CHECK(c.core.state() == circuit_state::open);
  }
}

// ------------------------------------------------------------------------------------------------------ attribution

TEST_CASE("late results neither lengthen a break nor count in the next closed time", "[circuit]") {
  for (const std::size_t window_calls : {std::size_t{0}, std::size_t{1}}) {
    driven_core c({.minimum_calls = 1, .window_calls = window_calls, .probes = 1, .break_duration = 5s});
    std::array<circuit_permit, 3> early;
    for (auto& permit : early) REQUIRE(c.enter(permit));
    c.calls(1, bad);
    c.now += 2s;
    c.leave(early[0], bad);
    CHECK(c.core.stats(c.now).remaining_break == 3s);
    c.now += 3s;
    c.calls(1, good);
    REQUIRE(c.core.state() == circuit_state::closed);
    c.leave(early[1], bad);
    c.core.abandon(early[2]);
    c.core.drain_events();
    CHECK(c.core.state() == circuit_state::closed);
    const auto s = c.core.stats(c.now);
    CHECK(s.calls == 0);
    CHECK(s.failed == 1);
    CHECK(s.late == 3);
    CHECK(c.seen(circuit_event_kind::late_result) == 3);
  }
}

TEST_CASE("a result from before a reset or a change of mode is late", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1});
  circuit_permit permit;
  REQUIRE(c.enter(permit));
  c.core.reset();
  c.leave(permit, bad);
  CHECK(c.core.state() == circuit_state::closed);
  REQUIRE(c.enter(permit));
  c.core.set_mode(circuit_mode::isolated);
  c.core.set_mode(circuit_mode::normal);
  c.leave(permit, bad);
  CHECK(c.core.state() == circuit_state::closed);
  CHECK(c.core.stats(c.now).late == 2);
}

TEST_CASE("every transition begins an epoch, and its event says where from, where to and why", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 1s});
  c.calls(1, bad);
  c.now += 1s;
  c.calls(1, bad);
  c.now += 2s;
  c.calls(1, good);
  c.core.open();
  c.core.close();
  c.core.drain_events();
  using step = std::tuple<circuit_event_kind, circuit_state, circuit_state, circuit_cause>;
  using enum circuit_state;
  std::vector<step> steps;
  std::set<std::uint64_t> epochs;
  for (const auto& e : c.events) {
    steps.emplace_back(e.kind, e.from, e.to, e.cause);
    epochs.insert(e.epoch);
  }
  CHECK(steps == std::vector<step>{
                     {circuit_event_kind::opened, closed, open, circuit_cause::failure_rate},
                     {circuit_event_kind::half_opened, open, half_open, circuit_cause::break_elapsed},
                     {circuit_event_kind::opened, half_open, open, circuit_cause::probe_failed},
                     {circuit_event_kind::half_opened, open, half_open, circuit_cause::break_elapsed},
                     {circuit_event_kind::closed, half_open, closed, circuit_cause::probes_succeeded},
                     {circuit_event_kind::opened, closed, open, circuit_cause::manual},
                     {circuit_event_kind::closed, open, closed, circuit_cause::manual},
                 });
  CHECK(epochs.size() == steps.size());
  CHECK(*epochs.rbegin() == c.core.stats(c.now).epoch);
}

// ------------------------------------------------------------------------------------------------------- the window

TEST_CASE("a closed circuit starts with an empty window unless told to keep it", "[circuit]") {
  for (const std::size_t window_calls : {std::size_t{0}, std::size_t{10}}) {
    const auto after_recovery = [&](bool keep) {
      driven_core c({.minimum_calls = 4,
                     .window_calls = window_calls,
                     .probes = 1,
                     .break_duration = 1s,
                     .keep_window_on_close = keep});
      c.calls(1, good);
      c.calls(3, bad);
      c.now += 1s;
      c.calls(1, good);
      REQUIRE(c.core.state() == circuit_state::closed);
      const auto failures = c.core.stats(c.now).failures;
      c.calls(1, bad);
      return std::pair(failures, c.core.state());
    };
    CHECK(after_recovery(false) == std::pair(std::uint64_t{0}, circuit_state::closed));
    CHECK(after_recovery(true) == std::pair(std::uint64_t{3}, circuit_state::open));
  }
}

TEST_CASE("latencies are recorded for count windows too", "[circuit]") {
  for (const std::size_t window_calls : {std::size_t{0}, std::size_t{10}}) {
    driven_core c({.window = 30s, .window_calls = window_calls, .record_latency = true});
    circuit_permit permit;
    REQUIRE(c.enter(permit));
    c.now += 80ms;
    c.leave(permit, good);
    CHECK(c.core.stats(c.now).latency.count == 1);
    CHECK(c.core.stats(c.now).latency.max == 80ms);
    c.now += 2min;
    REQUIRE(c.enter(permit));
    c.now += 20ms;
    c.leave(permit, bad);
    CHECK(c.core.stats(c.now).latency.count == 1);
    CHECK(c.core.stats(c.now).latency.max == 20ms);
  }
}

// --------------------------------------------------------------------------------------------------------- the break

TEST_CASE("a refusal tells the rest of the computed break, not of the configured one", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 2s, .break_growth = 2});
  c.calls(1, bad);
  c.now += 2s;
  c.calls(1, bad);
  c.now += 1s;
  circuit_permit permit;
  CHECK(c.core.admit(permit, c.now).retry_after() == duration(3s));
  CHECK(c.core.stats(c.now).consecutive_opens == 2);
}

TEST_CASE("a generator knows what happened, holds no lock, and sets what refusals tell", "[circuit]") {
  driven_core c({.minimum_calls = 4, .window_calls = 4, .probes = 1, .break_duration = 1s});
  std::vector<break_context> seen;
  c.core.set_break_generator([&](const break_context& context) {
    seen.push_back(context);
    CHECK(c.core.stats(c.now).state != circuit_state::open);  // would deadlock under the lock
    return 10s * context.consecutive_opens;
  });
  c.calls(2, good);
  c.calls(1, bad);
  circuit_permit permit;
  REQUIRE(c.enter(permit));
  const auto failure = std::make_exception_ptr(std::runtime_error("down"));
  REQUIRE(c.core.record(permit, bad, c.now));
  c.core.evaluate(permit, c.now, failure);
  REQUIRE(seen.size() == 1);
  CHECK(seen[0].consecutive_opens == 1);
  CHECK(seen[0].calls == 4);
  CHECK(seen[0].failures == 2);
  CHECK(seen[0].last_failure == failure);
  const auto refused = c.core.admit(permit, c.now);
  CHECK(refused.retry_after() == duration(10s));
  CHECK(refused.cause() == failure);
  c.now += 10s;
  c.calls(1, bad);
  REQUIRE(seen.size() == 2);
  CHECK(seen[1].consecutive_opens == 2);
  CHECK(seen[1].calls == 1);
  CHECK(c.core.admit(permit, c.now).retry_after() == duration(20s));
}

TEST_CASE("what a person did while the generator thought stands", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .break_duration = 1s});
  c.core.set_break_generator([&](const break_context&) {
    c.core.reset();
    return 10s;
  });
  c.calls(1, bad);
  CHECK(c.core.state() == circuit_state::closed);
  CHECK(c.seen(circuit_event_kind::opened) == 0);
}

TEST_CASE("a break of no length and one without end are both sound", "[circuit]") {
  driven_core c({.minimum_calls = 1,
                 .window_calls = 1,
                 .probes = 1,
                 .break_duration = duration::max(),
                 .max_break_duration = duration::max()});
  c.calls(1, bad);
  c.now += 24h * 365;
  CHECK_FALSE(c.call(good));
  CHECK(c.core.stats(c.now).remaining_break > 24h * 365 * 200);
  CHECK(c.core.snapshot(c.now).remaining_break > 24h * 365 * 200);
  c.core.set_break_generator([](const break_context&) { return 0s; });
  c.core.reset();
  c.calls(1, bad);
  CHECK_FALSE(c.call(good));  // at least a nanosecond
  c.now += 1ns;
  CHECK(c.call(good));
  CHECK(c.core.state() == circuit_state::closed);
}

// ---------------------------------------------------------------------------------------------------------- by hand

TEST_CASE("isolation outlasts everything but its end, and tells no time", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 5s});
  c.calls(1, bad);
  c.core.set_mode(circuit_mode::isolated);
  c.now += 1h;
  circuit_permit permit;
  const auto refused = c.core.admit(permit, c.now);
  CHECK(refused.is_refusal(errc::circuit_isolated));
  CHECK_FALSE(refused.retry_after());
  c.core.close();
  CHECK(c.core.admit(permit, c.now).is_refusal(errc::circuit_isolated));
  c.core.set_mode(circuit_mode::normal);
  CHECK(c.call(good));
  CHECK(c.core.stats(c.now).rejected == 2);
}

TEST_CASE("a change of mode takes half-open probes their places", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 5s});
  c.calls(1, bad);
  c.now += 5s;
  circuit_permit before, after;
  REQUIRE(c.enter(before));
  c.core.set_mode(circuit_mode::isolated);
  c.core.set_mode(circuit_mode::normal);
  REQUIRE(c.enter(after));
  c.leave(before, bad);
  CHECK(c.core.state() == circuit_state::half_open);
  c.leave(after, good);
  CHECK(c.core.state() == circuit_state::closed);
}

TEST_CASE("metrics_only says once per time in this mode that it would open", "[circuit]") {
  driven_core c({.minimum_calls = 2, .window_calls = 2, .mode = circuit_mode::metrics_only});
  c.calls(5, bad);
  CHECK(c.seen(circuit_event_kind::would_open) == 1);
  CHECK(c.events.back().cause == circuit_cause::failure_rate);
  CHECK(c.core.stats(c.now).opens == 0);
  c.core.set_mode(circuit_mode::disabled);
  c.core.set_mode(circuit_mode::metrics_only);
  c.calls(1, bad);
  CHECK(c.seen(circuit_event_kind::would_open) == 2);
}

TEST_CASE("a disabled circuit records nothing, not even late results", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .mode = circuit_mode::disabled});
  c.calls(3, bad);
  circuit_permit permit;
  REQUIRE(c.enter(permit));
  c.core.set_mode(circuit_mode::normal);
  c.leave(permit, bad);
  CHECK(c.core.state() == circuit_state::closed);
  const auto s = c.core.stats(c.now);
  CHECK(s.fires == 0);
  CHECK(s.calls == 0);
}

TEST_CASE("a reset forgets the failure, the mode and the growth, not the counters", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 1s});
  circuit_permit permit;
  REQUIRE(c.enter(permit));
  REQUIRE(c.core.record(permit, bad, c.now));
  c.core.evaluate(permit, c.now, std::make_exception_ptr(std::runtime_error("down")));
  CHECK(c.core.last_failure() != nullptr);
  c.core.set_mode(circuit_mode::isolated);
  c.core.reset();
  CHECK(c.core.state() == circuit_state::closed);
  CHECK(c.core.mode() == circuit_mode::normal);
  CHECK(c.core.last_failure() == nullptr);
  CHECK(c.core.stats(c.now).consecutive_opens == 0);
  CHECK(c.core.stats(c.now).failed == 1);
  c.calls(1, bad);
  CHECK(c.core.stats(c.now).remaining_break == 1s);
}

TEST_CASE("closing by hand while probes run makes their results late", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .probes = 2, .break_duration = 1s});
  c.calls(1, bad);
  c.now += 1s;
  circuit_permit probe;
  REQUIRE(c.enter(probe));
  c.core.close();
  c.leave(probe, bad);
  CHECK(c.core.state() == circuit_state::closed);
  CHECK(c.core.stats(c.now).late == 1);
}

TEST_CASE("opening by hand a half-open circuit starts a break with the next call", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 4s});
  c.calls(1, bad);
  c.now += 4s;
  circuit_permit probe, refused;
  REQUIRE(c.enter(probe));
  c.core.open();
  c.leave(probe, good);
  CHECK(c.core.state() == circuit_state::open);
  c.now += 1min;
  CHECK(c.core.stats(c.now).remaining_break == 4s);
  CHECK(c.core.admit(refused, c.now).retry_after() == duration(4s));
  c.now += 4s;
  CHECK(c.call(good));
}

// ----------------------------------------------------------------------------------------------------------- travel

TEST_CASE("an import keeps mode and growth", "[circuit]") {
  driven_core a({.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 1s, .break_growth = 2});
  a.calls(1, bad);
  a.now += 1s;
  a.calls(1, bad);
  a.core.set_mode(circuit_mode::isolated);
  const auto travelling = a.core.snapshot(a.now);
  CHECK(travelling.state == circuit_state::open);
  CHECK(travelling.consecutive_opens == 2);
  CHECK(travelling.remaining_break == 2s);

  driven_core b({.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 1s, .break_growth = 2});
  b.core.restore(travelling);
  CHECK(b.core.mode() == circuit_mode::isolated);
  b.core.set_mode(circuit_mode::normal);
  CHECK_FALSE(b.call(good));
  b.now += 2s;
  b.calls(1, bad);
  CHECK(b.core.stats(b.now).remaining_break == 4s);  // the third break in a row
  CHECK(b.events.front().cause == circuit_cause::imported);
}

TEST_CASE("importing a closed state closes and forgets, also an opening by hand", "[circuit]") {
  driven_core c({.minimum_calls = 2, .window_calls = 2, .break_duration = 5s});
  c.calls(1, bad);
  c.core.open();
  c.core.restore({});
  CHECK(c.core.state() == circuit_state::closed);
  CHECK(c.core.stats(c.now).calls == 0);
  c.calls(2, bad);
  c.now += 2s;
  circuit_permit permit;
  CHECK(c.core.admit(permit, c.now).retry_after() == duration(3s));  // counted from the trip
}

// -------------------------------------------------------------------------------------- failures in a row, warming up

TEST_CASE("a circuit opens after so many failures in a row, whatever the ratio", "[circuit]") {
  const std::size_t window_calls = GENERATE(std::size_t{0}, std::size_t{100});
  driven_core c({.failure_ratio = 1, .minimum_calls = 1000, .consecutive_failures = 3, .window_calls = window_calls});
  c.calls(200, good);
  for (int i = 0; i < 5; ++i) {
    c.calls(2, bad);
    c.calls(1, outcome_class::ignored);
    c.calls(1, good);
  }
  CHECK(c.core.state() == circuit_state::closed);
  c.calls(2, bad);
  c.calls(1, outcome_class::abandoned);  // says nothing, so it does not end the row
  CHECK(c.core.state() == circuit_state::closed);
  c.calls(1, bad);
  CHECK(c.core.state() == circuit_state::open);
  CHECK(c.events.back().cause == circuit_cause::consecutive_failures);
}

TEST_CASE("a circuit opens after so many failures in its window, however many calls there are", "[circuit]") {
  for (const std::size_t window_calls : {std::size_t{0}, std::size_t{1000}}) {
    driven_core c({.minimum_calls = 900, .failures_in_window = 3, .window = 10s, .window_calls = window_calls});
    c.calls(500, good);
    c.calls(2, bad);
    c.calls(100, good);
    CHECK(c.core.state() == circuit_state::closed);
    c.calls(1, bad);
    REQUIRE(c.core.state() == circuit_state::open);
    CHECK(c.events.back().cause == circuit_cause::failure_count);
    CHECK(c.events.back().failures == 3);
  }
  driven_core forgetful({.failures_in_window = 3, .window = 10s});
  for (int i = 0; i < 10; ++i) {
    forgetful.calls(2, bad);
    forgetful.now += 11s;
  }
  CHECK(forgetful.core.state() == circuit_state::closed);
}

TEST_CASE("after a break calls are let in gradually", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 1s, .ramp = 10s});
  c.calls(1, bad);
  c.now += 1s;
  c.calls(1, good);
  REQUIRE(c.core.state() == circuit_state::closed);
  CHECK(c.core.stats(c.now).ramping);
  CHECK_FALSE(c.core.refuses_all());
  const auto let_in = [&] {
    int count = 0;
    for (int i = 0; i < 100; ++i) count += c.call(good);
    return count;
  };
  CHECK(let_in() == 10);  // the first share
  c.now += 5s;
  CHECK(let_in() == 50);
  c.now += 4s;
  CHECK(let_in() == 90);
  CHECK(c.core.stats(c.now).ramping);
  c.now += 1s;
  CHECK(let_in() == 100);
  CHECK_FALSE(c.core.stats(c.now).ramping);
  circuit_permit permit;
  CHECK(c.core.try_admit(permit));
}

TEST_CASE("a failure on the ramp opens the circuit, and a person's close needs no ramp", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 1s, .ramp = 10s});
  c.calls(1, bad);
  c.now += 1s;
  c.calls(1, good);
  c.calls(1, bad);  // the first call on the ramp
  CHECK(c.core.state() == circuit_state::open);
  CHECK_FALSE(c.core.stats(c.now).ramping);
  c.core.close();
  CHECK_FALSE(c.core.stats(c.now).ramping);
  c.calls(5, good);
  c.core.set_mode(circuit_mode::isolated);
  c.core.set_mode(circuit_mode::normal);
  c.calls(5, good);
}

TEST_CASE("isolation on the ramp does not end it", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .probes = 1, .break_duration = 1s, .ramp = 10s});
  c.calls(1, bad);
  c.now += 1s;
  c.calls(1, good);
  c.core.hold_isolated();
  CHECK_FALSE(c.call(good));
  CHECK(c.core.mode() == circuit_mode::isolated);
  c.core.hold_isolated();
  c.core.release_isolated();
  CHECK_FALSE(c.call(good));
  c.core.release_isolated();
  CHECK(c.core.mode() == circuit_mode::normal);
  CHECK(c.core.stats(c.now).ramping);
  CHECK(c.call(good));
  CHECK_FALSE(c.call(good));
}

TEST_CASE("calls in flight that are slow already open a circuit, before any of them has ended", "[circuit]") {
  driven_core c({.slow_call_duration = 1s, .minimum_calls = 1000, .slow_in_flight = 3, .break_duration = 1s});
  std::array<circuit_permit, 4> hanging;
  for (auto& permit : hanging) REQUIRE(c.enter(permit));
  c.leave(hanging[3], good);
  c.now += 900ms;
  c.calls(10, good);
  CHECK(c.core.state() == circuit_state::closed);
  c.now += 200ms;
  circuit_permit refused;
  const auto why = c.core.admit(refused, c.now);
  c.core.drain_events();
  CHECK(why.is_refusal(errc::circuit_open));
  CHECK(c.core.state() == circuit_state::open);
  CHECK(c.events.back().cause == circuit_cause::slow_in_flight);
  // They do not count in the next closed time, and their results are late.
  c.now += 1s;
  c.calls(5, good);
  CHECK(c.core.state() == circuit_state::closed);
  for (int i = 0; i < 3; ++i) c.leave(hanging[static_cast<std::size_t>(i)], bad);
  CHECK(c.core.stats(c.now).late == 3);
  c.calls(20, good);
  CHECK(c.core.state() == circuit_state::closed);
}

TEST_CASE("slow calls in flight only say so under metrics_only, and a destroyed call is no longer in flight",
          "[circuit]") {
  driven_core c({.slow_call_duration = 1s,
                 .minimum_calls = 1000,
                 .slow_in_flight = 2,
                 .break_duration = 1s,
                 .mode = circuit_mode::metrics_only});
  std::array<circuit_permit, 2> hanging;
  for (auto& permit : hanging) REQUIRE(c.enter(permit));
  c.now += 2s;
  c.calls(3, good);
  CHECK(c.seen(circuit_event_kind::would_open) == 1);
  c.core.set_mode(circuit_mode::normal);  // a new epoch: what began before is not watched any more
  c.calls(3, good);
  for (auto& permit : hanging) REQUIRE(c.enter(permit));
  c.now += 2s;
  c.core.abandon(hanging[0]);
  c.calls(3, good);
  CHECK(c.core.state() == circuit_state::closed);
}

TEST_CASE("other thresholds judge the window that is there", "[circuit]") {
  for (const std::size_t window_calls : {std::size_t{0}, std::size_t{10}}) {
    circuit_breaker_options o{.failure_ratio = 0.9, .minimum_calls = 10, .window_calls = window_calls};
    driven_core c(o);
    c.calls(5, good);
    c.calls(5, bad);
    CHECK(c.core.state() == circuit_state::closed);
    o.failure_ratio = 0.5;
    c.core.reconfigure(o);
    CHECK(c.core.stats(c.now).calls == 10);
    c.calls(1, good);
    CHECK(c.core.state() == (window_calls == 0 ? circuit_state::closed : circuit_state::open));  // 5 of 11, 5 of 10
    if (window_calls == 0) c.calls(1, bad);
    CHECK(c.core.state() == circuit_state::open);
    CHECK(c.core.stats(c.now).failed == (window_calls == 0 ? 6 : 5));
  }
}

TEST_CASE("a count window of another size keeps the newest calls, one of time begins anew", "[circuit]") {
  circuit_breaker_options o{.failure_ratio = 1, .minimum_calls = 100, .window_calls = 6};
  driven_core c(o);
  c.calls(3, bad);
  c.calls(5, good);  // some of them still on their way
  o.window_calls = 20;
  c.core.reconfigure(o);
  CHECK(c.core.stats(c.now).calls == 6);
  CHECK(c.core.stats(c.now).failures == 1);
  c.calls(2, bad);
  o.window_calls = 3;
  c.core.reconfigure(o);
  CHECK(c.core.stats(c.now).calls == 3);
  CHECK(c.core.stats(c.now).failures == 2);
  c.calls(2, good);
  CHECK(c.core.stats(c.now).failures == 1);
  o.window_calls = 0;
  c.core.reconfigure(o);
  CHECK(c.core.stats(c.now).calls == 0);
  c.calls(4, bad);
  CHECK(c.core.stats(c.now).failures == 4);
  o.buckets = 5;
  c.core.reconfigure(o);
  CHECK(c.core.stats(c.now).calls == 0);
  CHECK(c.core.stats(c.now).failed == 9);  // counters count on
  CHECK(c.core.stats(c.now).successes == 7);
}

TEST_CASE("a break, its growth and probes in flight outlast other options", "[circuit]") {
  circuit_breaker_options o{.minimum_calls = 1, .window_calls = 1, .probes = 2, .break_duration = 10s};
  driven_core c(o);
  c.calls(1, bad);
  o.break_duration = 1s;
  o.window_calls = 5;
  o.probes = 3;
  c.core.reconfigure(o);
  CHECK(c.core.stats(c.now).remaining_break == 10s);
  c.now += 10s;
  circuit_permit probe;
  REQUIRE(c.enter(probe));
  o.window_calls = 7;
  o.slow_call_duration = 1s;
  o.slow_in_flight = 5;
  c.core.reconfigure(o);
  c.leave(probe, good);
  c.calls(1, good);
  CHECK(c.core.state() == circuit_state::closed);
  CHECK(c.core.stats(c.now).late == 0);
  CHECK(c.core.stats(c.now).opens == 1);
  c.calls(1, bad);
  CHECK(c.core.stats(c.now).remaining_break == 1s);
}

TEST_CASE("bad options change nothing, another mode is told, and a watch that ends forgets the calls in flight",
          "[circuit]") {
  circuit_breaker_options o{.slow_call_duration = 1s, .minimum_calls = 10, .slow_in_flight = 2};
  driven_core c(o);
  auto broken = o;
  broken.failure_ratio = 7;
  CHECK_THROWS_AS(c.core.reconfigure(broken), invalid_options_error);
  CHECK(c.core.options() == o);
  std::array<circuit_permit, 2> flying;
  for (auto& permit : flying) REQUIRE(c.enter(permit));
  o.slow_call_duration = 2s;
  c.core.reconfigure(o);
  c.now += 5s;
  for (auto& permit : flying) c.leave(permit, good);
  c.calls(3, good);
  CHECK(c.core.state() == circuit_state::closed);
  o.mode = circuit_mode::isolated;
  c.core.reconfigure(o);
  c.core.drain_events();
  CHECK_FALSE(c.call(good));
  CHECK(c.seen(circuit_event_kind::mode_changed) == 1);
}

TEST_CASE("a circuit may be reconfigured while threads call it", "[circuit][concurrent]") {
  circuit_core core(named("shared"), {.window_calls = 20});
  std::atomic<bool> done{false};
  std::atomic<std::uint64_t> settled{0};
  const auto work = [&](unsigned seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < 5'000; ++i) {
      circuit_permit permit;
      const time_point now = time_point(std::chrono::microseconds(i));
      if (core.admit(permit, now)) continue;
      const auto result = static_cast<outcome_class>(random() % 4);
      const bool clean = result == outcome_class::success && core.record_clean_success(permit);
      if (!clean && core.record(permit, result, now + 1ms)) core.evaluate(permit, now, nullptr);
      ++settled;
    }
  };
  const auto meddle = [&] {
    std::mt19937 random(5);
    while (!done) {
      circuit_breaker_options o;
      o.window_calls = random() % 2 == 0 ? 0 : 5 + random() % 10;
      o.abandoned = static_cast<abandoned_policy>(random() % 3);
      o.slow_call_duration = random() % 2 == 0 ? 0ms : 500us;
      o.slow_in_flight = o.slow_call_duration > 0s ? random() % 3 : 0;
      o.break_duration = 1us;
      o.probes = 1 + random() % 5;
      core.reconfigure(o);
      (void)core.stats(time_point(1ms));
      std::this_thread::yield();
    }
  };
  std::vector<std::thread> workers;
  for (unsigned t = 1; t <= 3; ++t) workers.emplace_back(work, t);
  std::thread meddler(meddle);
  for (auto& worker : workers) worker.join();
  done = true;
  meddler.join();
  const auto s = core.stats(std::nullopt);
  CHECK(s.successes + s.failed + s.ignored + s.abandoned + s.late == settled);
  CHECK(s.fires == 15'000);
}

TEST_CASE("a row of failures starts anew after a break, and late ones do not count", "[circuit]") {
  driven_core c(
      {.minimum_calls = 1000, .consecutive_failures = 2, .window_calls = 10, .probes = 1, .break_duration = 1s});
  circuit_permit late;
  REQUIRE(c.enter(late));
  c.calls(2, bad);
  CHECK(c.core.state() == circuit_state::open);
  c.now += 1s;
  c.calls(1, good);
  CHECK(c.core.state() == circuit_state::closed);
  c.leave(late, bad);
  c.calls(1, bad);
  CHECK(c.core.state() == circuit_state::closed);
  c.calls(1, bad);
  CHECK(c.core.state() == circuit_state::open);
}

TEST_CASE("a circuit that warms up counts, and opens only afterwards", "[circuit]") {
  const std::size_t window_calls = GENERATE(std::size_t{0}, std::size_t{10});
  driven_core c({.minimum_calls = 4, .warm_up = 5s, .window_calls = window_calls});
  c.now += 1h;  // time before the first call is no warm-up
  c.calls(1, good);
  c.calls(9, bad);
  c.now += 4999ms;
  c.calls(1, bad);
  CHECK(c.core.state() == circuit_state::closed);
  CHECK(c.core.stats(c.now).failed == 10);
  c.now += 1ms;
  c.calls(1, bad);
  CHECK(c.core.state() == circuit_state::open);
  c.core.reset();  // as after construction
  c.calls(9, bad);
  CHECK(c.core.state() == circuit_state::closed);
}

// -------------------------------------------------------------------------------------------------------- the rest

TEST_CASE("every bad option is found, and every edge is allowed", "[circuit]") {
  const circuit_breaker_options all_bad{.failure_ratio = 0,
                                        .slow_call_duration = -1ns,
                                        .slow_call_ratio = 1.1,
                                        .minimum_calls = 0,
                                        .warm_up = -1ns,
                                        .window = 0s,
                                        .buckets = 101,
                                        .window_calls = 1'000'001,
                                        .probes = 1001,
                                        .probe_failure_ratio = -0.1,
                                        .probe_deadline = -1s,
                                        .break_duration = 0s,
                                        .break_growth = 0.99,
                                        .max_break_duration = -1s,
                                        .abandoned_ratio = 0};
  const auto problems = validate(all_bad);
  for (const char* field : {"failure_ratio", "slow_call_duration", "slow_call_ratio", "minimum_calls", "warm_up",
                            "window", "buckets", "window_calls", "probes", "probe_failure_ratio", "probe_deadline",
                            "break_duration", "break_growth", "max_break_duration", "abandoned_ratio"}) {
    CAPTURE(field);
    CHECK(std::ranges::count_if(problems, [&](const std::string& problem) {
            return problem.starts_with(std::string(field) + ":");
          }) == 1);
  }
  CHECK(problems.size() == 15);

  const auto nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(validate({.failure_ratio = nan}).size() == 1);
  CHECK(validate({.probe_failure_ratio = nan}).size() == 1);
  CHECK(validate({.break_growth = nan}).size() == 1);

  CHECK(validate(circuit_breaker_options{}).empty());
  CHECK(validate({.failure_ratio = 1,
                  .slow_call_duration = 1ns,
                  .slow_call_ratio = 1,
                  .minimum_calls = 1,
                  .window = 1ns,
                  .buckets = 1,
                  .window_calls = 1'000'000,
                  .probes = 1000,
                  .probe_failure_ratio = 1,
                  .probe_deadline = 1ns,
                  .break_duration = 1ns,
                  .break_growth = 1,
                  .max_break_duration = 1ns,
                  .abandoned_ratio = 1})
            .empty());
  CHECK(validate({.window = 1s, .buckets = 100}).empty());
}

TEST_CASE("a listener is called without a lock and may use the circuit", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .break_duration = 1s});
  std::vector<circuit_state> states;
  auto nosy = c.core.events().subscribe([&](const circuit_event& e) {
    states.push_back(c.core.stats(c.now).state);
    if (e.kind == circuit_event_kind::opened) c.core.close();
  });
  c.calls(1, bad);
  CHECK(states == std::vector{circuit_state::open, circuit_state::closed});
}

TEST_CASE("every state, mode, cause and event has a name of its own", "[circuit]") {
  std::set<std::string_view> names;
  const auto add = [&](auto last) {
    for (int i = 0; i <= static_cast<int>(last); ++i) names.insert(to_string(static_cast<decltype(last)>(i)));
    return std::exchange(names, {}).size();
  };
  CHECK(add(circuit_state::half_open) == 3);
  CHECK(add(circuit_mode::metrics_only) == 4);
  CHECK(add(circuit_cause::imported) == 11);
  CHECK(add(circuit_event_kind::probe_abandoned) == 14);
  CHECK(to_string(static_cast<circuit_state>(77)) == "?");
}

// ------------------------------------------------------------------------------------------- against a naive reference

namespace {

/// A circuit as one would write it without a thought for speed: every result in a list, counted anew each time.
/// For one thread.
class naive_circuit {
 public:
  struct entry {
    std::int64_t slice;
    bool failed, slow, abandoned;
  };

  explicit naive_circuit(const circuit_breaker_options& o) : o_(o), mode_(o.mode) {}

  /// What admit should do: 0 = refused, 1 = ordinary, 2 = probe.
  int admit(std::uint32_t id, time_point now) {
    if (mode_ == circuit_mode::disabled || mode_ == circuit_mode::metrics_only) return 1;
    if (mode_ == circuit_mode::isolated) return refused();
    if (state == circuit_state::closed) return 1;
    if (state == circuit_state::open) {
      if (break_starts_later) opened_at = now;
      break_starts_later = false;
      if (now < opened_at + length) return refused();
      go(circuit_state::half_open);
    }
    if (probes_.size() + results_.size() >= o_.probes) {
      const auto oldest = std::ranges::min_element(probes_, {}, &std::pair<std::uint32_t, time_point>::second);
      const duration deadline = o_.probe_deadline > 0s ? o_.probe_deadline : o_.break_duration;
      if (now < oldest->second + deadline) return refused();
      probes_.erase(oldest);
    }
    probes_.emplace_back(id, now);
    return 2;
  }

  void settle(std::uint32_t id, bool probe, std::uint64_t admitted_in, bool recorded, time_point started,
              outcome_class result, time_point now) {
    if (!recorded) return;
    const bool slow = o_.slow_call_duration > 0s && now - started > o_.slow_call_duration;
    if (admitted_in != epoch) {
      ++late;
    } else if (probe) {
      settle_probe(id, result, slow, now);
    } else {
      const std::int64_t oldest = slice_of(now) - static_cast<std::int64_t>(o_.buckets) + 1;
      settle_ordinary(std::max(slice_of(started), oldest), result, slow, now);
    }
  }

  void open() {
    if (state == circuit_state::open) return;
    break_starts_later = true;
    begin_break(o_.break_duration);
  }
  void close() {
    if (state == circuit_state::closed) return;
    close_now(!o_.keep_window_on_close);
  }
  void reset() {
    mode_ = o_.mode;
    close_now(true);
  }
  void set_mode(circuit_mode mode) {
    if (mode == mode_) return;
    mode_ = mode;
    go(state);
  }
  [[nodiscard]] circuit_mode mode() const { return mode_; }
  [[nodiscard]] duration remaining(time_point now) const {
    if (state != circuit_state::open) return 0s;
    return break_starts_later ? length : std::max(opened_at + length - now, duration(0s));
  }
  /// Of the window. Abandoned calls are failures if they are share enough of it, and no calls otherwise.
  [[nodiscard]] detail::window_counts counts(time_point now) const {
    detail::window_counts counts;
    for (const entry& e : window_) {
      if (o_.window_calls == 0 && e.slice <= slice_of(now) - static_cast<std::int64_t>(o_.buckets)) continue;
      counts.calls += !e.abandoned;
      counts.failures += e.failed;
      counts.slow += e.slow;
      counts.abandoned += e.abandoned;
    }
    const auto all = counts.calls + counts.abandoned;
    if (all >= minimum() && reaches(counts.abandoned, all, o_.abandoned_ratio)) {
      counts.calls = all;
      counts.failures += counts.abandoned;
    }
    return counts;
  }

  circuit_state state = circuit_state::closed;
  std::uint64_t epoch = 1, late = 0, rejected = 0, opens = 0;
  std::uint32_t consecutive = 0;
  time_point opened_at{};
  duration length{};
  bool break_starts_later = false;

 private:
  int refused() {
    ++rejected;
    return 0;
  }
  [[nodiscard]] std::int64_t slice_of(time_point at) const {
    return at.time_since_epoch() / (o_.window / static_cast<std::int64_t>(o_.buckets));
  }
  static bool reaches(std::uint64_t part, std::uint64_t whole, double ratio) {
    return part > 0 && static_cast<double>(part) + 1e-9 >= ratio * static_cast<double>(whole);
  }
  [[nodiscard]] std::size_t minimum() const {
    return o_.window_calls > 0 ? std::min(o_.minimum_calls, o_.window_calls) : o_.minimum_calls;
  }
  void go(circuit_state to) {
    state = to;
    ++epoch;
    probes_.clear();
    results_.clear();
    abandoned_probes_ = 0;
  }
  void begin_break(duration d) {
    ++consecutive;
    ++opens;
    length = d;
    go(circuit_state::open);
  }
  void trip(time_point now) {
    double grown = static_cast<double>(o_.break_duration.count());
    for (std::uint32_t i = 0; i < consecutive; ++i) grown *= o_.break_growth;
    opened_at = now;
    begin_break(grown < static_cast<double>(o_.max_break_duration.count()) ? duration(static_cast<std::int64_t>(grown))
                                                                           : o_.max_break_duration);
  }
  void close_now(bool forget) {
    if (forget) window_.clear();
    break_starts_later = false;
    consecutive = 0;
    go(circuit_state::closed);
    spared_ = !forget;
  }
  void settle_probe(std::uint32_t id, outcome_class result, bool slow, time_point now) {
    const auto found = std::ranges::find(probes_, id, &std::pair<std::uint32_t, time_point>::first);
    if (found == probes_.end()) {
      ++late;
      return;
    }
    probes_.erase(found);
    const bool abandoned = result == outcome_class::abandoned;
    if (result == outcome_class::failure || (abandoned && o_.abandoned == abandoned_policy::as_failure)) {
      results_.push_back({0, true, slow, false});
    } else if (result == outcome_class::success) {
      results_.push_back({0, false, slow, false});
    } else if (abandoned && o_.abandoned == abandoned_policy::by_share) {
      ++abandoned_probes_;
    }
    // Would the circuit re-open, or close, whatever the probes still missing say?
    const double ratio = o_.probe_failure_ratio > 0 ? o_.probe_failure_ratio : o_.failure_ratio;
    const auto failures = static_cast<std::size_t>(std::ranges::count(results_, true, &entry::failed));
    const auto slow_ones = static_cast<std::size_t>(std::ranges::count(results_, true, &entry::slow));
    const std::size_t missing = o_.probes - results_.size(), all = results_.size() + abandoned_probes_;
    const auto too_slow = [&](std::size_t n) {
      return o_.slow_call_duration > 0s && reaches(n, o_.probes, o_.slow_call_ratio);
    };
    if (reaches(failures, o_.probes, ratio) || too_slow(slow_ones) ||
        (all >= o_.probes && reaches(abandoned_probes_, all, o_.abandoned_ratio))) {
      trip(now);
    } else if (!reaches(failures + missing, o_.probes, ratio) && !too_slow(slow_ones + missing)) {
      close_now(!o_.keep_window_on_close);
    }
  }
  void settle_ordinary(std::int64_t slice, outcome_class result, bool slow, time_point now) {
    if (result == outcome_class::ignored) return;
    const bool abandoned = result == outcome_class::abandoned;
    if (abandoned && o_.abandoned == abandoned_policy::ignore) return;
    const bool by_share = abandoned && o_.abandoned == abandoned_policy::by_share;
    const bool failed = (result == outcome_class::failure || abandoned) && !by_share;
    window_.push_back({slice, failed, slow && !by_share, by_share});
    if (o_.window_calls > 0 && window_.size() > o_.window_calls) window_.pop_front();
    if (failed || by_share || slow) spared_ = false;
    const auto seen = counts(now);
    if (mode_ != circuit_mode::normal || spared_) return;
    if (o_.failures_in_window > 0 && seen.failures >= o_.failures_in_window) {
      trip(now);
      return;
    }
    if (seen.calls < minimum()) return;
    if (reaches(seen.failures, seen.calls, o_.failure_ratio) ||
        (o_.slow_call_duration > 0s && reaches(seen.slow, seen.calls, o_.slow_call_ratio))) {
      trip(now);
    }
  }

  circuit_breaker_options o_;
  circuit_mode mode_;
  std::deque<entry> window_;
  std::vector<std::pair<std::uint32_t, time_point>> probes_;
  std::vector<entry> results_;  // of probes
  std::size_t abandoned_probes_ = 0;
  bool spared_ = false;  // kept its window, and nothing bad since
};

circuit_breaker_options random_options(std::mt19937& random) {
  const auto one_of = [&](auto... values) {
    const std::array<std::common_type_t<decltype(values)...>, sizeof...(values)> all{values...};
    return all[random() % all.size()];
  };
  circuit_breaker_options o;
  o.failure_ratio = one_of(0.1, 0.3, 0.5, 0.7, 1.0);
  o.slow_call_duration = one_of(0ms, 0ms, 300ms);
  o.slow_call_ratio = one_of(0.5, 1.0);
  o.minimum_calls = one_of(1U, 3U, 10U);
  o.failures_in_window = one_of(0U, 0U, 4U);
  o.window = one_of(2s, 10s, 30s);
  o.buckets = one_of(1U, 4U, 10U);
  o.window_calls = one_of(0U, 0U, 1U, 7U, 20U);
  o.probes = one_of(1U, 2U, 5U, 10U);
  o.probe_failure_ratio = one_of(0.0, 0.2, 1.0);
  o.probe_deadline = one_of(0s, 2s);
  o.break_duration = one_of(1s, 3s);
  o.break_growth = one_of(1.0, 2.0);
  o.max_break_duration = 20s;
  o.abandoned = one_of(abandoned_policy::ignore, abandoned_policy::as_failure, abandoned_policy::by_share);
  o.abandoned_ratio = one_of(0.3, 1.0);
  o.keep_window_on_close = one_of(true, false, false);
  o.one_strand = one_of(true, false);
  if (o.window_calls > 0) o.failures_in_window = std::min(o.failures_in_window, o.window_calls);
  return o;
}

}  // namespace

TEST_CASE("a circuit agrees with a naive one over 200000 random operations", "[circuit][model]") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  std::array<std::uint64_t, 3> visits{};
  std::uint64_t lates = 0;
  for (int round = 0; round < 100; ++round) {
    INFO("round " << round);
    const auto options = random_options(random);
    driven_core c(options);
    naive_circuit naive(options);
    struct flying {
      circuit_permit permit;
      std::uint32_t id;
      std::uint64_t epoch;
      time_point started;
    };
    std::vector<flying> calls;
    std::uint32_t next_id = 1;
    for (int i = 0; i < 2'000; ++i) {
      c.now += std::chrono::milliseconds(random() % 8 == 0 ? random() % 3'000 : random() % 100);
      const auto dice = random() % 1000;
      if (dice < 500) {
        circuit_permit permit;
        const int expected = naive.admit(next_id, c.now);
        const bool admitted = c.enter(permit);
        REQUIRE((admitted ? permit.probe != 0 ? 2 : 1 : 0) == expected);
        if (admitted) calls.push_back({permit, next_id, naive.epoch, c.now});
        ++next_id;
      } else if (dice < 985) {
        if (calls.empty()) continue;
        const std::size_t which = random() % calls.size();
        const auto call = calls[which];
        calls.erase(calls.begin() + static_cast<std::ptrdiff_t>(which));
        const auto share = random() % 100;
        const unsigned failing = static_cast<unsigned>(i) / 200 % 3 * 30 + 5;  // good times and bad times
        const auto result = share < failing        ? bad
                            : share < failing + 8  ? outcome_class::abandoned
                            : share < failing + 10 ? outcome_class::ignored
                                                   : good;
        naive.settle(call.id, call.permit.probe != 0, call.epoch, call.permit.recorded, call.started, result, c.now);
        c.leave(call.permit, result);
      } else if (dice < 988) {
        naive.open();
        c.core.open();
      } else if (dice < 991) {
        naive.close();
        c.core.close();
      } else if (dice < 992) {
        naive.reset();
        c.core.reset();
      } else {
        const auto mode = random() % 2 == 0 ? circuit_mode::normal : static_cast<circuit_mode>(random() % 4);
        naive.set_mode(mode);
        c.core.set_mode(mode);
      }
      const auto s = c.core.stats(c.now);
      const auto expected = naive.counts(c.now);
      REQUIRE(s.state == naive.state);
      REQUIRE(s.mode == naive.mode());
      REQUIRE(s.epoch == naive.epoch);
      REQUIRE(s.consecutive_opens == naive.consecutive);
      REQUIRE(s.opens == naive.opens);
      REQUIRE(s.remaining_break == naive.remaining(c.now));
      REQUIRE(s.rejected == naive.rejected);
      REQUIRE(s.late == naive.late);
      REQUIRE(s.calls == expected.calls);
      REQUIRE(s.failures == expected.failures);
      REQUIRE(s.slow == expected.slow);
      ++visits[static_cast<std::size_t>(s.state)];
      if (naive.mode() != circuit_mode::normal && random() % 20 == 0) {
        naive.set_mode(circuit_mode::normal);
        c.core.set_mode(circuit_mode::normal);
      }
    }
    lates += naive.late;
  }
  // The walk was worth it: it saw every state often, and late results too.
  for (const auto count : visits) CHECK(count > 2'000);
  CHECK(lates > 1'000);
}

TEST_CASE("from wherever a circuit is, some time and successes close it", "[circuit]") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 500; ++round) {
    INFO("round " << round);
    auto options = random_options(random);
    options.keep_window_on_close = false;
    driven_core c(options);
    for (int i = 0; i < 200; ++i) {
      c.now += std::chrono::milliseconds(random() % 500);
      circuit_permit permit;
      switch (random() % 20) {
        case 0:
          c.core.open();
          break;
        case 1:
          c.core.restore({.state = circuit_state::open, .consecutive_opens = 3, .remaining_break = 10s});
          break;
        default:
          if (!c.enter(permit) || random() % 4 == 0) break;  // some never come back
          if (random() % 8 == 0) {
            c.core.abandon(permit);
          } else {
            c.leave(permit, static_cast<outcome_class>(random() % 4));
          }
      }
    }
    // Forty calls: enough to end a break that waits for a call, to replace every hung probe, to fill every window.
    for (int i = 0; i < 40; ++i) {
      c.now += 20s;  // longer than any break, or than any probe keeps its place
      (void)c.call(good);
    }
    REQUIRE(c.core.state() == circuit_state::closed);
    for (int i = 0; i < 40; ++i) REQUIRE(c.call(good));
    REQUIRE(c.core.state() == circuit_state::closed);
  }
}

TEST_CASE("four threads: every permit is settled once, probes keep their number, openings are told once each",
          "[circuit][concurrent]") {
  for (const std::size_t window_calls : {std::size_t{0}, std::size_t{50}}) {
    circuit_core core(named("shared"), {.failure_ratio = 0.25,
                                        .minimum_calls = 10,
                                        .window_calls = window_calls,
                                        .probes = 3,
                                        .probe_deadline = 1h,  // a thread that is put to sleep is not a hung probe
                                        .break_duration = 1ms,
                                        .max_break_duration = 1ms});
    std::vector<circuit_event> events;  // delivered one at a time
    auto watch = core.events().subscribe([&](const circuit_event& e) { events.push_back(e); });
    std::atomic<int> probing{0}, most_probing{0};
    std::atomic<std::uint64_t> admitted{0}, refused{0}, trials{0};
    std::atomic<std::int64_t> clock{3'600'000'000'000};
    const auto work = [&](unsigned seed) {
      std::mt19937 random(seed);
      for (int i = 0; i < 20'000; ++i) {
        const time_point now{duration(clock.fetch_add(1000))};
        circuit_permit permit;
        if (core.admit(permit, now)) {
          ++refused;
          continue;
        }
        ++admitted;
        if (permit.probe != 0) {
          ++trials;
          const int count = ++probing;
          int most = most_probing;
          while (count > most && !most_probing.compare_exchange_weak(most, count)) {
          }
        }
        const auto dice = random() % 100;
        const auto result = dice < 30   ? bad
                            : dice < 32 ? outcome_class::abandoned
                            : dice < 34 ? outcome_class::ignored
                                        : good;
        if (permit.probe != 0) --probing;
        if (core.record(permit, result, now)) core.evaluate(permit, now, nullptr);
        core.drain_events();
      }
    };
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; ++t) threads.emplace_back(work, t + 1);
    for (auto& thread : threads) thread.join();

    const auto s = core.stats(std::nullopt);
    CHECK(admitted + refused == 80'000);
    CHECK(s.successes + s.failed + s.ignored + s.abandoned + s.late == admitted);
    CHECK(s.rejected == refused);
    CHECK(s.fires == 80'000);
    CHECK(trials > 0);
    CHECK(most_probing <= 3);

    // The transitions form one chain: each starts where the one before ended, in a later epoch.
    circuit_state state = circuit_state::closed;
    std::uint64_t epoch = 0, opened = 0;
    int broken_links = 0;
    for (const auto& e : events) {
      if (e.kind == circuit_event_kind::late_result) continue;
      if (e.from != state || e.to == state || e.epoch <= epoch) ++broken_links;
      if (e.kind == circuit_event_kind::opened) ++opened;
      state = e.to;
      epoch = e.epoch;
    }
    CHECK(broken_links == 0);
    CHECK(opened > 0);
    CHECK(opened == s.opens);
    CHECK(state == core.state());
  }
}

TEST_CASE("four threads that fail together open the circuit once", "[circuit][concurrent]") {
  for (int round = 0; round < 200; ++round) {
    circuit_core core(named("shared"), {.minimum_calls = 4, .break_duration = 1h, .max_break_duration = 1h});
    std::atomic<int> opened{0}, ready{0}, generated{0};
    core.set_break_generator([&](const break_context&) {
      ++generated;
      return 1h;
    });
    auto watch =
        core.events().subscribe([&](const circuit_event& e) { opened += e.kind == circuit_event_kind::opened; });
    const auto work = [&] {
      circuit_permit permit;
      (void)core.admit(permit, time_point(1h));
      ++ready;
      while (ready != 4) std::this_thread::yield();
      if (core.record(permit, bad, time_point(1h))) core.evaluate(permit, time_point(1h), nullptr);
      core.drain_events();
    };
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) threads.emplace_back(work);
    for (auto& thread : threads) thread.join();
    REQUIRE(core.state() == circuit_state::open);
    REQUIRE(opened == 1);
    REQUIRE(generated >= 1);
    REQUIRE(core.stats(std::nullopt).opens == 1);
  }
}

TEST_CASE("people, probes and observers may meet in any order", "[circuit][concurrent]") {
  circuit_core core(named("shared"), {.slow_call_duration = 1us,
                                      .minimum_calls = 5,
                                      .window = 1ms,
                                      .probes = 2,
                                      .break_duration = 10us,
                                      .abandoned = abandoned_policy::by_share,
                                      .abandoned_ratio = 0.5});
  std::atomic<std::int64_t> clock{0};
  std::atomic<int> working{3};
  std::atomic<std::uint64_t> unrecorded{0};
  const auto work = [&](unsigned seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < 10'000; ++i) {
      circuit_permit permit;
      if (!core.admit(permit, time_point(duration(clock.fetch_add(500))))) {
        if (!permit.recorded) ++unrecorded;
        const auto result = static_cast<outcome_class>(random() % 4);
        const time_point ended(duration(clock.fetch_add(500)));
        if (i % 50 == 0) {
          core.abandon(permit);
        } else if (core.record(permit, result, ended)) {
          core.evaluate(permit, ended, nullptr);
        }
      }
      core.drain_events();
    }
    --working;
  };
  const auto meddle = [&] {
    std::mt19937 random(9);
    while (working > 0) {
      switch (random() % 8) {
        case 0:
          core.open();
          break;
        case 1:
          core.close();
          break;
        case 2:
          core.reset();
          break;
        case 3:
          core.set_mode(circuit_mode::isolated);
          break;
        case 4:
          core.set_mode(circuit_mode::metrics_only);
          break;
        case 5:
          core.set_mode(circuit_mode::disabled);
          break;
        case 6:
          core.restore(core.snapshot(time_point(duration(clock.load()))));
          break;
        default:
          (void)core.stats(time_point(duration(clock.load())));
      }
      core.set_mode(circuit_mode::normal);
      core.drain_events();
    }
  };
  auto watch = core.events().subscribe([](const circuit_event&) {});
  std::vector<std::thread> threads;
  for (unsigned t = 1; t <= 3; ++t) threads.emplace_back(work, t);
  threads.emplace_back(meddle);
  for (auto& thread : threads) thread.join();
  CHECK(core.stats(std::nullopt).fires + unrecorded == 30'000);
}

TEST_CASE("a row of failures ends with a reset, and with the break it led to", "[circuit]") {
  driven_core c({.minimum_calls = 1000,
                 .consecutive_failures = 3,
                 .probes = 1,
                 .break_duration = 1s,
                 .keep_window_on_close = true});
  c.calls(2, bad);
  c.core.reset();
  c.calls(2, bad);
  CHECK(c.core.state() == circuit_state::closed);
  c.calls(1, bad);
  CHECK(c.core.state() == circuit_state::open);
  c.now += 1s;
  c.calls(1, good);
  c.calls(2, bad);
  CHECK(c.core.state() == circuit_state::closed);
  c.calls(1, bad);
  CHECK(c.core.state() == circuit_state::open);
}

TEST_CASE("after a reset a circuit that only measures says again that it would open", "[circuit]") {
  driven_core c({.minimum_calls = 2, .window_calls = 2, .mode = circuit_mode::metrics_only});
  c.calls(2, bad);
  c.core.reset();
  c.calls(2, bad);
  CHECK(c.seen(circuit_event_kind::would_open) == 2);
}

TEST_CASE("slow calls are in the statistics and in the event that they lead to", "[circuit]") {
  driven_core c({.slow_call_duration = 1s, .slow_call_ratio = 0.5, .minimum_calls = 4});
  const auto slow_call = [&] {
    circuit_permit permit;
    REQUIRE(c.enter(permit));
    c.now += 2s;
    c.leave(permit, good);
  };
  c.calls(2, good);
  slow_call();
  CHECK_FALSE(c.core.stats(c.now).enough_calls);
  slow_call();
  CHECK(c.core.stats(c.now).enough_calls);
  CHECK(c.core.stats(c.now).slow_ratio == 0.5);
  CHECK(c.core.state() == circuit_state::open);
  CHECK(c.events.back().slow == 2);
  CHECK(c.events.back().calls == 4);
  CHECK(c.events.back().at == c.now);
}

TEST_CASE("the event of a failed probe tells of the probes alone", "[circuit]") {
  driven_core c({.minimum_calls = 2, .window_calls = 2, .probes = 1, .break_duration = 1s});
  c.calls(2, bad);
  c.now += 1s;
  c.calls(1, bad);
  CHECK(c.events.back().cause == circuit_cause::probe_failed);
  CHECK(c.events.back().calls == 1);
  CHECK(c.events.back().failures == 1);
  CHECK(c.events.back().slow == 0);
}

TEST_CASE("a circuit closed by hand does not refuse by the cheap clock any more", "[circuit]") {
  driven_core c({.minimum_calls = 1, .window_calls = 1, .break_duration = 30s});
  c.calls(1, bad);
  CHECK(c.core.refuse_while_open(c.now).retry_after() == 30s);
  c.core.close();
  CHECK_FALSE(c.core.refuse_while_open(c.now));
}

TEST_CASE("a circuit asks for the time only where it needs it", "[circuit]") {
  const auto wants = [](const circuit_breaker_options& options) {
    const circuit_core core(named("test"), options);
    return std::pair(core.wants_start(), core.wants_end());
  };
  CHECK(wants({.window_calls = 10}) == std::pair(false, false));
  CHECK(wants({.warm_up = 1s, .window_calls = 10}) == std::pair(true, false));
  CHECK(wants({}) == std::pair(true, false));
  CHECK(wants({.slow_call_duration = 1s, .window_calls = 10}) == std::pair(true, true));
  CHECK(wants({.window_calls = 10, .record_latency = true}) == std::pair(true, true));
}
