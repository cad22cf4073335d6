// Sleeping, in real time or virtual.
#pragma once

#include <cofferdam/core/net.hpp>
#include <cofferdam/core/time.hpp>

namespace cofferdam::inline COFFERDAM_ABI {

/// Sleeps on the timer service of the caller's executor: in virtual time it takes no time at all.
/// Errors: `net::asio_system_error` (operation_aborted) when cancelled. Zero and negative durations yield once.
awaitable<void> sleep_for(duration d);
/// As `sleep_for`; a point in the past yields once.
awaitable<void> sleep_until(time_point at);

}  // namespace cofferdam::inline COFFERDAM_ABI
