// Hedging: when attempts start, who wins, and that nothing of the losers is lost.
#include "async_test.hpp"
#include "harness.hpp"
#include "tasks.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/hedging.hpp>
#include <cofferdam/resilience/retry.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

namespace {

/// What each attempt does: how long it takes and whether it succeeds. Notes when attempts start and how they end.
/// Copies share their notes, which losers write when the call is long over.
class script {
 public:
  struct part {
    duration takes;
    bool succeeds = true;
  };
  script(virtual_time& time, std::vector<part> parts) : notes_(std::make_shared<notes>(time, std::move(parts))) {}

  awaitable<int> operator()(attempt a) {
    const auto mine = notes_;
    const part p = mine->parts.at(a.number - 1);
    mine->started.push_back(mine->time.elapsed());
    try {
      co_await sleep_for(p.takes);
    } catch (const net::asio_system_error&) {
      ++mine->cancelled;
      throw;
    }
    if (!p.succeeds) throw std::runtime_error("attempt " + std::to_string(a.number));
    co_return static_cast<int>(a.number);
  }
  [[nodiscard]] const std::vector<duration>& started() const { return notes_->started; }
  [[nodiscard]] int cancelled() const { return notes_->cancelled; }

 private:
  struct notes {
    notes(virtual_time& t, std::vector<part> p) : time(t), parts(std::move(p)) {}
    virtual_time& time;
    std::vector<part> parts;
    std::vector<duration> started;
    int cancelled = 0;
  };
  std::shared_ptr<notes> notes_;
};

/// Its first attempt hangs.
class move_only_task {
 public:
  move_only_task(int value, int& ended) : value_(std::make_unique<int>(value)), ended_(&ended) {}
  awaitable<int> operator()(attempt a) {
    const auto count = [](int* n) { ++*n; };
    const std::unique_ptr<int, decltype(count)> at_end(ended_, count);
    co_await sleep_for(a.number == 1 ? 1h : 1ms);
    co_return *value_;
  }

 private:
  std::unique_ptr<int> value_;
  int* ended_;
};

using instants = std::vector<duration>;

}  // namespace

ASYNC_TEST("a quick answer needs no hedge", "[hedging]") {
  hedging policy({.delay = 100ms});
  script play(time, {{99ms}});
  const int winner = co_await policy.run(play);
  CHECK(winner == 1);
  CHECK(play.started() == instants{0ms});
  co_await sleep_for(1s);
  CHECK(policy.stats().calls == 1);
  CHECK(policy.stats().hedges == 0);
}

ASYNC_TEST("a late answer is hedged, the first good one wins at once and the loser is cancelled", "[hedging]") {
  hedging policy({.delay = 100ms});
  script play(time, {{10s}, {50ms}});
  const int winner = co_await policy.run(play);
  CHECK(winner == 2);
  CHECK(time.elapsed() == 150ms);
  CHECK(play.started() == instants{0ms, 100ms});
  co_await sleep_for(0ms);
  CHECK(play.cancelled() == 1);
  CHECK(policy.stats().won_by_hedge == 1);

  script kept(time, {{300ms}, {10s}});
  const int first = co_await policy.run(kept);
  CHECK(first == 1);
}

ASYNC_TEST("without delay all start at once, with only_on_failure each after the failure before", "[hedging]") {
  hedging parallel({.max_attempts = 3, .delay = 0ms});
  script together(time, {{30ms}, {20ms}, {10ms}});
  const int winner = co_await parallel.run(together);
  CHECK(winner == 3);
  CHECK(together.started() == instants{0ms, 0ms, 0ms});

  hedging careful({.max_attempts = 3, .delay = only_on_failure});
  const auto begin = time.elapsed();
  script one_by_one(time, {{1s, false}, {2s, false}, {3s}});
  const int last = co_await careful.run(one_by_one);
  CHECK(last == 3);
  CHECK(one_by_one.started() == instants{begin, begin + 1s, begin + 3s});
}

