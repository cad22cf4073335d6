// Latency percentiles: how exact, over which time.
#include "catch.hpp"

#include <cofferdam/resilience/detail/latency_histogram.hpp>
#include <cofferdam/resilience/detail/moving_percentile.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <thread>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;
using detail::latency_histogram;

namespace {

/// What the histogram makes of `latency`, seen beside one far longer call that keeps `max` out of the way.
duration as_measured(duration latency) {
  const auto histogram = std::make_unique<latency_histogram>();
  histogram->record(latency);
  histogram->record(2h);
  return histogram->stats().p50;
}

/// Within 1/16, the resolution of eight buckets an octave.
bool about(duration measured, duration exact) {
  return std::chrono::abs(measured - exact).count() * 16 <= exact.count();
}

}  // namespace

TEST_CASE("an empty histogram says nothing", "[circuit][latency]") {
  const auto stats = std::make_unique<latency_histogram>()->stats();
  CHECK(stats.count == 0);
  CHECK(stats.mean == 0ns);
  CHECK(stats.p50 == 0ns);
  CHECK(stats.max == 0ns);
}

TEST_CASE("a single latency is every percentile, and none exceeds it", "[circuit][latency]") {
  const auto histogram = std::make_unique<latency_histogram>();
  histogram->record(10ms);
  const auto stats = histogram->stats();
  CHECK(stats.count == 1);
  CHECK(stats.mean == 10ms);
  CHECK(stats.max == 10ms);
  CHECK(about(stats.p50, 10ms));
  CHECK(stats.p50 <= 10ms);
  CHECK(stats.p995 == stats.p50);
}

TEST_CASE("quantiles are exact to a sixteenth from one microsecond to two hours", "[circuit][latency]") {
  for (std::int64_t exact = 1024; exact < 7'200'000'000'000; exact += exact / 7) {
    CAPTURE(exact);
    CHECK(about(as_measured(duration(exact)), duration(exact)));
  }
  for (unsigned octave = 10; octave <= 42; ++octave) {
    const duration edge(std::int64_t{1} << octave);
    CAPTURE(octave);
    CHECK(about(as_measured(edge), edge));
    CHECK(about(as_measured(edge - 1ns), edge));
  }
}

TEST_CASE("what is longer than the longest bucket counts in it", "[circuit][latency]") {
  const auto measured_alone = [](duration latency) {
    const auto histogram = std::make_unique<latency_histogram>();
    histogram->record(latency);
    return histogram->stats().p50;
  };
  CHECK(about(measured_alone(144min), 144min));
  CHECK(measured_alone(100h) == measured_alone(144min));
}

TEST_CASE("longer latencies are never measured as shorter", "[circuit][latency]") {
  duration before = 0ns;
  for (std::int64_t exact = 0; exact < 7'200'000'000'000; exact += 1 + exact / 40) {
    const duration measured = as_measured(duration(exact));
    CAPTURE(exact);
    REQUIRE(measured >= before);
    before = measured;
  }
}

TEST_CASE("what is shorter than a microsecond is measured as about one", "[circuit][latency]") {
  CHECK(as_measured(0ns) == as_measured(1024ns));
  CHECK(as_measured(1000ns) == as_measured(1024ns));
}

TEST_CASE("what is longer than the range is measured as its end, the maximum stays exact", "[circuit][latency]") {
  const auto histogram = std::make_unique<latency_histogram>();
  histogram->record(100h);
  const auto stats = histogram->stats();
  CHECK(stats.max == 100h);
  CHECK(stats.mean == 100h);
  CHECK(stats.p50 > 2h);
  CHECK(stats.p50 < 3h);
}

TEST_CASE("a percentile is the nearest rank", "[circuit][latency]") {
  const auto histogram = std::make_unique<latency_histogram>();
  for (int i = 0; i < 99; ++i) histogram->record(1ms);
  histogram->record(1s);
  CHECK(about(histogram->stats().p99, 1ms));
  CHECK(about(histogram->stats().p995, 1s));
  histogram->record(1s);
  CHECK(about(histogram->stats().p95, 1ms));
  CHECK(about(histogram->stats().p99, 1s));
}

