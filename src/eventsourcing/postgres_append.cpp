// Appending on PostgreSQL: one call of one function; the locks are in the batch.
#include "append_operation.hpp"
#include "end_operation.hpp"
#include "postgres_rows.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdint>
#include <sstream>

namespace cofferdam::inline COFFERDAM_ABI::detail {
namespace {

const char* name_of(expected::kind kind) noexcept {
  switch (kind) {
    case expected::kind::none:
      return "none";
    case expected::kind::exists:
      return "exists";
    case expected::kind::exact:
      return "exact";
    case expected::kind::any:
      break;
  }
  return "any";
}

void append_quoted(std::string& array, std::string_view text) {
  array += array.size() > 1 ? ",\"" : "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') array += '\\';
    array += c;
  }
  array += '"';
}

value conditions_of(const std::vector<append_request::condition>& conditions) {
  if (conditions.empty()) return nullptr;
  auto all = nlohmann::json::array();
  for (const auto& condition : conditions) {
    const query_items known(condition.query);
    if (known.is_nothing) continue;
    auto items = nlohmann::json::array();
    for (const auto& item : known.items) {
      auto hashes = nlohmann::json::array();
      for (const auto& tag : item.tags()) hashes.push_back(hash_of(tag));
      items.push_back({{"tags", item.tags()}, {"types", item.types()}, {"hashes", std::move(hashes)}});
    }
    const auto after = std::min(condition.after, static_cast<std::uint64_t>(INT64_MAX));
    all.push_back({{"after", after}, {"items", std::move(items)}});
  }
  return all.dump();
}

/// As `cofferdam_require` says it.
stream_state state_of(const postgres::complaint& why) {
  stream_state found;
  bool has_events = false;
  std::istringstream(why.detail) >> found.version >> has_events;
  found.first_version = has_events ? 1 : found.version + 1;
  return found;
}

}  // namespace

std::string array_of(const std::vector<std::string>& texts) {
  std::string array = "{";
  for (const auto& text : texts) append_quoted(array, text);
  return array + "}";
}
std::string array_of(const std::vector<std::int64_t>& numbers) {
  std::string array = "{";
  for (const auto number : numbers) {
    if (array.size() > 1) array += ',';
    array += std::to_string(number);
  }
  return array + "}";
}

query_items::query_items(const event_query& query) {
  const auto is_storable = [](const std::string& text) { return is_text(text); };
  for (const auto& item : query.items()) {
    // One type of several that cannot be there does not matter.
    event_query::clause possible;
    for (const auto& tag : item.tags()) possible.tag(tag);
    for (const auto& type : item.types()) {
      if (is_text(type)) possible.type(type);
    }
    const bool can_match =
        std::ranges::all_of(item.tags(), is_storable) && (item.types().empty() || !possible.types().empty());
    if (can_match) items.push_back(std::move(possible));
  }
  is_nothing = items.empty() && !query.items().empty();
}

// ------------------------------------------------------------------------------------------------------------- append

std::vector<statement> append_operation::statements() {
  result_ = {};
  const auto& events = request_.events();
  std::string ids = "{", types = "{", tag_lines = "{", correlations = "{", causations = "{", metadatas = "{";
  std::vector<std::int64_t> schemas, dates, offsets, tag_events, tag_hashes;
  std::size_t bytes = 0;
  for (const auto& e : events) bytes += e.data().size();
  blob payloads;
  payloads.reserve(bytes);
  offsets.push_back(1);
  for (std::size_t i = 0; i < events.size(); ++i) {
    const event& e = events[i];
    if (i > 0) ids += ',';
    ids += ids_[i].to_string();
    append_quoted(types, e.type());
    append_quoted(tag_lines, join_tags(e.tags()));
    append_quoted(correlations, e.correlation());
    append_quoted(causations, e.causation());
    append_quoted(metadatas, e.metadata());
    schemas.push_back(e.schema());
    dates.push_back(e.at() ? to_microseconds(*e.at()) : now_);
    const auto data = std::as_bytes(std::span(e.data()));
    payloads.insert(payloads.end(), data.begin(), data.end());
    offsets.push_back(static_cast<std::int64_t>(payloads.size() + 1));
    for (const auto& tag : e.tags()) {
      tag_events.push_back(static_cast<std::int64_t>(i + 1));
      tag_hashes.push_back(hash_of(tag));
    }
  }
  const expected& wanted = request_.expects();
  const std::uint64_t version = std::min(wanted.version(), static_cast<std::uint64_t>(INT64_MAX - 1));
  std::vector<statement> one;
  one.emplace_back(
      "select * from cofferdam_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
      request_.stream(), name_of(wanted.what()), version, conditions_of(request_.conditions()),
      has_given_ids_ ? "t" : "f", ids + "}", array_of(digests_), types + "}", array_of(schemas), array_of(dates),
      array_of(offsets), std::move(payloads), tag_lines + "}", correlations + "}", causations + "}", metadatas + "}",
      array_of(tag_events), array_of(tag_hashes));
  return one;
}

void append_operation::answered(std::vector<rows> found) {
  const row r = found.at(0).front();
  result_.first_version = r.get<std::uint64_t>(0);
  result_.last_version = r.get<std::uint64_t>(1);
  result_.position = r.get<std::uint64_t>(2);
  result_.is_duplicate = r.get<bool>(3);
}

std::optional<statement> append_operation::question(const postgres::complaint& why) const {
  const expected& wanted = request_.expects();
  const bool has_tail = why.state == "CFD01" && request_.wants_tail() && wanted.what() == expected::kind::exact;
  if (!has_tail) return std::nullopt;
  return statement(
      "select " + std::string(event_columns) +
          ", s.name from cofferdam_events e join cofferdam_streams s on s.id = e.stream where s.name = $1 and "
          "e.version > $2 order by e.version limit " +
          std::to_string(max_tail),
      request_.stream(), wanted.version());
}

void append_operation::refused(const postgres::complaint& why, const rows& found) const {
  if (why.state == "CFD01") {
    std::vector<recorded_event> tail;
    for (const row r : found) tail.push_back(to_event(r));
    raise_conflict(state_of(why), std::move(tail));
  }
  if (why.state == "CFD02") {
    std::istringstream detail(why.detail);
    std::uint64_t position = 0, after = 0, version = 0;
    detail >> position >> after >> version;
    raise_match(position, after, version);
  }
  if (why.state == "CFD03") throw storage_error(errc::stream_deleted, "'" + request_.stream() + "'");
  if (why.state == "CFD04") throw storage_error(errc::event_id_reused, why.detail);
  if (why.constraint == "cofferdam_events_id") {  // at the same time, in another stream
    throw storage_error(errc::event_id_reused, "an event of '" + request_.stream() + "' was just appended elsewhere");
  }
}

// ---------------------------------------------------------------------------------------------------------------- end

std::vector<statement> end_operation::statements() {
  const auto first =
      kind_ == kind::remove ? INT64_MAX : static_cast<std::int64_t>(std::min<std::uint64_t>(version_, INT64_MAX));
  std::vector<statement> one;
  one.emplace_back("select cofferdam_end($1, $2, $3, $4, $5)", stream_, name_of(expected_.what()), expected_.version(),
                   kind_ == kind::remove_for_ever ? "t" : "f", first);
  return one;
}

void end_operation::refused(const postgres::complaint& why, const rows& /*found*/) const {
  if (why.state == "CFD01") raise_conflict(state_of(why).version);
  if (why.state == "CFD03") throw storage_error(errc::stream_deleted, "'" + stream_ + "'");
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