ASYNC_TEST("a failure starts the next attempt at once and its delay anew; if all fail, the first one counts",
           "[hedging]") {
  hedging policy({.max_attempts = 3, .delay = 100ms});
  script play(time, {{30ms, false}, {200ms, false}, {10ms, false}});
  const auto result = co_await policy.try_run(play);
  CHECK(result.why().message() == "attempt 1");
  CHECK(play.started() == instants{0ms, 30ms, 130ms});
  CHECK(time.elapsed() == 230ms);
}

ASYNC_TEST("attempts that end at once leave no timer behind", "[hedging]") {
  hedging policy({.max_attempts = 4, .delay = 10ms});
  const auto executor = co_await net::this_coro::executor;
  const auto& timers = timers_of(executor);
  const int value = co_await policy.run(fine);
  CHECK(value == 1);
  CHECK(timers.pending() == 0);
  int started = 0;
  const auto failing = [&started]() -> int { throw std::runtime_error("attempt " + std::to_string(++started)); };
  const auto result = co_await policy.try_run(failing);
  CHECK(result.why().message() == "attempt 1");
  CHECK(started == 4);
  CHECK(timers.pending() == 0);
  CHECK(time.elapsed() == 0s);
}

ASYNC_TEST("values can be failures, and some outcomes end everything", "[hedging]") {
  hedging policy({.max_attempts = 3, .delay = 100ms});
  policy.when([](const int& answer) { return answer < 3; });
  script play(time, {{10ms}, {10ms}, {10ms}});
  const int third = co_await policy.run(play);
  CHECK(third == 3);

  auto strict =
      hedging({.delay = 100ms}).abort_if([](const outcome_view& o) { return o.why().message() == "attempt 1"; });
  script refused(time, {{10ms, false}, {10ms}});
  const auto result = co_await strict.try_run(refused);
  CHECK(result.why().message() == "attempt 1");
  CHECK(refused.started().size() == 1);
}

ASYNC_TEST("a budget stops hedges and never the call", "[hedging]") {
  retry_budget budget({.ratio = 0, .max_tokens = 1});
  hedging policy({.max_attempts = 3, .delay = 10ms});
  policy.budget(budget);
  script play(time, {{50ms}, {1h}, {1h}});
  const int winner = co_await policy.run(play);
  CHECK(winner == 1);
  CHECK(play.started() == instants{0ms, 10ms});
  CHECK(policy.stats().denied_by_budget == 1);
  script alone(time, {{50ms, false}, {1h}});
  const auto failed = co_await policy.try_run(alone);
  CHECK(failed.why().message() == "attempt 1");
}

ASYNC_TEST("no hedge starts upon a refusal that it would hear, too", "[hedging]") {
  retry_budget budget({.ratio = 0, .max_tokens = 1});
  circuit_breaker breaker("down", {.break_duration = 1h, .max_break_duration = 1h});
  breaker.open();
  auto calls = hedging({.max_attempts = 3, .delay = 10ms}).budget(budget) | breaker;
  const auto refused = co_await calls.try_run(fine);
  CHECK(refused.why().is_refusal(errc::circuit_open));
  CHECK(breaker.stats().rejected == 1);
  CHECK(budget.stats().balance == 1);

  // A hedge that is refused leaves the attempt that is under way alone.
  bulkhead pool("pool", {.max_concurrent = 1});
  auto narrow = hedging({.max_attempts = 3, .delay = 10ms}) | pool;
  const int won = co_await narrow.run(lasting, 50ms);
  CHECK(won == 1);
}

ASYNC_TEST("a bail ends the call, whatever else is under way", "[hedging]") {
  hedging policy({.max_attempts = 3, .delay = 10ms});
  const auto task = [](attempt a) -> awaitable<int> {
    if (a.number == 2) throw bail(std::make_exception_ptr(std::runtime_error("never")));
    co_await sleep_for(1h);
    co_return 1;
  };
  const auto result = co_await policy.try_run(task);
  CHECK(result.why().is_bail());
  CHECK(time.elapsed() == 10ms);
}

