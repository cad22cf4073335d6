#include "database_test.hpp"
#include "error_of.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/cqrs/command_schedule.hpp>

#include <stdexcept>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace later {

struct cancel_unpaid {
  static constexpr const char* name = "cancel_unpaid";
  using result = void;
  std::string order;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(cancel_unpaid, order)

struct unknown_command {
  static constexpr const char* name = "unknown_command";
  using result = void;
};
void to_json(nlohmann::json& j, const unknown_command& /*c*/) { j = nlohmann::json::object(); }
void from_json(const nlohmann::json& /*j*/, unknown_command& /*c*/) {}

/// Who cancels orders, and writes down when.
struct desk {
  explicit desk(database& d) : db(&d) {
    bus.handle<cancel_unpaid>([this](const cancel_unpaid& c, command_context& context) { return cancel(c, context); });
  }
  awaitable<void> open() {
    const auto executor = co_await net::this_coro::executor;
    timers = &timers_of(executor);
    began = timers->now();
    batch table;
    table.execute("create table cancelled(id text not null)");  // not unique: twice would show
    co_await db->commit(std::move(table));
    co_await bus.once(*db);
    bus.build();
  }
  awaitable<void> cancel(const cancel_unpaid& c, command_context& context) {
    ++calls;
    who = context.principal();
    if (takes > duration::zero()) co_await sleep_for(takes);
    if (fails > 0) {
      --fails;
      throw std::runtime_error("not now");
    }
    batch b;
    b.execute("insert into cancelled(id) values($1)", c.order);
    co_await context.commit(*db, std::move(b));
    log.push_back(c.order + " at " + std::to_string((timers->now() - began) / 1s));
  }
  awaitable<int> count() {
    const rows found = co_await db->query("select count(*) from cancelled");
    co_return found.front().get<int>(0);
  }

  database* db;
  timer_service* timers = nullptr;
  time_point began{};
  command_bus bus;
  int calls = 0, fails = 0;
  duration takes{};
  std::string who;
  std::vector<std::string> log;
};

std::chrono::system_clock::time_point in(const net::any_io_executor& executor, duration d) {
  return timers_of(executor).date() + std::chrono::duration_cast<std::chrono::system_clock::duration>(d);
}

}  // namespace later

using later::cancel_unpaid;

ASYNC_TEST("a scheduled command is stored with its batch, sent when it is due, and once") {
  database db = co_await database::open("sqlite::memory:");
  later::desk desk(db);
  co_await desk.open();
  const auto executor = co_await net::this_coro::executor;
  command_schedule schedule = co_await command_schedule::open(db, desk.bus);
  schedule.add<cancel_unpaid>();
  const auto run = [&] { return schedule.run(); };
  const auto running = spawn(executor, run);

  const cancel_unpaid first{"o1"}, second{"o2"}, third{"o3"};
  command_context context;
  context.principal("ada");
  batch b;
  schedule.schedule(b, first, later::in(executor, 1h), "unpaid o1", context);
  schedule.schedule(b, second, later::in(executor, 30min), "unpaid o2", context);
  co_await db.commit(std::move(b));
  batch refused;
  schedule.schedule(refused, third, later::in(executor, 1min), "unpaid o3");
  refused.require("it is so", "select 0");
  const auto done = co_await db.try_commit(std::move(refused));
  CHECK(!done);
  const auto waiting = co_await schedule.waiting();
  REQUIRE(waiting.size() == 2);
  CHECK(waiting[0].id == "unpaid o2");
  CHECK(waiting[0].payload == R"({"order":"o2"})");
  co_await sleep_for(2h);
  CHECK(desk.log == std::vector<std::string>{"o2 at 1800", "o1 at 3600"});
  CHECK(desk.who == "ada");
  const auto left = co_await schedule.waiting();
  CHECK(left.empty());
  running.cancel();
  co_await sleep_for(1s);  // it ends before what it works on
}

DATABASE_TEST("a scheduled command is replaced and taken back by its id") {
  later::desk desk(db);
  co_await desk.open();
  const auto executor = co_await net::this_coro::executor;
  command_schedule schedule = co_await command_schedule::open(db, desk.bus);
  schedule.add<cancel_unpaid>();
  const cancel_unpaid first{"o1"}, second{"o2"}, third{"o3"};
  batch b;
  schedule.schedule(b, first, later::in(executor, 0s), "same");
  schedule.schedule(b, third, later::in(executor, 0s), "paid");
  co_await db.commit(std::move(b));
  batch b2;
  schedule.schedule(b2, first, later::in(executor, 1h), "same");
  schedule.cancel(b2, "paid");
  co_await db.commit(std::move(b2));
  std::size_t sent = co_await schedule.run_due();
  CHECK(sent == 0);
  batch b3;
  schedule.schedule(b3, second, later::in(executor, 0s), "same");
  co_await db.commit(std::move(b3));
  sent = co_await schedule.run_due();
  CHECK(sent == 1);
  CHECK(desk.log.size() == 1);
  CHECK(desk.log[0].starts_with("o2"));
}

