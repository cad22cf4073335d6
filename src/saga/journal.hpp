// The journal's tables and entries. SQL that SQLite and PostgreSQL both understand.
#pragma once

#include <cofferdam/saga/engine.hpp>
#include <cofferdam/storage/database.hpp>
#include <cofferdam/storage/detail/stored.hpp>

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {

using cofferdam::detail::to_microseconds;

/// Stored: never change a number.
enum class entry_kind : std::uint8_t {
  intent = 1,           // a step begins: its arguments, and how to undo it where that is not as usual
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
};
[[nodiscard]] std::string_view to_string(entry_kind k) noexcept;

struct entry {
  entry() = default;
  /// No aggregate: GCC 12 would destroy it twice in a co_await.
  entry(entry_kind what, std::string where, std::string which, nlohmann::json with)
      : kind(what), key(std::move(where)), step(std::move(which)), payload(std::move(with)) {}
  entry_kind kind = entry_kind::intent;
  std::string key, step;
  nlohmann::json payload;
};

[[nodiscard]] std::vector<migration> saga_schema();

/// Adds an entry to a batch.
void insert_entry(batch& b, const std::string& saga, std::uint64_t seq, std::uint64_t epoch, std::int64_t at,
                  const entry& e);
/// Errors: saga_error (`saga_undecodable`) naming saga and entry.
[[nodiscard]] entry parse_entry(const std::string& saga, std::uint64_t seq, std::int64_t kind, std::string key,
                                std::string step, const std::string& payload);
/// Errors: saga_error (`saga_undecodable`) naming saga and `what`.
[[nodiscard]] nlohmann::json parse_stored(const std::string& saga, const std::string& what, const std::string& text);

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
