// The circuit breaker's state machine, driven by plain calls with made-up times.
#include "catch.hpp"

#include <cofferdam/resilience/detail/circuit_core.hpp>

#include <atomic>
#include <deque>
#include <random>
#include <thread>

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
  bool enter(circuit_permit& permit) { return core.admit(permit, now).admitted; }
  void leave(const circuit_permit& permit, outcome_class result) {
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
  CHECK_FALSE(refused.admitted);
  CHECK(refused.refused == errc::circuit_open);
  CHECK(refused.retry_after == duration(3s));
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
  CHECK(refused.retry_after == duration(1s));
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
  CHECK(c.core.admit(permit, c.now).refused == errc::circuit_isolated);
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
  CHECK(b.core.admit(permit, b.now).retry_after == duration(6s));

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
  CHECK(c.core.admit(permit, c.now).retry_after == duration(5s));
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

TEST_CASE("a count window agrees with a plain queue over 100000 random calls", "[circuit]") {
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

TEST_CASE("a time window agrees with a plain list over 100000 random calls", "[circuit]") {
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

TEST_CASE("four threads: every permit is settled once, probes keep their number, one of them opens",
          "[circuit][concurrent]") {
  for (const std::size_t window_calls : {std::size_t{0}, std::size_t{50}}) {
    circuit_core core(named("shared"), {.minimum_calls = 10,
                                        .window_calls = window_calls,
                                        .probes = 3,
                                        .break_duration = 1ms,
                                        .max_break_duration = 1ms});
    std::atomic<int> opened{0}, closed{0}, probing{0}, most_probing{0};
    std::atomic<std::uint64_t> admitted{0};
    auto watch = core.events().subscribe([&](const circuit_event& e) {
      if (e.kind == circuit_event_kind::opened) ++opened;
      if (e.kind == circuit_event_kind::closed) ++closed;
    });
    std::atomic<std::int64_t> clock{3'600'000'000'000};
    const auto work = [&](unsigned seed) {
      std::mt19937 random(seed);
      for (int i = 0; i < 20'000; ++i) {
        const time_point now{duration(clock.fetch_add(1000))};
        circuit_permit permit;
        if (!core.admit(permit, now).admitted) continue;
        ++admitted;
        if (permit.probe != 0) {
          const int count = ++probing;
          int most = most_probing;
          while (count > most && !most_probing.compare_exchange_weak(most, count)) {
          }
        }
        const auto result = random() % 10 < 3 ? bad : random() % 50 == 0 ? outcome_class::abandoned : good;
        if (permit.probe != 0) --probing;
        if (core.record(permit, result, now)) core.evaluate(permit, now, nullptr);
        core.drain_events();
      }
    };
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; ++t) threads.emplace_back(work, t + 1);
    for (auto& thread : threads) thread.join();
    const auto s = core.stats(std::nullopt);
    CHECK(s.successes + s.failed + s.abandoned + s.late == admitted);
    CHECK(most_probing <= 3);
    CHECK(static_cast<int>(s.opens) == opened);
    CHECK(opened - closed <= 1 + static_cast<int>(s.opens));
  }
}
