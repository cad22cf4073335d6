// What sagas lock, and how they are forgotten. On SQLite and on PostgreSQL.
#include "database_test.hpp"
#include "error_of.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/saga/admin.hpp>
#include <cofferdam/saga/engine.hpp>
#include <cofferdam/saga/lock.hpp>

#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace locks {

struct book {
  bool is_open = false;  // until then every action waits
  std::vector<std::string> lines;
};
awaitable<std::string> use(saga::step_context& context, std::string what) {
  context.get<book>().lines.push_back(context.saga_id() + " uses " + what);
  while (!context.get<book>().is_open) co_await sleep_for(5ms);
  if (what == "nothing") throw saga::refused("no");
  co_return what;
}
awaitable<void> unuse(saga::step_context& context, std::string what) {
  context.get<book>().lines.push_back(context.saga_id() + " lets go of " + what);
  co_return;
}
constexpr auto use_it = saga::step<"use", &use, &unuse>;

saga::task<void> holder(saga::scope& s, std::string what) {
  co_await s.lock("account:7");
  co_await s.lock("account:7");  // it has it
  (void)co_await s.run(use_it, std::string("account"));
  (void)co_await s.run(use_it, what);
}
saga::task<void> impatient(saga::scope& s, std::string what) {
  co_await s.lock("account:7", 50ms);
  (void)co_await s.run(use_it, what);
}
saga::task<void> caller(saga::scope& s, std::string what) {
  co_await s.call<"child">(impatient, what);
  (void)co_await s.wait_signal<int>("go");
}

saga::task<std::string> wait_long(saga::scope& s, std::string what) {
  co_await s.lock("account:7");
  co_return what;
}
saga::task<std::string> wait_shortly(saga::scope& s, std::string what) {
  try {
    co_await s.lock("account:7", 50ms);
  } catch (const saga::step_failed&) {
    what = "what it gave up";
  }
  co_return what;
}
saga::task<void> divided(saga::scope& s, std::string what) {
  const auto both = co_await s.all(s.branch<"long">(wait_long, what), s.branch<"short">(wait_shortly, what));
  (void)co_await s.run(use_it, std::get<1>(both));
}

}  // namespace locks

DATABASE_TEST(
    "a lock is held until its saga has ended, also on the way back, and goes to those who wait in their order") {
  saga::engine engine = co_await saga::engine::open(db);
  locks::book b;
  engine.provide(b);
  engine.define("holder", locks::holder, locks::use_it);
  engine.define("impatient", locks::impatient, locks::use_it);
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  auto first = co_await engine.start("a", locks::holder, std::string("nothing"));
  auto second = co_await engine.start("b", locks::holder, std::string("x"));
  auto third = co_await engine.start("c", locks::holder, std::string("x"));
  const auto is_alone = co_await test::eventually([&] { return engine.active() == 1 && !b.lines.empty(); });
  CHECK(is_alone);  // the others wait in the database
  const auto seen = co_await saga::locked_by(db, "account:7");
  CHECK(seen == "a");
  batch mine;
  saga::require_unlocked(mine, "account:7");
  const auto refused = co_await db.try_commit(std::move(mine));
  CHECK(refused.code() == errc::condition_failed);
  const auto late = co_await test::error_of(engine.execute("d", locks::impatient, std::string("x")));
  CHECK(late == "the saga 'd' went back: the step 'lock:account:7' was refused: the saga 'a' has it");
  b.is_open = true;
  co_await third.result();
  const std::vector<std::string> expected{"a uses account", "a uses nothing", "a lets go of account",
                                          "b uses account", "b uses x",       "c uses account",
                                          "c uses x"};
  CHECK(b.lines == expected);
  const auto free = co_await saga::locked_by(db, "account:7");
  CHECK(!free);
  batch then;
  saga::require_unlocked(then, "account:7");
  const auto allowed = co_await db.try_commit(std::move(then));
  CHECK(allowed.has_value());
  co_await worker.stop();
}

DATABASE_TEST("a branch that gives up leaves its saga's place to another branch that waits for the same lock") {
  saga::engine engine = co_await saga::engine::open(db);
  locks::book b;
  engine.provide(b);
  engine.define("holder", locks::holder, locks::use_it);
  engine.define("divided", locks::divided, locks::use_it);
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  auto first = co_await engine.start("a", locks::holder, std::string("x"));
  auto second = co_await engine.start("b", locks::divided, std::string("x"));
  const std::string failed = "select count(*) from cofferdam_saga_journal where saga = 'b' and kind = 3";
  for (bool has_given_up = false; !has_given_up;) {
    co_await sleep_for(5ms);
    const rows found = co_await db.query(failed);
    has_given_up = found.front().get<int>(0) == 1;
  }
  b.is_open = true;
  co_await first.result();
  co_await second.result();
  CHECK(b.lines.back() == "b uses what it gave up");
  co_await worker.stop();
}

