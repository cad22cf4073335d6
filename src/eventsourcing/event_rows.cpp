#include "event_rows.hpp"

#include <algorithm>
#include <span>
#include <unordered_map>

namespace cofferdam::inline COFFERDAM_ABI::detail {
namespace {

bool is_continuation(unsigned char byte) noexcept { return (byte & 0xc0) == 0x80; }

}  // namespace

bool is_text(std::string_view text) noexcept {
  for (std::size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i]);
    const std::size_t length = first < 0x80 ? 1 : first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first == 0 || (first >= 0x80 && first < 0xc2) || first > 0xf4 || i + length > text.size()) return false;
    for (std::size_t k = 1; k < length; ++k) {
      if (!is_continuation(static_cast<unsigned char>(text[i + k]))) return false;
    }
    const auto second = length > 1 ? static_cast<unsigned char>(text[i + 1]) : 0U;
    const bool is_overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
    const bool is_outside = (first == 0xed && second > 0x9f) || (first == 0xf4 && second > 0x8f);  // surrogates, 10FFFF
    if (is_overlong || is_outside) return false;
    i += length;
  }
  return true;
}

std::vector<migration> event_schema() {
  std::vector<migration> history;
  history.push_back(
      {1,
       "events",
       {"create table cofferdam_streams(id integer primary key, name text not null unique, first_version integer not "
        "null default 1, is_deleted integer not null default 0)",
        // autoincrement: positions of removed events are not given to others, whom a reader would then miss
        "create table cofferdam_events(position integer primary key autoincrement, stream integer not null, version "
        "integer not null, id blob not null unique, type text not null, schema_version integer not null, recorded_at "
        "integer not null, digest integer not null, data blob not null, tags text, correlation text, causation text, "
        "metadata text)",
        "create unique index cofferdam_events_of_stream on cofferdam_events(stream, version)",
        "create table cofferdam_tags(tag integer not null, position integer not null, primary key(tag, position)) "
        "without rowid"}});
  history.push_back(
      {2,
       "snapshots, projections",
       {"create table cofferdam_snapshots(stream text not null, schema_version integer not null, version "
        "integer not null, data text not null, primary key(stream, schema_version)) without rowid",
        "create table cofferdam_projections(name text primary key, position integer not null) without rowid",
        "create table cofferdam_parked(projection text not null, stream text not null, position integer "
        "not null, reason text not null, primary key(projection, stream, position)) without rowid"}});
  history.push_back(removed_streams("integer"));
  history.push_back(blue_green_tables());
  return history;
}

migration removed_streams(const std::string& integer) {
  // What was removed earlier has nothing to read, and no snapshot. Where such a stream was written again since, nothing
  // tells it from a truncated one.
  return {
      3,
      "removed streams",
      {"alter table cofferdam_streams add column removed_to " + integer + " not null default 0",
       "update cofferdam_streams set removed_to = first_version - 1 where first_version > 1 and not exists(select 1 "
       "from cofferdam_events e where e.stream = cofferdam_streams.id and e.version >= "
       "cofferdam_streams.first_version) and not exists(select 1 from cofferdam_snapshots s where s.stream = "
       "cofferdam_streams.name)"}};
}

migration blue_green_tables() {
  return {4,
          "blue-green projections",
          {"create table if not exists cofferdam_blue_green(name text not null primary key, active bigint not null)"}};
}

std::int64_t digest_of(const event& e) noexcept {
  const auto type = static_cast<std::uint64_t>(hash_of(e.type()));
  const auto data = static_cast<std::uint64_t>(hash_of(e.data()));
  return static_cast<std::int64_t>((type * 0x9E3779B97F4A7C15U) ^ data);
}

std::string join_tags(const std::vector<std::string>& tags) {
  std::string lines;
  for (const auto& tag : tags) {
    if (!lines.empty()) lines += '\n';
    lines += tag;
  }
  return lines;
}
std::vector<std::string> split_tags(std::string_view lines) {
  std::vector<std::string> tags;
  while (!lines.empty()) {
    const std::size_t end = std::min(lines.find('\n'), lines.size());
    tags.emplace_back(lines.substr(0, end));
    lines.remove_prefix(std::min(end + 1, lines.size()));
  }
  return tags;
}

statement is_new(const event_id& id) {
  const auto bytes = std::as_bytes(std::span(id.bytes()));
  return statement("select count(*) = 0 from cofferdam_events where id = $1", blob(bytes.begin(), bytes.end()));
}

stream_state find_stream(sqlite::connection& connection, std::string_view name) {
  stream_state found;
  auto stream = connection.prepare("select id, first_version, is_deleted from cofferdam_streams where name = $1");
  stream.bind(1, name);
  if (!stream.step()) return found;
  found.id = stream.integer(0);
  found.first_version = static_cast<std::uint64_t>(stream.integer(1));
  found.is_deleted = stream.integer(2) != 0;
  auto newest =
      connection.prepare("select version from cofferdam_events where stream = $1 order by version desc limit 1");
  newest.bind(1, found.id);
  if (newest.step()) found.version = static_cast<std::uint64_t>(newest.integer(0));
  return found;
}

std::uint64_t newest_position(sqlite::connection& connection) {
  auto newest = connection.prepare("select max(position) from cofferdam_events");
  return newest.step() ? static_cast<std::uint64_t>(newest.integer(0)) : 0;
}

std::string select_events(std::string_view condition, std::string_view order) {
  std::string sql = "select 1 from cofferdam_events e where ";
  sql.append(condition).append(" and cofferdam_row($1, ").append(event_columns).append(", e.stream) order by ");
  return sql.append(order);
}

