// The windows alone: what they remember, for how long, and that they agree with a plain list.
#include "catch.hpp"

#include <cofferdam/resilience/detail/call_window.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <random>
#include <thread>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;
using detail::count_window;
using detail::time_window;
using detail::window_counts;

namespace {

constexpr unsigned older = 0, newer = 1;  // the two generations of a time window

struct one_call {
  std::int64_t slice;
  bool failed, slow;
};

template <class Calls> window_counts counted(const Calls& calls) {
  window_counts counts;
  for (const one_call& call : calls) {
    ++counts.calls;
    if (call.failed) ++counts.failures;
    if (call.slow) ++counts.slow;
  }
  return counts;
}

/// Lets this thread write another shard for a while.
class borrowed_shard {
 public:
  explicit borrowed_shard(const detail::shard& other) { detail::cached_shard = other; }
  borrowed_shard(const borrowed_shard&) = delete;
  borrowed_shard& operator=(const borrowed_shard&) = delete;
  ~borrowed_shard() { detail::cached_shard = own_; }

 private:
  detail::shard own_ = detail::this_shard();
};

/// The one that all threads beyond the first few share, or this thread's own.
detail::shard shard_for(bool shared) {
  return shared ? detail::shard{detail::shard_count() - 1, false} : detail::this_shard();
}

bool same(const window_counts& a, const window_counts& b) {
  return a.calls == b.calls && a.failures == b.failures && a.slow == b.slow;
}

}  // namespace

TEST_CASE("a count window forgets the oldest call for each one beyond its size", "[circuit][window]") {
  count_window window;
  window.resize(3);
  window.add(true, false);
  window.add(false, true);
  window.add(true, true);
  CHECK(same(window.counts(), {3, 2, 2}));
  window.add(false, false);
  CHECK(same(window.counts(), {3, 1, 2}));
  window.add(false, false);
  CHECK(same(window.counts(), {3, 1, 1}));
  window.add(false, false);
  CHECK(same(window.counts(), {3, 0, 0}));
}

TEST_CASE("a count window is clean when it is full of good calls, not when it is empty", "[circuit][window]") {
  count_window window;
  window.resize(2);
  CHECK_FALSE(window.is_clean());
  window.add(false, false);
  CHECK_FALSE(window.is_clean());
  window.add(false, false);
  CHECK(window.is_clean());
  window.add(false, true);
  CHECK_FALSE(window.is_clean());
  window.clear();
  CHECK(same(window.counts(), {0, 0, 0}));
  CHECK_FALSE(window.is_clean());
}

TEST_CASE("a count window of one remembers one call", "[circuit][window]") {
  count_window window;
  window.resize(1);
  window.add(true, false);
  window.add(false, true);
  CHECK(same(window.counts(), {1, 0, 1}));
  window.clear();
  window.add(true, false);
  CHECK(same(window.counts(), {1, 1, 0}));
}

TEST_CASE("what a cleared count window remembered does not count against later calls", "[circuit][window]") {
  count_window window;
  window.resize(2);
  window.add(true, true);
  window.add(true, true);
  window.clear();
  window.add(false, false);
  window.add(false, false);
  window.add(false, false);
  CHECK(same(window.counts(), {2, 0, 0}));
}

TEST_CASE("a count window takes over the newest calls of another, each with what it was", "[circuit][window]") {
  count_window before, after;
  before.resize(4);
  before.add(true, true, true);  // is pushed out of the new one
  before.add(true, false, false);
  before.add(false, true, false);
  before.add(false, false, true);
  after.resize(3);
  after.add_all_of(before);
  const auto has = [&after](std::uint64_t failures, std::uint64_t slow, std::uint64_t abandoned) {
    const window_counts& c = after.counts();
    return c.calls == 3 && c.failures == failures && c.slow == slow && c.abandoned == abandoned;
  };
  CHECK(has(1, 1, 1));
  after.add(false, false);
  CHECK(has(0, 1, 1));
  after.add(false, false);
  CHECK(has(0, 0, 1));
  after.add(false, false);
  CHECK(has(0, 0, 0));
}

