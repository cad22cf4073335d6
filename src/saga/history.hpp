// A saga's history: all of it as one JSON object, for files and other databases. Not the code of a saga, only its rows.
#pragma once

#include "journal.hpp"

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {

struct history {
  std::string id;
  rows saga;     // one, with the columns of `saga_columns`
  rows journal;  // those of `journal_columns`, in order
  rows inbox;    // those of `inbox_columns`
};

inline constexpr const char* saga_columns =
    "id, definition, version, state, reason, epoch, seq, wake_at, signals, claims, pivoted, cancel_reason, input, "
    "output, created_at, updated_at, deadline, parent";
inline constexpr const char* journal_columns = "seq, kind, key, step, payload, epoch, at";
inline constexpr const char* inbox_columns = "message_id, name, payload, nr, at";

[[nodiscard]] nlohmann::json to_json(const history& h);
/// Errors: saga_error (`saga_undecodable`) naming the saga, and the entry or value that is wrong.
[[nodiscard]] history history_from(const nlohmann::json& text);

/// Errors: saga_error (`saga_undecodable`).
[[nodiscard]] saga_state state_from(const std::string& id, std::int64_t number);

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