std::string select_stream(std::string_view condition, std::string_view order) {
  // As two tables: of one, SQLite would look up in its index twice where the row is, once to find it and once to tell.
  std::string sql =
      "select 1 from cofferdam_events i cross join cofferdam_events e on e.position = i.position where i.stream = $2 "
      "and ";
  sql.append(condition).append(" and cofferdam_row($1, ").append(event_columns).append(", $2) order by ");
  return sql.append(order);
}

bool event_page::read(const sqlite::cells& row) {
  position_ = static_cast<std::uint64_t>(row.integer(0));
  if (left_ == 0) return true;
  --left_;
  const std::string_view tags = row.text(tags_column);
  if (query_ != nullptr && !query_->matches(row.text(type_column), split_tags(tags))) return false;
  if (events_.size() >= limit_ || bytes_ >= max_bytes_) return true;
  streams_.push_back(row.integer(stream_column));
  recorded_event& e = events_.emplace_back();
  e.position = position_;
  e.version = static_cast<std::uint64_t>(row.integer(1));
  event_id::bytes_type id{};
  const auto bytes = row.bytes(2);
  std::copy_n(reinterpret_cast<const std::uint8_t*>(bytes.data()), std::min(bytes.size(), id.size()), id.begin());
  e.id = event_id(id);
  e.type = row.text(type_column);
  e.schema = static_cast<std::uint32_t>(row.integer(4));
  e.at = date_from(row.integer(5));
  const auto data = row.bytes(6);
  e.data = std::string(reinterpret_cast<const char*>(data.data()), data.size());  // cheaper than to grow it
  bytes_ += data.size();
  if (!tags.empty()) e.tags = split_tags(tags);
  const auto read_text = [&row](std::string& into, int column) {
    const std::string_view text = row.text(column);
    if (!text.empty()) into = text;
  };
  read_text(e.correlation, 8);
  read_text(e.causation, 9);
  read_text(e.metadata, 10);
  return false;
}

void event_page::name_streams(sqlite::connection& connection) {
  // Events of one stream often follow each other, and a page has few streams: less than a join costs.
  std::unordered_map<std::int64_t, std::string> names;
  const std::string* name = nullptr;
  for (std::size_t i = 0; i < events_.size(); ++i) {
    if (i == 0 || streams_[i] != streams_[i - 1]) {
      const auto [at, is_new] = names.try_emplace(streams_[i]);
      if (is_new) {
        auto named = connection.prepare("select name from cofferdam_streams where id = $1");
        named.bind(1, streams_[i]);
        if (named.step()) at->second = named.text(0);
      }
      name = &at->second;
    }
    events_[i].stream = *name;
  }
}

// ------------------------------------------------------------------------------------------------ matching_positions

bool matching_positions::can_find(const event_query& query) noexcept {
  return !query.items().empty() &&
         std::ranges::all_of(query.items(), [](const auto& item) { return !item.tags().empty(); });
}

matching_positions::matching_positions(sqlite::connection& connection, const event_query& query, std::uint64_t from,
                                       direction order)
    : order_(order) {
  const bool is_forward = order == direction::forward;
  for (const auto& clause : query.items()) {
    std::string sql = "select t.position from cofferdam_tags t where t.tag = $1 and t.position ";
    sql += is_forward ? ">= $2" : "<= $2";
    for (std::size_t i = 1; i < clause.tags().size(); ++i) {
      sql += " and exists(select 1 from cofferdam_tags x where x.tag = $" + std::to_string(i + 2) +
             " and x.position = t.position)";
    }
    sql += is_forward ? " order by t.position" : " order by t.position desc";
    item made{connection.prepare(sql), std::nullopt};
    made.statement.bind(1, hash_of(clause.tags()[0])).bind(2, static_cast<std::int64_t>(from));
    for (std::size_t i = 1; i < clause.tags().size(); ++i) {
      made.statement.bind(static_cast<int>(i) + 2, hash_of(clause.tags()[i]));
    }
    step(made);
    items_.push_back(std::move(made));
  }
}

void matching_positions::step(item& i) {
  if (i.statement.step()) {
    i.at = static_cast<std::uint64_t>(i.statement.integer(0));
  } else {
    i.at.reset();
  }
}

std::optional<std::uint64_t> matching_positions::next() {
  std::optional<std::uint64_t> first;
  for (const auto& i : items_) {
    if (!i.at) continue;
    const bool comes_first = !first || (order_ == direction::forward ? *i.at < *first : *i.at > *first);
    if (comes_first) first = i.at;
  }
  if (!first) return first;
  for (auto& i : items_) {
    if (i.at == first) step(i);
  }
  return first;
}

std::optional<std::uint64_t> find_match(sqlite::connection& connection, const event_query& query, std::uint64_t after) {
  if (matching_positions::can_find(query)) {
    auto look = connection.prepare("select type, tags from cofferdam_events where position = $1");
    matching_positions candidates(connection, query, after + 1, direction::forward);
    while (const auto position = candidates.next()) {
      look.bind(1, *position);
      const bool matches = look.step() && query.matches(look.text(0), split_tags(look.text(1)));
      look.reset();
      if (matches) return position;
    }
    return std::nullopt;
  }
  auto scan =
      connection.prepare("select position, type, tags from cofferdam_events where position > $1 order by position");
  scan.bind(1, after);
  while (scan.step()) {
    if (query.matches(scan.text(1), split_tags(scan.text(2)))) return static_cast<std::uint64_t>(scan.integer(0));
  }
  return std::nullopt;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