DATABASE_TEST("an operator who gives a saga up gives its locks up, too") {
  saga::engine engine = co_await saga::engine::open(db);
  locks::book b;
  engine.provide(b);
  engine.define("holder", locks::holder, locks::use_it);
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  (void)co_await engine.start("a", locks::holder, std::string("x"));
  auto second = co_await engine.start("b", locks::holder, std::string("x"));
  const auto is_alone = co_await test::eventually([&] { return engine.active() == 1 && !b.lines.empty(); });
  CHECK(is_alone);
  saga::admin desk(db);
  co_await desk.abandon("a", {"ada", "it hangs"});
  b.is_open = true;
  co_await second.result();
  const std::vector<std::string> expected{"a uses account", "b uses account", "b uses x"};
  CHECK(b.lines == expected);
  co_await worker.stop();
}

DATABASE_TEST("a saga that is imported has what it had locked, and waits for what it waited for") {
  saga::engine engine = co_await saga::engine::open(db);
  locks::book b;
  engine.provide(b);
  engine.define("holder", locks::holder, locks::use_it);
  auto first = co_await engine.start("a", locks::holder, std::string("x"));
  (void)co_await engine.start("b", locks::holder, std::string("x"));
  const auto is_alone = co_await test::eventually([&] { return engine.active() == 1 && !b.lines.empty(); });
  CHECK(is_alone);
  saga::admin desk(db);
  const auto holds = co_await desk.export_history("a");
  const auto waits = co_await desk.export_history("b");
  b.is_open = true;
  co_await first.result();

  database elsewhere = co_await database::open("sqlite::memory:");
  saga::engine other = co_await saga::engine::open(elsewhere);
  other.provide(b);
  other.define("holder", locks::holder, locks::use_it);
  saga::admin other_desk(elsewhere);
  co_await other_desk.import_history(holds);
  co_await other_desk.import_history(waits);
  const auto holder = co_await saga::locked_by(elsewhere, "account:7");
  CHECK(holder == "a");
  b.lines.clear();
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&other] { return other.run(); });
  co_await other.find<void>("b").result();
  const std::vector<std::string> expected{"a uses account", "a uses x", "b uses account", "b uses x"};
  CHECK(b.lines == expected);
  const auto rest = co_await saga::locked_by(elsewhere, "account:7");
  CHECK(!rest);
  co_await worker.stop();
}

DATABASE_TEST("sagas that ended are forgotten with all they left, children after their parents, and dead workers") {
  locks::book b;
  b.is_open = true;
  saga::engine engine = co_await saga::engine::open(db);
  engine.provide(b);
  engine.define("impatient", locks::impatient, locks::use_it);
  engine.define("caller", locks::caller, locks::use_it);
  const auto executor = co_await net::this_coro::executor;
  {
    const auto worker = spawn(executor, [&engine] { return engine.run(); });
    auto parent = co_await engine.start("p", locks::caller, std::string("x"));
    co_await engine.find<void>("p/child#1").result();
    const auto waits = co_await test::eventually([&] { return engine.active() == 0; });
    CHECK(waits);
    for (int i = 0; i < 450; ++i) {
      batch copy;
      copy.execute(
          "insert into cofferdam_sagas(id, definition, version, state, epoch, seq, signals, claims, pivoted, input, "
          "created_at, updated_at) select $1, definition, 1, 3, 1, 1, 0, 0, 0, input, 0, 0 from cofferdam_sagas where "
          "id = 'p'",
          "old-" + std::to_string(i));
      copy.execute(
          "insert into cofferdam_saga_journal(saga, seq, kind, key, step, payload, epoch, at) values($1, 1, 12, '', "
          "'', "
          "'{}', 1, 0)",
          "old-" + std::to_string(i));
      co_await db.commit(std::move(copy));
    }
    saga::admin desk(db);
    co_await sleep_for(10ms);
    const auto now = timers_of(executor).date();
    const auto none = co_await desk.forget_before(std::chrono::system_clock::time_point());
    CHECK(none == 0);
    const auto old = co_await desk.forget_before(now);
    CHECK(old == 450);  // not the child, which the parent may have to undo
    const int word = 1;
    co_await engine.signal("p", "go", word);
    co_await parent.result();
    co_await sleep_for(10ms);
    const auto rest = co_await desk.forget_before(timers_of(executor).date());
    CHECK(rest == 2);
    co_await worker.stop();
  }
  batch ghost;
  const auto long_ago = cofferdam::detail::to_microseconds(timers_of(executor).date() - 2h);
  ghost.execute("insert into cofferdam_saga_workers(id, beat_at) values('ghost', $1)", long_ago);
  co_await db.commit(std::move(ghost));
  saga::admin desk(db);
  (void)co_await desk.forget_before(timers_of(executor).date());
  for (const char* table : {"cofferdam_sagas", "cofferdam_saga_journal", "cofferdam_saga_inbox", "cofferdam_saga_locks",
                            "cofferdam_saga_workers"}) {
    const rows left = co_await db.query(std::string("select count(*) from ") + table);
    INFO(table);
    CHECK(left.front().get<int>(0) == 0);
  }
}
