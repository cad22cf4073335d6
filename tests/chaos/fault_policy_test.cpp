// Each fault policy alone and in pipelines: whom it strikes, what it does, and what it leaves alone.
#include "async_test.hpp"
#include "harness.hpp"
#include "tasks.hpp"

#include <cofferdam/chaos/weighted_fault.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/fallback.hpp>
#include <cofferdam/resilience/retry.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include <map>
#include <thread>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

struct connection_lost : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// All faults are on again however the test ends.
struct all_faults_restored {
  all_faults_restored() = default;
  all_faults_restored(const all_faults_restored&) = delete;
  all_faults_restored& operator=(const all_faults_restored&) = delete;
  ~all_faults_restored() { chaos::all_faults().turn_on(); }
};

/// Which of n calls fail.
template <class Calls> awaitable<std::vector<bool>> failing_calls(Calls& calls, int n) {
  std::vector<bool> failed;
  const auto task = [] { return 1; };
  for (int i = 0; i < n; ++i) {
    const auto result = co_await calls.try_run(task);
    failed.push_back(!result);
  }
  co_return failed;
}

}  // namespace

// ------------------------------------------------------------------------------------------------------- lost answers

ASYNC_TEST("a lost answer: the work is done and the caller sees a failure", "[chaos]") {
  chaos::lost_answer_fault lossy(1.0);
  int done = 0;
  const auto work = [&]() -> awaitable<int> {
    co_await sleep_for(5ms);
    co_return ++done;
  };
  const auto result = co_await lossy.try_run(work);
  CHECK(done == 1);
  CHECK(time.elapsed() == 5ms);
  CHECK(result.why().is_refusal(errc::injected_fault));
  CHECK(lossy.injected() == 1);
}

ASYNC_TEST("a retry does work again whose answer was lost", "[chaos]") {
  chaos::lost_answer_fault lossy(1.0);
  auto calls = retry({.max_attempts = 3, .backoff = {.base = 1ms, .jitter = jitter_kind::none}}) | lossy;
  int done = 0;
  const auto result = co_await calls.try_run([&] { return ++done; });
  CHECK_FALSE(result);
  CHECK(done == 3);
}

ASYNC_TEST("an answer of no value, and one that cannot be copied, can be lost", "[chaos]") {
  chaos::lost_answer_fault lossy(1.0);
  const auto nothing = co_await lossy.try_run([] {});
  CHECK_FALSE(nothing);
  const auto unique = co_await lossy.try_run([] { return std::make_unique<int>(1); });
  CHECK_FALSE(unique);
  const auto by_value = co_await lossy.try_run([] { return outcome<int>(1); });
  CHECK_FALSE(by_value);
}

ASYNC_TEST("what lies outside sees no trace of a lost value", "[chaos]") {
  bool seen = false;
  const auto look = [&](const outcome_view& view) {
    seen = seen || view.has_value() || view.get_if<int>() != nullptr;
    return true;
  };
  auto calls =
      fallback([] { return 7; }) | retry({.max_attempts = 2}).when(look) | chaos::lost_answer_fault(1.0) | timeout(1s);
  const int answer = co_await calls.run(test::fine);
  CHECK(answer == 7);
  CHECK_FALSE(seen);
}

ASYNC_TEST("a real failure is not passed off as a lost answer", "[chaos]") {
  chaos::lost_answer_fault lossy(1.0);
  const auto result = co_await lossy.try_run(test::broken);
  CHECK(result.why().message() == "down");
  CHECK_FALSE(chaos::is_injected(result.why()));
  CHECK(lossy.injected() == 0);
}

TEST_CASE("a lost answer, cancelled at every step, is a cancellation or a lost answer", "[chaos]") {
  bool lost = false;
  const auto operation = [&]() -> awaitable<void> {
    lost = false;
    auto calls = timeout(1s) | chaos::lost_answer_fault(1.0);
    const auto result = co_await calls.try_run(test::lasting, 5ms);
    if (result || (!result.why().is_cancellation() && !chaos::is_injected(result.why()))) {
      throw std::logic_error("neither");
    }
    lost = chaos::is_injected(result.why());
  };
  CHECK(test::cancel_at_every_step(operation, [] {}) > 1);
  CHECK(lost);
}

