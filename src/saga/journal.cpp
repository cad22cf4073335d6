#include "journal.hpp"

namespace cofferdam::inline COFFERDAM_ABI::saga {

std::string_view to_string(saga_state s) noexcept {
  switch (s) {
    case saga_state::running:
      return "running";
    case saga_state::waiting:
      return "waiting";
    case saga_state::compensating:
      return "compensating";
    case saga_state::completed:
      return "completed";
    case saga_state::compensated:
      return "compensated";
    case saga_state::stuck:
      return "stuck";
    case saga_state::paused:
      return "paused";
    case saga_state::abandoned:
      return "abandoned";
  }
  return "unknown";
}

namespace detail {

std::string_view to_string(entry_kind k) noexcept {
  constexpr std::array<std::string_view, 19> names{
      "?",       "intent",    "succeeded", "failed",         "waiting",       "signalled", "timed out",
      "aborted", "undone",    "progress",  "nested aborted", "nested failed", "operated",  "called",
      "won",     "race over", "attempted", "undo attempted", "branched"};
  const auto i = static_cast<std::size_t>(k);
  return i < names.size() ? names[i] : names[0];
}

std::string as_utf8(const std::string& text) {
  const auto quoted = nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return nlohmann::json::parse(quoted).get<std::string>();
}

std::vector<migration> saga_schema() {
  return {{1,
           "sagas",
           {
               "create table cofferdam_sagas(id text primary key, definition text not null, version bigint not null, "
               "state bigint not null, reason text, epoch bigint not null, owner text, seq bigint not null, wake_at "
               "bigint, signals bigint not null, claims bigint not null, pivoted bigint not null, cancel_reason text, "
               "input text not null, output text, created_at bigint not null, updated_at bigint not null)",
               "create index cofferdam_sagas_due on cofferdam_sagas(wake_at) where owner is null and wake_at is not "
               "null",
               "create index cofferdam_sagas_owned on cofferdam_sagas(owner) where owner is not null",
               "create index cofferdam_sagas_state on cofferdam_sagas(state, updated_at)",
               "create table cofferdam_saga_journal(saga text not null, seq bigint not null, kind bigint not null, key "
               "text not null, step text not null, payload text not null, epoch bigint not null, at bigint not null, "
               "primary key(saga, seq))",
               "create table cofferdam_saga_inbox(saga text not null, message_id text not null, name text not null, "
               "payload text not null, nr bigint not null, at bigint not null, primary key(saga, message_id))",
               "create table cofferdam_saga_workers(id text primary key, beat_at bigint not null)",
           }},
          {2,
           "deadlines, children, locks",
           {
               "alter table cofferdam_sagas add column deadline bigint",
               "alter table cofferdam_sagas add column parent text",
               "create index cofferdam_sagas_parent on cofferdam_sagas(parent) where parent is not null",
               // In the order of their numbers; the first one has it.
               "create table cofferdam_saga_locks(resource text not null, saga text not null, nr bigint not null, "
               "primary key(resource, saga))",
               "create unique index cofferdam_saga_locks_turn on cofferdam_saga_locks(resource, nr)",
               "create index cofferdam_saga_locks_saga on cofferdam_saga_locks(saga)",
           }},
          {3,
           "a step moves no index",  // a saga has an owner as long as it takes steps
           {
               "drop index cofferdam_sagas_state",
               "create index cofferdam_sagas_state on cofferdam_sagas(state, updated_at) where owner is null",
           }}};
}

void insert_saga(batch& b, const birth& made, const std::optional<std::string>& owner, std::int64_t at) {
  b.execute(
      "insert into cofferdam_sagas(id, definition, version, state, epoch, owner, seq, wake_at, signals, claims, "
      "pivoted, input, deadline, parent, created_at, updated_at) values($1, $2, $3, 0, 1, $4, 0, $5, 0, 0, 0, $6, $7, "
      "$8, $9, $9)",
      made.id, made.what.name, made.what.version, owner, owner ? std::optional<std::int64_t>() : 0, made.input,
      time_or_null(made.deadline), made.parent.empty() ? std::nullopt : std::optional(made.parent), at);
}

std::size_t wake_saga(batch& b, const std::string& id) {
  return b.execute(
      "update cofferdam_sagas set signals = signals + 1, wake_at = case when owner is null and state in (1, 2) then 0 "
      "else wake_at end where id = $1 and state in (0, 1, 2, 5, 6)",
      id);
}

bool is_lock(std::string_view key, std::string_view step) noexcept {
  const std::string_view name = key.substr(0, key.rfind('#'));
  if (!step.starts_with(lock_prefix) || !name.ends_with(step)) return false;
  const std::size_t at = name.size() - step.size();
  return at == 0 || name[at - 1] == '/';
}

void ask_for_lock(batch& b, const std::string& id, const std::string& resource) {
  b.execute(
      "insert into cofferdam_saga_locks(resource, saga, nr) select cast($1 as text), cast($2 as text), (select "
      "coalesce(max(nr), 0) + 1 from cofferdam_saga_locks where resource = cast($1 as text)) where not exists("
      "select 1 from cofferdam_saga_locks where resource = cast($1 as text) and saga = cast($2 as text))",
      resource, id);
}

std::size_t let_go_of_locks(batch& b, const std::string& id) {
  const std::size_t woken = b.execute(
      "update cofferdam_sagas set signals = signals + 1, wake_at = case when owner is null and state in (1, 2) then 0 "
      "else wake_at end where state in (0, 1, 2, 5, 6) and id in (select o.saga from cofferdam_saga_locks o join "
      "cofferdam_saga_locks m on m.resource = o.resource and m.saga = $1 where o.nr > m.nr and not exists(select 1 "
      "from "
      "cofferdam_saga_locks e where e.resource = o.resource and e.nr < o.nr and e.nr > m.nr)) returning id",
      id);
  b.execute("delete from cofferdam_saga_locks where saga = $1", id);
  return woken;
}

void insert_entry(batch& b, const std::string& saga, std::uint64_t seq, std::uint64_t epoch, std::int64_t at,
                  const entry& e) {
  b.execute(
      "insert into cofferdam_saga_journal(saga, seq, kind, key, step, payload, epoch, at) values($1, $2, $3, $4, $5, "
      "$6, $7, $8)",
      saga, seq, static_cast<std::int64_t>(e.kind), e.key, e.step, e.text, epoch, at);
}

nlohmann::json parse_stored(const std::string& saga, const std::string& what, const std::string& text) {
  auto parsed = nlohmann::json::parse(text, nullptr, false);
  if (parsed.is_discarded()) {
    throw saga_error(errc::saga_undecodable, "the saga '" + saga + "': " + what + " is no JSON");
  }
  return parsed;
}

entry parse_entry(const std::string& saga, std::uint64_t seq, std::int64_t kind, std::string key, std::string step,
                  const std::string& payload) {
  const std::string where = "entry " + std::to_string(seq);
  if (kind < static_cast<std::int64_t>(entry_kind::intent) || kind > static_cast<std::int64_t>(last_entry_kind)) {
    throw saga_error(errc::saga_undecodable, "the saga '" + saga + "': " + where + " is of kind " +
                                                 std::to_string(kind) + ", which is unknown");
  }
  entry e;
  e.kind = static_cast<entry_kind>(kind);
  e.key = std::move(key);
  e.step = std::move(step);
  e.payload = parse_stored(saga, where, payload);
  return e;
}

}  // namespace detail
}  // namespace cofferdam::inline COFFERDAM_ABI::saga
