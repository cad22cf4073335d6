// Reading on PostgreSQL: the page is cut by the server, so that no more is sent than was asked for.
#include "postgres_rows.hpp"
#include "read_operation.hpp"

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::detail {
namespace {

constexpr std::size_t columns_of_event = 12;

std::int64_t bounded(std::uint64_t number) noexcept {
  return static_cast<std::int64_t>(
      std::min<std::uint64_t>(number, static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max() / 2)));
}

/// Numbers its parameters while it is put together.
class query_text {
 public:
  query_text& operator<<(std::string_view more) {
    sql_ += more;
    return *this;
  }
  query_text& with(value parameter, std::string_view type) {
    parameters_.push_back(std::move(parameter));
    sql_ += "$" + std::to_string(parameters_.size()) + "::";
    sql_ += type;
    return *this;
  }
  [[nodiscard]] statement take() && {
    statement made(std::move(sql_));
    for (auto& parameter : parameters_) made.bind(std::move(parameter));
    return made;
  }

 private:
  std::string sql_;
  std::vector<value> parameters_;
};

/// To be a statement before the one that reads: nothing up to the position it leaves behind can still appear.
statement settle() { return statement("select set_config('cofferdam.settled', cofferdam_settled()::text, true)"); }
constexpr std::string_view settled = "current_setting('cofferdam.settled')::bigint";

std::string_view order_of(const read_options& options) noexcept {
  return options.order == direction::forward ? "" : " desc";
}

/// Around a source of at most one event more than the page holds: cuts it by number and by bytes, and gives each event
/// the place of the next one.
void begin_page(query_text& sql, std::string_view place, const read_options& options) {
  const std::string order = "(order by e." + std::string(place) + std::string(order_of(options));
  sql << "select * from (select " << event_columns << ", s.name, lead(e." << place << ") over " << order
      << ") as next, row_number() over " << order << ") as nr, sum(octet_length(e.data)) over " << order
      << " rows between unbounded preceding and 1 preceding) as before from (";
}
void end_page(query_text& sql, std::string_view place, const read_options& options) {
  sql << " order by " << place << order_of(options) << " limit " << std::to_string(bounded(options.limit) + 1)
      << ") e join cofferdam_streams s on s.id = e.stream) page where nr <= ";
  sql.with(bounded(options.limit), "bigint") << " and (before is null or before < ";
  sql.with(bounded(options.max_bytes), "bigint") << ") order by nr";
}

/// The events of a page; where the next one would be, if there is one.
std::optional<std::uint64_t> take_page(const rows& found, std::vector<recorded_event>& events) {
  std::optional<std::uint64_t> next;
  events.reserve(found.size());
  for (const row r : found) {
    events.push_back(to_event(r));
    next = r.get<std::optional<std::uint64_t>>(columns_of_event);
  }
  return next;
}

void add_types(query_text& sql, const event_query::clause& item) {
  if (!item.types().empty()) (sql << " and e.type = any(").with(array_of(item.types()), "text[]") << ")";
}
void add_tags(query_text& sql, const event_query::clause& item) {
  if (!item.tags().empty()) {
    (sql << " and string_to_array(e.tags, E'\\n') @> ").with(array_of(item.tags()), "text[]");
  }
}

}  // namespace

recorded_event to_event(const row& found) {
  recorded_event e;
  e.position = found.get<std::uint64_t>(0);
  e.version = found.get<std::uint64_t>(1);
  e.id = event_id::parse(found.get<std::string_view>(2));
  e.type = found.get<std::string>(type_column);
  e.schema = found.get<std::uint32_t>(4);
  e.at = date_from(found.get<std::int64_t>(5));
  const auto* data = found[6].get_if<blob>();
  if (data != nullptr) e.data.assign(reinterpret_cast<const char*>(data->data()), data->size());
  const auto text = [&found](std::size_t column) {
    const auto* held = found[column].get_if<std::string>();
    return held == nullptr ? std::string() : *held;
  };
  e.tags = split_tags(text(tags_column));
  e.correlation = text(8);
  e.causation = text(9);
  e.metadata = text(10);
  e.stream = found.get<std::string>(stream_column);
  return e;
}

// ------------------------------------------------------------------------------------------------------ of one stream

std::vector<statement> read_stream_operation::statements() {
  std::vector<statement> all;
  if (!is_text(stream_)) return all;
  all.emplace_back("select version, is_deleted, first_version from cofferdam_stream($1)", stream_);
  query_text sql;
  begin_page(sql, "version", options_);
  sql << "select * from cofferdam_events where stream = (select id from cofferdam_streams where name = ";
  sql.with(stream_, "text") << " and not is_deleted) and version >= (select first_version from cofferdam_streams where "
                               "name = ";
  sql.with(stream_, "text") << ")";
  if (options_.from > 0) {
    sql << (options_.order == direction::forward ? " and version >= " : " and version <= ");
    sql.with(bounded(options_.from), "bigint");
  }
  end_page(sql, "version", options_);
  all.push_back(std::move(sql).take());
  return all;
}