// --------------------------------------------------------------------------------------------------------- duplicates

ASYNC_TEST("a duplicated call is made twice, and the second answer is the call's", "[chaos]") {
  chaos::duplicate_fault twice(1.0);
  int done = 0;
  std::vector<std::uint32_t> numbers;
  const auto work = [&](attempt a) -> awaitable<int> {
    numbers.push_back(a.number);
    co_await sleep_for(5ms);
    co_return ++done;
  };
  const int answer = co_await twice.run(work);
  CHECK(answer == 2);
  CHECK(numbers == std::vector<std::uint32_t>{1, 2});
  CHECK(time.elapsed() == 10ms);
  CHECK(twice.injected() == 1);
}

ASYNC_TEST("a duplicated call ends as its second run does, also when only one of them fails", "[chaos]") {
  chaos::duplicate_fault twice(1.0);
  int runs = 0;
  const auto first_fails = [&] { return ++runs == 1 ? throw std::runtime_error("down") : runs; };
  const auto second_fails = [&] { return ++runs == 2 ? throw std::runtime_error("down") : runs; };
  const auto good = co_await twice.try_run(first_fails);
  CHECK(good.value_or(0) == 2);
  runs = 0;
  const auto bad = co_await twice.try_run(second_fails);
  CHECK(bad.why().message() == "down");
}

ASYNC_TEST("outside, a duplicated call counts once, and inside twice", "[chaos]") {
  circuit_breaker outside("outside", {}), inside("inside", {});
  auto calls = outside | chaos::duplicate_fault(1.0) | inside;
  (void)co_await calls.run(test::fine);
  CHECK(outside.stats().successes == 1);
  CHECK(inside.stats().successes == 2);
}

TEST_CASE("a duplicated call, cancelled at every step, starts nothing more and ends", "[chaos]") {
  int started = 0, at_cancellation = 0;
  bool ended_well = false;
  const auto operation = [&]() -> awaitable<void> {
    started = at_cancellation = 0;
    chaos::duplicate_fault twice(1.0);
    const auto work = [&]() -> awaitable<int> {
      ++started;
      try {
        co_await sleep_for(5ms);
      } catch (...) {
        at_cancellation = started;
        throw;
      }
      co_return 1;
    };
    const auto result = co_await twice.try_run(work);
    ended_well = result.has_value();
    if (!result && !result.why().is_cancellation()) throw std::logic_error("another failure");
  };
  const auto check = [&] { CHECK((at_cancellation == 0 || at_cancellation == started)); };
  CHECK(test::cancel_at_every_step(operation, check) > 2);
  CHECK(ended_well);
  CHECK(started == 2);
}

ASYNC_TEST("a latency longer than time itself is waited for until the limit", "[chaos]") {
  auto calls = timeout(1s) | chaos::latency_fault(1.0, duration::max(), duration::max());
  const auto result = co_await calls.try_run(test::fine);
  CHECK(result.why().is_refusal(errc::timed_out));
  CHECK(time.elapsed() == 1s);
}

// ----------------------------------------------------------------------------------------------------- weighted faults

