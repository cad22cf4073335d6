// The rate limiter: never more than was asked for, in order, and nothing lost on the way out.
#include "async_test.hpp"
#include "harness.hpp"
#include "tasks.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/resilience/rate_limiter.hpp>

#include <algorithm>
#include <atomic>
#include <deque>
#include <random>
#include <string>
#include <thread>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

namespace {

constexpr time_point at(duration d) { return time_point(d); }

/// When each of `count` calls of `weight`, made at the times given, would be served; -1 ns when refused.
std::vector<duration> served(detail::rate_core& core, const std::vector<duration>& asked, std::size_t weight,
                             duration max_wait) {
  std::vector<duration> times;
  for (const duration when : asked) {
    const auto given = core.take(weight, at(when), max_wait);
    times.push_back(given.given ? when + given.wait : -1ns);
  }
  return times;
}

/// The most permits that began to count within any stretch of `period`, its end not included.
std::size_t densest(const std::vector<std::int64_t>& sorted, std::int64_t period) {
  std::size_t most = 0, begin = 0;
  for (std::size_t end = 0; end < sorted.size(); ++end) {
    while (sorted[end] - sorted[begin] >= period) ++begin;
    most = std::max(most, end - begin + 1);
  }
  return most;
}

rate_limiter_options options_of(rate_algorithm algorithm, std::size_t permits, duration period) {
  rate_limiter_options options;
  options.algorithm = algorithm;
  options.permits = permits;
  options.period = period;
  return options;
}

}  // namespace

TEST_CASE("a token bucket lets a burst go and then one permit per spacing", "[rate_limiter]") {
  detail::rate_core core({.permits = 2, .period = 1s, .burst = 3});
  CHECK(core.available(at(0s)) == 3);
  CHECK(core.most_at_once() == 3);
  CHECK(served(core, {0s, 0s, 0s, 0s, 499ms, 500ms, 500ms, 1s}, 1, 0s) ==
        std::vector<duration>{0s, 0s, 0s, -1ns, -1ns, 500ms, -1ns, 1s});
  CHECK(core.available(at(2s)) == 2);
  CHECK(core.available(at(100s)) == 3);  // full is full
  const auto refused = core.take(3, at(1s), 0s);
  CHECK_FALSE(refused.given);
  CHECK(refused.wait == 1500ms);
}

TEST_CASE("a bucket may hold less than a period's permits", "[rate_limiter]") {
  detail::rate_core core({.permits = 2, .period = 1s, .burst = 1});
  CHECK(core.most_at_once() == 1);
  CHECK(served(core, {0s, 0s, 500ms, 500ms}, 1, 0s) == std::vector<duration>{0s, -1ns, 500ms, -1ns});
}

TEST_CASE("pacing spaces calls evenly, a heavy one keeps the way busy for longer", "[rate_limiter]") {
  detail::rate_core core(options_of(rate_algorithm::smooth, 10, 1s));
  CHECK(served(core, {0s, 0s, 0s, 0s}, 1, 250ms) == std::vector<duration>{0s, 100ms, 200ms, -1ns});
  CHECK(served(core, {300ms}, 5, 0s) == std::vector<duration>{300ms});
  CHECK(served(core, {799ms, 800ms}, 1, 0s) == std::vector<duration>{-1ns, 800ms});
  CHECK(core.available(at(850ms)) == 0);
  CHECK(core.available(at(900ms)) == 1);
}

TEST_CASE("a fixed window starts anew at each border, promises come out of the next ones", "[rate_limiter]") {
  detail::rate_core core(options_of(rate_algorithm::fixed_window, 2, 1s));
  CHECK(served(core, {900ms, 900ms, 900ms, 999ms, 1s, 1s}, 1, 0s) ==
        std::vector<duration>{900ms, 900ms, -1ns, -1ns, 1s, 1s});
  CHECK(served(core, {1500ms, 1500ms, 1500ms}, 1, 10s) == std::vector<duration>{2s, 2s, 3s});
  CHECK(served(core, {3s, 3s}, 1, 0s) == std::vector<duration>{3s, -1ns});
  CHECK(core.available(at(3s)) == 0);
  CHECK(core.available(at(365 * 24h)) == 2);
}

TEST_CASE("fixed windows have their borders before the start of time, too", "[rate_limiter]") {
  detail::rate_core core(options_of(rate_algorithm::fixed_window, 2, 1s));
  CHECK(served(core, {-1500ms, -1500ms, -1500ms, -1s, -1s, -1s, 0s}, 1, 0s) ==
        std::vector<duration>{-1500ms, -1500ms, -1ns, -1s, -1s, -1ns, 0s});
}