TEST_CASE("good calls are collected once, of every thread, each generation for itself", "[circuit][window]") {
  detail::good_calls calls;
  const std::size_t last = detail::shard_count() - 1;
  for (const std::size_t index : {std::size_t{0}, last}) {
    const borrowed_shard other(detail::shard{index, index != last});
    CHECK(calls.keep(older));
    CHECK(calls.keep(older));
    CHECK(calls.keep(newer));
  }
  CHECK(calls.collect(older) == 4);
  CHECK(calls.collect(older) == 0);
  CHECK(calls.collect(newer) == 2);
  const borrowed_shard other(detail::shard{last, false});
  for (std::uint64_t i = 1; i < detail::good_calls::batch; ++i) CHECK(calls.keep(older));
  CHECK_FALSE(calls.keep(older));  // it is time to collect
  CHECK(calls.collect(older) == detail::good_calls::batch - 1);
  CHECK(calls.keep(older));
}

TEST_CASE("a count window agrees with a plain queue over 100000 random operations", "[circuit][window][model]") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const std::size_t size = 1 + random() % 40;
  count_window window;
  window.resize(size);
  std::deque<one_call> model;
  for (int i = 0; i < 100'000; ++i) {
    if (random() % 1000 == 0) {
      window.clear();
      model.clear();
    }
    const bool failed = random() % 3 == 0, slow = random() % 5 == 0;
    window.add(failed, slow);
    model.push_back({0, failed, slow});
    if (model.size() > size) model.pop_front();
    const auto expected = counted(model);
    REQUIRE(same(window.counts(), expected));
    REQUIRE(window.is_clean() == (model.size() == size && expected.failures == 0 && expected.slow == 0));
  }
}

TEST_CASE("a time window spans its buckets: a call counts until just before the window's length has passed",
          "[circuit][window]") {
  time_window window(10, 1s, true);
  const auto slice = window.slice_of(time_point(1h + 999'999'999ns));
  CHECK(slice == 3600);
  REQUIRE(window.add(older, slice, true, true));
  CHECK(same(window.sum(older, window.slice_of(time_point(1h + 9s + 999'999'999ns))), {1, 1, 1}));
  CHECK(same(window.sum(older, window.slice_of(time_point(1h + 10s))), {0, 0, 0}));
}

TEST_CASE("a slow success and a fast failure are counted apart", "[circuit][window]") {
  time_window window(4, 1s, true);
  REQUIRE(window.add(older, 100, false, true));
  REQUIRE(window.add(older, 101, true, false));
  CHECK(same(window.sum(older, 101), {2, 1, 1}));
  CHECK(same(window.sum(older, 103), {2, 1, 1}));
  CHECK(same(window.sum(older, 104), {1, 1, 0}));
}

TEST_CASE("a window of one bucket tumbles", "[circuit][window]") {
  time_window window(1, 1s, false);
  REQUIRE(window.add(older, 7, true, false));
  REQUIRE(window.add(older, 7, false, false));
  CHECK(same(window.sum(older, 7), {2, 1, 0}));
  CHECK(same(window.sum(older, 8), {0, 0, 0}));
  REQUIRE(window.add(older, 8, false, false));
  CHECK(same(window.sum(older, 8), {1, 0, 0}));
  CHECK_FALSE(window.add(older, 7, true, false));
}

TEST_CASE("a window works from the start of time", "[circuit][window]") {
  time_window window(10, 1s, false);
  REQUIRE(window.add(older, 0, true, false));
  CHECK(same(window.sum(older, 0), {1, 1, 0}));
  CHECK(same(window.sum(older, 9), {1, 1, 0}));
  CHECK(same(window.sum(older, 10), {0, 0, 0}));
}

