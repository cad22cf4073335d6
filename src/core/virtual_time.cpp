#include <cofferdam/core/virtual_time.hpp>

namespace cofferdam::inline COFFERDAM_ABI {

virtual_time::virtual_time(net::io_context& context, std::uint64_t seed, time_point start)
    : context_(context), timers_(timers_of(context)), start_(start) {
  timers_.use_virtual_time(start);
  random_of(context).seed(seed);
}

void virtual_time::fold(std::uint64_t value) noexcept {
  // One round of SplitMix64's finaliser: every bit of history reaches every bit of the trace.
  trace_ = (trace_ ^ value) * 0xBF58476D1CE4E5B9;
  trace_ = (trace_ ^ (trace_ >> 29)) + 0x9E3779B97F4A7C15;
}

void virtual_time::record(std::string_view observation) noexcept {
  for (const char c : observation) fold(static_cast<unsigned char>(c));
  fold(observation.size());
}

void virtual_time::run_ready() {
  if (context_.stopped()) context_.restart();
  fold(context_.poll());  // until nothing is ready, also what handlers make ready
}

/// Moves to the next deadline at or before `until` and fires it. False when there was none.
bool virtual_time::jump(time_point until) {
  const bool jumped = timers_.advance(until);
  fold(static_cast<std::uint64_t>(now().time_since_epoch().count()));
  return jumped;
}

std::size_t virtual_time::run_until(time_point until) {
  std::size_t jumps = 0;
  for (run_ready(); jump(until); run_ready()) ++jumps;
  return jumps;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
