#include "read_operation.hpp"

#include <algorithm>
#include <limits>

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
  static const std::string forward = select_events() + "e.stream = $2 and e.version >= $3 order by e.version";
  static const std::string backward =
      select_events() + "e.stream = $2 and e.version <= $3 and e.version >= $4 order by e.version desc";
  auto found = connection.prepare(is_forward ? forward : backward);
  event_page page(result.events, options_.limit, options_.max_bytes);
  found.bind_reader(1, page).bind(2, stream.id).bind(3, from);
  if (!is_forward) found.bind(4, stream.first_version);
  const std::uint64_t most = is_forward ? stream.version - std::min(from, stream.version + 1) + 1 : from;
  result.events.reserve(static_cast<std::size_t>(std::min<std::uint64_t>({most, options_.limit, 1'000})));
  while (!page.is_full() && found.step()) {
  }
  for (auto& e : result.events) e.stream = stream_;
  result.is_end = !page.is_full();
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

bool read_all_operation::take(sqlite::prepared& found, const event_page& page, stream_names& names) {
  const std::size_t before = result.events.size();
  if (!found.step()) return false;
  if (page.is_full()) {
    result.scanned_to = options_.order == direction::forward ? page.position() - 1 : page.position() + 1;
    result.is_end = false;
    return false;
  }
  if (result.events.size() > before) result.events.back().stream = names.of(page.stream());
  return true;
}

void read_all_operation::scan(sqlite::connection& connection, std::uint64_t from) {
  static const std::string forward = select_events() + "e.position >= $2 order by e.position";
  static const std::string backward = select_events() + "e.position <= $2 order by e.position desc";
  const bool is_filtered = !query_.items().empty();
  auto found = connection.prepare(options_.order == direction::forward ? forward : backward);
  event_page page(result.events, options_.limit, options_.max_bytes, is_filtered ? &query_ : nullptr);
  if (!is_filtered) result.events.reserve(std::min<std::size_t>(options_.limit, 1'000));
  found.bind_reader(1, page).bind(2, from);
  stream_names names(connection);
  for (std::size_t scanned = 1; take(found, page, names); ++scanned) {
    if (is_filtered && scanned >= window()) page.close();
  }
}

void read_all_operation::look_up(sqlite::connection& connection, std::uint64_t from) {
  static const std::string one = select_events() + "e.position = $2";
  auto found = connection.prepare(one);
  event_page page(result.events, options_.limit, options_.max_bytes, &query_);
  found.bind_reader(1, page);
  stream_names names(connection);
  matching_positions candidates(connection, query_, from, options_.order);
  while (const auto position = candidates.next()) {
    found.bind(2, *position);
    (void)take(found, page, names);
    found.reset();
    if (!result.is_end) return;
  }
}

void read_event_operation::read(sqlite::connection& connection) {
  static const std::string by_id = select_events() + "e.id = $2";
  auto found = connection.prepare(by_id);
  std::vector<recorded_event> one;
  event_page page(one, 1, 1);
  found.bind_reader(1, page).bind(2, std::as_bytes(std::span(id_.bytes())));
  result.reset();
  if (!found.step()) return;
  one.front().stream = stream_names(connection).of(page.stream());
  result = std::move(one.front());
}

void read_heads_operation::read(sqlite::connection& connection) {
  position = newest_position(connection);
  found = stream_.empty() ? stream_state() : find_stream(connection, stream_);
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
