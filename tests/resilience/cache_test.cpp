// Single flight and cache: who loads, who waits, who may leave, and what is said when loading fails.
#include "async_test.hpp"
#include "harness.hpp"
#include "tasks.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/resilience/cache.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>

#include <atomic>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

namespace {

/// A source that counts how often it is asked, and may be broken. Copies are the same source.
class counting_source {
 public:
  explicit counting_source(duration takes = 10ms) : notes_(std::make_shared<notes>()) { notes_->takes = takes; }

  awaitable<int> operator()() {
    const auto mine = notes_;
    const int number = ++mine->asked;
    try {
      co_await sleep_for(mine->takes);
    } catch (const net::asio_system_error&) {
      ++mine->cancelled;
      throw;
    }
    if (mine->broken) throw std::runtime_error("down");
    co_return number;
  }
  void set_broken(bool broken) { notes_->broken = broken; }
  [[nodiscard]] int asked() const { return notes_->asked; }
  [[nodiscard]] int cancelled() const { return notes_->cancelled; }

 private:
  struct notes {
    duration takes{};
    int asked = 0, cancelled = 0;
    bool broken = false;
  };
  std::shared_ptr<notes> notes_;
};

using int_flight = single_flight<std::string, int>;
using int_cache = cache<std::string, int>;

/// Joins a flight and notes what came of it.
spawned join_flight(const net::any_io_executor& executor, int_flight& flights, const counting_source& source,
                    std::vector<outcome<int>>& ends) {
  const auto body = [](int_flight* f, counting_source s, std::vector<outcome<int>>* e) -> awaitable<void> {
    auto result = co_await f->try_run("key", s);
    e->push_back(std::move(result));
  };
  return spawn(executor, body, &flights, source, &ends);
}

}  // namespace

ASYNC_TEST("calls for the same thing share one run, others have their own", "[single_flight]") {
  int_flight flights;
  counting_source source;
  std::vector<outcome<int>> ends;
  const auto executor = co_await net::this_coro::executor;
  for (int i = 0; i < 5; ++i) join_flight(executor, flights, source, ends);
  co_await sleep_for(1ms);
  const int other = co_await flights.run("other", source);
  CHECK(other == 2);
  co_await sleep_for(20ms);
  CHECK(source.asked() == 2);
  CHECK(ends.size() == 5);
  for (const auto& end : ends) CHECK(*end == 1);
  const int later = co_await flights.run("key", source);
  CHECK(later == 3);
  CHECK(flights.stats().flights == 3);
  CHECK(flights.stats().joined == 4);
  CHECK(flights.stats().flying == 0);
}

ASYNC_TEST("a failure is everybody's failure", "[single_flight]") {
  int_flight flights;
  counting_source source;
  source.set_broken(true);
  std::vector<outcome<int>> ends;
  const auto executor = co_await net::this_coro::executor;
  for (int i = 0; i < 3; ++i) join_flight(executor, flights, source, ends);
  co_await sleep_for(20ms);
  CHECK(ends.size() == 3);
  for (const auto& end : ends) CHECK(end.why().message() == "down");
  bool thrown = false;
  try {
    (void)co_await flights.run("key", source);
  } catch (const std::runtime_error&) {
    thrown = true;
  }
  CHECK(thrown);
}

ASYNC_TEST("whoever leaves, leaves alone; the last one takes the task along", "[single_flight]") {
  int_flight flights;
  counting_source source(100ms);
  std::vector<outcome<int>> ends;
  const auto executor = co_await net::this_coro::executor;
  const auto leader = join_flight(executor, flights, source, ends);
  co_await sleep_for(10ms);
  const auto follower = join_flight(executor, flights, source, ends);
  co_await sleep_for(10ms);
  leader.cancel();
  co_await sleep_for(10ms);
  CHECK(source.cancelled() == 0);
  CHECK(ends.size() == 1);
  CHECK(ends[0].why().is_cancellation());
  co_await sleep_for(75ms);
  REQUIRE(ends.size() == 2);
  CHECK(ends[1].value_or(0) == 1);

  const auto one = join_flight(executor, flights, source, ends);
  const auto two = join_flight(executor, flights, source, ends);
  co_await sleep_for(10ms);
  one.cancel();
  two.cancel();
  co_await sleep_for(1ms);
  CHECK(source.cancelled() == 1);
  CHECK(flights.stats().flying == 0);
  const int anew = co_await flights.run("key", source);
  CHECK(anew == 3);
}

