// The priority shedder: who is refused at which load, and that it does not flap.
#include "async_test.hpp"
#include "tasks.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/resilience/priority_shedder.hpp>
#include <cofferdam/resilience/retry.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

namespace {

const std::vector<shed_level> two_levels = {{.priority_below = 1, .above = 0.7}, {.priority_below = 5, .above = 0.9}};
constexpr priority_shedder_options unsmoothed{.sample_interval = 0s, .smoothing = 0s};

/// How many of so many calls of this priority are shed.
awaitable<int> shed_of(priority_shedder& shedder, std::int32_t priority, int calls) {
  int shed = 0;
  for (int i = 0; i < calls; ++i) {
    const auto result = co_await shedder.try_run({.priority = priority}, fine);
    if (!result.has_value()) shed += result.why().is_refusal(errc::shed) ? 1 : 1'000'000;
  }
  co_return shed;
}

}  // namespace

ASYNC_TEST("calls of low priority are shed first, and the most important never", "[priority_shedder]") {
  double load = 0;
  priority_shedder shedder("api", two_levels, [&] { return load; }, unsmoothed);
  struct expectation {
    double load;
    int low, middle, high;  // of 100
  };
  for (const auto& e : {expectation{0.0, 0, 0, 0}, expectation{0.7, 0, 0, 0}, expectation{1.0, 100, 100, 0},
                        expectation{7.0, 100, 100, 0}}) {
    load = e.load;
    const int low = co_await shed_of(shedder, 0, 100);
    const int middle = co_await shed_of(shedder, 4, 100);
    const int high = co_await shed_of(shedder, 5, 100);
    CHECK(low == e.low);
    CHECK(middle == e.middle);
    CHECK(high == e.high);
  }
  load = 0.9;
  const int low = co_await shed_of(shedder, -3, 1000);
  const int middle = co_await shed_of(shedder, 1, 1000);
  CHECK(low > 200);
  CHECK(low < 400);
  CHECK(middle == 0);
}

