// The core: time limits against Asio's own, timers against the number pending.
#include "support.hpp"

#include <cofferdam/core/random.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/core/timer_service.hpp>

// clang-format off: it would put spaces into the path
#include COFFERDAM_ASIO_HEADER(experimental/awaitable_operators.hpp)
// clang-format on

#include <memory>
#include <variant>

using namespace cofferdam;
using namespace cofferdam::bench;
using namespace std::chrono_literals;

namespace {

void limit_with_timeout(benchmark::State& state) {
  await_in_loop(state, [] { return with_timeout(500ms, immediate); });
}
BENCHMARK(limit_with_timeout);

/// What Asio offers: the task or a timer, whichever succeeds first.
awaitable<int> or_timer() {
  using namespace net::experimental::awaitable_operators;
  net::steady_timer timer(co_await net::this_coro::executor, 500ms);
  auto first = co_await (immediate() || timer.async_wait(net::use_awaitable));
  co_return std::get<0>(first);
}
void limit_with_asio_or(benchmark::State& state) { await_in_loop(state, or_timer); }
BENCHMARK(limit_with_asio_or);

/// Insert and cancel one timer while so many others are pending.
void timer_insert_and_cancel(benchmark::State& state) {
  const auto pending = static_cast<std::size_t>(state.range(0));
  const auto others = std::make_unique<timer_entry[]>(pending + 1);  // outlives the context that drops them
  timer_entry one;
  net::io_context context(1);
  auto& timers = timers_of(context);
  const net::any_io_executor executor = context.get_executor();
  random_source random(1);
  for (std::size_t i = 0; i <= pending; ++i) {
    others[i].on_due = others[i].on_shutdown = [](timer_entry&) noexcept {};
    timers.schedule(others[i], timers.now() + 10s + duration(static_cast<std::int64_t>(random.uniform() * 1e12)),
                    executor);
  }
  one.on_due = one.on_shutdown = [](timer_entry&) noexcept {};
  std::int64_t i = 0;
  for (auto _ : state) {
    timers.schedule(one, timers.now() + 500ms + std::chrono::milliseconds(++i & 1023), executor);
    timers.cancel(one);
  }
}
BENCHMARK(timer_insert_and_cancel)->Arg(0)->Arg(1'000)->Arg(1'000'000);

void clock_read(benchmark::State& state) {
  net::io_context context(1);
  auto& timers = timers_of(context);
  for (auto _ : state) benchmark::DoNotOptimize(timers.now());
}
BENCHMARK(clock_read);

}  // namespace
