// The cache's table alone: what it remembers, for how long, and what it forgets first.
#include "catch.hpp"

#include <cofferdam/resilience/detail/cache_table.hpp>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <random>
#include <stdexcept>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;
using detail::freshness;

namespace {

using int_table = detail::cache_table<int, int, std::hash<int>>;

/// Fails at its n-th call from now on (0 = the next), if n is not negative.
struct moody_hash {
  static inline int fails_after = -1;
  std::size_t operator()(int key) const {
    if (fails_after == 0) throw std::runtime_error("no mood");
    if (fails_after > 0) --fails_after;
    return static_cast<std::size_t>(key);
  }
};

failure down() { return failure::thrown(std::make_exception_ptr(std::runtime_error("down"))); }

}  // namespace

TEST_CASE("a value is fresh, then aging, then stale, then gone", "[cache]") {
  int_table table({.ttl = 30s, .refresh_after = 20s, .stale_if_error = 60s});
  const time_point start(7s);
  const auto after = [&](duration d) { return int_table::judge(table.find(1), start + d); };
  CHECK(after(0s) == freshness::missing);
  table.store(1, 5, start, 0);
  CHECK(after(0s) == freshness::fresh);
  CHECK(after(20s - 1ns) == freshness::fresh);
  CHECK(after(20s) == freshness::aging);
  CHECK(after(30s - 1ns) == freshness::aging);
  CHECK(after(30s) == freshness::stale);
  CHECK(after(90s - 1ns) == freshness::stale);
  CHECK(after(90s) == freshness::missing);
}

TEST_CASE("without a time to refresh a value is fresh for all its life", "[cache]") {
  int_table table({.ttl = 30s});
  table.store(1, 5, time_point(0s), 0);
  CHECK(int_table::judge(table.find(1), time_point(30s - 1ns)) == freshness::fresh);
}

TEST_CASE("jitter shortens the time to refresh like the life", "[cache]") {
  int_table table({.ttl = 40s, .refresh_after = 20s, .jitter = 0.5});
  table.store(1, 5, time_point(0s), 0.5);
  CHECK(table.find(1)->refresh_at == time_point(15s));
  CHECK(table.find(1)->fresh_until == time_point(30s));
}

TEST_CASE("a failure is remembered for its time, beside an old value and until a new one", "[cache]") {
  int_table table({.ttl = 10s, .stale_if_error = 60s, .negative_ttl = 5s});
  table.store(1, down(), time_point(0s));
  CHECK(int_table::judge(table.find(1), time_point(5s - 1ns)) == freshness::negative);
  CHECK(int_table::judge(table.find(1), time_point(5s)) == freshness::missing);
  table.store(1, 5, time_point(5s), 0);
  CHECK_FALSE(table.find(1)->why);
  table.store(1, down(), time_point(20s));
  CHECK(int_table::judge(table.find(1), time_point(24s)) == freshness::excused);
  CHECK(int_table::judge(table.find(1), time_point(25s)) == freshness::stale);
  int_table forgetful({.ttl = 10s});
  forgetful.store(1, down(), time_point(0s));
  CHECK(forgetful.find(1) == nullptr);
}

TEST_CASE("lives of values end one by one", "[cache]") {
  int_table table({.ttl = 100s, .jitter = 0.5});
  for (int i = 0; i < 10; ++i) table.store(i, i, time_point(0s), i / 10.0);
  for (int i = 0; i < 10; ++i) {
    const auto* e = table.find(i);
    CHECK(e->fresh_until == time_point(100s - i * 5s));
  }
}

TEST_CASE("the table forgets what was used longest ago, as a plain list does", "[cache]") {
  int_table table({.max_entries = 8});
  std::vector<int> naive;  // the most recently used last
  std::mt19937 random(3);
  std::uint64_t evictions = 0;
  const auto touch = [&](int key) {
    std::erase(naive, key);
    naive.push_back(key);
    if (naive.size() <= 8) return;
    naive.erase(naive.begin());
    ++evictions;
  };
  for (int i = 0; i < 100'000; ++i) {
    const int key = static_cast<int>(random() % 20);
    const bool known = std::find(naive.begin(), naive.end(), key) != naive.end();
    if (random() % 16 == 0) {
      REQUIRE(table.erase(key) == known);
      std::erase(naive, key);
    } else if (random() % 2 == 0) {
      table.store(key, i, time_point(0s), 0);
      touch(key);
    } else {
      REQUIRE((table.find(key) != nullptr) == known);
      if (known) touch(key);
    }
    REQUIRE(table.size() == naive.size());
  }
  CHECK(evictions > 10'000);
  CHECK(table.evictions() == evictions);
}

TEST_CASE("a cleared table is a new one", "[cache]") {
  int_table table({.max_entries = 2});
  table.store(1, 5, time_point(0s), 0);
  table.clear();
  CHECK(table.size() == 0);
  CHECK(table.find(1) == nullptr);
  for (int key = 1; key <= 2; ++key) table.store(key, key, time_point(0s), 0);
  CHECK(table.size() == 2);
  CHECK(table.evictions() == 0);
}

TEST_CASE("what cannot be entered leaves nothing behind", "[cache]") {
  bool entered = false;
  for (int n = 0; !entered; ++n) {
    detail::cache_table<int, int, moody_hash> table({});
    table.store(1, 5, time_point(0s), 0);
    moody_hash::fails_after = n;
    try {
      table.store(2, 5, time_point(0s), 0);
      entered = true;
    } catch (const std::runtime_error&) {  // NOLINT(bugprone-empty-catch): that is the point
    }
    moody_hash::fails_after = -1;
    CHECK(table.size() == (entered ? 2 : 1));
    CHECK(table.find(1) != nullptr);
  }
}