DATABASE_TEST("a scheduled command that fails is sent again with pauses, then kept for somebody to look at") {
  later::desk desk(db);
  co_await desk.open();
  const auto executor = co_await net::this_coro::executor;
  command_schedule schedule = co_await command_schedule::open(
      db, desk.bus, {.max_attempts = 3, .retry_after = time.shortened(10s), .look_at_least_every = 1h});
  schedule.add<cancel_unpaid>();
  const auto run = [&] { return schedule.run(); };
  const auto running = spawn(executor, run);
  desk.fails = 2;
  const cancel_unpaid order{"o1"};
  batch b;
  const std::string id = schedule.schedule(b, order, later::in(executor, 0s));
  co_await db.commit(std::move(b));
  const auto is_done = [&] { return desk.log.size() == 1; };
  const bool has_succeeded = co_await test::eventually(is_done);
  CHECK(has_succeeded);
  if (time.is_virtual) CHECK(desk.log == std::vector<std::string>{"o1 at 30"});
  CHECK(desk.calls == 3);

  desk.fails = 100;
  batch again;
  schedule.schedule(again, order, later::in(executor, 0s), id);
  co_await db.commit(std::move(again));
  const auto is_kept = [&]() -> awaitable<bool> {
    const auto kept = co_await schedule.failed();
    co_return kept.size() == 1;
  };
  const bool has_failed = co_await test::eventually(is_kept);
  CHECK(has_failed);
  CHECK(desk.calls == 6);
  const auto failed = co_await schedule.failed();
  REQUIRE(failed.size() == 1);
  CHECK(failed[0].id == id);
  CHECK(failed[0].attempts == 3);
  CHECK(failed[0].reason == "not now");
  desk.fails = 0;
  const bool is_there = co_await schedule.retry(id);
  CHECK(is_there);
  const auto is_repeated = [&]() -> awaitable<bool> {
    const auto waiting = co_await schedule.waiting();
    co_return desk.log.size() == 2 && waiting.empty();
  };
  const bool has_repeated = co_await test::eventually(is_repeated);
  CHECK(has_repeated);
  const bool is_gone = co_await schedule.retry(id);
  CHECK(!is_gone);
  co_await running.stop();
}

ASYNC_TEST("a command whose sender died after it was handled is not handled twice, and two senders send it once") {
  database db = co_await database::open("sqlite::memory:");
  later::desk desk(db);
  co_await desk.open();
  const auto executor = co_await net::this_coro::executor;
  command_schedule one = co_await command_schedule::open(db, desk.bus),
                   two = co_await command_schedule::open(db, desk.bus);
  one.add<cancel_unpaid>();
  two.add<cancel_unpaid>();
  const cancel_unpaid order{"o1"};
  batch b;
  one.schedule(b, order, later::in(executor, 0s), "x");
  co_await db.commit(std::move(b));
  const rows stored = co_await db.query("select key from cofferdam_scheduled");
  const auto key = stored.front().get<std::string>(0);
  std::size_t sent = co_await one.run_due();
  CHECK(sent == 1);
  // As if the process had died before it removed the row.
  batch back;
  one.schedule(back, order, later::in(executor, 0s), "x");
  back.execute("update cofferdam_scheduled set key = $1", key);
  co_await db.commit(std::move(back));
  sent = co_await two.run_due();
  CHECK(sent == 1);
  int count = co_await desk.count();
  CHECK(count == 1);

  desk.takes = 10s;
  desk.calls = 0;
  batch both;
  one.schedule(both, order, later::in(executor, 0s), "y");
  co_await db.commit(std::move(both));
  const auto run_one = [&] { return one.run(); };
  const auto run_two = [&] { return two.run(); };
  const auto first = spawn(executor, run_one);
  const auto second = spawn(executor, run_two);
  co_await sleep_for(5s);
  CHECK(desk.calls == 1);
  first.cancel();  // whichever has it is stopped, and the other goes on
  second.cancel();
  co_await sleep_for(1s);
  const auto waiting = co_await one.waiting();
  REQUIRE(waiting.size() == 1);
  CHECK(waiting[0].attempts == 0);
  sent = co_await two.run_due();
  CHECK(sent == 1);
  count = co_await desk.count();
  CHECK(count == 2);
}