ASYNC_TEST("the leader's time limit is not the others'", "[single_flight]") {
  int_flight flights;
  counting_source source(100ms);
  std::vector<outcome<int>> ends;
  const auto executor = co_await net::this_coro::executor;
  spawn(
      executor,
      [](int_flight* f, counting_source s) -> awaitable<void> {
        const auto join = [&] { return f->try_run("key", s); };
        (void)co_await try_with_timeout(20ms, join);
      },
      &flights, source);
  co_await sleep_for(1ms);
  join_flight(executor, flights, source, ends);
  co_await sleep_for(200ms);
  CHECK(source.asked() == 1);
  CHECK(ends.size() == 1);
  CHECK(ends[0].has_value());
}

TEST_CASE("cancelling at any step leaves no flight behind", "[single_flight]") {
  const auto operation = []() -> awaitable<void> {
    int_flight flights;
    counting_source source(5ms);
    (void)co_await flights.try_run("key", source);
  };
  CHECK(cancel_at_every_step(operation, [] {}) >= 2);
}

TEST_CASE("a context may end in the middle of a flight", "[single_flight]") {
  int_flight flights;
  counting_source source;
  std::vector<outcome<int>> ends;
  {
    net::io_context context(1);
    virtual_time time(context);
    join_flight(context.get_executor(), flights, source, ends);
    join_flight(context.get_executor(), flights, source, ends);
    time.run_until(time.now() + 1ms);
    CHECK(flights.stats().flying == 1);
  }
  CHECK(ends.empty());
  CHECK(flights.stats().flying == 0);
}

TEST_CASE("many threads share flights", "[single_flight][concurrent]") {
  single_flight<int, int> flights;
  std::atomic<int> runs{0}, sum{0};
  const auto task = [&](int key) -> awaitable<int> {
    ++runs;
    co_await sleep_for(1us);
    co_return key;
  };
  net::thread_pool threads(4);
  for (int t = 0; t < 8; ++t) {
    spawn(threads, [&]() -> awaitable<void> {
      for (int i = 0; i < 200; ++i) sum += co_await flights.run(i % 3, task, i % 3);
    });
  }
  threads.join();
  CHECK(sum == 8 * (66 * 3 + 0 + 1));
  CHECK(runs <= 1600);
  CHECK(flights.stats().flights + flights.stats().joined == 1600);
  CHECK(flights.stats().flying == 0);
}

ASYNC_TEST("a cache answers from memory until the value's time is over", "[cache]") {
  int_cache numbers("numbers", {.ttl = 1s, .jitter = 0});
  counting_source source;
  const int first = co_await numbers.get("a", source);
  CHECK(first == 1);
  co_await sleep_for(989ms);
  const auto before = time.now();
  const int second = co_await numbers.get("a", source);
  CHECK(second == 1);
  CHECK(time.now() == before);
  co_await sleep_for(11ms);
  const int third = co_await numbers.get("a", source);
  CHECK(third == 2);
  CHECK(numbers.stats().hits == 1);
  CHECK(numbers.stats().misses == 2);
  CHECK(numbers.erase("a"));
  CHECK_FALSE(numbers.erase("a"));
  const int fourth = co_await numbers.get("a", source);
  CHECK(fourth == 3);
}

ASYNC_TEST("misses at the same time load once", "[cache]") {
  int_cache numbers("numbers");
  counting_source source;
  const auto executor = co_await net::this_coro::executor;
  int sum = 0;
  for (int i = 0; i < 10; ++i) {
    spawn(
        executor,
        [](int_cache* c, counting_source s, int* total) -> awaitable<void> { *total += co_await c->get("a", s); },
        &numbers, source, &sum);
  }
  co_await sleep_for(1s);
  CHECK(source.asked() == 1);
  CHECK(sum == 10);
}