TEST_CASE("a long call counts where it began, and not at all once that has left the window", "[circuit][window]") {
  time_window window(10, 1s, false);
  REQUIRE(window.add(older, 1009, false, false));
  CHECK(window.add(older, 1000, true, false));
  CHECK(same(window.sum(older, 1009), {2, 1, 0}));
  CHECK_FALSE(window.add(older, 999, true, false));  // its bucket belongs to 1009 now
  REQUIRE(window.add(older, 1012, false, false));
  CHECK_FALSE(window.add(older, 1001, true, false));  // its bucket is empty, but it is too old all the same
  CHECK(same(window.sum(older, 1012), {2, 0, 0}));
}

TEST_CASE("the generations of a time window do not see each other", "[circuit][window]") {
  time_window window(3, 1s, true);
  REQUIRE(window.add(older, 5, true, true));
  REQUIRE(window.add(newer, 5, false, false));
  CHECK(same(window.sum(older, 5), {1, 1, 1}));
  CHECK(same(window.sum(newer, 5), {1, 0, 0}));
  window.clear(older);
  CHECK(same(window.sum(older, 5), {0, 0, 0}));
  CHECK(same(window.sum(newer, 5), {1, 0, 0}));
}

TEST_CASE("a time window counts again after any idle time", "[circuit][window]") {
  // A bucket knows its turn by a few bits. However long it lay idle, what it held must neither block a new call nor
  // come back to life.
  for (const std::int64_t idle_turns : {1, 2, 2000, 2046, 2047, 2048, 3000, 4093, 4094, 4095, 4096, 8190, 1'000'000}) {
    CAPTURE(idle_turns);
    time_window window(10, 1s, true);
    REQUIRE(window.add(older, 103, true, true));
    const std::int64_t later = 103 + idle_turns * 10;
    CHECK(same(window.sum(older, later), {0, 0, 0}));
    CHECK(window.add(older, later, false, false));
    CHECK(same(window.sum(older, later), {1, 0, 0}));
  }
}

TEST_CASE("a bucket that no call touches for 4095 turns stays forgotten", "[circuit][window]") {
  const borrowed_shard place(shard_for(GENERATE(false, true)));
  for (const std::int64_t start : {20, 22}) {
    time_window window(10, 1s, false);
    REQUIRE(window.add(older, 13, true, false));
    for (std::int64_t slice = start; slice < 13 + 4095 * 10; slice += 5) {
      REQUIRE(window.add(older, slice, false, false));
    }
    CHECK(window.sum(older, 13 + 4095 * 10).failures == 0);
  }
}

TEST_CASE("a call counts in every turn", "[circuit][window]") {
  time_window window(2, 1s, false);
  for (std::int64_t slice = 1; slice < 20'000; slice += 2) {
    REQUIRE(window.add(older, slice, true, false));
    REQUIRE(same(window.sum(older, slice), {1, 1, 0}));
  }
}

TEST_CASE("moving one shard on leaves the others as they are", "[circuit][window]") {
  for (const bool with_slow : {false, true}) {
    time_window window(10, 1s, with_slow);
    const auto fill = [&](std::size_t shard) {
      const borrowed_shard place({shard, true});
      for (std::int64_t slice = 100; slice < 110; ++slice) {
        for (const unsigned generation : {older, newer}) REQUIRE(window.add(generation, slice, true, with_slow));
      }
    };
    fill(1);
    fill(0);
    for (const unsigned generation : {older, newer}) {
      CHECK(same(window.sum(generation, 109), {20, 20, with_slow ? 20U : 0U}));
    }
  }
}

TEST_CASE("slices beyond 32 bits are told apart", "[circuit][window]") {
  for (const std::int64_t slice : {(std::int64_t{1} << 32) - 3, (std::int64_t{3} << 32) + 7, std::int64_t{1} << 60}) {
    time_window window(10, 1ns, false);
    for (std::int64_t i = 0; i < 20; ++i) REQUIRE(window.add(older, slice + i, i % 5 == 0, false));
    CHECK(same(window.sum(older, slice + 19), {10, 2, 0}));
    CHECK(same(window.sum(older, slice + 28), {1, 0, 0}));
    CHECK(same(window.sum(older, slice + 29), {0, 0, 0}));
  }
}