ASYNC_TEST("what another process is sending is looked for again when its claim ends, not before") {
  database db = co_await database::open("sqlite::memory:");
  later::desk desk(db);
  co_await desk.open();
  const auto executor = co_await net::this_coro::executor;
  command_schedule schedule = co_await command_schedule::open(db, desk.bus, {.look_at_least_every = 1h});
  schedule.add<cancel_unpaid>();
  const cancel_unpaid order{"o1"};
  batch b;
  schedule.schedule(b, order, later::in(executor, 0s), "x");
  b.execute("update cofferdam_scheduled set claimed_until = $1",
            std::chrono::duration_cast<std::chrono::microseconds>(later::in(executor, 60s).time_since_epoch()).count());
  co_await db.commit(std::move(b));
  const auto before = db.stats().queries;
  const auto run = [&] { return schedule.run(); };
  const auto running = spawn(executor, run);
  co_await sleep_for(59s);
  CHECK(db.stats().queries - before < 10);
  CHECK(desk.calls == 0);
  co_await sleep_for(2s);
  CHECK(desk.log == std::vector<std::string>{"o1 at 60"});
  co_await running.stop();
}

ASYNC_TEST("a command that takes long holds up no other") {
  database db = co_await database::open("sqlite::memory:");
  later::desk desk(db);
  co_await desk.open();
  const auto executor = co_await net::this_coro::executor;
  command_schedule schedule = co_await command_schedule::open(db, desk.bus, {.concurrency = 2});
  schedule.add<cancel_unpaid>();
  const auto run = [&] { return schedule.run(); };
  const auto running = spawn(executor, run);
  const cancel_unpaid slow{"slow"}, quick{"quick"}, evening{"evening"};
  desk.takes = 10min;
  batch b;
  schedule.schedule(b, slow, later::in(executor, 0s));
  co_await db.commit(std::move(b));
  co_await sleep_for(10s);
  desk.takes = 0s;
  batch more;
  schedule.schedule(more, quick, later::in(executor, 0s));
  schedule.schedule(more, evening, later::in(executor, 50s));
  co_await db.commit(std::move(more));
  co_await sleep_for(1h);
  CHECK(desk.log == std::vector<std::string>{"quick at 10", "evening at 60", "slow at 600"});
  co_await running.stop();
}

ASYNC_TEST("a command that takes longer than a claim is not sent again beside itself") {
  database db = co_await database::open("sqlite::memory:");
  later::desk desk(db);
  co_await desk.open();
  const auto executor = co_await net::this_coro::executor;
  command_schedule one = co_await command_schedule::open(db, desk.bus, {.claim = 3s}),
                   two = co_await command_schedule::open(db, desk.bus, {.claim = 3s});
  one.add<cancel_unpaid>();
  two.add<cancel_unpaid>();
  const auto run_one = [&] { return one.run(); };
  const auto run_two = [&] { return two.run(); };
  const auto first = spawn(executor, run_one);
  const auto second = spawn(executor, run_two);
  const cancel_unpaid order{"o1"};
  desk.takes = 1min;
  batch b;
  one.schedule(b, order, later::in(executor, 0s));
  co_await db.commit(std::move(b));
  co_await sleep_for(2min);
  CHECK(desk.calls == 1);
  CHECK(desk.log == std::vector<std::string>{"o1 at 60"});
  const auto waiting = co_await one.waiting();
  CHECK(waiting.empty());

  // Nor where only what is due now is sent.
  co_await first.stop();
  batch again;
  two.schedule(again, order, later::in(executor, 1s));
  co_await db.commit(std::move(again));
  co_await second.stop();
  co_await sleep_for(1s);
  desk.calls = 0;
  const auto send_due = [&]() -> awaitable<void> { (void)co_await one.run_due(); };
  const auto sending = spawn(executor, send_due);
  co_await sleep_for(30s);
  const std::size_t sent = co_await two.run_due();
  CHECK(sent == 0);
  CHECK(desk.calls == 1);
  co_await sending.join();
  const int count = co_await desk.count();
  CHECK(count == 2);
}

ASYNC_TEST("a schedule says what it lacks") {
  database db = co_await database::open("sqlite::memory:");
  command_bus without;
  const auto open = [&](command_bus& bus) -> awaitable<void> { (void)co_await command_schedule::open(db, bus); };
  const std::string keyless = co_await test::error_of(open(without));
  CHECK(keyless.find("call once(db) first") != std::string::npos);

  later::desk desk(db);
  co_await desk.open();
  const auto executor = co_await net::this_coro::executor;
  command_schedule schedule = co_await command_schedule::open(db, desk.bus, {.max_attempts = 1});
  batch b;
  const cancel_unpaid order{"o1"};
  CHECK_THROWS_WITH(schedule.schedule(b, order, later::in(executor, 0s)),
                    Catch::Contains("call add<cancel_unpaid>() first"));
  schedule.add<later::unknown_command>();
  const later::unknown_command nobody;
  schedule.schedule(b, nobody, later::in(executor, 0s), "u");
  co_await db.commit(std::move(b));
  (void)co_await schedule.run_due();
  const auto failed = co_await schedule.failed();
  REQUIRE(failed.size() == 1);
  CHECK(failed[0].reason.find("nobody handles 'unknown_command'") != std::string::npos);
}