ASYNC_TEST("an aging value is answered with at once and loaded anew by one caller beside", "[cache]") {
  int_cache numbers("numbers", {.ttl = 10s, .refresh_after = 5s, .jitter = 0});
  counting_source source(1s);
  (void)co_await numbers.get("a", source);
  co_await sleep_for(5s);
  const auto before = time.now();
  const int old = co_await numbers.get("a", source);
  const int again = co_await numbers.get("a", source);
  CHECK(old == 1);
  CHECK(again == 1);
  CHECK(time.now() == before);
  co_await sleep_for(2s);
  CHECK(source.asked() == 2);
  const int fresh = co_await numbers.get("a", source);
  CHECK(fresh == 2);
  CHECK(numbers.stats().refreshes == 1);
  // A refresh that fails changes nothing; the value lives on to its end.
  source.set_broken(true);
  co_await sleep_for(4s);
  const int kept = co_await numbers.get("a", source);
  CHECK(kept == 2);
  co_await sleep_for(2s);
  const int still = co_await numbers.get("a", source);
  CHECK(still == 2);
}

ASYNC_TEST("a stale value is better than an error, for a while", "[cache]") {
  int_cache numbers("numbers", {.ttl = 1s, .stale_if_error = 10s, .jitter = 0});
  circuit_breaker breaker("source",
                          {.minimum_calls = 1, .window_calls = 1, .break_duration = 1h, .max_break_duration = 1h});
  counting_source source;
  const auto load = [&breaker, source]() { return breaker.fire(source); };
  (void)co_await numbers.get("a", load);
  source.set_broken(true);
  co_await sleep_for(2s);
  const int stale = co_await numbers.get("a", load);
  CHECK(stale == 1);
  CHECK(breaker.state() == circuit_state::open);
  const int refused = co_await numbers.get("a", load);  // not even asked
  CHECK(refused == 1);
  CHECK(source.asked() == 2);
  CHECK(numbers.stats().stale == 2);
  co_await sleep_for(9s);
  const auto gone = co_await numbers.try_get("a", load);
  CHECK(gone.why().is_refusal(errc::circuit_open));
}

ASYNC_TEST("a remembered failure spares the source, and a stale value goes before it", "[cache]") {
  int_cache numbers("numbers", {.ttl = 1s, .stale_if_error = 10s, .negative_ttl = 3s, .jitter = 0});
  counting_source source;
  (void)co_await numbers.get("a", source);
  source.set_broken(true);
  co_await sleep_for(2s);
  for (int i = 0; i < 3; ++i) {
    const int stale = co_await numbers.get("a", source);
    CHECK(stale == 1);
  }
  CHECK(source.asked() == 2);
  CHECK(numbers.stats().stale == 3);
  co_await sleep_for(7s);
  const int last = co_await numbers.get("a", source);
  CHECK(last == 1);
  CHECK(source.asked() == 3);
  co_await sleep_for(2500ms);  // no value is left, the failure is
  const auto gone = co_await numbers.try_get("a", source);
  CHECK(gone.why().message() == "down");
  CHECK(source.asked() == 3);
  CHECK(numbers.stats().negative == 1);
}

ASYNC_TEST("failures may be remembered, cancellations never", "[cache]") {
  int_cache numbers("numbers", {.negative_ttl = 1s});
  counting_source source;
  source.set_broken(true);
  const auto first = co_await numbers.try_get("a", source);
  const auto second = co_await numbers.try_get("a", source);
  CHECK(first.why().message() == "down");
  CHECK(second.why().message() == "down");
  CHECK(source.asked() == 1);
  CHECK(numbers.stats().negative == 1);
  co_await sleep_for(1s);
  source.set_broken(false);
  const int third = co_await numbers.get("a", source);
  CHECK(third == 2);
  const auto impatient = [&] { return numbers.try_get("b", source); };
  (void)co_await try_with_timeout(1ms, impatient);
  const int fourth = co_await numbers.get("b", source);
  CHECK(fourth == 4);
}

TEST_CASE("cache options that cannot work are refused", "[cache]") {
  CHECK(validate(cache_options{}).empty());
  CHECK(validate(cache_options{.max_entries = 0}).size() == 1);
  CHECK(validate(cache_options{.ttl = 0s}).size() == 2);
  CHECK(validate(cache_options{.ttl = 1s, .refresh_after = 1s}).size() == 1);
  CHECK(validate(cache_options{.stale_if_error = -1s}).size() == 1);
  CHECK(validate(cache_options{.negative_ttl = -1s}).size() == 1);
  CHECK(validate(cache_options{.jitter = 1.0}).size() == 1);
  CHECK_THROWS_AS(int_cache("bad", {.max_entries = 0}), invalid_options_error);
}