ASYNC_TEST("a weighted fault strikes a call at most once, in the ratio of the weights", "[chaos]") {
  const auto errors = std::make_shared<chaos::error_fault>(1.0);
  const auto slow = std::make_shared<chaos::latency_fault>(1.0, 10ms);
  const auto fake = std::make_shared<chaos::outcome_fault>(1.0, [] { return 7; });
  const auto twice = std::make_shared<chaos::duplicate_fault>(1.0);
  chaos::weighted_fault faults(0.5, {{4, errors}, {3, slow}, {2, fake}, {1, twice}});
  int runs = 0, refused = 0, faked = 0;
  const auto work = [&] { return ++runs, 1; };
  for (int i = 0; i < 2000; ++i) {
    const auto result = co_await faults.try_run(work);
    refused += result ? 0 : 1;
    faked += result.value_or(0) == 7 ? 1 : 0;
  }
  const auto near = [](std::uint64_t count, std::uint64_t expected) {
    CHECK(count > expected * 8 / 10);
    CHECK(count < expected * 12 / 10);
  };
  near(faults.injected(), 1000);
  near(errors->injected(), 400);
  near(slow->injected(), 300);
  near(fake->injected(), 200);
  CHECK(twice->injected() > 60);
  CHECK(errors->injected() + slow->injected() + fake->injected() + twice->injected() == faults.injected());
  CHECK(static_cast<std::uint64_t>(refused) == errors->injected());
  CHECK(static_cast<std::uint64_t>(faked) == fake->injected());
  CHECK(static_cast<std::uint64_t>(runs) == 2000 - errors->injected() - fake->injected() + twice->injected());
  CHECK(time.elapsed() == 10ms * static_cast<int>(slow->injected()));
}

ASYNC_TEST("the chosen one of weighted faults still asks its own rate, keys and switch", "[chaos]") {
  const auto keyed_errors = std::make_shared<chaos::error_fault>(chaos::error_fault(1.0).only_for({"canary"}));
  chaos::weighted_fault faults(1.0, {{1, keyed_errors}});
  const auto task = [] { return 1; };
  const auto other = co_await faults.try_run({.key = "other"}, task);
  CHECK(other);
  const auto canary = co_await faults.try_run({.key = "canary"}, task);
  CHECK_FALSE(canary);
  keyed_errors->enable(false);
  const auto disabled = co_await faults.try_run({.key = "canary"}, task);
  CHECK(disabled);
  CHECK(faults.injected() == 1);
}

TEST_CASE("weighted faults that hang or delay, cancelled at every step, end", "[chaos]") {
  const auto operation = []() -> awaitable<void> {
    chaos::weighted_fault faults(
        1.0, {{1, std::make_shared<chaos::hang_fault>(1.0)}, {1, std::make_shared<chaos::latency_fault>(1.0, 5ms)}});
    auto calls = timeout(20ms) | faults;
    for (int i = 0; i < 6; ++i) (void)co_await calls.try_run(test::fine);
  };
  CHECK(test::cancel_at_every_step(operation, [] {}) > 5);
}

// ---------------------------------------------------------------------------------------------------- whom they strike

ASYNC_TEST("only calls with one of the keys are struck, and only those the predicate takes", "[chaos]") {
  auto errors =
      chaos::error_fault(1.0).only_for({"a", "b"}).only_if([](const call_info& info) { return info.priority < 5; });
  const auto task = [] { return 1; };
  const auto struck = co_await errors.try_run({.key = "a"}, task);
  const auto too_important = co_await errors.try_run({.key = "b", .priority = 5}, task);
  const auto other_key = co_await errors.try_run({.key = "c"}, task);
  const auto no_key = co_await errors.try_run(task);
  CHECK_FALSE(struck);
  CHECK(too_important);
  CHECK(other_key);
  CHECK(no_key);
  errors.only_if([](const call_info&) -> bool { throw std::runtime_error("cannot tell"); });
  const auto untold = co_await errors.try_run({.key = "a"}, task);
  CHECK(untold);
  errors.only_for({});
  errors.only_if(nullptr);
  const auto nobody = co_await errors.try_run({.key = "a"}, task);
  CHECK(nobody);
}

TEST_CASE("equal seeds strike equal calls, in both spellings of a pipeline", "[chaos]") {
  const auto strikes = [](std::uint64_t seed, bool at_run_time) {
    net::io_context context(1);
    virtual_time time(context, seed);
    std::vector<bool> failed;
    const auto body = [&]() -> awaitable<void> {
      if (at_run_time) {
        pipeline calls("faulty",
                       {std::make_shared<chaos::error_fault>(0.2), std::make_shared<chaos::lost_answer_fault>(0.2)});
        failed = co_await failing_calls(calls, 200);
      } else {
        auto calls = chaos::error_fault(0.2) | chaos::lost_answer_fault(0.2);
        failed = co_await failing_calls(calls, 200);
      }
    };
    time.run(body);
    return failed;
  };
  const auto first = strikes(1, false);
  CHECK(first == strikes(1, false));
  CHECK(first == strikes(1, true));
  CHECK(first != strikes(2, false));
  const auto failed = std::ranges::count(first, true);
  CHECK(failed > 45);
  CHECK(failed < 95);
}

