#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/saga/admin.hpp>

#include "history.hpp"

#include <algorithm>
#include <map>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::saga {
namespace {

constexpr const char* info_columns =
    "id, definition, version, state, reason, epoch, owner, pivoted, wake_at, created_at, updated_at, deadline, parent";

saga_info info_from(const row& r) {
  saga_info info;
  info.id = r.get<std::string>("id");
  info.definition = r.get<std::string>("definition");
  info.version = r.get<std::uint32_t>("version");
  info.state = detail::state_from(info.id, r.get<std::int64_t>("state"));
  info.reason = r.get<std::optional<std::string>>("reason").value_or("");
  info.epoch = r.get<std::uint64_t>("epoch");
  info.is_owned = !r["owner"].is_null();
  info.has_pivoted = r.get<bool>("pivoted");
  constexpr std::int64_t for_ever = 9'000'000'000'000'000;  // the year 2255
  const auto wake_at = r.get<std::optional<std::int64_t>>("wake_at");
  if (wake_at && *wake_at < for_ever) info.wake_at = cofferdam::detail::date_from(*wake_at);
  if (const auto deadline = r.get<std::optional<std::int64_t>>("deadline")) {
    info.deadline = cofferdam::detail::date_from(*deadline);
  }
  info.parent = r.get<std::optional<std::string>>("parent").value_or("");
  info.created_at = cofferdam::detail::date_from(r.get<std::int64_t>("created_at"));
  info.updated_at = cofferdam::detail::date_from(r.get<std::int64_t>("updated_at"));
  return info;
}

[[noreturn]] void raise_not_found(const std::string& id) {
  throw saga_error(errc::saga_not_found, "there is no saga '" + id + "'");
}

awaitable<saga_info> info_of(database& db, std::string id) {
  const rows found =
      co_await db.query(std::string("select ") + info_columns + " from cofferdam_sagas where id = $1", id);
  if (found.empty()) raise_not_found(id);
  co_return info_from(found.front());
}

}  // namespace

/// What a verb does to a saga's row and journal.
struct admin::verb {
  const char* name;
  decision by;
  const char* allowed;  // states, in SQL
  const char* set;      // of the row
  bool needs_way_back = false;
  std::string key{};
  nlohmann::json result{};
  bool ends = false;
  bool passes_pivot = false;
};

awaitable<std::vector<saga_info>> admin::list(saga_filter filter) {
  const auto executor = co_await net::this_coro::executor;
  const auto before = timers_of(executor).date() - std::max(filter.unchanged_for, duration());
  std::vector<value> parameters{filter.limit, detail::to_microseconds(before)};
  std::string sql = std::string("select ") + info_columns + " from cofferdam_sagas where updated_at <= $2";
  const auto narrow = [&](const char* column, value wanted) {
    parameters.push_back(std::move(wanted));
    sql += std::string(" and ") + column + " = $" + std::to_string(parameters.size());
  };
  if (filter.state) narrow("state", static_cast<std::int64_t>(*filter.state));
  // Nobody owns what does not run: there is an index of those.
  const bool may_run = filter.state == saga_state::running || filter.state == saga_state::compensating;
  if (filter.state && !may_run) sql += " and owner is null";
  if (!filter.definition.empty()) narrow("definition", filter.definition);
  statement query(sql + " order by updated_at desc, id limit $1");
  for (value& each : parameters) query.bind(std::move(each));
  const rows found = co_await db_->query(std::move(query));
  std::vector<saga_info> all;
  for (const row r : found) all.push_back(info_from(r));
  co_return all;
}

awaitable<saga_history> admin::show(std::string id) {
  const rows found = co_await db_->query(
      std::string("select ") + info_columns + ", input, output from cofferdam_sagas where id = $1", id);
  if (found.empty()) raise_not_found(id);
  saga_history history;
  history.info = info_from(found.front());
  history.input = detail::parse_stored(id, "its input", found.front().get<std::string>("input"));
  const auto output = found.front().get<std::optional<std::string>>("output");
  if (output) history.output = detail::parse_stored(id, "its output", *output);
  const rows entries = co_await db_->query(
      "select seq, kind, key, step, payload, epoch, at from cofferdam_saga_journal where saga = $1 order by seq", id);
  for (const row r : entries) {
    const auto seq = r.get<std::uint64_t>(0);
    auto e = detail::parse_entry(id, seq, r.get<std::int64_t>(1), r.get<std::string>(2), r.get<std::string>(3),
                                 r.get<std::string>(4));
    saga_entry shown;
    shown.seq = seq;
    shown.epoch = r.get<std::uint64_t>(5);
    shown.kind = to_string(e.kind);
    shown.key = std::move(e.key);
    shown.step = std::move(e.step);
    shown.payload = std::move(e.payload);
    shown.at = cofferdam::detail::date_from(r.get<std::int64_t>(6));
    history.entries.push_back(std::move(shown));
  }
  co_return history;
}

