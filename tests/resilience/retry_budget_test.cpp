// Retry budgets: what earns a retry, what it costs, and that nothing is earned or spent twice.
#include "catch.hpp"

#include <cofferdam/core/error.hpp>
#include <cofferdam/resilience/retry_budget.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace retry_budget_test {
namespace {

/// How many retries are allowed in a row.
int withdraw_all(retry_budget& budget, time_point now = time_point()) {
  int count = 0;
  while (count < 10'000 && budget.try_withdraw(now)) ++count;
  return count;
}

TEST_CASE("a budget starts full and each retry costs one", "[retry][budget]") {
  retry_budget budget({.max_tokens = 5});
  CHECK(budget.stats().balance == 5);
  CHECK(withdraw_all(budget) == 5);
  CHECK(budget.stats().balance == 0);
  CHECK(budget.stats().withdrawals == 5);
  CHECK(budget.stats().denials == 1);
}

TEST_CASE("a success earns its ratio of a retry, a failure and a first attempt nothing", "[retry][budget]") {
  retry_budget budget({.kind = budget_kind::per_success, .ratio = 0.25, .max_tokens = 3});
  CHECK(withdraw_all(budget) == 3);
  for (int i = 0; i < 100; ++i) {
    budget.on_first_attempt();
    budget.on_failure();
  }
  CHECK(withdraw_all(budget) == 0);
  for (int i = 0; i < 3; ++i) budget.on_success();
  CHECK(withdraw_all(budget) == 0);
  budget.on_success();
  CHECK(withdraw_all(budget) == 1);
  for (int i = 0; i < 100; ++i) budget.on_success();
  CHECK(budget.stats().balance == 3);  // never more than max_tokens
}

TEST_CASE("a first attempt earns its ratio of a retry whatever becomes of it", "[retry][budget]") {
  retry_budget budget({.kind = budget_kind::per_call, .ratio = 0.2, .max_tokens = 1});
  CHECK(withdraw_all(budget) == 1);
  for (int i = 0; i < 100; ++i) {
    budget.on_success();
    budget.on_failure();
  }
  CHECK(budget.stats().balance == 0);
  for (int i = 0; i < 5; ++i) budget.on_first_attempt();
  CHECK(withdraw_all(budget) == 1);
}

TEST_CASE("a throttle lets retries through above half of its tokens", "[retry][budget]") {
  retry_budget budget({.kind = budget_kind::throttle, .ratio = 0.5, .max_tokens = 4});
  budget.on_first_attempt();
  budget.on_failure();
  CHECK(budget.stats().balance == 3);
  CHECK(budget.try_withdraw(time_point()));
  CHECK(budget.stats().balance == 3);  // the failure has paid already
  budget.on_failure();
  CHECK_FALSE(budget.try_withdraw(time_point()));  // half is not enough
  budget.on_success();
  CHECK(budget.stats().balance == 2.5);
  CHECK(budget.try_withdraw(time_point()));
  CHECK(budget.stats().withdrawals == 2);
  CHECK(budget.stats().denials == 1);
  for (int i = 0; i < 10; ++i) budget.on_failure();
  CHECK(budget.stats().balance == 0);  // never less
  for (int i = 0; i < 10; ++i) budget.on_success();
  CHECK(budget.stats().balance == 4);
}

TEST_CASE("time alone earns retries for a quiet caller", "[retry][budget]") {
  retry_budget budget({.ratio = 0, .max_tokens = 2, .min_retries_per_second = 2});
  CHECK(withdraw_all(budget, time_point(10s)) == 2);
  CHECK(withdraw_all(budget, time_point(10400ms)) == 0);
  CHECK(withdraw_all(budget, time_point(10500ms)) == 1);
  CHECK(withdraw_all(budget, time_point(24h)) == 2);  // a long rest fills it, not more
  CHECK(withdraw_all(budget, time_point(23h)) == 0);  // and a thread that read the clock earlier takes nothing
}

TEST_CASE("what time earns does not depend on how often it is asked", "[retry][budget]") {
  for (const duration step : {100us, 500us, 700us, 1400us, 2500us}) {
    retry_budget budget({.ratio = 0, .max_tokens = 2, .min_retries_per_second = 1});
    int allowed = 0;
    for (duration now = 0s; now < 10s + step; now += step) allowed += budget.try_withdraw(time_point(now)) ? 1 : 0;
    INFO("asked every " << step / 1us << " us");
    CHECK(allowed == 12);  // two it began with, and one a second
  }
}

TEST_CASE("a budget of nothing but its floor works at the slowest rate", "[retry][budget]") {
  retry_budget budget({.ratio = 0, .max_tokens = 1, .min_retries_per_second = 1.0 / 3600});
  int allowed = 0;
  for (duration now = 0s; now <= 24h; now += 1s) allowed += budget.try_withdraw(time_point(now)) ? 1 : 0;
  CHECK(allowed == 25);
}

TEST_CASE("a ratio of zero earns nothing, a ratio of one a retry each", "[retry][budget]") {
  retry_budget none({.ratio = 0, .max_tokens = 1});
  CHECK(withdraw_all(none) == 1);
  for (int i = 0; i < 1000; ++i) none.on_success();
  CHECK(withdraw_all(none) == 0);
  retry_budget each({.ratio = 1, .max_tokens = 2});
  CHECK(withdraw_all(each) == 2);
  each.on_success();
  CHECK(withdraw_all(each) == 1);
}

TEST_CASE("every bad option of a budget is named", "[retry][budget]") {
  CHECK(validate(retry_budget_options{}).empty());
  CHECK(validate(retry_budget_options{.ratio = 0, .max_tokens = 1, .min_retries_per_second = 0}).empty());
  CHECK(validate(retry_budget_options{.ratio = 1, .max_tokens = 1e9, .min_retries_per_second = 1e6}).empty());
  CHECK(validate(retry_budget_options{.ratio = -0.1, .max_tokens = 0.5, .min_retries_per_second = -1}).size() == 3);
  CHECK(validate(retry_budget_options{.ratio = 1.1, .max_tokens = 1e10, .min_retries_per_second = 1e7}).size() == 3);
  CHECK_THROWS_AS(retry_budget({.ratio = 2}), invalid_options_error);
}

/// What a budget is, without any thought of threads, rounding or overflow.
struct naive_budget {
  retry_budget_options options;
  double balance;
  std::uint64_t allowed = 0, denied = 0;
  time_point earned_until{};

  void add(double tokens) { balance = std::clamp(balance + tokens, 0.0, options.max_tokens); }
  void on_first_attempt() {
    if (options.kind == budget_kind::per_call) add(options.ratio);
  }
  void on_success() {
    if (options.kind != budget_kind::per_call) add(options.ratio);
  }
  void on_failure() {
    if (options.kind == budget_kind::throttle) add(-1);
  }
  void earn_by_time(time_point now) {
    add(std::chrono::duration<double>(now - std::exchange(earned_until, now)).count() * options.min_retries_per_second);
  }
  void count(bool allows) {
    ++(allows ? allowed : denied);
    if (allows && options.kind != budget_kind::throttle) balance -= 1;
  }
};

TEST_CASE("a budget agrees with a naive one over 100000 random operations", "[retry][budget][model]") {
  std::mt19937 random(5);
  for (const auto kind : {budget_kind::per_success, budget_kind::per_call, budget_kind::throttle}) {
    for (const double by_time : {0.0, 3.0}) {
      CAPTURE(static_cast<int>(kind), by_time);
      const retry_budget_options options{
          .kind = kind, .ratio = 0.125, .max_tokens = 20, .min_retries_per_second = by_time};
      retry_budget budget(options);
      naive_budget naive{options, options.max_tokens};
      const double threshold = kind == budget_kind::throttle ? options.max_tokens / 2 : 1;
      constexpr double rounding = 0.01;  // it counts in thousandths
      time_point now{};
      CHECK(budget.try_withdraw(now));  // time begins to earn with the first who asks
      naive.count(true);
      int close_calls = 0;
      for (int i = 0; i < 20'000; ++i) {
        now += std::chrono::microseconds(random() % 40'000);
        switch (random() % 8) {
          case 0:
          case 1:
            budget.on_first_attempt(), naive.on_first_attempt();
            break;
          case 2:
          case 3:
            budget.on_success(), naive.on_success();
            break;
          case 4:  // good times and bad times
            if (i / 500 % 2 == 0) budget.on_failure(), naive.on_failure();
            break;
          default: {
            naive.earn_by_time(now);
            const bool allows = budget.try_withdraw(now);
            if (std::abs(naive.balance - threshold) > rounding) {
              REQUIRE(allows == (naive.balance > threshold));
            } else {
              ++close_calls;
            }
            naive.count(allows);
          }
        }
        const auto stats = budget.stats();
        REQUIRE(stats.balance == Approx(naive.balance).margin(rounding));
        REQUIRE(stats.withdrawals == naive.allowed);
        REQUIRE(stats.denials == naive.denied);
      }
      CHECK(naive.allowed > 500);
      CHECK(naive.denied > 500);
      CHECK(close_calls < 8'000);
    }
  }
}

TEST_CASE("threads neither lose nor invent tokens", "[retry][budget][concurrent]") {
  retry_budget budget({.ratio = 0.5, .max_tokens = 1000});
  std::atomic<int> allowed{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) {
        if (budget.try_withdraw(time_point())) ++allowed;
        if (i % 10 == 0) budget.on_success();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  // Tokens are conserved: 1000 at the start, half of one for each success that was not cut off at the top.
  const auto stats = budget.stats();
  CHECK(stats.withdrawals == static_cast<std::uint64_t>(allowed));
  CHECK(stats.withdrawals + stats.denials == 4000);
  CHECK(static_cast<double>(allowed) + stats.balance <= 1200);
  CHECK(static_cast<double>(allowed) + stats.balance >= 1190);
}

}  // namespace
}  // namespace retry_budget_test
