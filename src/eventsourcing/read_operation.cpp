#include "read_operation.hpp"

#include <algorithm>
#include <limits>

namespace cofferdam::inline COFFERDAM_ABI::detail {
namespace {

const std::string& select_events() {
  static const std::string text = "select " + std::string(event_columns) +
                                  " from cofferdam_events e join cofferdam_streams s on s.id = e.stream where ";
  return text;
}

std::string replaced_name() {
  std::string columns(event_columns);
  return columns.replace(columns.find("s.name"), 6, "''");
}

std::uint64_t first_of(const read_options& options, std::uint64_t newest) noexcept {
  if (options.order == direction::forward) return std::max<std::uint64_t>(1, options.from);
  return options.from == 0 ? newest : std::min(options.from, newest);
}

}  // namespace

void snapshot_operation::run(sqlite::connection& connection) {
  connection.prepare("begin").execute();
  try {
    read(connection);
  } catch (...) {
    connection.prepare("rollback").execute();
    throw;
  }
  connection.prepare("commit").execute();
}

void read_stream_operation::read(sqlite::connection& connection) {
  result = {};
  result.is_end = true;
  const stream_state stream = find_stream(connection, stream_);
  if (stream.is_deleted || stream.id == 0) return;
  result.version = stream.version;
  if (!stream.is_live()) return;

  const bool is_forward = options_.order == direction::forward;
  const std::uint64_t from =
      is_forward ? std::max(options_.from, stream.first_version) : first_of(options_, stream.version);
  // The name is known, so it is not joined: it stands for itself.
  static const std::string select = "select " + replaced_name() + " from cofferdam_events e where ";
  static const std::string forward = select + "e.stream = $1 and e.version >= $2 order by e.version";
  static const std::string backward =
      select + "e.stream = $1 and e.version <= $2 and e.version >= $3 order by e.version desc";
  auto found = connection.prepare(is_forward ? forward : backward);
  found.bind(1, stream.id).bind(2, from);
  if (!is_forward) found.bind(3, stream.first_version);
  std::size_t bytes = 0;
  while (found.step()) {
    if (result.events.size() >= options_.limit || bytes >= options_.max_bytes) {
      result.is_end = false;
      return;
    }
    result.events.push_back(to_event(found));
    result.events.back().stream = stream_;
    bytes += result.events.back().data.size();
  }
}

void read_all_operation::read(sqlite::connection& connection) {
  result = {};
  bytes_ = 0;
  const std::uint64_t newest = newest_position(connection);
  const std::uint64_t from = first_of(options_, newest);
  // Until something says otherwise: looked at everything there is.
  result.scanned_to = options_.order == direction::forward ? std::max(newest, from - 1) : 0;
  result.is_end = true;
  if (newest == 0) return;
  if (matching_positions::can_find(query_)) {
    look_up(connection, from);
  } else {
    scan(connection, from);
  }
}

bool read_all_operation::add(recorded_event e) {
  if (result.events.size() >= options_.limit || bytes_ >= options_.max_bytes) {
    const bool is_forward = options_.order == direction::forward;
    result.scanned_to = is_forward ? e.position - 1 : e.position + 1;
    result.is_end = false;
    return false;
  }
  bytes_ += e.data.size();
  result.events.push_back(std::move(e));
  return true;
}

void read_all_operation::scan(sqlite::connection& connection, std::uint64_t from) {
  static const std::string forward = select_events() + "e.position >= $1 order by e.position";
  static const std::string backward = select_events() + "e.position <= $1 order by e.position desc";
  const bool is_forward = options_.order == direction::forward;
  auto found = connection.prepare(is_forward ? forward : backward);
  found.bind(1, from);
  for (std::size_t scanned = 0; found.step(); ++scanned) {
    const auto position = static_cast<std::uint64_t>(found.integer(0));
    if (scanned >= window() && !query_.items().empty()) {
      result.scanned_to = is_forward ? position - 1 : position + 1;
      result.is_end = false;
      return;
    }
    if (!query_.items().empty() && !query_.matches(found.text(4), split_tags(found.text(8)))) continue;
    if (!add(to_event(found))) return;
  }
}

void read_all_operation::look_up(sqlite::connection& connection, std::uint64_t from) {
  static const std::string one = select_events() + "e.position = $1";
  auto found = connection.prepare(one);
  matching_positions candidates(connection, query_, from, options_.order);
  while (const auto position = candidates.next()) {
    found.bind(1, *position);
    if (found.step() && query_.matches(found.text(4), split_tags(found.text(8)))) {
      if (!add(to_event(found))) return;
    }
    found.reset();
  }
}

void read_event_operation::read(sqlite::connection& connection) {
  static const std::string by_id = select_events() + "e.id = $1";
  auto found = connection.prepare(by_id);
  found.bind(1, std::as_bytes(std::span(id_.bytes())));
  result.reset();
  if (found.step()) result = to_event(found);
}

void read_heads_operation::read(sqlite::connection& connection) {
  position = newest_position(connection);
  found = stream_.empty() ? stream_state() : find_stream(connection, stream_);
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
