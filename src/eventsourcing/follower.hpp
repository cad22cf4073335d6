// What those who follow the events share.
#pragma once

#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/eventsourcing/event_store.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <system_error>

namespace cofferdam::inline COFFERDAM_ABI::detail {

/// Nothing is wrong with the batch. What became of it, if anything did, is seen where its position is read anew.
[[nodiscard]] inline bool is_trouble(const std::error_code& code) noexcept {
  return storage_error::is_retryable(code) || code == errc::outcome_unknown;
}

/// The event at just this position.
[[nodiscard]] awaitable<std::optional<recorded_event>> find_event(event_store& store, std::uint64_t position);
/// Errors: `storage_error` (`events_missing`).
[[nodiscard]] awaitable<recorded_event> require_parked(event_store& store, std::uint64_t position,
                                                       std::string follower);

/// Until `table` has come to a position; false when it has not within `limit`.
template <class Table>
awaitable<bool> wait_for_position(Table& table, database& db, std::uint64_t wanted, duration limit) {
  const auto executor = co_await net::this_coro::executor;
  auto& timers = timers_of(executor);
  const time_point until = saturating_add(timers.now(), limit);
  for (;;) {
    const std::uint64_t seen = db.changes();
    const std::uint64_t done = co_await table.position();
    if (done >= wanted) co_return true;
    if (timers.now() >= until) co_return false;
    (void)co_await db.wait_for_change(seen, until - timers.now());
  }
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
