#include <cofferdam/core/random.hpp>
#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/outbox/outbox.hpp>
#include <cofferdam/outbox/publisher.hpp>

#include "message_rows.hpp"

#include <nlohmann/json.hpp>

namespace cofferdam::inline COFFERDAM_ABI {
namespace detail {

std::vector<migration> outbox_schema(bool has_one_writer) {
  // Where many write at once, numbers are drawn from a row that stays locked until the commit: they are then seen in
  // their order, and a relay that has seen one has seen all before it.
  const std::string number = has_one_writer ? "nr integer primary key autoincrement" : "nr bigint primary key";
  const std::string columns =
      "id text not null unique, part bigint not null, topic text not null, key text not null, type text not null, "
      "payload text not null, headers text not null, at bigint not null";
  return {
      {1,
       "outbox",
       {
           "create table cofferdam_outbox(" + number + ", " + columns + ")",
           "create index cofferdam_outbox_part on cofferdam_outbox(part, nr)",
           "create table cofferdam_outbox_delayed(due bigint not null, " + columns + ")",
           "create index cofferdam_outbox_due on cofferdam_outbox_delayed(due, id)",
           "create table cofferdam_outbox_head(one bigint primary key, nr bigint not null)",
           "insert into cofferdam_outbox_head(one, nr) values(1, 0)",
           "create table cofferdam_relay_parts(relay text not null, part bigint not null, position bigint not null, "
           "owner text, epoch bigint not null, expires_at bigint not null, primary key(relay, part))",
           "create table cofferdam_relay_members(relay text not null, id text not null, beat_at bigint not null, "
           "primary key(relay, id))",
           "create table cofferdam_relay_parked(relay text not null, nr bigint not null, key text not null, reason "
           "text not null, at bigint not null, primary key(relay, nr))",
           "create index cofferdam_relay_parked_key on cofferdam_relay_parked(relay, key, nr)",
       }}};
}

const char* append_message_sql(bool has_one_writer) noexcept {
  return has_one_writer
             ? "insert into cofferdam_outbox(id, part, topic, key, type, payload, headers, at) values($1, $2, $3, $4, "
               "$5, $6, $7, $8)"
             : "with head as (update cofferdam_outbox_head set nr = nr + 1 returning nr) insert into "
               "cofferdam_outbox(id, part, topic, key, type, payload, headers, at, nr) select $1, cast($2 as bigint), "
               "$3, $4, $5, $6, $7, cast($8 as bigint), head.nr from head";
}

message message_from(const row& r) {
  const auto number = r.get<std::uint64_t>(0);
  message m(r.get<std::string>(2), r.get<std::string>(4), r.get<std::string>(5));
  m.id(r.get<std::string>(1)).key(r.get<std::string>(3));
  const auto headers = nlohmann::json::parse(r.get<std::string>(6), nullptr, false);
  if (!headers.is_object()) {
    throw storage_error(errc::message_undecodable, "the message " + std::to_string(number) + " ('" + m.id() +
                                                       "'): its headers are no JSON object");
  }
  for (const auto& [name, text] : headers.items()) {
    if (!text.is_string()) {
      throw storage_error(errc::message_undecodable, "the message " + std::to_string(number) + " ('" + m.id() +
                                                         "'): its header '" + name + "' is no text");
    }
    m.header(name, text.get<std::string>());
  }
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
  if (m.id().empty()) m.id(random_id(state_->random));
  std::string headers;
  try {
    headers = nlohmann::json(m.headers()).dump();
  } catch (const nlohmann::json::exception&) {
    throw message_refused_error("a header of a message for '" + m.topic() + "' is no UTF-8 text");
  }
  const auto now = state_->timers->date();
  const auto part = static_cast<std::uint64_t>(detail::hash_of(m.key().empty() ? m.id() : m.key())) % parts;
  const bool is_delayed = m.deliver_at() && *m.deliver_at() > now;
  statement insert(is_delayed
                       ? "insert into cofferdam_outbox_delayed(id, part, topic, key, type, payload, headers, at, "
                         "due) values($1, $2, $3, $4, $5, $6, $7, $8, $9)"
                       : detail::append_message_sql(state_->has_one_writer));
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

}  // namespace cofferdam::inline COFFERDAM_ABI
