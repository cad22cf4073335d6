// Backoff: exact without jitter, within its bounds with it, never beyond the cap.
#include "catch.hpp"

#include <cofferdam/core/backoff.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace backoff_test {
namespace {

std::vector<duration> delays(const backoff_options& options, std::uint32_t count, std::uint64_t seed = 1) {
  random_source random(seed);
  backoff_state state;
  std::vector<duration> result;
  for (std::uint32_t n = 1; n <= count; ++n) result.push_back(backoff_delay(options, n, state, random));
  return result;
}

duration delay_of(const backoff_options& options, std::uint32_t retry, std::uint64_t seed = 1) {
  random_source random(seed);
  backoff_state state;
  return backoff_delay(options, retry, state, random);
}

constexpr jitter_kind every_jitter[] = {jitter_kind::none,           jitter_kind::proportional, jitter_kind::equal,
                                        jitter_kind::full,           jitter_kind::decorrelated, jitter_kind::stretched,
                                        jitter_kind::decorrelated_v2};

TEST_CASE("without jitter every delay is exact, up to the cap", "[retry][backoff]") {
  backoff_options options{.base = 50ms, .jitter = jitter_kind::none, .cap = 1s};
  CHECK(delays(options, 7) == std::vector<duration>{50ms, 100ms, 200ms, 400ms, 800ms, 1s, 1s});
  options.factor = 1.5;
  CHECK(delays(options, 3) == std::vector<duration>{50ms, 75ms, 112500us});
  options.factor = 1;
  CHECK(delays(options, 3) == std::vector<duration>{50ms, 50ms, 50ms});
  options.kind = backoff_kind::constant;
  CHECK(delays(options, 3) == std::vector<duration>{50ms, 50ms, 50ms});
  options.kind = backoff_kind::linear;
  options.cap = 120ms;
  CHECK(delays(options, 4) == std::vector<duration>{50ms, 100ms, 120ms, 120ms});
}

TEST_CASE("a delay that overflows is the cap, also the largest cap there is", "[retry][backoff]") {
  constexpr std::uint32_t last = std::numeric_limits<std::uint32_t>::max() - 1;
  for (const jitter_kind jitter : {jitter_kind::none, jitter_kind::stretched, jitter_kind::proportional}) {
    for (const duration cap : {duration(24h), duration::max()}) {
      backoff_options options{.base = 1h, .jitter = jitter, .jitter_share = 0.1, .cap = cap};
      CHECK(delay_of(options, 64) == cap);
      CHECK(delay_of(options, 4000) == cap);  // the factor's power is infinite
      CHECK(delay_of(options, last) == cap);
      options.kind = backoff_kind::linear;
      CHECK(delay_of(options, last) == cap);
    }
  }
  for (const jitter_kind jitter : every_jitter) {
    const backoff_options options{.base = 1h, .jitter = jitter, .cap = duration::max()};
    for (const std::uint32_t retry : {1U, 40U, 4000U}) {
      INFO("jitter " << static_cast<int>(jitter) << ", retry " << retry);
      CHECK(delay_of(options, retry) >= 0s);
    }
  }
}

TEST_CASE("a constant backoff of zero never waits, with any jitter", "[retry][backoff]") {
  for (const jitter_kind jitter : every_jitter) {
    const backoff_options options{.kind = backoff_kind::constant, .base = 0s, .jitter = jitter};
    CHECK(validate(options).empty());
    for (const std::uint32_t retry : {1U, 2U, 1000U, 100'000U}) {
      INFO("jitter " << static_cast<int>(jitter) << ", retry " << retry);
      CHECK(delay_of(options, retry) == 0s);
    }
  }
}

TEST_CASE("every jitter keeps its bounds and reaches into both halves of them", "[retry][backoff]") {
  const auto check = [](jitter_kind jitter, auto low, auto high) {
    const backoff_options options{.base = 100ms, .jitter = jitter, .cap = 2s};
    bool near_least = false, near_most = false;
    for (std::uint64_t seed = 1; seed <= 200; ++seed) {
      const auto drawn = delays(options, 8, seed);
      for (std::size_t i = 0; i < drawn.size(); ++i) {
        INFO("jitter " << static_cast<int>(jitter) << ", seed " << seed << ", retry " << i + 1);
        const duration uncapped = 100ms * (1 << i);
        const duration previous = i == 0 ? duration(100ms) : drawn[i - 1];
        const duration least = low(uncapped, previous), most = high(uncapped, previous);
        REQUIRE(drawn[i] >= least);
        REQUIRE(drawn[i] <= most);
        near_least |= drawn[i] < least + (most - least) / 10;
        near_most |= drawn[i] > most - (most - least) / 10;
      }
    }
    CHECK(near_least);
    CHECK(near_most);
  };
  const auto capped = [](duration d) { return std::min<duration>(d, 2s); };
  check(
      jitter_kind::full, [](duration, duration) { return duration(0); },
      [&](duration d, duration) { return capped(d); });
  check(
      jitter_kind::equal, [&](duration d, duration) { return capped(d) / 2; },
      [&](duration d, duration) { return capped(d); });
  check(
      jitter_kind::proportional, [&](duration d, duration) { return capped(d * 3 / 4); },
      [&](duration d, duration) { return capped(d * 5 / 4); });
  check(
      jitter_kind::decorrelated, [](duration, duration) { return duration(100ms); },
      [&](duration, duration previous) { return capped(3 * previous); });
  check(
      jitter_kind::stretched, [&](duration d, duration) { return capped(d); },
      [&](duration d, duration) { return capped(2 * d); });
  check(
      jitter_kind::decorrelated_v2, [](duration, duration) { return duration(0); },
      [](duration, duration) { return duration(2s); });
}

TEST_CASE("the share of a proportional jitter is the widest it goes", "[retry][backoff]") {
  const backoff_options none{
      .kind = backoff_kind::constant, .base = 1s, .jitter = jitter_kind::proportional, .jitter_share = 0};
  CHECK(delays(none, 3) == std::vector<duration>{1s, 1s, 1s});
  const backoff_options all{
      .kind = backoff_kind::constant, .base = 1s, .jitter = jitter_kind::proportional, .jitter_share = 1};
  const auto drawn = delays(all, 1000);
  CHECK(*std::ranges::min_element(drawn) < 100ms);
  CHECK(*std::ranges::max_element(drawn) > 1900ms);
}

TEST_CASE("decorrelated jitter goes up to three times the last delay", "[retry][backoff]") {
  const auto drawn = delays({.base = 1ms, .jitter = jitter_kind::decorrelated, .cap = 1h}, 20, 3);
  double most = 0;
  for (std::size_t i = 1; i < drawn.size(); ++i) {
    most = std::max(most, static_cast<double>(drawn[i].count()) / static_cast<double>(drawn[i - 1].count()));
  }
  CHECK(most > 2.5);
  CHECK(most <= 3);
}

TEST_CASE("the smooth jitter has the medians it promises", "[retry][backoff]") {
  const backoff_options options{.base = 100ms, .jitter = jitter_kind::decorrelated_v2, .cap = 1h};
  const double expected[] = {0.9, 1.2, 2, 4, 8};
  for (std::size_t retry = 0; retry < 5; ++retry) {
    std::vector<duration> drawn;
    for (std::uint64_t seed = 1; seed <= 2001; ++seed) drawn.push_back(delays(options, 5, seed)[retry]);
    std::ranges::nth_element(drawn, drawn.begin() + 1000);
    INFO("retry " << retry + 1);
    CHECK(static_cast<double>(drawn[1000] / 1us) / 100'000 == Approx(expected[retry]).epsilon(0.05));
  }
}

TEST_CASE("the smooth jitter follows its published curve", "[retry][backoff]") {
  const backoff_options options{.base = 100ms, .jitter = jitter_kind::decorrelated_v2, .cap = 1h};
  const auto drawn = delays(options, 4, 9);
  random_source random(9);
  double before = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    const double t = static_cast<double>(i) + random.uniform();
    const double curve = std::pow(2.0, t) * std::tanh(std::sqrt(4.0 * t));
    CHECK(static_cast<double>(drawn[i].count()) == Approx((curve - before) * 100e6 / 1.4));
    before = curve;
  }
}

TEST_CASE("the same seed gives the same delays, another seed others", "[retry][backoff]") {
  for (const jitter_kind jitter : every_jitter) {
    const backoff_options options{.base = 100ms, .jitter = jitter};
    CHECK(delays(options, 5, 7) == delays(options, 5, 7));
    if (jitter != jitter_kind::none) CHECK(delays(options, 5, 7) != delays(options, 5, 8));
  }
}

TEST_CASE("every bad option of a backoff is named", "[retry][backoff]") {
  const auto problems_of = [](const backoff_options& options) {
    std::string all;
    for (const auto& problem : validate(options)) all += problem.substr(0, problem.find(':')) + " ";
    return all;
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(problems_of({}).empty());
  CHECK(problems_of({.base = 1s, .factor = 1, .jitter_share = 0, .cap = 1s}).empty());
  CHECK(problems_of({.jitter_share = 1}).empty());
  CHECK(problems_of({.base = -1ns, .cap = -2ns}) == "backoff.base backoff.cap ");
  CHECK(problems_of({.base = 0s}) == "backoff.base ");  // only a constant backoff may be zero
  CHECK(problems_of({.kind = backoff_kind::linear, .base = 0s}) == "backoff.base ");
  CHECK(problems_of({.factor = 0.99}) == "backoff.factor ");
  CHECK(problems_of({.factor = nan, .jitter_share = nan}) == "backoff.factor backoff.jitter_share ");
  CHECK(problems_of({.jitter_share = -0.1}) == "backoff.jitter_share ");
  CHECK(problems_of({.jitter_share = 1.1}) == "backoff.jitter_share ");
  CHECK(problems_of({.base = 2s, .cap = 1s}) == "backoff.cap ");
}

}  // namespace
}  // namespace backoff_test
