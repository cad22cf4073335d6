// What the tests in virtual time show on SQLite, on a real PostgreSQL.
#include "catch.hpp"
#include "error_of.hpp"
#include "postgres_server.hpp"
#include "real_time.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/saga/admin.hpp>
#include <cofferdam/saga/engine.hpp>

#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace elephants {

struct zoo {
  std::vector<std::string> lines;
  bool cannot_undo = false;
};
awaitable<std::string> feed(saga::step_context& context, std::string who) {
  context.get<zoo>().lines.push_back("feed " + who);
  co_return "fed " + who;
}
awaitable<void> unfeed(saga::step_context& context, std::optional<std::string>, std::string who) {
  context.get<zoo>().lines.push_back("unfeed " + who);
  if (context.get<zoo>().cannot_undo) throw saga::cannot_undo("eaten");
  co_return;
}
constexpr auto feed_step = saga::step<"feed", &feed, &unfeed>;

saga::task<std::string> day(saga::scope& s, std::string who) {
  (void)co_await s.run(feed_step, who);
  const auto more = co_await s.wait_signal<std::string>("more", 1h);
  if (!more) s.fail("no more");
  co_return co_await s.run(feed_step, *more);
}

awaitable<void> live_on_postgres(std::string url) {
  database db = co_await database::open(url);
  saga::engine engine = co_await saga::engine::open(db);
  zoo z;
  engine.provide(z);
  engine.define("day", day, feed_step);
  saga::admin admin(db);
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&engine] { return engine.run(); });

  auto first = co_await engine.start("e-1", day, std::string("ella"));
  co_await engine.signal("e-1", "more", std::string("emma"), "m-1");
  const auto fed = co_await first.result();
  CHECK(fed == "fed emma");
  auto second = co_await engine.start("e-2", day, std::string("ella"));
  const auto conflict = co_await test::error_of(engine.start("e-2", day, std::string("otto")));
  CHECK(conflict == "the id 'e-2' belongs to a saga 'day' with another input");
  while (engine.active() > 0) co_await sleep_for(1ms);
  z.cannot_undo = true;
  co_await engine.cancel("e-2", "closed");
  for (;;) {
    const auto stuck = co_await admin.list({.state = saga::saga_state::stuck});
    if (!stuck.empty()) break;
    co_await sleep_for(1ms);
  }
  const auto history = co_await admin.show("e-2");
  CHECK(history.info.reason == "'feed#1' cannot be undone: eaten");
  z.cannot_undo = false;
  co_await admin.pause("e-2", {"ada", "wait"});
  co_await admin.resume("e-2", {"ada", "go on"});
  const auto why = co_await test::error_of(second.result());
  CHECK(why == "the saga 'e-2' went back: closed");

  (void)co_await engine.start("e-3", day, std::string("ella"));
  while (engine.active() > 0) co_await sleep_for(1ms);
  auto moved = co_await admin.export_history("e-3");
  moved["id"] = "e-4";
  co_await admin.abandon("e-3", {"ada", "moved"});
  co_await admin.import_history(moved);
  co_await engine.signal("e-4", "more", std::string("emil"));
  const auto there = co_await engine.find<std::string>("e-4").result();
  CHECK(there == "fed emil");
  co_await worker.stop();
  co_await db.close();
}

}  // namespace elephants

TEST_CASE("sagas live on PostgreSQL as on SQLite") {
  test::postgres_server* server = test::postgres_server::shared();
  if (server == nullptr) return;
  server->clear();
  test::run_in_real_time(elephants::live_on_postgres, server->url());
}
