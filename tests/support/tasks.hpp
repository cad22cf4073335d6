// Tasks the tests protect.
#pragma once

#include <cofferdam/core/sleep.hpp>

#include <stdexcept>

namespace cofferdam::test {

inline awaitable<int> fine() { co_return 1; }
inline awaitable<int> broken() {
  throw std::runtime_error("down");
  co_return 0;
}
inline awaitable<int> lasting(duration d) {
  co_await sleep_for(d);
  co_return 1;
}
inline awaitable<int> hanging() {
  co_await sleep_until(never);
  co_return 0;
}
/// Ignores its cancellation: ends as if nothing had been, with a value or an error.
inline awaitable<int> stubborn(duration d, bool succeeds) {
  try {
    co_await sleep_for(d);
  } catch (const net::asio_system_error&) {  // NOLINT(bugprone-empty-catch): that is the point
  }
  if (!succeeds) throw std::runtime_error("down");
  co_return 1;
}

}  // namespace cofferdam::test