// --------------------------------------------------------------------------------------------------------------- verbs

/// The verb, for a saga that is still of this epoch.
batch admin::batch_of(const std::string& id, const verb& what, std::uint64_t epoch, std::int64_t now) {
  nlohmann::json payload{{"verb", what.name}, {"who", what.by.who}, {"why", what.by.why}};
  if (std::string_view(what.name) == "skip") payload["result"] = what.result;
  batch b;
  b.execute(
      std::string("update cofferdam_sagas set epoch = epoch + 1, seq = seq + 1, owner = null, claims = 0, updated_at = "
                  "$2, ") +
          what.set + (what.passes_pivot ? ", pivoted = 1" : "") + " where id = $1 and epoch = $5 and state in (" +
          what.allowed + ")" + (what.needs_way_back ? " and pivoted = 0" : "") +
          (!what.key.empty() ? " and exists(select 1 from cofferdam_saga_journal j where j.saga = $1 and j.key = $3 "
                               "and j.kind in (1, 13))"
                             : " and cast($3 as text) is not null") +
          " and cast($4 as text) is not null",
      id, now, what.key, what.by.why.empty() ? std::string(what.name) + " by an operator" : what.by.why, epoch);
  // Only where the update has found it: nobody else makes this epoch and this date of it.
  b.execute(
      "insert into cofferdam_saga_journal(saga, seq, kind, key, step, payload, epoch, at) select id, seq, 12, $3, '', "
      "$4, epoch, cast($2 as bigint) from cofferdam_sagas where id = $1 and epoch = $5 and updated_at = cast($2 as "
      "bigint)",
      id, now, what.key, payload.dump(), epoch + 1);
  b.require(
      "the saga '" + id + "' can be changed",
      "select count(*) > 0 from cofferdam_saga_journal j join cofferdam_sagas s on s.id = j.saga and s.seq = j.seq "
      "where j.saga = $1 and j.kind = 12 and j.at = $2 and j.epoch = $3",
      id, now, epoch + 1);
  if (what.ends) {  // those that wait for it go on
    detail::let_go_of_locks(b, id);
    b.execute(
        "update cofferdam_sagas set signals = signals + 1, wake_at = case when owner is null and state in (1, 2) then "
        "0 "
        "else wake_at end where id = (select parent from cofferdam_sagas c where c.id = $1) and state in (0, 1, 2, 5, "
        "6)",
        id);
  }
  return b;
}

awaitable<void> admin::operate(std::string id, verb what) {
  const auto executor = co_await net::this_coro::executor;
  for (;;) {
    const rows before = co_await db_->query("select epoch from cofferdam_sagas where id = $1", id);
    if (before.empty()) raise_not_found(id);
    const auto epoch = before.front().get<std::uint64_t>(0);
    batch b = batch_of(id, what, epoch, detail::to_microseconds(timers_of(executor).date()));
    const auto done = co_await db_->try_commit(std::move(b));
    if (done) co_return;
    if (done.code() != errc::condition_failed && done.code() != errc::constraint_violated) done.why().raise();
    const saga_info info = co_await info_of(*db_, id);
    if (info.epoch == epoch) raise_refusal(info, what);  // else somebody was faster: once more
  }
}

void admin::raise_refusal(const saga_info& info, const verb& what) {
  const std::string prefix = std::string("cannot ") + what.name + " the saga '" + info.id + "': ";
  if (what.needs_way_back && info.has_pivoted && !is_final(info.state)) {
    throw saga_error(errc::saga_past_pivot, prefix + "it is past its pivot");
  }
  if (!what.key.empty() && !is_final(info.state)) {
    throw saga_error(errc::saga_wrong_state, prefix + "its journal has no step '" + what.key + "', or it is " +
                                                 std::string(to_string(info.state)));
  }
  throw saga_error(errc::saga_wrong_state, prefix + "it is " + std::string(to_string(info.state)));
}