// ------------------------------------------------------------------------------------------------------------ switches

ASYNC_TEST("a switch spares the calls of its group, and the process's switch those of all", "[chaos]") {
  const all_faults_restored at_end;
  chaos::fault_switch group;
  auto grouped = chaos::error_fault(1.0).obey(group);
  chaos::error_fault alone(1.0);
  const auto fail = [&]() -> awaitable<std::pair<bool, bool>> {
    const auto first = co_await grouped.try_run(test::fine);
    const auto second = co_await alone.try_run(test::fine);
    co_return std::pair(!first, !second);
  };
  auto failed = co_await fail();
  CHECK(failed == std::pair(true, true));
  group.turn_off();
  failed = co_await fail();
  CHECK(failed == std::pair(false, true));
  group.turn_on();
  chaos::all_faults().turn_off();
  failed = co_await fail();
  CHECK(failed == std::pair(false, false));
  chaos::all_faults().turn_on();
  failed = co_await fail();
  CHECK(failed == std::pair(true, true));
}

ASYNC_TEST("a switch turned off while the task runs saves its answer and its second run", "[chaos]") {
  chaos::fault_switch group;
  const auto lossy = std::make_shared<chaos::lost_answer_fault>(1.0);
  lossy->obey(group);
  chaos::weighted_fault faults(1.0, {{1, lossy}});
  auto calls = faults | chaos::duplicate_fault(1.0).obey(group);
  int runs = 0;
  const auto switching = [&] {
    group.turn_off();
    return ++runs;
  };
  const int answer = co_await calls.run(switching);
  CHECK(answer == 1);
  CHECK(faults.injected() == 0);
}

TEST_CASE("switches are turned while calls run on other threads", "[chaos][concurrent]") {
  chaos::fault_switch group;
  auto errors = chaos::error_fault(0.5).obey(group);
  std::atomic<std::uint64_t> failed{0};
  const auto caller = [&] {
    net::io_context context(1);
    const auto body = [&]() -> awaitable<void> {
      for (int i = 0; i < 2000; ++i) {
        const auto result = co_await errors.try_run(test::fine);
        if (!result) ++failed;
      }
    };
    net::co_spawn(context, body, net::detached);
    context.run();
  };
  {
    std::jthread one(caller), two(caller);
    for (int i = 0; i < 1000; ++i) {
      group.turn_off();
      errors.set_rate(i % 2 == 0 ? 0.5 : 1.0);
      group.turn_on();
    }
  }
  CHECK(failed == errors.injected());
}

// --------------------------------------------------------------------------------------------------------------- marks

ASYNC_TEST("an injected failure is told from a real one, also with an exception of one's own", "[chaos]") {
  const auto why = [](auto&& calls) -> awaitable<failure> {
    const auto result = co_await calls.try_run(test::broken);
    co_return result.why();
  };
  const auto real = co_await why(chaos::error_fault(0.0));
  CHECK_FALSE(chaos::is_injected(real));
  const auto standard = co_await why(chaos::error_fault(1.0));
  CHECK(chaos::is_injected(standard));
  CHECK(chaos::is_injected(standard.exception()));
  const auto own = co_await why(chaos::error_fault(1.0, connection_lost("reset by peer")));
  CHECK(chaos::is_injected(own));
  CHECK_THROWS_AS(own.raise(), connection_lost);
  CHECK(own.message() == "reset by peer");
  CHECK_FALSE(own.is_refusal());
  const auto coded =
      co_await why(chaos::error_fault(1.0, std::system_error(std::make_error_code(std::errc::timed_out))));
  CHECK(coded.code() == std::errc::timed_out);
  CHECK(chaos::is_injected(coded));
  const auto by_pointer = co_await why(chaos::error_fault(1.0, std::make_exception_ptr(connection_lost("reset"))));
  CHECK_THROWS_AS(by_pointer.raise(), connection_lost);
  CHECK_FALSE(chaos::is_injected(by_pointer));
  chaos::lost_answer_fault lossy(1.0, connection_lost("reset by peer"));
  const auto lost = co_await lossy.try_run(test::fine);
  CHECK(chaos::is_injected(lost.why()));
  CHECK(lost.why().message() == "reset by peer");
  CHECK_FALSE(chaos::is_injected(failure()));
  CHECK_FALSE(chaos::is_injected(failure::cancelled()));
}