ASYNC_TEST("a budget shared within one pipeline counts each call once", "[hedging][retry]") {
  const auto balance_after = [](budget_kind kind, bool hedge_outside, bool succeeds) -> awaitable<double> {
    retry_budget budget({.kind = kind, .ratio = 0.5, .max_tokens = 100});
    for (int i = 0; i < 40; ++i) (void)budget.try_withdraw(time_point());
    const auto call = [succeeds] { return succeeds ? fine() : broken(); };
    const auto inner = [&] { return retry({.max_attempts = 2, .backoff = {.base = 1ms}}).budget(budget); };
    const auto around = [&] { return hedging({.delay = only_on_failure}).budget(budget); };
    if (hedge_outside) {
      auto calls = around() | inner();
      (void)co_await calls.try_run(call);
    } else {
      auto calls = inner() | around();
      (void)co_await calls.try_run(call);
    }
    co_return budget.stats().balance;
  };
  for (const bool hedge_outside : {true, false}) {
    CAPTURE(hedge_outside);
    const double earned = co_await balance_after(budget_kind::per_success, hedge_outside, true);
    CHECK(earned == 60.5);
    const double called = co_await balance_after(budget_kind::per_call, hedge_outside, true);
    CHECK(called == 60.5);
    // Two attempts, each hedged: three further ones are paid for, and the call earned once.
    const double repeated = co_await balance_after(budget_kind::per_call, hedge_outside, false);
    CHECK(repeated == 57.5);
  }
}

ASYNC_TEST("the delay follows a percentile of what calls took, hedged ones included", "[hedging]") {
  hedging policy({.delay = 1s, .percentile = 0.9, .minimum_samples = 10, .sample_window = 10min});
  CHECK(policy.current_delay(time.now()) == 1s);
  for (int i = 0; i < 20; ++i) (void)co_await policy.run(lasting, i < 17 ? 10ms : 100ms);
  co_await sleep_for(20s);
  const duration delay = policy.current_delay(time.now());
  CHECK(delay > 90ms);
  CHECK(delay <= 100ms);
  // Hedges that win soon must not pull the percentile down: the calls did take that long.
  for (int i = 0; i < 20; ++i) {
    script play(time, {{1h}, {1ms}});
    (void)co_await policy.run(play);
  }
  co_await sleep_for(20s);
  CHECK(policy.current_delay(time.now()) >= delay);
}

ASYNC_TEST("delays may come from a function", "[hedging]") {
  hedging policy({.max_attempts = 3});
  policy.delay([](std::uint32_t number) { return number == 2 ? duration(5ms) : duration(50ms); });
  script play(time, {{1h}, {1h}, {1ms}});
  (void)co_await policy.run(play);
  CHECK(play.started() == instants{0ms, 5ms, 55ms});
  policy.delay([](std::uint32_t) -> duration { throw std::runtime_error("no"); });
  script again(time, {{3s}, {1ms}});
  (void)co_await policy.run(again);
  CHECK(again.started()[1] - again.started()[0] == 2s);
}

ASYNC_TEST("losers keep their permits until they end", "[hedging]") {
  bulkhead pool("pool", {.max_concurrent = 2});
  auto calls = hedging({.delay = 10ms}) | pool;
  const auto slow_first = [](attempt a) -> awaitable<int> {
    if (a.number == 2) co_return 2;
    co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
    co_await sleep_for(1s);
    co_return 1;
  };
  const int winner = co_await calls.run(slow_first);
  CHECK(winner == 2);
  CHECK(time.elapsed() == 10ms);
  CHECK(pool.active_count() == 1);
  co_await sleep_for(989ms);
  CHECK(pool.active_count() == 1);
  co_await sleep_for(1ms);
  CHECK(pool.active_count() == 0);
}

ASYNC_TEST("whoever wants to waits for the losers", "[hedging]") {
  hedging policy({.delay = 10ms, .losing = losers::await});
  int ended = 0;
  const auto task = [&ended](attempt a) -> awaitable<int> {
    const auto count = [](int* n) { ++*n; };
    const std::unique_ptr<int, decltype(count)> at_end(&ended, count);
    co_await sleep_for(a.number == 1 ? 1h : 1ms);
    co_return 1;
  };
  (void)co_await policy.run(task);
  CHECK(ended == 2);
}

