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
  constexpr std::array<std::string_view, 13> names{
      "?",       "intent", "succeeded", "failed",         "waiting",       "signalled", "timed out",
      "aborted", "undone", "progress",  "nested aborted", "nested failed", "operated"};
  const auto i = static_cast<std::size_t>(k);
  return i < names.size() ? names[i] : names[0];
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
           }}};
}

void insert_entry(batch& b, const std::string& saga, std::uint64_t seq, std::uint64_t epoch, std::int64_t at,
                  const entry& e) {
  b.execute(
      "insert into cofferdam_saga_journal(saga, seq, kind, key, step, payload, epoch, at) values($1, $2, $3, $4, $5, "
      "$6, $7, $8)",
      saga, seq, static_cast<std::int64_t>(e.kind), e.key, e.step, e.payload.dump(), epoch, at);
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
  if (kind < static_cast<std::int64_t>(entry_kind::intent) || kind > static_cast<std::int64_t>(entry_kind::operated)) {
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
