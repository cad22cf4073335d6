// The journal's tables and entries. SQL that SQLite and PostgreSQL both understand.
#pragma once

#include <cofferdam/saga/engine.hpp>
#include <cofferdam/storage/database.hpp>
#include <cofferdam/storage/detail/stored.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {

using cofferdam::detail::to_microseconds;

/// Stored: never change a number.
enum class entry_kind : std::uint8_t {
  intent = 1,           // a step begins: arguments, whether it is a pivot, how to undo it if that is not as usual
  succeeded = 2,        // its result
  failed = 3,           // refused or exhausted
  waiting = 4,          // for a time or signal, until `wake_at`
  signalled = 5,        // the signal that was taken
  timed_out = 6,        // no signal came
  aborted = 7,          // from here on the saga goes back
  undone = 8,           // a step
  progress = 9,         // of a long action
  nested_aborted = 10,  // a part goes back
  nested_failed = 11,   // and has gone back
  operated = 12,        // what an operator did, why, and who
  called = 13,          // a child saga: its input
  won = 14,             // a branch of a race, or none; what the others did is undone
  race_over = 15,       // it is undone
  attempted = 16,       // an action failed and is tried again; the last one of a key counts
  undo_attempted = 17,  // as `attempted`
  branched = 18,        // branches whose steps are undone side by side
};
constexpr auto last_entry_kind = entry_kind::branched;
[[nodiscard]] std::string_view to_string(entry_kind k) noexcept;

struct entry {
  entry() = default;
  /// No aggregate: GCC 12 would destroy it twice in a co_await.
  entry(entry_kind what, std::string where, std::string which, nlohmann::json with)
      : kind(what), key(std::move(where)), step(std::move(which)), payload(std::move(with)), text(payload.dump()) {}
  entry_kind kind = entry_kind::intent;
  std::string key, step;
  nlohmann::json payload;
  std::string text;  // of the payload; not set in one that was read
};

/// What is not UTF-8 in a text of somebody else, as neither JSON nor databases take it, becomes U+FFFD.
[[nodiscard]] std::string as_utf8(const std::string& text);

[[nodiscard]] std::vector<migration> saga_schema();

/// What the steps of waits for locks begin with.
constexpr std::string_view lock_prefix = "lock:";

/// The step of marks. What waits for a signal has its name there.
constexpr std::string_view mark_step = "patched";

/// For times that never come.
constexpr std::int64_t for_ever = std::numeric_limits<std::int64_t>::max();

/// `d` after `at`, both in microseconds.
[[nodiscard]] inline std::int64_t time_after(std::int64_t at, duration d) {
  const std::int64_t in = std::chrono::ceil<std::chrono::microseconds>(std::min(d, duration::max() / 2)).count();
  return at > for_ever - in ? for_ever : at + in;
}

/// A saga's row.
struct birth {
  const std::string& id;
  const definition& what;
  const std::string& input;  // as JSON text
  std::int64_t deadline = for_ever;
  const std::string& parent;
};
/// Adds the row of a saga that nobody runs yet, or `owner` does.
void insert_saga(batch& b, const birth& made, const std::optional<std::string>& owner, std::int64_t at);
/// A time, or null where there is none.
[[nodiscard]] inline std::optional<std::int64_t> time_or_null(std::int64_t at) {
  return at == for_ever ? std::nullopt : std::optional(at);
}
/// Lets a saga that waits look again: what it waits for may be there. Returns the statement's index.
std::size_t wake_saga(batch& b, const std::string& id);

/// Whether the wait with this key and step is for a lock, not for a signal with such a name.
[[nodiscard]] bool is_lock(std::string_view key, std::string_view step) noexcept;
/// Asks for it: the saga has it when those before it have let go. Again: no effect.
void ask_for_lock(batch& b, const std::string& id, const std::string& resource);
/// Lets the next one have what this saga had. Returns the statement's index: its rows are the ids of those.
std::size_t let_go_of_locks(batch& b, const std::string& id);

/// Adds an entry to a batch.
void insert_entry(batch& b, const std::string& saga, std::uint64_t seq, std::uint64_t epoch, std::int64_t at,
                  const entry& e);
/// Errors: saga_error (`saga_undecodable`) naming saga and entry.
[[nodiscard]] entry parse_entry(const std::string& saga, std::uint64_t seq, std::int64_t kind, std::string key,
                                std::string step, const std::string& payload);
/// Errors: saga_error (`saga_undecodable`) naming saga and `what`.
[[nodiscard]] nlohmann::json parse_stored(const std::string& saga, const std::string& what, const std::string& text);

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
