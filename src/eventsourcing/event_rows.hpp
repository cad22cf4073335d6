// How events lie in the database: one row each, tags once more in an index by hash.
//
//     cofferdam_streams  id, name, first_version (reads begin here), is_deleted (for ever), removed_to (the version)
//     cofferdam_events   position, stream, version, id, type, ..., tags (one a line)
//     cofferdam_tags     tag (its hash), position
#pragma once

#include <cofferdam/eventsourcing/event_store.hpp>
#include <cofferdam/storage/detail/stored.hpp>
#include <cofferdam/storage/sqlite.hpp>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::detail {

[[nodiscard]] std::vector<migration> event_schema();
/// Steps that are the same on both drivers, but for the type of a number.
[[nodiscard]] migration removed_streams(const std::string& integer);
[[nodiscard]] migration blue_green_tables();

/// RFC 3629, without NUL: SQL text ends there.
[[nodiscard]] bool is_text(std::string_view text) noexcept;

/// Of what makes an event the same one.
[[nodiscard]] std::int64_t digest_of(const event& e) noexcept;

[[nodiscard]] std::string join_tags(const std::vector<std::string>& tags);
[[nodiscard]] std::vector<std::string> split_tags(std::string_view lines);

/// A condition for a batch: there is no such event.
[[nodiscard]] statement is_new(const event_id& id);

struct stream_state {
  std::int64_t id = 0;  ///< 0: there is no such stream
  std::uint64_t version = 0, first_version = 1;
  bool is_deleted = false;

  /// Whether it has events to read.
  [[nodiscard]] bool is_live() const noexcept { return version >= first_version && version > 0; }
};
[[nodiscard]] stream_state find_stream(sqlite::connection& connection, std::string_view name);
[[nodiscard]] std::uint64_t newest_position(sqlite::connection& connection);

/// What an event is read from, of cofferdam_events e, in this order; the stream's name is known, or comes behind.
inline constexpr std::string_view event_columns =
    "e.position, e.version, e.id, e.type, e.schema_version, e.recorded_at, e.data, e.tags, e.correlation, e.causation, "
    "e.metadata";
inline constexpr int type_column = 3, tags_column = 7, stream_column = 11;

/// Statements of SQLite that show their reader, $1, the events that meet `condition`, in an order that an index has.
[[nodiscard]] std::string select_events(std::string_view condition, std::string_view order);
/// As that, of the stream $2, whose i.version `condition` and `order` speak of.
[[nodiscard]] std::string select_stream(std::string_view condition, std::string_view order);

/// Gathers what such a statement shows, up to a page, which the event that does not fit any more ends.
class event_page final : public sqlite::row_reader {
 public:
  static constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max();

  /// @param query  but for its beginnings of streams; none: every event.
  /// @param scanned  after so many events the next one does not fit, matching or not.
  event_page(std::vector<recorded_event>& events, std::size_t limit, std::size_t max_bytes,
             const event_query* query = nullptr, std::size_t scanned = unlimited) noexcept
      : events_(events), limit_(limit), max_bytes_(max_bytes), query_(query), left_(scanned) {}
  bool read(const sqlite::cells& row) override;

  /// Of the event that came last.
  [[nodiscard]] std::uint64_t position() const noexcept { return position_; }
  /// What the events lack.
  void name_streams(sqlite::connection& connection);

 private:
  std::vector<recorded_event>& events_;
  std::vector<std::int64_t> streams_;  // of the events
  std::size_t limit_, max_bytes_, bytes_ = 0;
  const event_query* query_;
  std::size_t left_;
  std::uint64_t position_ = 0;
};

/// The positions of the events that match a query, one after the other: from the tags' index where every item of the
/// query has a tag, otherwise none and the events have to be looked at one by one.
class matching_positions {
 public:
  /// True when the index can answer.
  [[nodiscard]] static bool can_find(const event_query& query) noexcept;
  /// @param from  the first position, in the direction of reading.
  matching_positions(sqlite::connection& connection, const event_query& query, std::uint64_t from, direction order);
  /// The next candidate; nothing at the end. It may not match: hashes collide, and types are not in the index.
  [[nodiscard]] std::optional<std::uint64_t> next();

 private:
  struct item {
    sqlite::prepared statement;
    std::optional<std::uint64_t> at;
  };
  static void step(item& i);
  std::vector<item> items_;
  direction order_;
};

/// The first event after `after` that matches, if there is one.
[[nodiscard]] std::optional<std::uint64_t> find_match(sqlite::connection& connection, const event_query& query,
                                                      std::uint64_t after);

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
