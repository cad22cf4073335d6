#include <cofferdam/core/random.hpp>
#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/saga/barrier.hpp>

#include "journal.hpp"

#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::saga {
namespace {

/// Stored: never change a number.
enum class row_state : std::int64_t { done = 0, undone = 1, barred = 2 };

std::int64_t number(row_state s) { return static_cast<std::int64_t>(s); }

/// What is known of a call; none: nothing.
struct known {
  row_state state = row_state::done;
  std::string result;
};
awaitable<std::optional<known>> find(database& db, const participant_call& call) {
  const rows found = co_await db.query("select state, result from cofferdam_saga_barrier where saga = $1 and key = $2",
                                       call.saga, call.key);
  if (found.empty()) co_return std::nullopt;
  known made;
  made.state = static_cast<row_state>(found.front().get<std::int64_t>(0));
  made.result = found.front().get<std::string>(1);
  co_return made;
}

/// Whether a later owner of the saga has called.
awaitable<bool> is_outdated(database& db, const participant_call& call) {
  const rows found = co_await db.query("select count(*) from cofferdam_saga_barrier where saga = $1 and epoch > $2",
                                       call.saga, call.epoch);
  co_return found.front().get<std::int64_t>(0) > 0;
}

struct moment {
  std::string token;  // says whose row it is
  std::int64_t at = 0;
};
awaitable<moment> now() {
  const auto executor = co_await net::this_coro::executor;
  moment made;
  made.token = random_id(random_of(executor));
  made.at = detail::to_microseconds(timers_of(executor).date());
  co_return made;
}

}  // namespace

awaitable<barrier> barrier::open(database& db) {
  std::vector<migration> history{
      {1,
       "barrier",
       {"create table cofferdam_saga_barrier(saga text not null, key text not null, state bigint not null, epoch "
        "bigint "
        "not null, result text not null, token text not null, at bigint not null, primary key(saga, key))",
        "create index cofferdam_saga_barrier_at on cofferdam_saga_barrier(at)"}}};
  co_await db.migrate("saga barrier", std::move(history));
  co_return barrier(db);
}

awaitable<barrier::answer> barrier::perform(participant_call call, batch work, nlohmann::json result) {
  const moment here = co_await now();
  batch b;
  // Whoever inserts the row is the first; on PostgreSQL a second one waits here for the first one's commit.
  b.execute(
      "insert into cofferdam_saga_barrier(saga, key, state, epoch, result, token, at) values($1, $2, $3, $4, $5, $6, "
      "$7) "
      "on conflict(saga, key) do nothing",
      call.saga, call.key, number(row_state::done), call.epoch, result.dump(), here.token, here.at);
  b.require("'" + call.key + "' of the saga '" + call.saga + "' is new, and of its present owner",
            "select count(*) > 0 from cofferdam_saga_barrier where saga = $1 and key = $2 and token = $3 and not "
            "exists(select 1 from cofferdam_saga_barrier where saga = $1 and epoch > $4)",
            call.saga, call.key, here.token, call.epoch);
  b.add(std::move(work));
  const auto done = co_await db_->try_commit(std::move(b));
  answer made;
  if (done) {
    made.result = std::move(result);
    co_return made;
  }
  // Another error than ours is the caller's, but for one: a commit that is in doubt may have happened, and is asked.
  if (done.code() != errc::condition_failed && done.code() != errc::outcome_unknown) done.why().raise();
  const auto present = co_await find(*db_, call);
  if (present && present->state == row_state::done) {
    made.how = barrier_verdict::repeated;
    made.result = detail::parse_stored(call.saga, "the answer to '" + call.key + "'", present->result);
    co_return made;
  }
  if (present) {
    made.how = barrier_verdict::barred;
    co_return made;
  }
  const bool is_old = co_await is_outdated(*db_, call);
  if (!is_old) done.why().raise();  // a condition of the caller's own, or not committed after all
  made.how = barrier_verdict::outdated;
  co_return made;
}

awaitable<barrier_verdict> barrier::undo(participant_call call, batch work) {
  const moment here = co_await now();
  for (;;) {
    batch b;
    b.require_change(
        "'" + call.key + "' of the saga '" + call.saga + "' is to be undone",
        "update cofferdam_saga_barrier set state = $3, token = $4, at = $5, epoch = case when epoch > $6 then epoch "
        "else cast($6 as bigint) end where saga = $1 and key = $2 and state = $7",
        call.saga, call.key, number(row_state::undone), here.token, here.at, call.epoch, number(row_state::done));
    batch copy = work;
    b.add(std::move(copy));
    const auto done = co_await db_->try_commit(std::move(b));
    if (done) co_return barrier_verdict::done;
    if (done.code() != errc::condition_failed && done.code() != errc::outcome_unknown) done.why().raise();
    const auto present = co_await find(*db_, call);
    if (present && present->state == row_state::undone) co_return barrier_verdict::repeated;
    if (present && present->state == row_state::barred) co_return barrier_verdict::barred;
    if (present) done.why().raise();  // a condition of the caller's own
    batch bar;
    bar.execute(
        "insert into cofferdam_saga_barrier(saga, key, state, epoch, result, token, at) values($1, $2, $3, $4, 'null', "
        "$5, $6) on conflict(saga, key) do nothing",
        call.saga, call.key, number(row_state::barred), call.epoch, here.token, here.at);
    const receipt barred = co_await db_->commit(std::move(bar));
    if (barred[0].affected() > 0) co_return barrier_verdict::barred;
    // Its action was faster: it is undone now.
  }
}

awaitable<std::size_t> barrier::forget_before(std::chrono::system_clock::time_point then) {
  batch b;
  b.execute("delete from cofferdam_saga_barrier where at < $1", detail::to_microseconds(then));
  const receipt done = co_await db_->commit(std::move(b));
  co_return done[0].affected();
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