namespace {
// Where a saga goes on: on its way back, once it has turned.
constexpr const char* go_on =
    "wake_at = 0, reason = null, state = case when exists(select 1 from cofferdam_saga_journal j where j.saga = "
    "cofferdam_sagas.id and j.kind = 7) then 2 else 0 end";
constexpr const char* go_back =
    "wake_at = 0, reason = null, state = case when state = 2 then 2 else 0 end, cancel_reason = "
    "coalesce(cancel_reason, $4)";
}  // namespace

awaitable<void> admin::retry_now(std::string id, decision d) {
  return operate(std::move(id), {"retry", std::move(d), "0, 1, 2, 5", go_on});
}
awaitable<void> admin::resume(std::string id, decision d) {
  return operate(std::move(id), {"resume", std::move(d), "6", go_on});
}
awaitable<void> admin::compensate(std::string id, decision d) {
  return operate(std::move(id), {"compensate", std::move(d), "0, 1, 2, 5, 6", go_back, true});
}
awaitable<void> admin::cancel(std::string id, decision d) {
  return operate(std::move(id), {"cancel", std::move(d), "0, 1", go_back, true});
}
awaitable<void> admin::skip(std::string id, std::string key, nlohmann::json result, decision d) {
  verb what{"skip", std::move(d), "0, 1, 2, 5", go_on, false, std::move(key), std::move(result)};
  // It is written once: what is read of it here still holds when the verb is carried out.
  const rows begun = co_await db_->query(
      "select payload from cofferdam_saga_journal where saga = $1 and key = $2 and kind in (1, 13)", id, what.key);
  if (begun.empty()) {
    const saga_info info = co_await info_of(*db_, id);
    raise_refusal(info, what);
  }
  const auto intent = nlohmann::json::parse(begun.front().get<std::string>(0), nullptr, false);
  what.passes_pivot = intent.is_object() && intent.value("pivot", nlohmann::json()) == true;
  co_await operate(std::move(id), std::move(what));
}
awaitable<void> admin::mark_undone(std::string id, std::string key, decision d) {
  verb what{"mark_undone", std::move(d), "2, 5", go_on, false, std::move(key)};
  return operate(std::move(id), std::move(what));
}
awaitable<void> admin::pause(std::string id, decision d) {
  return operate(std::move(id), {"pause", std::move(d), "0, 1, 2, 5", "wake_at = null, state = 6"});
}
awaitable<void> admin::abandon(std::string id, decision d) {
  verb what{"abandon", std::move(d), "0, 1, 2, 5, 6", "wake_at = null, state = 7, reason = 'abandoned by an operator'"};
  what.ends = true;
  return operate(std::move(id), std::move(what));
}

// ---------------------------------------------------------------------------------------------------------- forgetting

awaitable<std::size_t> admin::forget_before(std::chrono::system_clock::time_point then) {
  const auto executor = co_await net::this_coro::executor;
  const std::int64_t before = detail::to_microseconds(then);
  // A child stays as long as its parent: it may have to be undone.
  const std::string is_over =
      "s.owner is null and s.state in (3, 4, 7) and s.updated_at < $1 and (s.parent is null or not exists(select 1 "
      "from cofferdam_sagas p where p.id = s.parent))";
  constexpr std::size_t at_once = 200;
  std::size_t forgotten = 0;
  for (;;) {
    const rows over =
        co_await db_->query("select s.id from cofferdam_sagas s where " + is_over + " limit $2", before, at_once);
    if (over.empty()) break;
    batch b;
    std::vector<std::size_t> deleted;
    for (const row r : over) {
      const auto id = r.get<std::string>(0);
      const std::string it = "(select s.id from cofferdam_sagas s where s.id = $2 and " + is_over + ")";
      b.execute("delete from cofferdam_saga_journal where saga in " + it, before, id);
      b.execute("delete from cofferdam_saga_inbox where saga in " + it, before, id);
      deleted.push_back(b.execute("delete from cofferdam_sagas where id in " + it, before, id));
    }
    const receipt done = co_await db_->commit(std::move(b));
    for (const std::size_t each : deleted) forgotten += static_cast<std::size_t>(done[each].affected());
  }
  // Workers that are alive show it far more often than once an hour.
  const std::int64_t long_dead = detail::to_microseconds(timers_of(executor).date() - std::chrono::hours(1));
  batch b;
  b.execute(
      "delete from cofferdam_saga_workers where beat_at < $1 and not exists(select 1 from cofferdam_sagas s where "
      "s.owner = cofferdam_saga_workers.id)",
      std::min(before, long_dead));
  co_await db_->commit(std::move(b));
  co_return forgotten;
}