ASYNC_TEST("listeners are told which fault struck which call; one that throws harms nobody", "[chaos]") {
  std::map<std::string, int> told;
  const auto listen = [&](const chaos::injection& what) {
    ++told[std::string(what.kind) + " of " + std::string(what.key)];
    throw std::runtime_error("ignored");
  };
  auto calls = chaos::duplicate_fault(1.0).on_injected(listen) |
               chaos::weighted_fault(1.0, {{1, std::make_shared<chaos::latency_fault>(1.0, 1ms)}}).on_injected(listen) |
               chaos::lost_answer_fault(1.0).on_injected(listen);
  const call_info alice{.key = "alice"};
  const auto result = co_await calls.try_run(alice, test::fine);
  CHECK_FALSE(result);
  CHECK(told ==
        std::map<std::string, int>{{"duplicate of alice", 1}, {"latency of alice", 2}, {"lost_answer of alice", 2}});
}

// ------------------------------------------------------------------------------------------------------------- options

TEST_CASE("impossible faults are refused, every problem at once", "[chaos]") {
  CHECK(chaos::validate(chaos::fault_options{}).empty());
  CHECK(chaos::validate(chaos::fault_options{.rate = 1.5, .add = -1ms, .jitter = -1ms}) ==
        std::vector<std::string>{"rate: must be between 0 and 1", "add: must not be negative",
                                 "jitter: must not be negative"});
  CHECK_THROWS_AS(chaos::error_fault(-0.1), invalid_options_error);
  CHECK_THROWS_AS(chaos::hang_fault(std::nan("")), invalid_options_error);
  CHECK_THROWS_WITH(chaos::latency_fault(2.0, -1s),
                    Catch::Matchers::Contains("latency_fault.rate") && Catch::Matchers::Contains("latency_fault.add"));
  const auto answers = [] { return std::make_shared<chaos::outcome_fault>(1.0, [] { return 1; }); };
  const auto nested = std::make_shared<chaos::weighted_fault>(
      1.0, std::vector<chaos::weighted_choice>{{1, std::make_shared<chaos::hang_fault>(1.0)}});
  CHECK(chaos::validate({{0, answers()}, {1, nullptr}, {1, nested}, {std::nan(""), answers()}}) ==
        std::vector<std::string>{"choices[0].weight: must be above 0 and finite", "choices[1].fault: must not be null",
                                 "choices[2].fault: must not be weighted itself",
                                 "choices[3].weight: must be above 0 and finite",
                                 "choices[3].fault: is a second outcome fault"});
  CHECK_THROWS_AS(chaos::weighted_fault(0.5, {}), invalid_options_error);
}

TEST_CASE("a rate set while running is clamped", "[chaos]") {
  chaos::hang_fault hangs(0.5);
  hangs.set_rate(7);
  CHECK(hangs.rate() == 1);
  hangs.set_rate(std::nan(""));
  CHECK(hangs.rate() == 0);
}

TEST_CASE("faults say what they are", "[chaos]") {
  const auto calls = chaos::weighted_fault(0.5, {{1, std::make_shared<chaos::hang_fault>(1.0)},
                                                 {2, std::make_shared<chaos::latency_fault>(1.0, 5ms)}}) |
                     chaos::lost_answer_fault(0.1) | chaos::duplicate_fault(0.1);
  CHECK(calls.describe() == "weighted fault: hang fault, latency fault, 5ms\nlost answer fault\nduplicate fault");
}
