// How events lie in PostgreSQL: as in SQLite, and see postgres_schema.cpp.
#pragma once

#include "event_rows.hpp"

#include <cofferdam/storage/rows.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::detail {

[[nodiscard]] std::vector<migration> postgres_event_schema();

/// What `event_columns` and the name of the stream select.
[[nodiscard]] recorded_event to_event(const row& found);

/// Elements of a query that can match; an item with a tag or type that is no text never does.
struct query_items {
  explicit query_items(const event_query& query);
  std::vector<event_query::clause> items;
  bool is_nothing = false;  ///< no item can match
};

/// An array as PostgreSQL reads it.
[[nodiscard]] std::string array_of(const std::vector<std::string>& texts);
[[nodiscard]] std::string array_of(const std::vector<std::int64_t>& numbers);

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
