// The adaptive limit alone: what each window makes of it, to the number.
#include "catch.hpp"

#include <cofferdam/resilience/detail/limit_core.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

/// A core and its time. The first window begins at once.
class driven {
 public:
  explicit driven(const adaptive_limiter_options& options) : core(options) {
    (void)core.measure(10ms, 1, time_point(now_));
  }
  /// A window of calls that all took `latency`.
  void window(duration latency, std::size_t in_flight, int drops = 0) {
    for (int i = 0; i < 20; ++i) CHECK_FALSE(core.measure(latency, in_flight, time_point(now_)));
    for (int i = 0; i < drops; ++i) CHECK_FALSE(core.drop(in_flight, time_point(now_)));
    now_ += 1s;
    CHECK(core.measure(latency, in_flight, time_point(now_)));
  }
  /// A window of one dropped call.
  void window_of_a_drop() {
    now_ += 1s;
    CHECK(core.drop(1, time_point(now_)));
  }
  detail::limit_core core;

 private:
  duration now_{};
};

}  // namespace

TEST_CASE("a gradient limit grows by a root, follows latency down, and stays where nobody comes near it",
          "[adaptive_limiter]") {
  driven limit({.initial_limit = 100, .rebaseline_after = 0});
  limit.window(10ms, 100);
  CHECK(limit.core.limit() == 102);  // + sqrt(100) * 0.2
  limit.window(15ms, 100);
  CHECK(limit.core.limit() == 104);  // within the tolerance
  limit.window(30ms, 100);
  CHECK(limit.core.limit() == 95);  // 0.8 * 104.04 + 0.2 * (104.04 / 2 + sqrt(104.04))
  limit.window(10ms, 30);
  CHECK(limit.core.limit() == 95);
  limit.window(10ms, 100, 1);
  CHECK(limit.core.limit() == 86);  // 0.9 * 95.68
  limit.window(10ms, 100);
  CHECK(limit.core.limit() == 87);  // the drop is forgotten
  CHECK(limit.core.drops() == 1);
  CHECK(limit.core.baseline() == 10ms);
  CHECK(limit.core.adjustments() == 5);
}

