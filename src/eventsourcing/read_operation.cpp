#include "read_operation.hpp"

#include <algorithm>

namespace cofferdam::inline COFFERDAM_ABI::detail {
namespace {

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
  result.first_version = stream.first_version;
  if (!stream.is_live()) return;

  const bool is_forward = options_.order == direction::forward;
  const std::uint64_t from =
      is_forward ? std::max(options_.from, stream.first_version) : first_of(options_, stream.version);
  static const std::string forward = select_stream("i.version >= $3", "i.version");
  static const std::string backward = select_stream("i.version <= $3 and i.version >= $4", "i.version desc");
  auto found = connection.prepare(is_forward ? forward : backward);
  event_page page(result.events, options_.limit, options_.max_bytes);
  found.bind_reader(1, page).bind(2, stream.id).bind(3, from);
  if (!is_forward) found.bind(4, stream.first_version);
  const std::uint64_t most = is_forward ? stream.version - std::min(from, stream.version + 1) + 1 : from;
  result.events.reserve(static_cast<std::size_t>(std::min<std::uint64_t>({most, options_.limit, 1'000})));
  result.is_end = !found.step();
  for (auto& e : result.events) e.stream = stream_;
}

void read_all_operation::read(sqlite::connection& connection) {
  result = {};
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

void read_all_operation::end_before(std::uint64_t position) noexcept {
  result.scanned_to = options_.order == direction::forward ? position - 1 : position + 1;
  result.is_end = false;
}

void read_all_operation::scan(sqlite::connection& connection, std::uint64_t from) {
  static const std::string forward = select_events("e.position >= $2", "e.position");
  static const std::string backward = select_events("e.position <= $2", "e.position desc");
  const bool is_filtered = !query_.items().empty();
  auto found = connection.prepare(options_.order == direction::forward ? forward : backward);
  event_page page(result.events, options_.limit, options_.max_bytes, is_filtered ? &query_ : nullptr,
                  is_filtered ? window() : event_page::unlimited);
  if (!is_filtered) result.events.reserve(std::min<std::size_t>(options_.limit, 1'000));
  found.bind_reader(1, page).bind(2, from);
  if (found.step()) end_before(page.position());
  page.name_streams(connection);
}

void read_all_operation::look_up(sqlite::connection& connection, std::uint64_t from) {
  static const std::string one = select_events("e.position = $2", "e.position");
  auto found = connection.prepare(one);
  event_page page(result.events, options_.limit, options_.max_bytes, &query_);
  found.bind_reader(1, page);
  matching_positions candidates(connection, query_, from, options_.order);
  while (result.is_end) {
    const auto position = candidates.next();
    if (!position) break;
    found.bind(2, *position);
    if (found.step()) end_before(*position);
    found.reset();
  }
  page.name_streams(connection);
}

void read_event_operation::read(sqlite::connection& connection) {
  static const std::string by_id = select_events("e.id = $2", "e.position");
  auto found = connection.prepare(by_id);
  std::vector<recorded_event> one;
  event_page page(one, 1, 1);
  found.bind_reader(1, page).bind(2, std::as_bytes(std::span(id_.bytes())));
  (void)found.step();
  page.name_streams(connection);
  result.reset();
  if (!one.empty()) result = std::move(one.front());
}

void read_heads_operation::read(sqlite::connection& connection) {
  position = newest_position(connection);
  found = stream_.empty() ? stream_state() : find_stream(connection, stream_);
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
