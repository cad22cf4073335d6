// What the policies cost around a task that is done at once.
#include "support.hpp"

#include <cofferdam/core/parked.hpp>
#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/client_throttle.hpp>
#include <cofferdam/resilience/configuration.hpp>
#include <cofferdam/resilience/fallback.hpp>
#include <cofferdam/resilience/hedging.hpp>
#include <cofferdam/resilience/rate_limiter.hpp>
#include <cofferdam/resilience/retry.hpp>

#include <nlohmann/json.hpp>

#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::bench;
using namespace std::chrono_literals;

namespace {

/// A policy that does nothing: what a walk costs by itself.
class nothing final : public runnable_policy<nothing> {
 public:
  admission admit(call&, policy_slot&) noexcept override { return admission::go; }
  verdict settle(call&, policy_slot&, const outcome_view&) noexcept override { return verdict::deliver; }
  std::string describe() const override { return "nothing"; }
};

void bare(benchmark::State& state) { await_in_loop(state, immediate); }
BENCHMARK(bare);

void empty_policy_run(benchmark::State& state) {
  nothing policy;
  await_in_loop(state, [&] { return policy.run(immediate); });
}
BENCHMARK(empty_policy_run);

void empty_policy_try_run(benchmark::State& state) {
  nothing policy;
  await_in_loop(state, [&] { return policy.try_run(immediate); });
}
BENCHMARK(empty_policy_try_run);

void breaker_fire_time_window(benchmark::State& state) {
  circuit_breaker breaker("time");
  await_in_loop(state, [&] { return breaker.fire(immediate); });
}
BENCHMARK(breaker_fire_time_window);

void breaker_fire_count_window(benchmark::State& state) {
  circuit_breaker breaker("count", {.window_calls = 100});
  await_in_loop(state, [&] { return breaker.fire(immediate); });
}
BENCHMARK(breaker_fire_count_window);

/// One call of a hundred fails, so that the window is never clean.
class one_percent_failing {
 public:
  awaitable<outcome<int>> operator()() {
    if (++count_ % 100 == 0) co_return failure::refused(errc::injected_fault);
    co_return 42;
  }