ASYNC_TEST("between its two loads the share of a level grows with the cube, or in a line", "[priority_shedder]") {
  double load = 0;
  priority_shedder cubic("cubic", {{.above = 0.5, .all_at = 1.0}}, [&] { return load; }, unsmoothed);
  priority_shedder line("line", {{.above = 0.5, .all_at = 1.0}}, [&] { return load; },
                        {.steepness = 1, .sample_interval = 0s, .smoothing = 0s});
  load = 0.75;
  const int gently = co_await shed_of(cubic, 0, 10'000);
  const int evenly = co_await shed_of(line, 0, 10'000);
  CHECK(cubic.stats().levels[0].share == 0.125);
  CHECK(line.stats().levels[0].share == 0.5);
  CHECK(std::abs(gently - 1250) < 150);  // 4.5 standard deviations
  CHECK(std::abs(evenly - 5000) < 225);
}

ASYNC_TEST("a refusal says who, and when to come again if that is known", "[priority_shedder]") {
  priority_shedder silent("silent", two_levels, [] { return 2.0; }, unsmoothed);
  priority_shedder helpful("helpful", two_levels, [] { return 2.0; }, {.retry_after = 3s});
  const auto first = co_await silent.try_run(fine);
  CHECK(first.why().is_refusal(errc::shed));
  CHECK(first.why().policy() == "silent");
  CHECK_FALSE(first.why().retry_after().has_value());
  const auto second = co_await helpful.try_run(fine);
  CHECK(second.why().retry_after() == duration(3s));
  CHECK_THROWS_AS(second.value(), overload_error);
  CHECK(silent.stats().shed == 1);
  CHECK(silent.stats().levels[0].shed == 1);
  CHECK(silent.stats().levels[1].shed == 0);
  CHECK(silent.describe() == "silent: priority shedder, below 1 from 0.70 on, below 5 from 0.90 on");
}

ASYNC_TEST("the load is a moving average over time, looked at now and then", "[priority_shedder]") {
  double load = 0;
  int looks = 0;
  const auto signal = [&] {
    ++looks;
    return load;
  };
  priority_shedder shedder("api", two_levels, signal, {.sample_interval = 10ms, .smoothing = 100ms});
  for (int i = 0; i < 10; ++i) (void)co_await shedder.try_run(fine);
  CHECK(looks == 1);
  // A burst of less than a sample is not seen, one of a few samples hardly.
  load = 1.0;
  co_await sleep_for(10ms);
  for (int i = 0; i < 10; ++i) (void)co_await shedder.try_run(fine);
  CHECK(looks == 2);
  CHECK(std::abs(shedder.stats().load - (1 - std::exp(-0.1))) < 1e-9);
  CHECK(shedder.stats().shed == 0);
  // How often somebody looks makes no difference.
  for (int i = 0; i < 9; ++i) {
    co_await sleep_for(10ms);
    (void)co_await shedder.try_run(fine);
  }
  CHECK(std::abs(shedder.stats().load - (1 - std::exp(-1.0))) < 1e-9);
  co_await sleep_for(900ms);
  const auto refused = co_await shedder.try_run(fine);
  CHECK(std::abs(shedder.stats().load - (1 - std::exp(-10.0))) < 1e-9);
  CHECK_FALSE(refused.has_value());
  CHECK_FALSE(shedder.is_idle(time.now()));
}

ASYNC_TEST("the highest of several signals counts, and one that fails says nothing", "[priority_shedder]") {
  double first = 0;
  priority_shedder shedder("api", two_levels, [&] { return first; }, unsmoothed);
  shedder.watch([]() -> double { throw std::runtime_error("no reading"); })
      .watch([] { return std::numeric_limits<double>::quiet_NaN(); })
      .watch(utilisation_of([]() -> duration { return 30ms; }, 20ms));
  (void)co_await shedder.try_run(fine);
  CHECK(shedder.stats().load == 1.5);
  first = 1.7;
  (void)co_await shedder.try_run(fine);
  CHECK(shedder.stats().load == 1.7);

  priority_shedder blind("blind", two_levels, []() -> double { throw std::runtime_error("no reading"); }, unsmoothed);
  const auto passed = co_await blind.try_run(fine);
  CHECK(passed.has_value());
  CHECK(blind.stats().load == 0);
}

ASYNC_TEST("utilisation is what runs and what waits, for each permit", "[priority_shedder]") {
  bulkhead pool("pool", {.max_concurrent = 2, .max_queue = 2});
  adaptive_limiter limiter("limiter", {.initial_limit = 4});
  const auto of_pool = utilisation_of(pool);
  const auto of_limiter = utilisation_of(limiter);
  const auto body = [](auto* policy) -> awaitable<void> { (void)co_await policy->try_run(lasting, 10ms); };
  const auto executor = co_await net::this_coro::executor;
  CHECK(of_pool() == 0);
  for (int i = 0; i < 3; ++i) {
    spawn(executor, body, &pool);
    spawn(executor, body, &limiter);
  }
  co_await sleep_for(1ms);
  CHECK(of_pool() == 1.5);
  CHECK(of_limiter() == 0.75);
  co_await sleep_for(1s);
  CHECK(of_pool() == 0);
  CHECK_THROWS_AS(utilisation_of([] { return duration(0); }, 0s), invalid_options_error);
}

ASYNC_TEST("under too much load the important calls pass, and shedding settles instead of flapping",
           "[priority_shedder]") {
  // 100 calls a second of each of three priorities, and room for 200.
  bulkhead pool("pool", {.max_concurrent = 2, .max_queue = 20});
  priority_shedder shedder(
      "api", {{.priority_below = 1, .above = 0.8, .all_at = 3.0}, {.priority_below = 2, .above = 2.0, .all_at = 6.0}},
      utilisation_of(pool));
  auto calls = shedder | pool;
  const auto executor = co_await net::this_coro::executor;
  int served[3] = {};
  std::vector<double> loads;
  const auto one = [&](std::int32_t priority) -> awaitable<void> {
    const auto result = co_await calls.try_run({.priority = priority}, lasting, 10ms);
    if (result.has_value()) ++served[priority];
  };
  for (int i = 0; i < 3000; ++i) {
    for (int priority = 0; priority < 3; ++priority) spawn(executor, one, priority);
    co_await sleep_for(10ms);
    if (i > 100) loads.push_back(shedder.stats().load);
  }
  co_await sleep_for(10s);
  CHECK(served[2] == 3000);
  CHECK(served[1] >= 2900);
  CHECK(served[0] < 200);
  CHECK(pool.stats().rejected == 0);
  const auto [least, most] = std::minmax_element(loads.begin(), loads.end());
  CHECK(*most - *least < 2.0);
}

TEST_CASE("shedding draws from the seeded randomness of the context", "[priority_shedder]") {
  const auto shed_with = [](std::uint64_t seed) {
    net::io_context context(1);
    virtual_time time(context, seed);
    priority_shedder shedder("api", {{.above = 0.0, .all_at = 1.0}}, [] { return 0.8; }, unsmoothed);
    std::string which;
    time.run([&]() -> awaitable<void> {
      for (int i = 0; i < 64; ++i) {
        const auto result = co_await shedder.try_run(fine);
        which += result.has_value() ? '.' : 'x';
      }
    });
    return which;
  };
  CHECK(shed_with(1) == shed_with(1));
  CHECK(shed_with(1) != shed_with(2));
}

TEST_CASE("many threads shed together", "[priority_shedder][concurrent]") {
  std::atomic<int> looks{0}, shed{0};
  const auto signal = [&] {
    ++looks;
    return 0.9;
  };
  priority_shedder shedder("api", {{.above = 0.5, .all_at = 1.0}}, signal, {.sample_interval = 1ms});
  net::thread_pool threads(4);
  for (int t = 0; t < 8; ++t) {
    spawn(threads, [&]() -> awaitable<void> {
      for (int i = 0; i < 500; ++i) {
        const auto result = co_await shedder.try_run(fine);
        if (!result.has_value()) ++shed;
      }
    });
  }
  threads.join();
  CHECK(shedder.stats().shed == static_cast<std::uint64_t>(shed.load()));
  CHECK(shed > 1000);
  CHECK(shed < 3000);
  CHECK(looks >= 1);
}

TEST_CASE("a shedder that cannot work is refused, naming each field", "[priority_shedder]") {
  const auto problems_of = [](std::vector<shed_level> levels, priority_shedder_options options = {}) {
    std::string text;
    for (const auto& problem : validate(levels, options)) text += problem + "\n";
    return text;
  };
  CHECK(problems_of(two_levels).empty());
  CHECK(problems_of({}) == "levels: must not be empty\n");
  CHECK(problems_of({{.above = -0.1}}) == "levels[0].above: must be at least 0\n");
  CHECK(problems_of({{.above = 1.0}}) == "levels[0].all_at: must be greater than above\n");
  CHECK(problems_of({{.priority_below = 5, .above = 0.9, .all_at = 2.0}, {.priority_below = 5, .above = 0.7}}) ==
        "levels[1].priority_below: must be greater than that of the level before\n"
        "levels[1].above: must not be less than that of the level before\n"
        "levels[1].all_at: must not be less than that of the level before\n");
  CHECK(problems_of(two_levels, {.steepness = 0.5}) == "steepness: must be in [1, 10]\n");
  CHECK(validate(two_levels, {.sample_interval = -1ns, .smoothing = -1ns, .retry_after = -1ns}).size() == 3);
  CHECK_THROWS_AS(priority_shedder("bad", {}, [] { return 0.0; }), invalid_options_error);
  CHECK_THROWS_AS(priority_shedder("bad", two_levels, nullptr), invalid_options_error);
}
