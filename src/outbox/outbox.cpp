#include <cofferdam/core/random.hpp>
#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/eventsourcing/event.hpp>
#include <cofferdam/outbox/outbox.hpp>
#include <cofferdam/outbox/publisher.hpp>

#include "message_rows.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <limits>

namespace cofferdam::inline COFFERDAM_ABI {
namespace detail {

std::vector<migration> outbox_schema(bool has_one_writer) {
  const std::string number = has_one_writer ? "nr integer primary key autoincrement" : "nr bigint primary key";
  const std::string columns =
      "id text not null unique, part bigint not null, topic text not null, key text not null, type text not null, "
      "payload text not null, headers text not null, at bigint not null";
  std::vector<std::string> statements{
      "create table cofferdam_outbox(" + number + ", " + columns + ")",
      "create index cofferdam_outbox_part on cofferdam_outbox(part, nr)",
      "create table cofferdam_outbox_delayed(due bigint not null, " + columns + ")",
      "create index cofferdam_outbox_due on cofferdam_outbox_delayed(due, id)",
      "create table cofferdam_relay_parts(relay text not null, part bigint not null, position bigint not null, owner "
      "text, epoch bigint not null, expires_at bigint not null, primary key(relay, part))",
      "create table cofferdam_relay_members(relay text not null, id text not null, beat_at bigint not null, primary "
      "key(relay, id))",
      "create table cofferdam_relay_parked(relay text not null, nr bigint not null, key text not null, reason text not "
      "null, at bigint not null, primary key(relay, nr))",
      "create index cofferdam_relay_parked_key on cofferdam_relay_parked(relay, key, nr)",
      "create table cofferdam_relay_requests(relay text not null, nr bigint not null, what text not null, key text not "
      "null, since bigint not null, till bigint not null, reached bigint not null, at bigint not null, primary "
      "key(relay, nr))",
  };
  if (!has_one_writer) statements.emplace_back("create sequence cofferdam_outbox_nr cache 1");
  return {{1, "outbox", std::move(statements)}};
}

namespace {

// Where many write at once, a number may become visible before a smaller one. Each writer therefore holds a lock, until
// its commit is visible, whose key says below which number it surely draws none. What a reader takes lies below the
// least of these keys. Nobody waits for such a lock: they are all shared.
//
// A key is 8 bits that say that it is ours, then 56 bits of the last number drawn when the lock was taken.
constexpr const char* announce_writer =
    "select pg_advisory_xact_lock_shared((cast(79 as bigint) << 56) | case when is_called then last_value else "
    "last_value - 1 end) from cofferdam_outbox_nr";
constexpr const char* least_announced =
    "select min(((cast(cast(classid as text) as bigint) & 16777215) << 32) | cast(cast(objid as text) as bigint)) from "
    "pg_locks where locktype = 'advisory' and objsubid = 1 and (cast(cast(classid as text) as bigint) >> 24) = 79 and "
    "database = (select oid from pg_database where datname = current_database())";

/// Parameters: id, part, topic, key, type, payload, headers, time.
statement append_message(batch& b, bool has_one_writer) {
  if (has_one_writer) {
    return statement(
        "insert into cofferdam_outbox(id, part, topic, key, type, payload, headers, at) values($1, $2, $3, $4, $5, $6, "
        "$7, $8)");
  }
  const bool is_announced = std::ranges::any_of(b.steps(), [](const batch::step& s) {
    const auto* earlier = std::get_if<statement>(&s);
    return earlier != nullptr && earlier->sql() == announce_writer;
  });
  if (!is_announced) b.execute(announce_writer);
  return statement(
      "insert into cofferdam_outbox(id, part, topic, key, type, payload, headers, at, nr) values($1, $2, $3, $4, $5, "
      "$6, $7, $8, nextval('cofferdam_outbox_nr'))");
}

}  // namespace

std::string headers_to_text(const message& m) {
  if (m.headers().empty()) return "{}";
  try {
    return nlohmann::json(m.headers()).dump();
  } catch (const nlohmann::json::exception&) {
    throw message_refused_error("a header of a message for '" + m.topic() + "' is no UTF-8 text");
  }
}

void headers_from_text(message& m, const std::string& text, const std::string& what) {
  if (text == "{}") return;
  const auto headers = nlohmann::json::parse(text, nullptr, false);
  if (!headers.is_object()) throw storage_error(errc::message_undecodable, what + ": its headers are no JSON object");
  for (const auto& [name, content] : headers.items()) {
    if (!content.is_string()) {
      throw storage_error(errc::message_undecodable, what + ": its header '" + name + "' is no text");
    }
    m.header(name, content.get<std::string>());
  }
}

message message_from(const row& r) {
  const auto number = r.get<std::uint64_t>(0);
  message m(r.get<std::string>(2), r.get<std::string>(4), r.get<std::string>(5));
  m.id(r.get<std::string>(1)).key(r.get<std::string>(3));
  headers_from_text(m, r.get<std::string>(6), "the message " + std::to_string(number) + " ('" + m.id() + "')");
  m.place(number, date_from(r.get<std::int64_t>(7)));
  return m;
}

}  // namespace detail

struct outbox::state {
  state(outbox_options o, const timer_service& t, std::uint64_t seed, bool one_writer) noexcept
      : options(o), timers(&t), random(seed), has_one_writer(one_writer) {}
  outbox_options options;
  const timer_service* timers;
  random_source random;
  bool has_one_writer;
};

awaitable<outbox> outbox::open(database& db, outbox_options options) {
  const auto executor = co_await net::this_coro::executor;
  auto schema = detail::outbox_schema(db.has_one_writer());
  co_await db.migrate("outbox", std::move(schema));
  co_return outbox(db,
                   std::make_shared<state>(options, timers_of(executor), random_of(executor)(), db.has_one_writer()));
}

std::string outbox::enqueue(batch& b, message m) {
  if (m.topic().empty()) throw message_refused_error("a message needs a topic");
  if (m.payload().size() > state_->options.max_payload) {
    throw message_refused_error("a message for '" + m.topic() + "' has " + std::to_string(m.payload().size()) +
                                " bytes; max_payload is " + std::to_string(state_->options.max_payload));
  }
  const auto now = state_->timers->date();
  // Sorted by time, so that the index of ids grows at its end.
  if (m.id().empty()) m.id(event_id::make(now, state_->random).to_string());
  std::string headers = detail::headers_to_text(m);
  const auto part = static_cast<std::uint64_t>(detail::hash_of(m.key().empty() ? m.id() : m.key())) % parts();
  const bool is_delayed = m.deliver_at() && *m.deliver_at() > now;
  statement insert =
      is_delayed ? statement(
                       "insert into cofferdam_outbox_delayed(id, part, topic, key, type, payload, headers, at, due) "
                       "values($1, $2, $3, $4, $5, $6, $7, $8, $9)")
                 : detail::append_message(b, state_->has_one_writer);
  insert.bind(m.id())
      .bind(part)
      .bind(m.topic())
      .bind(m.key())
      .bind(m.type())
      .bind(m.payload())
      .bind(std::move(headers));
  insert.bind(detail::to_microseconds(now));
  if (is_delayed) insert.bind(detail::to_microseconds(*m.deliver_at()));
  b.execute(std::move(insert));
  return m.id();
}

// ------------------------------------------------------------------------------------------------------------- reading

/// Three statements, each with a snapshot of its own: what is there, then who writes, then (by the caller) the rows. In
/// one, the rows would be of an older present than the locks.
awaitable<outbox::horizon> outbox::find_horizon(std::size_t part, std::uint64_t after) {
  const rows newest =
      co_await db_->query("select max(nr) from cofferdam_outbox where part = $1 and nr > $2", part, after);
  const auto last = newest.front().get<std::optional<std::uint64_t>>(0);
  horizon found;
  found.number = after;
  if (!last) co_return found;
  const rows writers = co_await db_->query(detail::least_announced);
  const auto least = writers.front().get<std::optional<std::uint64_t>>(0).value_or(*last);
  found.number = std::min(*last, least);
  found.hides_something = least < *last;
  co_return found;
}

awaitable<message_source::page> outbox::read(std::size_t part, std::uint64_t after, std::size_t limit) {
  page found;
  found.read_to = after;
  horizon up_to;
  up_to.number = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (!state_->has_one_writer) up_to = co_await find_horizon(part, after);
  constexpr duration soon = std::chrono::milliseconds(10);  // a writer that gives up is not heard of
  if (up_to.hides_something) found.look_again = soon;
  if (up_to.number <= after) co_return found;
  const rows read =
      co_await db_->query(std::string("select ") + detail::message_columns +
                              " from cofferdam_outbox o where o.part = $1 and o.nr > $2 and o.nr <= $4 order by o.nr "
                              "limit $3",
                          part, after, limit, up_to.number);
  found.messages.reserve(read.size());
  for (const row r : read) found.messages.push_back(detail::message_from(r));
  if (!found.messages.empty()) found.read_to = found.messages.back().number();
  found.is_end = read.size() < limit;
  co_return found;
}

awaitable<std::optional<message>> outbox::find(std::uint64_t number) {
  const rows found = co_await db_->query(
      std::string("select ") + detail::message_columns + " from cofferdam_outbox o where o.nr = $1", number);
  if (found.empty()) co_return std::nullopt;
  co_return std::optional<message>(detail::message_from(found.front()));
}

awaitable<std::vector<message>> outbox::added(std::uint64_t after, std::chrono::system_clock::time_point from,
                                              std::chrono::system_clock::time_point to, std::size_t limit) {
  const rows found = co_await db_->query(
      std::string("select ") + detail::message_columns +
          " from cofferdam_outbox o where o.nr > $1 and o.at >= $2 and o.at < $3 order by o.nr limit $4",
      after, detail::to_microseconds(from), detail::to_microseconds(to), limit);
  std::vector<message> all;
  for (const row r : found) all.push_back(detail::message_from(r));
  co_return all;
}

awaitable<message_source::backlog> outbox::waiting(std::string relay) {
  const rows found = co_await db_->query(
      "select count(*), min(o.at) from cofferdam_outbox o left join cofferdam_relay_parts p on p.relay = $1 and p.part "
      "= o.part where o.nr > coalesce(p.position, 0)",
      std::move(relay));
  backlog all;
  all.count = found.front().get<std::uint64_t>(0);
  const auto oldest = found.front().get<std::optional<std::int64_t>>(1);
  if (oldest) all.oldest = detail::date_from(*oldest);
  co_return all;
}

// ------------------------------------------------------------------------------------------------- delayed, forgotten

awaitable<bool> outbox::move_due(batch fence) {
  const std::int64_t now = detail::to_microseconds(state_->timers->date());
  const rows due = co_await db_->query(
      "select id, part, topic, key, type, payload, headers from cofferdam_outbox_delayed where due <= $1 order by due, "
      "id limit 100",
      now);
  if (due.empty()) co_return false;
  for (const row r : due) {
    fence.execute("delete from cofferdam_outbox_delayed where id = $1", r.get<std::string>(0));
    statement insert = detail::append_message(fence, state_->has_one_writer);
    for (std::size_t i = 0; i < 7; ++i) insert.bind(r[i]);
    insert.bind(now);
    fence.execute(std::move(insert));
  }
  co_await db_->commit(std::move(fence));
  co_return true;
}

awaitable<std::optional<std::chrono::system_clock::time_point>> outbox::next_due() {
  const rows next = co_await db_->query("select min(due) from cofferdam_outbox_delayed");
  const auto due = next.front().get<std::optional<std::int64_t>>(0);
  if (!due) co_return std::nullopt;
  co_return std::optional(detail::date_from(*due));
}

awaitable<std::uint64_t> outbox::delayed() {
  const rows found = co_await db_->query("select count(*) from cofferdam_outbox_delayed");
  co_return found.front().get<std::uint64_t>(0);
}

/// A thousand numbers at a time, so that nobody waits long for the writer. Rows are in the order of their numbers and,
/// but for clocks that differ, of their times: a thousand that are all too young are the end.
awaitable<std::size_t> outbox::forget_before(std::chrono::system_clock::time_point t) {
  std::size_t forgotten = 0;
  for (std::uint64_t after = 0;;) {
    const rows found = co_await db_->query(
        "select max(x.nr), min(x.at) from (select nr, at from cofferdam_outbox where nr > $1 order by nr limit 1000) x",
        after);
    const auto last = found.front().get<std::optional<std::uint64_t>>(0);
    if (!last || found.front().get<std::int64_t>(1) >= detail::to_microseconds(t)) co_return forgotten;
    batch b;
    b.execute(
        "delete from cofferdam_outbox where nr > $1 and nr <= $2 and at < $3 and nr <= coalesce((select "
        "min(p.position) from cofferdam_relay_parts p where p.part = cofferdam_outbox.part), 0) and not exists(select "
        "1 from cofferdam_relay_parked k where k.nr = cofferdam_outbox.nr)",
        after, *last, detail::to_microseconds(t));
    const receipt done = co_await db_->commit(std::move(b));
    forgotten += done[0].affected();
    after = *last;
  }
}

}  // namespace cofferdam::inline COFFERDAM_ABI
