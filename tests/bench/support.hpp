// Benchmarks of awaited calls: the loop runs inside one coroutine, so that what is timed is the call and nothing else.
// Each program of `limits` below compares medians of one run and prints ratios; nothing here asserts a time.
#pragma once

#include <cofferdam/core/net.hpp>

#include <benchmark/benchmark.h>

#include <cstdint>

namespace cofferdam::bench {

/// Times `co_await make()` for the whole of a benchmark's loop.
template <class Make> void await_in_loop(benchmark::State& state, Make make) {
  net::io_context context(1);
  const auto loop = [&]() -> awaitable<void> {
    for (auto _ : state) {
      auto value = co_await make();
      benchmark::DoNotOptimize(value);
    }
  };
  net::co_spawn(context, loop, net::detached);
  context.run();
}

/// The task everything is measured around: done at once.
inline awaitable<int> immediate() { co_return 42; }

}  // namespace cofferdam::bench
