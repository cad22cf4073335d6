#include "append_operation.hpp"

#include <algorithm>

namespace cofferdam::inline COFFERDAM_ABI::detail {
namespace {

constexpr std::size_t max_name_bytes = 255;

[[noreturn]] void reject(const std::string& what) { throw storage_error(errc::event_rejected, what); }

void require_name(const std::string& name, const char* what) {
  if (name.empty()) reject(std::string("the ") + what + " is empty");
  if (name.size() > max_name_bytes) {
    reject(std::string("the ") + what + " '" + name.substr(0, 40) + "...' has " + std::to_string(name.size()) +
           " bytes; at most " + std::to_string(max_name_bytes) + " are possible");
  }
  if (!is_text(name)) reject(std::string("the ") + what + " is no UTF-8 text without NUL");
}

void require_event(const event& e, const event_store_options& options) {
  require_name(e.type(), "type of an event");
  const std::size_t bytes = e.data().size() + e.metadata().size();
  if (bytes > options.max_event_bytes) {
    reject("an event '" + e.type() + "' has " + std::to_string(bytes) + " bytes; max_event_bytes is " +
           std::to_string(options.max_event_bytes));
  }
  if (e.tags().size() > options.max_tags) {
    reject("an event '" + e.type() + "' has " + std::to_string(e.tags().size()) + " tags; max_tags is " +
           std::to_string(options.max_tags));
  }
  for (const auto& tag : e.tags()) {
    require_name(tag, "tag of an event");
    if (tag.find('\n') != std::string::npos) reject("the tag '" + tag + "' has more than one line");
  }
  if (!is_text(e.correlation()) || !is_text(e.causation()) || !is_text(e.metadata())) {
    reject("correlation, causation or metadata of an event '" + e.type() + "' is no UTF-8 text without NUL");
  }
}

void bind_text_or_null(sqlite::prepared& statement, int parameter, const std::string& text) {
  if (text.empty()) {
    statement.bind(parameter, nullptr);
  } else {
    statement.bind(parameter, text);
  }
}

}  // namespace

append_operation::append_operation(append_request request, const event_store_options& options, random_source& random,
                                   std::chrono::system_clock::time_point now)
    : request_(std::move(request)), now_(to_microseconds(now)) {
  require_name(request_.stream(), "name of the stream");
  if (request_.events().size() > options.max_events) {
    reject(std::to_string(request_.events().size()) + " events for '" + request_.stream() + "'; max_events is " +
           std::to_string(options.max_events));
  }
  for (const auto& e : request_.events()) {
    require_event(e, options);
    has_given_ids_ = has_given_ids_ || e.id().has_value();
    ids_.push_back(e.id() ? *e.id() : event_id::make(now, random));
    digests_.push_back(digest_of(e));
  }
  if (!has_given_ids_) return;
  auto sorted = ids_;
  std::ranges::sort(sorted);
  if (const auto twice = std::ranges::adjacent_find(sorted); twice != sorted.end()) {
    reject("the id " + twice->to_string() + " is given to two events of '" + request_.stream() + "'");
  }
}

void append_operation::run(sqlite::connection& connection) {
  result_ = {};
  stream_state stream = find_stream(connection, request_.stream());
  if (has_given_ids_ && find_duplicates(connection, stream)) return;  // also where the stream was removed since
  if (stream.is_deleted) throw storage_error(errc::stream_deleted, "'" + request_.stream() + "'");
  require_expected(connection, stream);
  require_conditions(connection, stream);
  insert(connection, stream);
}

bool append_operation::find_duplicates(sqlite::connection& connection, const stream_state& stream) {
  auto look = connection.prepare("select stream, version, digest, position from cofferdam_events where id = $1");
  std::size_t known = 0;
  appended found;
  for (std::size_t i = 0; i < ids_.size(); ++i) {
    if (!request_.events()[i].id()) continue;
    look.bind(1, std::as_bytes(std::span(ids_[i].bytes())));
    const bool is_known = look.step();
    if (is_known) {
      const auto version = static_cast<std::uint64_t>(look.integer(1));
      if (look.integer(0) != stream.id || look.integer(2) != digests_[i]) {
        throw storage_error(errc::event_id_reused, "an event " + ids_[i].to_string() + " is there already, in " +
                                                       (look.integer(0) == stream.id ? "this" : "another") +
                                                       " stream, with other content or another place");
      }
      if (known == 0) found.first_version = version;
      if (known != i || version != found.first_version + known) break;
      found.last_version = version;
      found.position = static_cast<std::uint64_t>(look.integer(3));
      ++known;
    }
    look.reset();
  }
  look.reset();
  if (known == 0) return false;
  if (known != ids_.size()) {
    throw storage_error(errc::event_id_reused, "some of the events for '" + request_.stream() +
                                                   "' are there already, others are not: the batch was put together "
                                                   "otherwise the first time");
  }
  const auto& wanted = request_.expects();
  if (wanted.what() == expected::kind::exact && wanted.version() + 1 != found.first_version) {
    raise_conflict(stream, read_tail(connection, stream));
  }
  found.is_duplicate = true;
  result_ = found;
  return true;
}

void append_operation::require_expected(sqlite::connection& connection, const stream_state& stream) const {
  const expected& wanted = request_.expects();
  bool is_met = true;
  switch (wanted.what()) {
    case expected::kind::any:
      break;
    case expected::kind::none:
      is_met = !stream.is_live();
      break;
    case expected::kind::exists:
      is_met = stream.is_live();
      break;
    case expected::kind::exact:
      is_met = wanted.version() == stream.version;
      break;
  }
  if (!is_met) raise_conflict(stream, read_tail(connection, stream));
}

void append_operation::raise_conflict(const stream_state& stream, std::vector<recorded_event> tail) const {
  const expected& wanted = request_.expects();
  std::string message = "'" + request_.stream() + "' should " + wanted.describe() + ", but ";
  message += stream.is_live()     ? "has version " + std::to_string(stream.version)
             : stream.version > 0 ? "was removed at version " + std::to_string(stream.version)
                                  : "there is no such stream";
  throw append_conflict(errc::version_conflict, std::move(message), request_.stream(), wanted, stream.version,
                        std::move(tail));
}

void append_operation::raise_match(std::uint64_t position, std::uint64_t after, std::uint64_t actual) const {
  throw append_conflict(
      errc::append_condition_failed,
      "the event at position " + std::to_string(position) + " matches, after position " + std::to_string(after),
      request_.stream(), request_.expects(), actual, {});
}

void append_operation::require_conditions(sqlite::connection& connection, const stream_state& stream) const {
  for (const auto& condition : request_.conditions()) {
    const auto match = find_match(connection, condition.query, condition.after);
    if (match) raise_match(*match, condition.after, stream.version);
  }
}

void append_operation::insert(sqlite::connection& connection, stream_state& stream) {
  result_.first_version = result_.last_version = stream.version;
  if (request_.events().empty()) {
    result_.position = newest_position(connection);
    return;
  }
  if (stream.id == 0) {
    connection.prepare("insert into cofferdam_streams(name) values($1)").bind(1, request_.stream()).execute();
    stream.id = connection.last_insert_id();
  }
  auto row = connection.prepare(
      "insert into cofferdam_events(stream, version, id, type, schema_version, recorded_at, digest, data, tags, "
      "correlation, causation, metadata) values($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)");
  auto tag_row = connection.prepare("insert or ignore into cofferdam_tags(tag, position) values($1, $2)");
  for (std::size_t i = 0; i < request_.events().size(); ++i) {
    const event& e = request_.events()[i];
    const std::string tags = join_tags(e.tags());
    row.bind(1, stream.id).bind(2, stream.version + 1 + i).bind(3, std::as_bytes(std::span(ids_[i].bytes())));
    row.bind(4, e.type()).bind(5, e.schema()).bind(6, e.at() ? to_microseconds(*e.at()) : now_);
    row.bind(7, digests_[i]).bind(8, std::as_bytes(std::span(e.data())));
    bind_text_or_null(row, 9, tags);
    bind_text_or_null(row, 10, e.correlation());
    bind_text_or_null(row, 11, e.causation());
    bind_text_or_null(row, 12, e.metadata());
    row.execute();
    const std::int64_t position = connection.last_insert_id();
    for (const auto& tag : e.tags()) tag_row.bind(1, hash_of(tag)).bind(2, position).execute();
    result_.position = static_cast<std::uint64_t>(position);
  }
  result_.first_version = stream.version + 1;
  result_.last_version = stream.version + request_.events().size();
}

std::vector<recorded_event> append_operation::read_tail(sqlite::connection& connection,
                                                        const stream_state& stream) const {
  std::vector<recorded_event> tail;
  if (!request_.wants_tail()) return tail;
  const expected& wanted = request_.expects();
  if (stream.id == 0 || wanted.what() != expected::kind::exact || wanted.version() > stream.version) return tail;
  auto found = connection.prepare(select_stream("i.version > $3", "i.version"));
  event_page page(tail, max_tail, event_page::unlimited);
  found.bind_reader(1, page).bind(2, stream.id).bind(3, wanted.version());
  (void)found.step();
  for (auto& e : tail) e.stream = request_.stream();
  return tail;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