TEST_CASE("a slice is the exact quotient of time and width", "[circuit][window]") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 100'000; ++i) {
    const auto width = static_cast<std::int64_t>(1'000 + random() % 100'000'000'000);
    const time_window window(1, duration(width), false);
    auto time = static_cast<std::int64_t>(random() % 2'000'000'000'000'000'000);  // over sixty years
    if (i % 2 == 0) time = time / width * width - i % 3;                          // at and around the edges
    time = std::max<std::int64_t>(time, 0);
    REQUIRE(window.slice_of(time_point(duration(time))) == time / width);
  }
  for (const duration shortest : {1ns, 0ns}) CHECK(time_window(1, shortest, false).slice_of(time_point(7ns)) == 7);
}

TEST_CASE("a time window agrees with a plain list over 100000 random operations, with a shard of one's own or not",
          "[circuit][window][model]") {
  const borrowed_shard place(shard_for(GENERATE(false, true)));
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const std::size_t buckets = 1 + random() % 20;
  const auto span = static_cast<std::int64_t>(buckets);
  time_window window(buckets, 1s, true);
  std::array<std::vector<one_call>, 2> model;
  std::int64_t now = 3600, newest = 0;
  for (int i = 0; i < 100'000; ++i) {
    // Mostly small steps, at times a night's sleep, or a month's.
    const auto dice = random() % 1000;
    now += static_cast<std::int64_t>(dice == 0 ? random() % 1'000'000 : dice < 10 ? random() % 100 : dice < 200);
    const unsigned generation = random() % 2;
    if (random() % 500 == 0) {
      window.clear(generation);
      model[generation].clear();
    }
    const one_call call{now - static_cast<std::int64_t>(random() % 3 == 0 ? random() % 25 : 0), random() % 3 == 0,
                        random() % 5 == 0};
    newest = std::max(newest, call.slice);
    const bool fits = call.slice > newest - span;
    const bool is_good = !call.failed && !call.slow;
    const time_point began(call.slice * 1s + std::chrono::milliseconds(random() % 1000));
    const bool added =
        is_good ? window.add_good(generation, began) : window.add(generation, call.slice, call.failed, call.slow);
    REQUIRE(added == fits);
    if (fits) model[generation].push_back(call);
    for (const unsigned g : {older, newer}) {
      std::erase_if(model[g], [&](const one_call& old) { return old.slice <= newest - span; });
      REQUIRE(same(window.sum(g, newest), counted(model[g])));
    }
  }
}

TEST_CASE("four threads: a time window loses no call", "[circuit][window][concurrent]") {
  time_window window(10, 1s, true);
  constexpr int each = 50'000;
  const auto work = [&](int start) {
    for (int i = start; i < start + each; ++i) (void)window.add(older, 1000 + i % 10, i % 4 == 0, i % 10 == 0);
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) threads.emplace_back(work, t * each);
  for (auto& thread : threads) thread.join();
  CHECK(same(window.sum(older, 1009), {4 * each, each, 4 * each / 10}));
  window.clear(older);
  CHECK(same(window.sum(older, 1009), {0, 0, 0}));
}

TEST_CASE("forty threads, most of which share a shard, lose no call", "[circuit][window][concurrent]") {
  time_window window(10, 1s, true);
  std::atomic<bool> go{false};
  const auto work = [&] {
    while (!go.load()) std::this_thread::yield();
    for (int i = 0; i < 1'000; ++i) (void)window.add(older, 1000 + i / 100, i % 4 == 0, i % 10 == 0);
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < 40; ++t) threads.emplace_back(work);
  go = true;
  for (auto& thread : threads) thread.join();
  CHECK(same(window.sum(older, 1009), {40'000, 10'000, 4'000}));
}
