// A command bus beside a bare call of the same handler.
#include "support.hpp"

#include <cofferdam/cqrs/command_bus.hpp>

using namespace cofferdam;
using namespace cofferdam::bench;

namespace {

struct ping {
  using result = int;
};

awaitable<int> answer(const ping& /*c*/) { co_return 42; }

void bare_handler(benchmark::State& state) {
  const ping c;
  await_in_loop(state, [&] { return answer(c); });
}
BENCHMARK(bare_handler);

void command_dispatch(benchmark::State& state) {
  command_bus bus;
  bus.handle<ping>(answer);
  bus.build();
  const ping c;
  await_in_loop(state, [&] { return bus.send(c); });
}
BENCHMARK(command_dispatch);

void command_with_validation(benchmark::State& state) {
  command_bus bus;
  bus.handle<ping>(answer);
  bus.validate<ping>([](const ping&, violations& found) { found.require(true, "nothing", "can be wrong"); });
  bus.build();
  const ping c;
  await_in_loop(state, [&] { return bus.send(c); });
}
BENCHMARK(command_with_validation);

}  // namespace