 private:
  int count_ = 0;
};
void bare_one_percent_failing(benchmark::State& state) { await_in_loop(state, one_percent_failing()); }
BENCHMARK(bare_one_percent_failing);

void breaker_fire_one_percent_failing(benchmark::State& state) {
  circuit_breaker breaker("failing", {.window_calls = static_cast<std::size_t>(state.range(0))});
  one_percent_failing task;
  const auto call = [&] { return task(); };
  await_in_loop(state, [&] { return breaker.try_fire(call); });
}
BENCHMARK(breaker_fire_one_percent_failing)->Arg(100)->Arg(0);

/// With a rule for values, and what that rule costs without a breaker.
void breaker_fire_with_rule(benchmark::State& state) {
  circuit_breaker breaker("ruled", {.window_calls = 100});
  int count = 0;
  breaker.classify([&](const int&) { return ++count % 100 == 0; });
  await_in_loop(state, [&] { return breaker.fire(immediate); });
}
BENCHMARK(breaker_fire_with_rule);
void classified_without_breaker(benchmark::State& state) {
  retry policy({.max_attempts = 1});
  int count = 0;
  policy.when([&](const int&) { return ++count % 100 == 0; });
  await_in_loop(state, [&] { return policy.run(immediate); });
}
BENCHMARK(classified_without_breaker);

/// Admission and a good result, without any coroutine.
void breaker_raw_permit(benchmark::State& state) {
  detail::circuit_core core(std::make_shared<const std::string>("raw"), {.window_calls = 100});
  for (auto _ : state) {
    detail::circuit_permit permit;
    (void)core.try_admit(permit);
    if (!core.record_clean_success(permit)) (void)core.record(permit, outcome_class::success, permit.started);
  }
}
BENCHMARK(breaker_raw_permit);

void breaker_fire_slow_calls_measured(benchmark::State& state) {
  circuit_breaker breaker("slow", {.slow_call_duration = 1s});
  await_in_loop(state, [&] { return breaker.fire(immediate); });
}
BENCHMARK(breaker_fire_slow_calls_measured);

circuit_breaker& shared_breaker() {
  static circuit_breaker breaker("shared");
  return breaker;
}
void breaker_fire_shared_by_threads(benchmark::State& state) {
  auto& breaker = shared_breaker();
  await_in_loop(state, [&] { return breaker.fire(immediate); });
}
BENCHMARK(breaker_fire_shared_by_threads)->Threads(1)->Threads(2)->UseRealTime();

/// Of an open circuit, and of one that also names the exception that opened it.
void breaker_refusal_by_value(benchmark::State& state) {
  circuit_breaker breaker("open", {.minimum_calls = 1, .break_duration = 1h, .max_break_duration = 1h});
  if (state.range(0) == 0) {
    breaker.open();
  } else {
    const auto fail = []() -> int { throw std::runtime_error("down"); };
    const auto open_it = [&]() -> awaitable<void> { (void)co_await breaker.try_fire(fail); };
    net::io_context context(1);
    net::co_spawn(context, open_it, net::detached);
    context.run();
  }
  await_in_loop(state, [&] { return breaker.try_fire(immediate); });
}
BENCHMARK(breaker_refusal_by_value)->ArgName("with_cause")->Arg(0)->Arg(1);

void breaker_refusal_by_exception(benchmark::State& state) {
  circuit_breaker breaker("open", {.break_duration = 1h, .max_break_duration = 1h});
  breaker.open();
  await_in_loop(state, [&]() -> awaitable<int> {
    try {
      co_return co_await breaker.fire(immediate);
    } catch (const circuit_open_error&) {
      co_return 0;
    }
  });
}
BENCHMARK(breaker_refusal_by_exception);

/// Failing calls into a full window that never opens: the cost must not depend on the window.
void breaker_failing_call(benchmark::State& state) {
  circuit_breaker breaker(
      "failing", {.window_calls = static_cast<std::size_t>(state.range(0)), .mode = circuit_mode::metrics_only});
  breaker.classify([](const int&) { return true; });
  await_in_loop(state, [&] { return breaker.fire(immediate); });
}
BENCHMARK(breaker_failing_call)->Arg(100)->Arg(10'000)->Arg(1'000'000);

void bulkhead_run(benchmark::State& state) {
  bulkhead pool("pool");
  await_in_loop(state, [&] { return pool.run(immediate); });
}
BENCHMARK(bulkhead_run);

/// 10,000 calls at once, each of which goes through `enter` and then lets the next one go.
template <class Enter> void many_calls(benchmark::State& state, Enter enter) {
  constexpr std::int32_t calls = 10'000;
  for (auto _ : state) {
    net::io_context context(1);
    for (std::int32_t id = 0; id < calls; ++id) net::co_spawn(context, enter(id), net::detached);
    context.run();
  }
  state.SetItemsProcessed(state.iterations() * calls);
  state.counters["per_call"] = benchmark::Counter(static_cast<double>(state.iterations()) * calls,
                                                  benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void wait_in(benchmark::State& state, queue_order order) {
  bulkhead pool("pool", {.max_concurrent = 1, .max_queue = 10'000, .order = order});
  const auto yield = [] { return net::post(net::use_awaitable); };
  many_calls(state, [&](std::int32_t id) -> awaitable<void> {
    call_info info;
    info.priority = id % 4;
    return pool.run(info, yield);
  });
}
void bulkhead_10000_waiters(benchmark::State& state) { wait_in(state, queue_order::fifo); }
BENCHMARK(bulkhead_10000_waiters);
void bulkhead_10000_waiters_by_priority(benchmark::State& state) { wait_in(state, queue_order::priority); }
BENCHMARK(bulkhead_10000_waiters_by_priority);

/// The least that any queue of coroutines costs: each is parked, and woken by the one before it.
void parked_10000_waiters(benchmark::State& state) {
  nothing policy;
  std::vector<detail::parked_reference> parked(10'000);
  const auto enter = [&](std::size_t id) -> awaitable<void> {
    const auto enlist = [&](const detail::parked_reference& self) { parked[id] = self; };
    if (id > 0) (void)co_await park(never, enlist);
    const auto yield = [] { return net::post(net::use_awaitable); };
    co_await policy.run(yield);
    if (id + 1 < parked.size()) std::exchange(parked[id + 1], {})->wake(wake_reason::woken);
  };
  many_calls(state, [&](std::int32_t id) { return enter(static_cast<std::size_t>(id)); });
}
BENCHMARK(parked_10000_waiters);

void rate_limiter_token_bucket(benchmark::State& state) {
  rate_limiter limiter("limiter", {.permits = 1'000'000'000});
  await_in_loop(state, [&] { return limiter.run(immediate); });
}
BENCHMARK(rate_limiter_token_bucket);

void rate_limiter_fixed_window(benchmark::State& state) {
  rate_limiter limiter("limiter", {.permits = 1'000'000'000, .algorithm = rate_algorithm::fixed_window});
  await_in_loop(state, [&] { return limiter.run(immediate); });
}
BENCHMARK(rate_limiter_fixed_window);

void hedge_that_does_not_fire(benchmark::State& state) {
  hedging policy;
  await_in_loop(state, [&] { return policy.run(immediate); });
}
BENCHMARK(hedge_that_does_not_fire);

void retry_first_try(benchmark::State& state) {
  retry policy;
  await_in_loop(state, [&] { return policy.run(immediate); });
}
BENCHMARK(retry_first_try);

void static_pipeline_of_four(benchmark::State& state) {
  circuit_breaker breaker("breaker", {.window_calls = 100});
  bulkhead pool("pool");
  auto calls = retry() | breaker | pool | fallback([] { return 0; });
  await_in_loop(state, [&] { return calls.run(immediate); });
}
BENCHMARK(static_pipeline_of_four);

void static_pipeline_of_four_with_clock(benchmark::State& state) {
  circuit_breaker breaker("breaker");
  bulkhead pool("pool");
  auto calls = retry() | breaker | pool | fallback([] { return 0; });
  await_in_loop(state, [&] { return calls.run(immediate); });
}
BENCHMARK(static_pipeline_of_four_with_clock);

void runtime_pipeline_of_four(benchmark::State& state) {
  pipeline calls("four", {std::make_shared<retry>(),
                          std::make_shared<circuit_breaker>("breaker", circuit_breaker_options{.window_calls = 100}),
                          std::make_shared<bulkhead>("pool"), std::make_shared<fallback>([] { return 0; })});
  await_in_loop(state, [&] { return calls.run(immediate); });
}
BENCHMARK(runtime_pipeline_of_four);

constexpr const char* five_policies = R"({"version": 1, "pipelines": {"five": [
  {"retry": {}}, {"circuit_breaker": {"window_calls": 100}}, {"bulkhead": {}},
  {"rate_limiter": {"permits": 1000000000}}, {"client_throttle": {}}]}})";

/// With clocks: the limiter and the throttle count by time.
void static_pipeline_of_five(benchmark::State& state) {
  circuit_breaker breaker("breaker", {.window_calls = 100});
  bulkhead pool("pool");
  rate_limiter limiter("rate", {.permits = 1'000'000'000});
  client_throttle throttle("throttle");
  auto calls = retry() | breaker | pool | limiter | throttle;
  await_in_loop(state, [&] { return calls.run(immediate); });
}
BENCHMARK(static_pipeline_of_five);

void configured_pipeline_of_five(benchmark::State& state) {
  const configuration loaded(nlohmann::json::parse(five_policies));
  auto calls = loaded.at("five");
  await_in_loop(state, [&] { return calls.run(immediate); });
}
BENCHMARK(configured_pipeline_of_five);

/// Without a clock.
void static_pipeline_of_five_without_clock(benchmark::State& state) {
  circuit_breaker breaker("breaker", {.window_calls = 100}), second("second", {.window_calls = 100});
  bulkhead pool("pool");
  auto calls = retry() | breaker | pool | second | fallback([] { return 0; });
  await_in_loop(state, [&] { return calls.run(immediate); });
}
BENCHMARK(static_pipeline_of_five_without_clock);

/// The same four policies, each awaiting the next: what a frame per policy costs.
void nested_coroutines_of_four(benchmark::State& state) {
  circuit_breaker breaker("breaker", {.window_calls = 100});
  bulkhead pool("pool");
  retry again;
  fallback other([] { return 0; });
  const auto inner = [&] { return other.run(immediate); };
  const auto pooled = [&] { return pool.run(inner); };
  const auto guarded = [&] { return breaker.run(pooled); };
  await_in_loop(state, [&] { return again.run(guarded); });
}
BENCHMARK(nested_coroutines_of_four);

}  // namespace
