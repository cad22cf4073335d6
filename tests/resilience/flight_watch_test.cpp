// The watch of calls in flight, against a list of them.
#include "catch.hpp"

#include <cofferdam/resilience/detail/flight_watch.hpp>

#include <algorithm>
#include <cstddef>
#include <random>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

TEST_CASE("a watch of calls in flight agrees with a list of them", "[circuit][model]") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  constexpr duration threshold = 997ms;
  detail::flight_watch watch(threshold);
  std::vector<time_point> flying;
  time_point now(1h);
  std::size_t most = 0;
  for (int i = 0; i < 100'000; ++i) {
    now += random() % 500 == 0 ? duration(std::chrono::milliseconds(random() % 5'000))
                               : duration(std::chrono::microseconds(random() % 100'000));
    if (random() % 2 == 0) {
      watch.enter(now);
      flying.push_back(now);
    } else if (!flying.empty()) {
      const std::size_t which = random() % flying.size();
      watch.leave(flying[which]);
      flying.erase(flying.begin() + static_cast<std::ptrdiff_t>(which));
    }
    const auto longer_than = [&](duration d) {
      return static_cast<std::size_t>(std::ranges::count_if(flying, [&](time_point at) { return now - at > d; }));
    };
    const std::size_t slow = watch.slow(now);
    REQUIRE(slow <= longer_than(threshold));
    REQUIRE(slow >= longer_than(threshold + threshold / 10 + 1us));
    most = std::max(most, slow);
  }
  CHECK(most > 10);
}

TEST_CASE("a watch of calls in flight notices them a tenth late, to the nanosecond", "[circuit]") {
  const auto noticed_after = [](duration threshold, time_point started) {
    duration later{};
    for (;; later += 1ns) {
      detail::flight_watch watch(threshold);
      watch.enter(started);
      if (watch.slow(started + later) == 1) return later;
    }
  };
  constexpr time_point now(1h);  // a slice begins, if there are so many
  CHECK(noticed_after(1000ns, now) == 1100ns);
  CHECK(noticed_after(1000ns, now + 99ns) == 1001ns);
  CHECK(noticed_after(5ns, now) == 11ns);  // no slice is shorter
}

TEST_CASE("a watch of calls in flight forgets them all at once", "[circuit]") {
  constexpr time_point now(1h);
  detail::flight_watch watch(1000ns);
  watch.enter(now);
  CHECK(watch.slow(now + 1100ns) == 1);
  watch.enter(now + 1100ns);
  watch.clear();
  CHECK(watch.slow(now + 1100ns) == 0);
  CHECK(watch.slow(now + 1s) == 0);
}

TEST_CASE("a watch of calls in flight rounds its slices up, and takes calls from long ago for slow", "[circuit]") {
  constexpr time_point now(1h);
  detail::flight_watch watch(15ns);
  watch.enter(now);
  CHECK(watch.slow(now + 15ns) == 0);
  watch.enter(now - 1s);
  CHECK(watch.slow(now + 15ns) == 1);
  watch.leave(now - 1s);
  CHECK(watch.slow(now + 15ns) == 0);
  CHECK(watch.slow(now + 30ns) == 1);
  watch.leave(now);
  CHECK(watch.slow(now + 30ns) == 0);
}