TEST_CASE("a gradient is at least a half, and exact between", "[adaptive_limiter]") {
  const auto after = [](duration latency) {
    driven limit({.initial_limit = 10'000, .max_limit = 20'000, .rebaseline_after = 0});
    limit.window(10ms, 10'000);  // + 20
    limit.window(latency, 10'000);
    return limit.core.limit();
  };
  CHECK(after(10ms) == 10'040);  // 10020 + 0.2 * sqrt(10020)
  CHECK(after(20ms) == 9'539);   // 0.8 * 10020 + 0.2 * (0.75 * 10020 + sqrt(10020))
  CHECK(after(300ms) == 9'038);  // 0.8 * 10020 + 0.2 * (0.5 * 10020 + sqrt(10020))
  CHECK(after(3000s) == 9'038);
}

TEST_CASE("half of the limit in flight is near enough to let it grow", "[adaptive_limiter]") {
  for (const auto algorithm : {limit_algorithm::gradient, limit_algorithm::aimd}) {
    driven limit({.algorithm = algorithm, .initial_limit = 100, .rebaseline_after = 0});
    limit.window(10ms, 49);
    CHECK(limit.core.limit() == 100);
    limit.window(10ms, 50);
    CHECK(limit.core.limit() > 100);
  }
}

TEST_CASE("a limit of additions and multiplications heeds drops alone", "[adaptive_limiter]") {
  driven limit({.algorithm = limit_algorithm::aimd, .initial_limit = 10, .max_limit = 12, .rebaseline_after = 1});
  limit.window(10ms, 10);
  CHECK(limit.core.limit() == 11);
  limit.window(10s, 10);
  CHECK(limit.core.limit() == 12);
  limit.window(10ms, 10);
  CHECK(limit.core.limit() == 12);
  limit.window(10ms, 10, 3);
  CHECK(limit.core.limit() == 10);
  limit.window(10ms, 4);
  CHECK(limit.core.limit() == 10);
  CHECK(limit.core.drops() == 3);
  CHECK(limit.core.baselines() == 0);
}

TEST_CASE("a window lasts until its time is over and enough calls are measured", "[adaptive_limiter]") {
  detail::limit_core core({.window = 10s, .minimum_samples = 5});
  const time_point begin(7s);  // the first call begins the first window
  for (int i = 0; i < 3; ++i) CHECK_FALSE(core.measure(1ms, 1, begin));
  CHECK_FALSE(core.measure(1ms, 1, begin + 60s));
  CHECK(core.measure(1ms, 1, begin + 60s));  // the fifth
  for (int i = 0; i < 10; ++i) CHECK_FALSE(core.measure(1ms, 1, begin + 60s));
  CHECK_FALSE(core.measure(1ms, 1, begin + 70s - 1ns));
  CHECK(core.measure(1ms, 1, begin + 70s));
  CHECK_FALSE(core.measure(1ms, 1, begin + 80s));  // what the last window measured is gone
}

TEST_CASE("a drop ends a window that has few calls", "[adaptive_limiter]") {
  detail::limit_core core({.initial_limit = 100});
  const time_point begin(7s);
  CHECK_FALSE(core.drop(1, begin));
  CHECK_FALSE(core.measure(1ms, 1, begin + 1s - 1ns));
  CHECK(core.measure(1ms, 1, begin + 1s));
  CHECK(core.limit() == 90);
  CHECK_FALSE(core.measure(1ms, 1, begin + 2s));
}

TEST_CASE("recent is the middle of the first five hundred latencies", "[adaptive_limiter]") {
  const auto recent_of = [](auto latency_of, int count) {
    detail::limit_core core({});
    for (int i = 0; i < count - 1; ++i) (void)core.measure(latency_of(i), 1, time_point(0s));
    (void)core.measure(latency_of(count - 1), 1, time_point(1s));
    return core.recent();
  };
  CHECK(recent_of([](int i) { return duration(i * 7 % 11 + 1); }, 11) == 6ns);
  CHECK(recent_of([](int i) { return duration(i + 1); }, 12) == 7ns);
  CHECK(recent_of([](int) { return duration(0); }, 10) == 1ns);
  const auto two_halves_and_more = [](int i) { return duration(i < 250 ? 2 : i < 500 ? 3 : 1); };
  CHECK(recent_of(two_halves_and_more, 500) == 3ns);
  CHECK(recent_of(two_halves_and_more, 700) == 3ns);
}

TEST_CASE("a limit stays between its bounds, also in between", "[adaptive_limiter]") {
  driven dropping({.initial_limit = 3, .min_limit = 2});
  for (int i = 0; i < 50; ++i) dropping.window(10ms, 3, 1);
  CHECK(dropping.core.limit() == 2);
  driven slow({.initial_limit = 10, .min_limit = 9, .rebaseline_after = 0});
  slow.window(1ms, 10);
  for (int i = 0; i < 50; ++i) slow.window(1s, 10);
  CHECK(slow.core.limit() == 9);
  slow.window(1ms, 10);
  slow.window(1ms, 10);
  CHECK(slow.core.limit() == 10);  // 9 + 0.6 + 0.62: it has not fallen further behind the least
  driven fast({.initial_limit = 100, .max_limit = 101, .rebaseline_after = 0});
  for (int i = 0; i < 50; ++i) fast.window(10ms, 100);
  CHECK(fast.core.limit() == 101);
  fast.window(10ms, 100, 1);
  CHECK(fast.core.limit() == 90);
}

TEST_CASE("an adjustment is a change of the whole limit", "[adaptive_limiter]") {
  driven limit({.initial_limit = 4, .rebaseline_after = 0});
  limit.window(10ms, 4);  // 4.4
  limit.window(10ms, 4);  // 4.82
  CHECK(limit.core.adjustments() == 0);
  limit.window(10ms, 4);  // 5.26
  CHECK(limit.core.adjustments() == 1);
  CHECK(limit.core.limit() == 5);
}

TEST_CASE("the baseline is the best there was, and is measured anew now and then", "[adaptive_limiter]") {
  driven limit({.initial_limit = 100, .minimum_samples = 21, .rebaseline_after = 2});
  limit.window(10ms, 100);
  limit.window(10ms, 100);
  CHECK(limit.core.baselines() == 1);
  CHECK(limit.core.limit() == 26);  // a quarter of 104
  limit.window(1ms, 100);
  CHECK(limit.core.limit() == 26);  // calls of before the change are still among these
  CHECK(limit.core.baseline() == 10ms);
  limit.window(15ms, 26);
  CHECK(limit.core.baseline() == 15ms);
  CHECK(limit.core.baselines() == 2);
  CHECK(limit.core.limit() == 104);
  limit.window(1s, 100, 1);
  CHECK(limit.core.limit() == 104);  // as above
  limit.window(15ms, 100);
  CHECK(limit.core.limit() == 106);
  limit.window(12ms, 100);
  CHECK(limit.core.baseline() == 12ms);
  CHECK(limit.core.baselines() == 3);
  CHECK(limit.core.limit() == 27);  // a quarter of 108
  limit.window(1s, 27);
  limit.window(1s, 27);
  CHECK(limit.core.baseline() == 24ms);  // no more than twice what it was
  limit.window(24ms, 27);
  CHECK(limit.core.limit() == 108);
}

TEST_CASE("too few calls measure no baseline", "[adaptive_limiter]") {
  driven limit({.initial_limit = 100, .min_limit = 30, .rebaseline_after = 1});
  limit.window(10ms, 100);
  CHECK(limit.core.limit() == 30);  // a quarter would be less than the least
  limit.window(10ms, 30);
  limit.window_of_a_drop();
  CHECK(limit.core.baseline() == 10ms);
  CHECK(limit.core.baselines() == 1);
  CHECK(limit.core.limit() == 102);
}

namespace {

/// The rules of an adaptive limit in plain words: everything of a window is kept, and looked at when it ends.
class naive_limit {
 public:
  explicit naive_limit(const adaptive_limiter_options& options)
      : o_(options), exact_(static_cast<double>(options.initial_limit)) {}

  void call(std::optional<duration> latency, std::size_t in_flight, time_point now) {
    if (!began_) began_ = now;
    if (latency) latencies_.push_back(*latency);
    if (!latency) ++drops_, ++all_drops;
    crowd_ = std::max(crowd_, in_flight);
    if (now < *began_ + o_.window || (latencies_.size() < o_.minimum_samples && drops_ == 0)) return;
    judge();
    latencies_.clear();
    drops_ = crowd_ = 0;
    began_ = now;
  }
  [[nodiscard]] std::size_t limit() const {
    return measuring_ ? std::max(o_.min_limit, bounded(exact_) / 4) : bounded(exact_);
  }

  double baseline = 0, recent = 0;
  std::uint64_t all_drops = 0, adjustments = 0, baselines = 0;

 private:
  [[nodiscard]] std::size_t bounded(double limit) const {
    return std::clamp(static_cast<std::size_t>(limit), o_.min_limit, o_.max_limit);
  }
  void judge() {
    if (!latencies_.empty()) {
      if (latencies_.size() > 500) latencies_.resize(500);
      std::ranges::sort(latencies_);
      recent = static_cast<double>(std::max<std::int64_t>(latencies_[latencies_.size() / 2].count(), 1));
    }
    if (std::exchange(unsettled_, false)) return;
    if (std::exchange(measuring_, false)) {
      unsettled_ = true;
      if (latencies_.size() >= o_.minimum_samples) baseline = std::min(recent, 2 * baseline), ++baselines;
      return;
    }
    const auto before = bounded(exact_);
    const auto least = static_cast<double>(o_.min_limit), most = static_cast<double>(o_.max_limit);
    const bool crowded = 2 * crowd_ >= bounded(exact_);
    const bool by_gradient = o_.algorithm == limit_algorithm::gradient;
    if (drops_ > 0) {
      exact_ = std::max(least, exact_ * o_.backoff);
    } else if (!by_gradient) {
      exact_ += crowded ? 1 : 0;
    } else {
      if (baseline == 0 || recent < baseline) baseline = recent, ++baselines;
      const double gradient = std::clamp(o_.tolerance * baseline / recent, 0.5, 1.0);
      if (gradient < 1 || crowded) {
        exact_ = std::max(least, exact_ * 0.8 + (exact_ * gradient + std::sqrt(exact_)) * 0.2);
      }
    }
    exact_ = std::min(most, exact_);
    if (bounded(exact_) != before) ++adjustments;
    if (by_gradient && o_.rebaseline_after > 0 && ++windows_ % o_.rebaseline_after == 0) {
      measuring_ = unsettled_ = true;
    }
  }

  adaptive_limiter_options o_;
  double exact_;
  std::optional<time_point> began_;
  std::vector<duration> latencies_;
  std::uint64_t drops_ = 0, windows_ = 0;
  std::size_t crowd_ = 0;
  bool measuring_ = false;
  bool unsettled_ = false;  // a window in which there are calls of before the limit changed
};

}  // namespace

TEST_CASE("a limit agrees with a naive one over 100000 random calls", "[adaptive_limiter][model]") {
  for (unsigned seed = 0; seed < 10; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(seed);
    adaptive_limiter_options options{.initial_limit = 10 + random() % 40,
                                     .min_limit = 1 + random() % 10,
                                     .max_limit = 50 + random() % 200,
                                     .minimum_samples = 1 + random() % 30,
                                     .rebaseline_after = random() % 10};
    if (seed % 3 == 2) options.algorithm = limit_algorithm::aimd;
    detail::limit_core core(options);
    naive_limit naive(options);
    time_point now{};
    std::size_t lowest = options.max_limit, highest = 0;
    for (int i = 0; i < 10'000; ++i) {
      now += std::chrono::milliseconds(random() % 60);
      const bool busy = i / 1'000 % 2 == 0;  // by turns crowded and slow, and neither
      const std::size_t in_flight = 1 + random() % (busy ? 100 : 10);
      if (random() % 300 == 0) {
        (void)core.drop(in_flight, now);
        naive.call(std::nullopt, in_flight, now);
      } else {
        const duration latency = std::chrono::microseconds(random() % (busy && i % 2'000 > 500 ? 50'000 : 10'000));
        (void)core.measure(latency, in_flight, now);
        naive.call(latency, in_flight, now);
      }
      REQUIRE(core.limit() == naive.limit());
      REQUIRE(core.recent() == duration(static_cast<std::int64_t>(naive.recent)));
      REQUIRE(core.baseline() == duration(static_cast<std::int64_t>(naive.baseline)));
      REQUIRE(core.drops() == naive.all_drops);
      REQUIRE(core.adjustments() == naive.adjustments);
      REQUIRE(core.baselines() == naive.baselines);
      lowest = std::min(lowest, core.limit());
      highest = std::max(highest, core.limit());
    }
    CHECK(highest > lowest + 5);
  }
}

TEST_CASE("limits that cannot work are refused", "[adaptive_limiter]") {
  CHECK(validate(adaptive_limiter_options{}).empty());
  CHECK(validate({.initial_limit = 5, .min_limit = 5, .max_limit = 5, .minimum_samples = 1, .tolerance = 1}).empty());
  CHECK(validate({.max_limit = 1'000'000, .minimum_samples = 500, .tolerance = 100}).empty());
  const auto mistake = [](const adaptive_limiter_options& options) {
    std::string all;
    for (const auto& problem : validate(options)) all += problem.substr(0, problem.find(':'));
    return all;
  };
  CHECK(mistake({.min_limit = 0}) == "min_limit");
  CHECK(mistake({.initial_limit = 9, .min_limit = 9, .max_limit = 8}) == "max_limitinitial_limit");
  CHECK(mistake({.max_limit = 1'000'001}) == "max_limit");
  CHECK(mistake({.initial_limit = 1, .min_limit = 2}) == "initial_limit");
  CHECK(mistake({.max_limit = 10}) == "initial_limit");
  CHECK(mistake({.window = 0s}) == "window");
  CHECK(mistake({.minimum_samples = 0}) == "minimum_samples");
  CHECK(mistake({.minimum_samples = 501}) == "minimum_samples");
  CHECK(mistake({.tolerance = 0.99}) == "tolerance");
  CHECK(mistake({.tolerance = 100.1}) == "tolerance");
  CHECK(mistake({.backoff = 0.0}) == "backoff");
  CHECK(mistake({.backoff = 1.0}) == "backoff");
  CHECK(mistake({.max_wait = 0s}) == "max_wait");
  CHECK(mistake({.order = queue_order::adaptive}) == "order");
}
