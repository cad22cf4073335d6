// A service that takes part in sagas: what comes twice, in the wrong order, or from an owner of the past. On SQLite and
// on PostgreSQL.
#include "database_test.hpp"
#include "error_of.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/saga/barrier.hpp>
#include <cofferdam/saga/engine.hpp>

#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace barriers {

batch take(int amount) {
  batch b;
  b.execute("insert into takings(amount) values($1)", amount);
  return b;
}

awaitable<std::int64_t> taken(database& db) {
  const rows found = co_await db.query("select cast(coalesce(sum(amount), 0) as bigint) from takings");
  co_return found.front().get<std::int64_t>(0);
}

awaitable<void> prepare(database& db) {
  std::vector<migration> history{{1, "takings", {"create table takings(amount bigint not null check(amount < 1000))"}}};
  co_await db.migrate("shop", std::move(history));
}

/// Every rule of the barrier, on one database.
awaitable<void> rules(database& db) {
  co_await prepare(db);
  saga::barrier gate = co_await saga::barrier::open(db);
  const saga::participant_call first("s-1", "take#1", 1);

  const auto done = co_await gate.act(first, take(5), std::string("five"));
  CHECK(done.how == saga::barrier_verdict::done);
  CHECK(done.result == "five");
  const auto again = co_await gate.act(first, take(5), std::string("six"));
  CHECK(again.how == saga::barrier_verdict::repeated);
  CHECK(again.result == "five");  // as it was answered the first time
  auto sum = co_await taken(db);
  CHECK(sum == 5);

  const auto undone = co_await gate.undo(first, take(-5));
  CHECK(undone == saga::barrier_verdict::done);
  const auto undone_again = co_await gate.undo(first, take(-5));
  CHECK(undone_again == saga::barrier_verdict::repeated);
  const auto late = co_await gate.act(first, take(5), std::string("five"));
  CHECK(late.how == saga::barrier_verdict::barred);
  CHECK(!late.result);
  sum = co_await taken(db);
  CHECK(sum == 0);

  // An undo of what never came, and then it comes.
  const saga::participant_call second("s-1", "take#2", 1);
  const auto nothing = co_await gate.undo(second, take(-7));
  CHECK(nothing == saga::barrier_verdict::barred);
  const auto hanging = co_await gate.act(second, take(7), std::string("seven"));
  CHECK(hanging.how == saga::barrier_verdict::barred);
  sum = co_await taken(db);
  CHECK(sum == 0);

  // An owner of the past, after its successor has called.
  const auto successor = co_await gate.act(saga::participant_call("s-1", "take#3", 4), take(3), std::string("three"));
  CHECK(successor.how == saga::barrier_verdict::done);
  const auto past = co_await gate.act(saga::participant_call("s-1", "take#4", 3), take(4), std::string("four"));
  CHECK(past.how == saga::barrier_verdict::outdated);
  const auto other = co_await gate.act(saga::participant_call("s-2", "take#4", 3), take(4), std::string("four"));
  CHECK(other.how == saga::barrier_verdict::done);
  sum = co_await taken(db);
  CHECK(sum == 7);

  // What the service itself refuses is its own error, and leaves nothing behind.
  const saga::participant_call wrong("s-3", "take#1", 1);
  const auto error = co_await test::error_of(gate.act(wrong, take(5000), std::string("much")));
  CHECK(error != "none");
  const auto mended = co_await gate.act(wrong, take(1), std::string("one"));
  CHECK(mended.how == saga::barrier_verdict::done);
  batch picky = take(1);
  picky.require("the shop is open", "select 1 = 0");
  const auto closed =
      co_await test::error_of(gate.act(saga::participant_call("s-3", "take#2", 1), picky, std::string("one")));
  CHECK(closed.find("the shop is open") != std::string::npos);

  const rows before = co_await db.query("select count(*) from cofferdam_saga_barrier");
  const auto forgotten = co_await gate.forget_before(std::chrono::system_clock::time_point::max() - 24h);
  CHECK(forgotten == before.front().get<std::size_t>(0));
}

/// Many at once: one of them does it, and all get the same answer.
awaitable<void> race(database& db) {
  saga::barrier gate = co_await saga::barrier::open(db);
  const auto executor = co_await net::this_coro::executor;
  int done = 0, repeated = 0, ended = 0;
  const auto call = [&]() -> awaitable<void> {
    const saga::participant_call same("s-9", "take#1", 1);
    const auto answer = co_await gate.act(same, take(1), std::string("one"));
    if (answer.how == saga::barrier_verdict::done) ++done;
    if (answer.how == saga::barrier_verdict::repeated && answer.result == "one") ++repeated;
    ++ended;
  };
  for (int i = 0; i < 20; ++i) spawn(executor, call);
  while (ended < 20) co_await sleep_for(5ms);
  CHECK(done == 1);
  CHECK(repeated == 19);
}

}  // namespace barriers

DATABASE_TEST("a barrier lets an action happen once, an undo after it once, and nothing after that") {
  co_await barriers::rules(db);
}

DATABASE_TEST("a barrier holds for many at once") {
  co_await barriers::prepare(db);
  co_await barriers::race(db);
}