TEST_CASE("percentiles agree with a sorted list of random latencies", "[circuit][latency][model]") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 20; ++round) {
    const auto histogram = std::make_unique<latency_histogram>();
    std::vector<duration> sorted;
    std::lognormal_distribution<double> lasting(std::log(1e6 * (round + 1)), 1.0);
    duration sum = 0ns;
    for (int i = 0; i < 5'000; ++i) {
      sorted.emplace_back(2'000 + static_cast<std::int64_t>(lasting(random)));
      sum += sorted.back();
      histogram->record(sorted.back());
    }
    std::ranges::sort(sorted);
    const auto exact = [&](double q) { return sorted[static_cast<std::size_t>(std::ceil(q * 5'000)) - 1]; };
    const auto stats = histogram->stats();
    CHECK(stats.count == 5'000);
    CHECK(stats.mean == sum / 5'000);
    CHECK(stats.max == sorted.back());
    CHECK(about(stats.p50, exact(0.5)));
    CHECK(about(stats.p75, exact(0.75)));
    CHECK(about(stats.p90, exact(0.9)));
    CHECK(about(stats.p95, exact(0.95)));
    CHECK(about(stats.p99, exact(0.99)));
    CHECK(about(stats.p995, exact(0.995)));
  }
}

TEST_CASE("a quantile waits for as many latencies as it is told, and for one at least", "[circuit][latency]") {
  const auto histogram = std::make_unique<latency_histogram>();
  CHECK(histogram->quantile(0.5, 0) == 0ns);
  histogram->record(1ms);
  CHECK(about(histogram->quantile(0.5, 0), 1ms));
  CHECK(about(histogram->quantile(0.5, 1), 1ms));
  CHECK(histogram->quantile(0.5, 2) == 0ns);
  CHECK(about(histogram->quantile(0, 1), 1ms));
  histogram->record(2ms);
  CHECK(about(histogram->quantile(0.5, 2), 1ms));
}

TEST_CASE("a histogram remembers this period and the last, no further", "[circuit][latency]") {
  const auto histogram = std::make_unique<latency_histogram>();
  histogram->rotate(7);
  histogram->record(1ms);
  histogram->rotate(8);
  histogram->record(2ms);
  CHECK(histogram->stats().count == 2);
  CHECK(histogram->stats().max == 2ms);
  histogram->rotate(9);
  CHECK(histogram->stats().count == 1);
  CHECK(histogram->stats().max == 2ms);
  CHECK(histogram->stats().mean == 2ms);
  histogram->rotate(10);
  CHECK(histogram->stats().count == 0);
  histogram->record(0ns);
  CHECK(histogram->stats().max == 0ns);
}

TEST_CASE("after a gap a histogram remembers nothing, and time does not go back", "[circuit][latency]") {
  const auto histogram = std::make_unique<latency_histogram>();
  histogram->rotate(7);
  histogram->record(1ms);
  histogram->rotate(7);
  histogram->rotate(3);
  CHECK(histogram->stats().count == 1);
  CHECK(histogram->period() == 7);
  histogram->rotate(9);
  CHECK(histogram->stats().count == 0);
  CHECK(histogram->stats().max == 0ns);
}

TEST_CASE("four threads: a histogram loses no latency", "[circuit][latency][concurrent]") {
  const auto histogram = std::make_unique<latency_histogram>();
  const auto work = [&](std::int64_t milliseconds) {
    for (int i = 0; i < 10'000; ++i) histogram->record(std::chrono::milliseconds(milliseconds));
  };
  std::vector<std::thread> threads;
  for (std::int64_t t = 1; t <= 4; ++t) threads.emplace_back(work, t);
  for (auto& thread : threads) thread.join();
  const auto stats = histogram->stats();
  CHECK(stats.count == 40'000);
  CHECK(stats.mean == 2500us);
  CHECK(stats.max == 4ms);
  CHECK(about(stats.p75, 3ms));
}

TEST_CASE("a moving percentile is looked at again in a 64th of its window, in a 1024th while nothing is known",
          "[timeout][latency]") {
  constexpr time_point now(1h);
  constexpr duration window = 10s;
  detail::moving_percentile median(0.5, 2, window);
  CHECK(median.value(now) == 0s);
  for (int i = 0; i < 2; ++i) median.record(100ms, now);
  CHECK(median.value(now + window / 1024 - 1ns) == 0s);
  const time_point known = now + window / 1024;
  CHECK(about(median.value(known), 100ms));
  for (int i = 0; i < 10; ++i) median.record(1ms, known);
  CHECK(about(median.value(known + window / 64 - 1ns), 100ms));
  CHECK(about(median.value(known + window / 64), 1ms));
}

TEST_CASE("a moving percentile remembers this window and the last, whether anybody asks or not", "[timeout][latency]") {
  constexpr time_point now(1h);  // a window begins
  detail::moving_percentile median(0.5, 2, 10s);
  for (int i = 0; i < 10; ++i) median.record(100ms, now);
  for (int i = 0; i < 3; ++i) median.record(1ms, now + 10s);
  CHECK(about(median.value(now + 10s), 100ms));  // ten of thirteen
  CHECK(about(median.value(now + 20s), 1ms));
  CHECK(median.value(now + 30s) == 0s);
}
