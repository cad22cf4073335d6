// Semantic locks: marks in the database that other sagas wait for.
#include <cofferdam/saga/lock.hpp>

#include "engine_state.hpp"

#include <algorithm>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga {
namespace detail {

bool instance::replay(lock_operation& lock) {
  if (!has_journal() || leaving_ != leave_reason::none) return false;
  record* r = find(lock.key());
  if (r == nullptr) return false;
  if (!r->is_wait() || !is_lock(r->key, r->step)) {
    leave_changed(lock.key(), r->shown(), "a lock");
    return false;
  }
  visit(*r);
  if (r->ended == record::outcome::open) return false;
  if (r->ended == record::outcome::failed) lock.fail(*r->why);
  return true;
}

awaitable<bool> instance::run_lock(lock_operation& lock) {
  if (leaving_ != leave_reason::none || must_go_back()) co_return false;
  if (lock.by().is_stopped()) {
    lock.stop();
    co_return true;
  }
  if (!has_journal()) {
    leave(leave_reason::stuck, "'" + lock.key() + "': nobody sees the lock of a saga without a journal");
    co_return false;
  }
  if (is_rehearsal_) {
    (void)diverges(lock.key());
    co_return false;
  }
  if (find(lock.key()) == nullptr) {
    if (diverges(lock.key())) co_return false;
    const std::int64_t until = lock.limit() < duration::max() ? time_after(now(), lock.limit()) : for_ever;
    for (written how = written::refused; how != written::yes;) {
      batch own;
      ask_for_lock(own, id_, lock.resource());
      entry waiting(entry_kind::waiting, lock.key(), std::string(lock_prefix) + lock.resource(), {{"wake_at", until}});
      how = co_await flush_with(waiting, std::move(own));
      if (how == written::lost || leaving_ != leave_reason::none) co_return false;
      // On PostgreSQL another saga may have got the same place at the same moment.
      if (how == written::refused) co_await rest(std::chrono::milliseconds(5));
    }
    find(lock.key())->is_visited = true;
  }
  const std::int64_t until = find(lock.key())->wake_at;
  for (;;) {
    if (leaving_ != leave_reason::none) co_return false;
    if (lock.by().is_stopped()) {
      lock.stop();
      co_return true;
    }
    const statement question(
        "select l.saga, s.signals from cofferdam_sagas s left join cofferdam_saga_locks l on l.resource = $2 where "
        "s.id = $1 order by l.nr limit 1",
        id_, lock.resource());
    const rows found = co_await look_up(question);
    if (leaving_ != leave_reason::none || found.empty()) co_return false;
    const auto holder = found.front().get<std::optional<std::string>>(0).value_or("");
    if (holder == id_) {
      settle({entry_kind::succeeded, lock.key(), {}, nullptr});
      co_return true;
    }
    if (now() >= until) {
      attempt_end end{attempt_end::kind::refused, "the saga '" + holder + "' has it", "locked", {}};
      entry failed = failed_entry(lock.key(), step_failed::reason::refused, end);
      const auto also_waits = [&lock, step = std::string(lock_prefix) + lock.resource()](const record& r) {
        return r.ended == record::outcome::open && r.step == step && r.key != lock.key();
      };
      batch own;
      if (std::ranges::none_of(records_, also_waits)) {  // a saga has one place among those who wait
        own.execute("delete from cofferdam_saga_locks where resource = $1 and saga = $2", lock.resource(), id_);
      }
      const written how = co_await flush_with(failed, std::move(own));
      if (how != written::yes) co_return false;
      lock.fail(*find(lock.key())->why);
      co_return true;
    }
    const bool goes_on = co_await wait_until(until, found.front().get<std::int64_t>(1));
    if (!goes_on) co_return false;
  }
}

}  // namespace detail

awaitable<std::optional<std::string>> locked_by(database& db, std::string resource) {
  const rows found = co_await db.query("select saga from cofferdam_saga_locks where resource = $1 order by nr limit 1",
                                       std::move(resource));
  if (found.empty()) co_return std::nullopt;
  co_return found.front().get<std::string>(0);
}

void require_unlocked(batch& b, const std::string& resource) {
  b.require("no saga has locked '" + resource + "'",
            "select count(*) = 0 from cofferdam_saga_locks where resource = $1", resource);
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