TEST_CASE("nothing is available where others have reserved", "[rate_limiter]") {
  detail::rate_core windows(options_of(rate_algorithm::fixed_window, 2, 1s));
  CHECK(served(windows, {0s, 0s, 0s}, 1, 10s) == std::vector<duration>{0s, 0s, 1s});
  CHECK(windows.available(at(500ms)) == 0);
  CHECK(windows.available(at(1s)) == 1);
  detail::rate_core quick({.permits = 1'000'000'000, .period = 1s, .burst = 1});
  CHECK(quick.available(at(0s)) == 1);
  (void)quick.take(1, at(0s), 0s);
  CHECK(quick.available(at(0s)) == 0);
}

TEST_CASE("a sliding window holds in every stretch of time", "[rate_limiter]") {
  detail::rate_core core(options_of(rate_algorithm::sliding_window, 2, 1s));
  CHECK(served(core, {900ms, 950ms, 1s, 1899ms, 1900ms, 1949ms, 1950ms}, 1, 0s) ==
        std::vector<duration>{900ms, 950ms, -1ns, -1ns, 1900ms, -1ns, 1950ms});
  CHECK(core.available(at(2899ms)) == 0);
  CHECK(core.available(at(2900ms)) == 1);
  CHECK(served(core, {2s, 2s}, 2, 10s) == std::vector<duration>{2950ms, 3950ms});
}

TEST_CASE("a reservation goes back unless somebody stands behind it", "[rate_limiter]") {
  const auto algorithm = GENERATE(rate_algorithm::token_bucket, rate_algorithm::smooth, rate_algorithm::fixed_window,
                                  rate_algorithm::sliding_window);
  detail::rate_core core(options_of(algorithm, 1, 1s));
  (void)core.take(1, at(0s), 0s);
  const auto first = core.take(1, at(0s), 10s);
  CHECK(first.wait == 1s);
  CHECK(core.put_back(first));
  const auto again = core.take(1, at(0s), 10s);
  CHECK(again.wait == 1s);
  const auto behind = core.take(1, at(0s), 10s);
  CHECK(behind.wait == 2s);
  CHECK_FALSE(core.put_back(again));
  CHECK(core.put_back(behind));
  CHECK(core.take(1, at(0s), 10s).wait == 2s);
}

TEST_CASE("random calls, reservations and returns never exceed the limit", "[rate_limiter][model]") {
  const auto algorithm = GENERATE(rate_algorithm::token_bucket, rate_algorithm::smooth, rate_algorithm::fixed_window,
                                  rate_algorithm::sliding_window);
  const unsigned seed = GENERATE(1U, 2U, 3U);
  CAPTURE(static_cast<int>(algorithm), seed);
  std::mt19937_64 random(seed);
  const std::size_t permits = 1 + random() % 7;
  detail::rate_core core(options_of(algorithm, permits, 1us));
  const auto spacing = static_cast<std::int64_t>((1000 + permits - 1) / permits);
  std::vector<std::int64_t> counted;
  std::int64_t now = 0;
  for (int i = 0; i < 20'000; ++i) {
    now += static_cast<std::int64_t>(random() % 400);
    const std::size_t weight = 1 + random() % permits;
    const auto given = core.take(weight, at(duration(now)), duration(static_cast<std::int64_t>(random() % 3000)));
    if (!given.given) {
      // What a refusal says is the truth: the same call is served by then, and no sooner.
      REQUIRE(given.wait > 0ns);
      continue;
    }
    if (given.wait > 0ns && random() % 4 == 0 && core.put_back(given)) continue;
    for (std::size_t n = 0; n < weight; ++n) counted.push_back(now + given.wait.count());
  }
  REQUIRE(counted.size() > 5'000);
  std::sort(counted.begin(), counted.end());
  if (algorithm == rate_algorithm::sliding_window) CHECK(densest(counted, 1000) <= permits);
  if (algorithm == rate_algorithm::token_bucket) {
    // In t nanoseconds at most the burst and what has trickled in since.
    for (std::size_t begin = 0; begin < counted.size(); ++begin) {
      const std::size_t end = std::min(begin + 200, counted.size() - 1);
      REQUIRE(static_cast<std::int64_t>(end - begin + 1) <=
              static_cast<std::int64_t>(permits) + (counted[end] - counted[begin]) / spacing);
    }
  }
  if (algorithm == rate_algorithm::fixed_window) {
    for (std::size_t begin = 0; begin + permits < counted.size(); ++begin) {
      REQUIRE(counted[begin] / 1000 < counted[begin + permits] / 1000);
    }
  }
  if (algorithm == rate_algorithm::smooth) {
    for (std::size_t i = 1; i < counted.size(); ++i) {
      if (counted[i] != counted[i - 1]) REQUIRE(counted[i] - counted[i - 1] >= spacing);
    }
  }
}

TEST_CASE("a token bucket decides as a plain count of tokens does, over 100000 random calls", "[rate_limiter][model]") {
  std::mt19937_64 random(11);
  auto options = options_of(rate_algorithm::token_bucket, 10, 1us);
  options.burst = 7;
  detail::rate_core core(options);
  std::int64_t now = 0, credit = 7 * 100;  // a token is worth 100 ns
  for (int i = 0; i < 100'000; ++i) {
    const auto passed = static_cast<std::int64_t>(random() % 700);
    now += passed;
    credit = std::min<std::int64_t>(credit + passed, 7 * 100);
    const std::size_t weight = 1 + random() % 7;
    const auto cost = static_cast<std::int64_t>(weight) * 100;
    const auto given = core.take(weight, at(duration(now)), 0s);
    REQUIRE(given.given == (credit >= cost));
    REQUIRE(given.wait == duration(std::max<std::int64_t>(cost - credit, 0)));
    if (given.given) credit -= cost;
    REQUIRE(core.available(at(duration(now))) == static_cast<std::size_t>(credit / 100));
  }
}

TEST_CASE("pacing and fixed windows decide as plain arithmetic does, over 100000 random calls",
          "[rate_limiter][model]") {
  std::mt19937_64 random(12);
  detail::rate_core paced(options_of(rate_algorithm::smooth, 10, 1us));
  detail::rate_core windows(options_of(rate_algorithm::fixed_window, 10, 1us));
  std::int64_t now = 0, free_at = 0, cycle = 0;
  std::size_t left = 10;
  for (int i = 0; i < 100'000; ++i) {
    now += static_cast<std::int64_t>(random() % 400);
    if (now / 1000 > cycle) cycle = now / 1000, left = 10;
    const std::size_t weight = 1 + random() % 4;
    const auto of_pace = paced.take(weight, at(duration(now)), 0s);
    REQUIRE(of_pace.given == (free_at <= now));
    REQUIRE(of_pace.wait == duration(std::max<std::int64_t>(free_at - now, 0)));
    if (of_pace.given) free_at = now + static_cast<std::int64_t>(weight) * 100;
    const auto of_window = windows.take(weight, at(duration(now)), 0s);
    REQUIRE(of_window.given == (left >= weight));
    REQUIRE(of_window.wait == duration(of_window.given ? 0 : (cycle + 1) * 1000 - now));
    if (of_window.given) left -= weight;
    REQUIRE(windows.available(at(duration(now))) == left);
  }
}

TEST_CASE("a sliding window decides as a plain list of grants does", "[rate_limiter][model]") {
  std::mt19937_64 random(7);
  detail::rate_core core(options_of(rate_algorithm::sliding_window, 5, 1us));
  std::deque<std::int64_t> grants;
  std::int64_t now = 0;
  for (int i = 0; i < 100'000; ++i) {
    now += static_cast<std::int64_t>(random() % 300);
    while (!grants.empty() && grants.front() + 1000 <= now) grants.pop_front();
    const std::size_t weight = 1 + random() % 5;
    const bool expected = grants.size() + weight <= 5;
    const auto given = core.take(weight, at(duration(now)), 0s);
    REQUIRE(given.given == expected);
    if (expected) grants.insert(grants.end(), weight, now);
  }
}

TEST_CASE("a changed rate holds from now on", "[rate_limiter]") {
  const auto algorithm =
      GENERATE(rate_algorithm::token_bucket, rate_algorithm::fixed_window, rate_algorithm::sliding_window);
  detail::rate_core core(options_of(algorithm, 2, 1s));
  (void)core.take(2, at(0s), 0s);
  core.change(options_of(algorithm, 4, 1s));
  CHECK(core.most_at_once() == 4);
  const auto served_at = [&core](duration when) {
    std::size_t count = 0;
    while (core.take(1, at(when), 0s).given) ++count;
    return count;
  };
  CHECK(served_at(0s) == (algorithm == rate_algorithm::sliding_window ? 2 : 0));
  CHECK(served_at(2s) == 4);
  core.change(options_of(algorithm, 1, 1s));
  CHECK(core.most_at_once() == 1);
  CHECK(served_at(2500ms) == 0);
  CHECK(served_at(10s) == 1);
  core.change(options_of(algorithm, 1, 10s));
  CHECK(served_at(15s) == (algorithm == rate_algorithm::token_bucket ? 1 : 0));  // a bucket was full again at 11 s
  CHECK(served_at(30s) == 1);
}

TEST_CASE("a sliding window that becomes smaller or larger remembers its newest grants", "[rate_limiter]") {
  const auto sliding = [](std::size_t permits) { return options_of(rate_algorithm::sliding_window, permits, 1s); };
  detail::rate_core core(sliding(3));
  CHECK(served(core, {0ms, 300ms, 600ms, 1000ms}, 1, 0s) == std::vector<duration>{0ms, 300ms, 600ms, 1000ms});
  core.change(sliding(2));
  CHECK(core.options().permits == 2);
  CHECK(served(core, {1599ms, 1600ms, 1999ms}, 1, 0s) == std::vector<duration>{-1ns, 1600ms, -1ns});
  core.change(sliding(5));
  CHECK(core.available(at(1999ms)) == 3);
  CHECK(core.available(at(2000ms)) == 4);
  CHECK(core.available(at(2600ms)) == 5);
}

TEST_CASE("a window that becomes larger lets nobody pass who has reserved", "[rate_limiter]") {
  detail::rate_core core(options_of(rate_algorithm::sliding_window, 1, 1s));
  CHECK(served(core, {0s, 0s}, 1, 10s) == std::vector<duration>{0s, 1s});
  core.change(options_of(rate_algorithm::sliding_window, 5, 1s));
  CHECK(core.available(at(600ms)) == 0);
  CHECK(core.available(at(1s)) == 4);
  CHECK(core.take(1, at(600ms), 0s).wait == 400ms);
  CHECK(served(core, {600ms, 600ms}, 1, 10s) == std::vector<duration>{1s, 1s});
}

TEST_CASE("a reservation of a window goes back once", "[rate_limiter]") {
  const auto algorithm = GENERATE(rate_algorithm::fixed_window, rate_algorithm::sliding_window);
  detail::rate_core core(options_of(algorithm, 1, 1s));
  (void)core.take(1, at(0s), 0s);
  const auto given_up = core.take(1, at(0s), 10s);
  CHECK(core.put_back(given_up));
  CHECK_FALSE(core.put_back(given_up));
  (void)core.take(1, at(0s), 10s);
  CHECK_FALSE(core.put_back(given_up));
}

TEST_CASE("what a returned reservation had pushed out of a sliding window lasts no longer for it", "[rate_limiter]") {
  detail::rate_core core(options_of(rate_algorithm::sliding_window, 3, 1s));
  CHECK(served(core, {0ms, 500ms, 900ms}, 1, 0s) == std::vector<duration>{0ms, 500ms, 900ms});
  const auto given_up = core.take(2, at(900ms), 10s);
  CHECK(given_up.wait == 600ms);
  CHECK(core.put_back(given_up));
  CHECK(core.available(at(1499ms)) == 0);
  CHECK(core.available(at(1500ms)) == 2);
  CHECK(core.available(at(1900ms)) == 3);
}

TEST_CASE("a reservation from before a change does not go back", "[rate_limiter]") {
  const auto algorithm = GENERATE(rate_algorithm::fixed_window, rate_algorithm::sliding_window);
  detail::rate_core core(options_of(algorithm, 1, 1s));
  (void)core.take(1, at(0s), 0s);
  const auto before = core.take(1, at(0s), 10s);
  core.change(options_of(algorithm, 1, 1s));
  CHECK_FALSE(core.put_back(before));
  (void)core.take(1, at(0s), 10s);
  CHECK_FALSE(core.put_back(before));
}

TEST_CASE("the last options that work do", "[rate_limiter]") {
  const auto of = [](rate_algorithm algorithm, std::size_t permits, duration period, std::size_t burst = 0) {
    auto options = options_of(algorithm, permits, period);
    options.burst = burst;
    std::string all;
    for (const auto& problem : validate(options)) all += problem.substr(0, problem.find(':')) + " ";
    return all;
  };
  const auto bucket = rate_algorithm::token_bucket, sliding = rate_algorithm::sliding_window;
  CHECK(of(bucket, 1'000'000'000, 1s).empty());
  CHECK(of(bucket, 1'000'000'001, 2s) == "permits ");
  CHECK(of(sliding, 1'000'000, 1s).empty());
  CHECK(of(sliding, 1'000'001, 1s) == "permits ");
  CHECK(of(bucket, 1, 366 * 24h).empty());
  CHECK(of(bucket, 1, 366 * 24h + 1ns) == "period ");
  CHECK(of(bucket, 1000, 1us).empty());
  CHECK(of(bucket, 1001, 1us) == "period ");
  CHECK(of(bucket, 2, 1ns) == "period ");
  CHECK(of(bucket, 1, 0s) == "period ");
  CHECK(of(bucket, 1000, 1000s, 1'000'000).empty());
  CHECK(of(bucket, 1, 1s, 1'000'000'000).empty());
  CHECK(of(bucket, 1, 1s, 1'000'000'001) == "burst ");
}

TEST_CASE("options that cannot work are refused, each by its name", "[rate_limiter]") {
  CHECK(validate(rate_limiter_options{}).empty());
  CHECK(validate({.permits = 0}).size() == 1);
  CHECK(validate({.permits = 2'000'000, .algorithm = rate_algorithm::sliding_window}).size() == 1);
  CHECK(validate({.period = 0s}).size() == 2);
  CHECK(validate({.permits = 1000, .period = 1ns}).size() == 1);
  CHECK(validate({.algorithm = rate_algorithm::smooth, .burst = 2}).size() == 1);
  CHECK(validate({.permits = 1, .period = 24h, .burst = 100'000'000}).size() == 1);
  CHECK(validate(rate_limiter_options{.max_wait = -1ns}).size() == 1);
  CHECK_THROWS_AS(rate_limiter("bad", {.permits = 0}), invalid_options_error);
}

ASYNC_TEST("calls over the rate are refused with the time until it may go", "[rate_limiter]") {
  rate_limiter limiter("search", {.permits = 1, .period = 10s});
  const auto first = co_await limiter.try_run(fine);
  CHECK(first.has_value());
  co_await sleep_for(4s);
  const auto second = co_await limiter.try_run(fine);
  CHECK(second.why().is_refusal(errc::rate_limited));
  CHECK(second.why().policy() == "search");
  CHECK(second.why().retry_after() == duration(6s));
  co_await sleep_for(6s);
  const int third = co_await limiter.run(fine);
  CHECK(third == 1);
  call_info heavy;
  heavy.weight = 2;
  const auto too_heavy = co_await limiter.try_run(heavy, fine);
  CHECK(too_heavy.why().is_refusal(errc::weight_too_large));
  CHECK(limiter.stats().admitted == 2);
  CHECK(limiter.stats().rejected == 2);
}

ASYNC_TEST("calls that may wait are served in order, and never past their deadline", "[rate_limiter]") {
  rate_limiter limiter("search", {.permits = 1, .period = 1s, .max_wait = 1h});
  std::vector<int> order;
  const auto executor = co_await net::this_coro::executor;
  for (int id = 0; id < 4; ++id) {
    spawn(executor, [&limiter, &order, id]() -> awaitable<void> {
      const auto note = [&] { order.push_back(id); };
      co_await limiter.run(note);
    });
  }
  co_await sleep_for(1ms);
  const auto begin = time.now();
  const auto hurried = co_await try_with_timeout(2s, [&] { return limiter.try_run(fine); });
  CHECK(time.now() == begin);  // it would have been served after 4 s: refused at once
  CHECK(hurried.value().why().is_refusal(errc::rate_limited));
  co_await limiter.acquire();
  CHECK(order == std::vector<int>{0, 1, 2, 3});
  CHECK(limiter.stats().delayed == 4);
}

TEST_CASE("a cancelled wait gives its permits back", "[rate_limiter]") {
  const auto operation = []() -> awaitable<void> {
    rate_limiter limiter("search", {.permits = 1, .period = 1s, .max_wait = 1h});
    const auto executor = co_await net::this_coro::executor;
    const auto now = [&executor] { return timers_of(executor).now(); };
    co_await limiter.acquire();
    const auto begin = now();
    bool waited = false;
    try {
      co_await limiter.acquire();
      waited = true;
    } catch (const net::asio_system_error&) {  // NOLINT(bugprone-empty-catch): cancelled, as asked for
    }
    // One wait is one second. One that was given up leaves the place to the next.
    if (!waited) CHECK(limiter.available(begin + 1s) == 1);
    if (waited) CHECK(now() - begin == duration(1s));
  };
  CHECK(cancel_at_every_step(operation, [] {}) >= 2);
}

TEST_CASE("many threads get no more than there is", "[rate_limiter][concurrent]") {
  const auto algorithm =
      GENERATE(rate_algorithm::token_bucket, rate_algorithm::fixed_window, rate_algorithm::sliding_window);
  detail::rate_core core(options_of(algorithm, 1000, 1h));
  std::atomic<std::size_t> given{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) given += core.take(1, at(1s), 0s).given ? 1 : 0;
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(given == 1000);
}