ASYNC_TEST("a task that cannot be copied is shared, and waited for", "[hedging]") {
  hedging policy({.delay = 10ms});
  int ended = 0;
  const int value = co_await policy.run(move_only_task(5, ended));
  CHECK(value == 5);
  CHECK(ended == 2);
}

ASYNC_TEST("a hedge races through everything below it, and numbers go on through a retry above", "[hedging]") {
  circuit_breaker breaker("breaker", {.minimum_calls = 1000});
  auto calls = retry({.max_attempts = 2, .backoff = {.kind = backoff_kind::constant, .base = 1s}}) |
               hedging({.max_attempts = 2, .delay = 100ms}) | breaker | timeout(500ms);
  std::vector<std::uint32_t> numbers;
  const auto task = [&numbers](attempt a) -> awaitable<int> {
    numbers.push_back(a.number);
    co_await sleep_for(a.number == 4 ? 1ms : 1h);
    co_return static_cast<int>(a.number);
  };
  const int value = co_await calls.run(task);
  CHECK(value == 4);
  CHECK(numbers == std::vector<std::uint32_t>{1, 2, 3, 4});
  CHECK(breaker.stats().timeouts == 2);
  pipeline same("same", {std::make_shared<hedging>(hedging_options{.delay = 100ms}), std::make_shared<timeout>(1s)});
  const int again = co_await same.run(lasting, 10ms);
  CHECK(again == 1);
}

ASYNC_TEST("void and move-only results", "[hedging]") {
  hedging policy;
  const auto nothing = []() -> awaitable<void> { co_await sleep_for(1ms); };
  co_await policy.run(nothing);
  const auto unique = []() -> awaitable<std::unique_ptr<int>> { co_return std::make_unique<int>(3); };
  const auto value = co_await policy.run(unique);
  CHECK(*value == 3);
}

TEST_CASE("cancelling a hedged call at any step ends every attempt", "[hedging]") {
  bulkhead pool("pool", {.max_concurrent = 4});
  auto calls = hedging({.max_attempts = 3, .delay = 5ms}) | pool;
  const auto task = [](attempt a) -> awaitable<int> {
    co_await sleep_for(a.number == 3 ? 20ms : 1h);
    co_return 1;
  };
  const auto operation = [&]() -> awaitable<void> {
    const int value = co_await calls.run(task);
    CHECK(value == 1);
  };
  CHECK(cancel_at_every_step(operation, [&] { CHECK(pool.active_count() == 0); }) >= 4);
}

TEST_CASE("a context may end in the middle of a race", "[hedging]") {
  bulkhead pool("pool", {.max_concurrent = 4});
  auto calls = hedging({.max_attempts = 3, .delay = 5ms}) | pool;
  for (const duration until : {0ms, 7ms, 12ms}) {
    net::io_context context(1);
    virtual_time time(context);
    spawn(context, [&calls]() -> awaitable<void> { (void)co_await calls.try_run(hanging); });
    time.run_until(time.now() + until);
    CHECK(pool.active_count() == 1 + static_cast<std::size_t>(until / 5ms));
  }
  CHECK(pool.active_count() == 0);
}

TEST_CASE("races on a thread pool's bare executor", "[hedging][concurrent]") {
  hedging policy({.delay = 1us});
  net::thread_pool threads(3);
  std::atomic<int> sum{0};
  const auto caller = [&]() -> awaitable<void> {
    for (int i = 0; i < 100; ++i) sum += co_await policy.run(lasting, 20us);
  };
  for (int i = 0; i < 6; ++i) net::co_spawn(threads, caller, net::detached);
  threads.join();
  CHECK(sum == 600);
}

TEST_CASE("hedging options that cannot work are refused", "[hedging]") {
  CHECK(validate(hedging_options{}).empty());
  CHECK(validate(hedging_options{.max_attempts = 1}).size() == 1);
  CHECK(validate(hedging_options{.delay = -1ns}).size() == 1);
  CHECK(validate(hedging_options{.percentile = 1.0}).size() == 1);
  CHECK(validate(hedging_options{.minimum_samples = 0}).size() == 1);
  CHECK_THROWS_AS(hedging({.sample_window = 0s}), invalid_options_error);
}