void read_stream_operation::answered(std::vector<rows> found) {
  result = {};
  result.is_end = true;
  if (found.empty() || found[0].empty() || found[0].front().get<bool>(1)) return;
  result.version = found[0].front().get<std::uint64_t>(0);
  result.first_version = found[0].front().get<std::uint64_t>(2);
  result.is_end = !take_page(found[1], result.events);
  // What came between the two statements.
  if (!result.events.empty()) result.version = std::max(result.version, result.events.back().version);
}

// ------------------------------------------------------------------------------------------------------------- of all

std::vector<statement> read_all_operation::statements() {
  std::vector<statement> all;
  all.push_back(settle());
  const query_items wanted(query_);
  if (wanted.is_nothing) return all;
  const bool is_forward = options_.order == direction::forward;
  query_text sql;
  const auto in_range = [&](query_text& text, std::string_view position) {
    text << position << " <= " << settled;
    if (is_forward || options_.from > 0) {
      text << " and " << position << (is_forward ? " >= " : " <= ");
      text.with(bounded(options_.from), "bigint");
    }
  };
  begin_page(sql, "position", options_);
  const bool is_scan = !wanted.items.empty() && !matching_positions::can_find(query_);
  if (wanted.items.empty()) {
    sql << "select * from cofferdam_events where ";
    in_range(sql, "position");
  } else if (is_scan) {
    sql << "select * from (select * from cofferdam_events where ";
    in_range(sql, "position");
    sql << " order by position" << order_of(options_) << " limit " << std::to_string(window()) << ") e where false";
    for (const auto& item : wanted.items) {
      sql << " or (true";
      add_types(sql, item);
      add_tags(sql, item);
      sql << ")";
    }
  } else {
    sql << "select * from cofferdam_events where position = any(array(";
    const char* separator = "(";
    for (const auto& item : wanted.items) {
      // The first tag leads; where it stands, the others, and what they are the hashes of, are looked at.
      sql << std::exchange(separator, ") union (")
          << "select e.position from cofferdam_tags t join cofferdam_events e on "
             "e.position = t.position where t.tag = ";
      sql.with(hash_of(item.tags()[0]), "bigint") << " and ";
      in_range(sql, "t.position");
      add_types(sql, item);
      add_tags(sql, item);
      sql << " order by t.tag" << order_of(options_) << ", t.position" << order_of(options_) << " limit "
          << std::to_string(bounded(options_.limit) + 1);
    }
    sql << ")))";
  }
  end_page(sql, "position", options_);
  all.push_back(std::move(sql).take());
  if (is_scan) {
    query_text rest;
    rest << "select position from cofferdam_events where ";
    in_range(rest, "position");
    rest << " order by position" << order_of(options_) << " offset " << std::to_string(window()) << " limit 1";
    all.push_back(std::move(rest).take());
  }
  return all;
}

std::size_t read_all_operation::window() const noexcept { return std::max(max_scanned, options_.limit); }

void read_all_operation::answered(std::vector<rows> found) {
  result = {};
  const bool is_forward = options_.order == direction::forward;
  const std::uint64_t newest = std::stoull(found.at(0).front().get<std::string>(0));
  const std::uint64_t from = std::max<std::uint64_t>(1, options_.from);
  result.scanned_to = is_forward ? std::max(newest, from - 1) : 0;
  result.is_end = true;
  if (found.size() == 1) return;
  std::optional<std::uint64_t> next = take_page(found[1], result.events);
  // The end of what was looked at, if no match stands before it.
  if (!next && found.size() > 2 && !found[2].empty()) next = found[2].front().get<std::uint64_t>(0);
  if (!next) return;
  result.scanned_to = is_forward ? *next - 1 : *next + 1;
  result.is_end = false;
}

// ------------------------------------------------------------------------------------------------------------- of one

std::vector<statement> read_event_operation::statements() {
  std::vector<statement> one;
  one.emplace_back("select " + std::string(event_columns) +
                       ", s.name from cofferdam_events e join cofferdam_streams s on s.id = e.stream where e.id = $1",
                   id_.to_string());
  return one;
}

void read_event_operation::answered(std::vector<rows> found) {
  result.reset();
  if (!found.at(0).empty()) result = to_event(found[0].front());
}

std::vector<statement> read_heads_operation::statements() {
  std::vector<statement> all;
  all.emplace_back("select cofferdam_settled()");
  all.emplace_back("select coalesce(max(position), 0) from cofferdam_events");
  if (is_text(stream_)) {
    all.emplace_back("select id, version, first_version, is_deleted from cofferdam_stream($1)", stream_);
  }
  return all;
}

void read_heads_operation::answered(std::vector<rows> answers) {
  position = answers.at(0).front().get<std::uint64_t>(0);
  has_unsettled = answers.at(1).front().get<std::uint64_t>(0) > position;
  found = {};
  if (answers.size() < 3 || answers[2].empty()) return;
  const row r = answers[2].front();
  found.id = r.get<std::int64_t>(0);
  found.version = r.get<std::uint64_t>(1);
  found.first_version = r.get<std::uint64_t>(2);
  found.is_deleted = r.get<bool>(3);
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