// -------------------------------------------------------------------------------------------------------------- files

namespace {

bool is_same(const rows& before, const rows& now) {
  if (before.size() != now.size()) return false;
  for (std::size_t i = 0; i < before.columns().size(); ++i) {
    if (before.front()[i] != now.front()[i]) return false;
  }
  return true;
}

}  // namespace

awaitable<nlohmann::json> admin::export_history(std::string id) {
  const std::string row_of_saga = std::string("select ") + detail::saga_columns + " from cofferdam_sagas where id = $1";
  detail::history h;
  h.id = id;
  h.saga = co_await db_->query(row_of_saga, id);
  for (bool has_moved = true; has_moved;) {
    if (h.saga.empty()) raise_not_found(id);
    h.journal = co_await db_->query(
        std::string("select ") + detail::journal_columns + " from cofferdam_saga_journal where saga = $1 order by seq",
        id);
    h.inbox = co_await db_->query(
        std::string("select ") + detail::inbox_columns + " from cofferdam_saga_inbox where saga = $1 order by nr", id);
    rows now = co_await db_->query(row_of_saga, id);
    has_moved = !is_same(h.saga, now);  // else what was read belongs together
    h.saga = std::move(now);
  }
  co_return detail::to_json(h);
}

namespace {

/// What a saga that has not ended has locked, or waits for.
std::vector<std::string> locks_of(const rows& journal) {
  std::map<std::string, std::string> by_key;
  for (const row r : journal) {
    const auto kind = static_cast<detail::entry_kind>(r.get<std::int64_t>("kind"));
    const auto key = r.get<std::string>("key"), step = r.get<std::string>("step");
    if (kind == detail::entry_kind::failed) by_key.erase(key);
    if (kind != detail::entry_kind::waiting || !detail::is_lock(key, step)) continue;
    by_key.emplace(key, step.substr(detail::lock_prefix.size()));
  }
  std::vector<std::string> resources;
  resources.reserve(by_key.size());
  for (auto& [key, resource] : by_key) resources.push_back(std::move(resource));
  return resources;
}

}  // namespace

awaitable<void> admin::import_history(nlohmann::json history) {
  const detail::history h = detail::history_from(history);
  const row saga = h.saga.front();
  // A saga that was in a worker's memory goes on as one whose worker died.
  const auto state = static_cast<saga_state>(saga.get<int>("state"));
  const bool goes_on = state == saga_state::running || state == saga_state::compensating;
  const auto locks = is_final(state) ? std::vector<std::string>() : locks_of(h.journal);
  value wake_at;
  if (goes_on || (state == saga_state::waiting && !locks.empty())) {  // what it waits for may be free here
    wake_at = 0;
  } else if (state == saga_state::waiting) {
    wake_at = saga["wake_at"].is_null() ? value(0) : saga["wake_at"];
  }
  batch b;
  b.execute(std::string("insert into cofferdam_sagas(") + detail::saga_columns +
                ") values($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, $10, $11, $12, $13, $14, $15, $16, $17)",
            h.id, saga["definition"], saga["version"], saga["state"], saga["reason"], saga["epoch"], saga["seq"],
            wake_at, saga["signals"], saga["pivoted"], saga["cancel_reason"], saga["input"], saga["output"],
            saga["created_at"], saga["updated_at"], saga["deadline"], saga["parent"]);
  for (const row r : h.journal) {
    b.execute(std::string("insert into cofferdam_saga_journal(saga, ") + detail::journal_columns +
                  ") values($1, $2, $3, $4, $5, $6, $7, $8)",
              h.id, r["seq"], r["kind"], r["key"], r["step"], r["payload"], r["epoch"], r["at"]);
  }
  for (const row r : h.inbox) {
    b.execute(std::string("insert into cofferdam_saga_inbox(saga, ") + detail::inbox_columns +
                  ") values($1, $2, $3, $4, $5, $6)",
              h.id, r["message_id"], r["name"], r["payload"], r["nr"], r["at"]);
  }
  for (const auto& resource : locks) detail::ask_for_lock(b, h.id, resource);
  const auto done = co_await db_->try_commit(std::move(b));
  if (!done && done.code() == errc::constraint_violated) {
    throw saga_error(errc::saga_conflict,
                     "the saga '" + h.id + "' is there already, or its history has a signal twice");
  }
  (void)done.value();
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
