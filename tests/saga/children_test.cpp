// Sagas that call sagas, through the database: on SQLite and on PostgreSQL. flow_test.cpp has what is the same without
// a journal.
#include "database_test.hpp"
#include "error_of.hpp"
#include "state_of.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/saga/admin.hpp>
#include <cofferdam/saga/engine.hpp>

#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace families {

using events = std::vector<std::string>;

struct chronicle {
  events lines;
  std::string hangs, refuses;  // which action
};

awaitable<std::string> act(saga::step_context& context, std::string what) {
  auto& d = context.get<chronicle>();
  d.lines.push_back("do " + what);
  if (d.hangs == what) co_await sleep_for(1h);
  if (d.refuses == what) throw saga::refused("no");
  co_return what + "!";
}
awaitable<void> unact(saga::step_context& context, std::optional<std::string> result, std::string what) {
  context.get<chronicle>().lines.push_back("undo " + what + (result ? "" : "?"));
  co_return;
}
constexpr auto do_it = saga::step<"do", &act, &unact>;
constexpr auto commit_it = saga::pivot<"commit", &act>;

saga::task<std::string> child(saga::scope& s, std::string what) {
  (void)co_await s.run(do_it, what + "1");
  co_return co_await s.run(do_it, what + "2");
}
saga::task<std::string> parent(saga::scope& s, std::string what) {
  (void)co_await s.run(do_it, std::string("before"));
  const std::string called = co_await s.call<"part">(child, std::string("child"));
  co_return called + co_await s.run(do_it, what);
}
saga::task<std::string> grandparent(saga::scope& s, std::string what) {
  const std::string called = co_await s.call<"line">(parent, std::string("inner"));
  co_return called + co_await s.run(do_it, what);
}
saga::task<std::string> paid(saga::scope& s, std::string what) { co_return co_await s.run(commit_it, what); }
saga::task<std::string> parent_of_paid(saga::scope& s, std::string what) {
  const std::string called = co_await s.call<"part">(paid, std::string("paid"));
  co_return called + co_await s.run(do_it, what);
}

saga::task<std::string> called_at_once(saga::scope& s, std::string what) {
  co_return co_await s.call<"part">(child, what);
}
saga::task<int> locking(saga::scope& s, int n) {
  co_await s.lock("account:" + std::to_string(n));
  co_return n;
}
/// The child is begun when all the locks are written down, one by one.
saga::task<std::string> crowded(saga::scope& s, std::string what) {
  (void)co_await s.run(do_it, std::string("before"));
  const auto all =
      co_await s.all(s.branch<"a">(locking, 1), s.branch<"b">(locking, 2), s.branch<"c">(locking, 3),
                     s.branch<"d">(locking, 4), s.branch<"e">(locking, 5), s.branch<"f">(called_at_once, what));
  co_return std::get<5>(all);
}

void define(saga::engine& e, chronicle& d) {
  e.provide(d);
  e.define("child", child, do_it);
  e.define("parent", parent, do_it);
  e.define("grandparent", grandparent, do_it);
  e.define("paid", paid, commit_it);
  e.define("parent_of_paid", parent_of_paid, do_it);
  e.define("crowded", crowded, do_it);
}

awaitable<bool> comes_to(database& db, std::string id, std::string state) {
  const auto is_there = [&]() -> awaitable<bool> {
    const auto present = co_await test::state_of(db, id);
    co_return present == state;
  };
  co_return co_await test::eventually(is_there);
}

}  // namespace families

using families::chronicle;
using families::define;
using families::events;

DATABASE_TEST("a child has an id of its own, and its parent goes on with its result") {
  chronicle d;
  saga::engine engine = co_await saga::engine::open(db);
  define(engine, d);
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  const auto result = co_await engine.execute("p", families::grandparent, std::string("last"));
  CHECK(result == "child2!inner!last!");
  const auto called = co_await engine.find<std::string>("p/line#1/part#1").result();
  CHECK(called == "child2!");
  co_await worker.stop();
}

DATABASE_TEST("a child that goes back is a refused step to its parent, whose parent hears of it in the same way") {
  chronicle d;
  d.refuses = "child2";
  saga::engine engine = co_await saga::engine::open(db);
  define(engine, d);
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  const auto why = co_await test::error_of(engine.execute("p", families::grandparent, std::string("last")));
  CHECK(
      why ==
      "the saga 'p' went back: the step 'parent' was refused: went back: the step 'child' was refused: went back: the "
      "step 'do' was refused: no");
  CHECK(d.lines == events{"do before", "do child1", "do child2", "undo child1", "undo before"});
  co_await worker.stop();
}

