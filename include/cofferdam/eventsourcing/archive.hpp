// Moving old events out of the store into files: reads say that they are not there any more, and where they are.
#pragma once

#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/eventsourcing/event_store.hpp>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

struct archive_result {
  std::uint64_t events = 0;       ///< moved out
  std::uint64_t kept = 0;         ///< the newest of their streams: versions go on counting from them
  std::uint64_t to_position = 0;  ///< nothing but those stands in the store up to here
};

/// What was moved out, as the store remembers it.
struct archive_entry {
  std::string file;  ///< as it was named
  std::uint64_t events = 0, first_position = 0, last_position = 0;
  std::chrono::system_clock::time_point at;
};

/// An archive of events. Both drivers. Refers to the store, which must outlive it.
///
/// Events that were moved out are found by nobody in this store any more: not by ids (appending one again would append
/// it), not by append conditions, not by projections that begin anew. The file is that of `export_events`, which
/// `import_events` brings into any store.
class event_archive {
 public:
  /// Makes or updates the table. Errors: `storage_error`.
  [[nodiscard]] static awaitable<event_archive> open(event_store& store);

  /// Moves every event up to `position` into a new file, but for the newest of each stream. The file is whole and on
  /// disk before the first event goes. Streams then begin later, as after `truncate`. May be cancelled and called again
  /// (with another file): what the first file has and the store has not is in the first file only.
  /// Errors: std::ios_base::failure when the file is there or cannot be written; `storage_error` (`condition_failed`
  /// when a projection or a consumer group has not come so far, or has put one of them aside).
  [[nodiscard]] awaitable<archive_result> move_out(std::string file, std::uint64_t position);

  /// Files, oldest first.
  [[nodiscard]] awaitable<std::vector<archive_entry>> entries();
  /// Those that may hold events of a read which began at `position`: empty says that the store has all of them.
  [[nodiscard]] awaitable<std::vector<archive_entry>> entries_after(std::uint64_t position);

 private:
  explicit event_archive(event_store& store, const timer_service& timers) noexcept : store_(&store), timers_(&timers) {}
  awaitable<void> require_followers_at(std::uint64_t position);
  awaitable<void> remove(const std::string& file, const std::vector<std::uint64_t>& positions, std::size_t begin,
                         std::size_t end);

  event_store* store_;
  const timer_service* timers_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
