// What those who follow the events share.
#pragma once

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

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