DATABASE_TEST("a saga that goes back undoes children and theirs that have completed, in its order") {
  chronicle d;
  d.refuses = "last";
  saga::engine engine = co_await saga::engine::open(db);
  define(engine, d);
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  const auto why = co_await test::error_of(engine.execute("p", families::grandparent, std::string("last")));
  CHECK(why == "the saga 'p' went back: the step 'do' was refused: no");
  CHECK(d.lines == events{"do before", "do child1", "do child2", "do inner", "do last", "undo inner", "undo child2",
                          "undo child1", "undo before"});
  for (const char* id : {"p/line#1", "p/line#1/part#1"}) {
    const auto state = co_await test::state_of(db, id);
    CHECK(state == "compensated");
  }
  co_await worker.stop();
}

DATABASE_TEST("a saga that is cancelled while its child works cancels the child, and waits until it is back") {
  chronicle d;
  d.hangs = "child2";
  saga::engine engine = co_await saga::engine::open(db);
  define(engine, d);
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  auto started = co_await engine.start("p", families::parent, std::string("last"));
  const auto waits = co_await families::comes_to(db, "p", "waiting");
  CHECK(waits);  // in nobody's memory while the child works
  const auto hangs = co_await test::eventually([&d] { return d.lines.back() == "do child2"; });
  CHECK(hangs);
  co_await engine.cancel("p", "changed my mind");
  const auto why = co_await test::error_of(started.result());
  CHECK(why == "the saga 'p' went back: changed my mind");
  CHECK(d.lines == events{"do before", "do child1", "do child2", "undo child2?", "undo child1", "undo before"});
  const auto called = co_await test::state_of(db, "p/part#1");
  CHECK(called == "compensated");
  co_await worker.stop();
}

DATABASE_TEST("a child past its pivot stops the saga that goes back, for an operator") {
  chronicle d;
  d.refuses = "last";
  saga::engine engine = co_await saga::engine::open(db);
  define(engine, d);
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  auto started = co_await engine.start("p", families::parent_of_paid, std::string("last"));
  const auto stops = co_await families::comes_to(db, "p", "stuck");
  CHECK(stops);
  saga::admin desk(db);
  const auto shown = co_await desk.show("p");
  CHECK(shown.info.reason == "'part#1' cannot be undone: the child saga 'p/part#1' is past its pivot");
  co_await desk.mark_undone("p", "part#1", {"ada", "the money was sent back"});
  const auto why = co_await test::error_of(started.result());
  CHECK(why == "the saga 'p' went back: the step 'do' was refused: no");
  co_await worker.stop();
}

DATABASE_TEST("a child has its parent's deadline") {
  chronicle d;
  d.hangs = "child2";
  saga::engine engine = co_await saga::engine::open(db);
  define(engine, d);
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  const saga::start_options within{.deadline = 2s};
  const auto why = co_await test::error_of(engine.execute("p", families::parent, std::string("last"), within));
  CHECK(why == "the saga 'p' went back: its deadline is over");
  CHECK(d.lines == events{"do before", "do child1", "do child2", "undo child2?", "undo child1", "undo before"});
  co_await worker.stop();
}

DATABASE_TEST("a saga that is cancelled before its child is written down leaves nothing in memory") {
  chronicle d;
  saga::engine engine = co_await saga::engine::open(db);
  define(engine, d);
  bool is_there = false;
  const auto listening = engine.events().subscribe([&is_there](const saga::saga_event& e) {
    if (e.what == saga::saga_event::kind::step_succeeded) is_there = true;
  });
  for (int i = 0; i < 10; ++i) {
    const std::string id = "s-" + std::to_string(i);
    is_there = false;
    (void)co_await engine.start(id, families::crowded, std::string("x"));
    while (!is_there) co_await net::post(net::use_awaitable);
    (void)co_await test::error_of(engine.cancel(id, "no"));
    const auto is_empty = [&]() -> awaitable<bool> { co_return engine.active() == 0; };
    const bool has_left = co_await test::eventually(is_empty);
    REQUIRE(has_left);
    (void)co_await engine.run_due();
    const auto state = co_await test::state_of(db, id);
    CHECK(state == "compensated");
  }
}
