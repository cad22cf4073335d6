#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/sleep.hpp>

namespace cofferdam::inline COFFERDAM_ABI {

awaitable<void> sleep_until(time_point at) {
  const auto nobody = [](const detail::parked_reference&) {};
  const wake_reason reason = co_await park(at, nobody);
  if (reason == wake_reason::cancelled) throw net::asio_system_error(net::error::operation_aborted);
}

awaitable<void> sleep_for(duration d) {
  const auto executor = co_await net::this_coro::executor;
  co_await sleep_until(saturating_add(timers_of(executor).now(), d));
}

}  // namespace cofferdam::inline COFFERDAM_ABI
