#include "database_test.hpp"
#include "error_of.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/eventsourcing/blue_green.hpp>
#include <cofferdam/eventsourcing/live_projection.hpp>
#include <cofferdam/storage/testing.hpp>

#include <map>
#include <stdexcept>
#include <string>
#include <thread>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace green {

event amount_of(int n) { return event("deposited", std::to_string(n)); }

void create(batch& b, const std::string& table) {
  b.execute("create table " + table + "(account text primary key, amount bigint not null)");
}
void apply(batch& b, const recorded_event& e, const std::string& table) {
  b.execute("insert into " + table + "(account, amount) values($1, $2) on conflict(account) do update set amount = " +
                table + ".amount + $2",
            e.stream, std::stoi(e.data));
}
/// The new version counts in cents.
void apply_cents(batch& b, const recorded_event& e, const std::string& table) {
  recorded_event hundredfold = e;
  hundredfold.data += "00";
  apply(b, hundredfold, table);
}

awaitable<int> amount(database& db) {
  const rows found = co_await db.query("select amount from balances where account = 'a'");
  co_return found.empty() ? -1 : found.front().get<int>(0);
}

awaitable<bool> has_table(database& db, std::string name) {
  const std::string error = co_await test::error_of(db.query("select count(*) from " + name));
  if (error != "none") CHECK(error.find(name) != std::string::npos);
  co_return error == "none";
}

}  // namespace green

DATABASE_TEST("a new version is built beside the old one, takes its place at once, and the old one goes") {
  event_store store = co_await event_store::open(db);
  const auto executor = co_await net::this_coro::executor;
  for (int i = 1; i <= 10; ++i) co_await store.append("a", expected::any(), green::amount_of(i));

  blue_green_projection first(store, "balances", 1, {.page = 3});
  first.create(green::create).apply(green::apply);
  const auto run_first = [&]() -> awaitable<void> {
    const std::string ended = co_await test::error_of(first.run());
    CHECK(ended.find("followed by nobody else") != std::string::npos);
  };
  const auto old_ended = spawn(executor, run_first);
  const auto is_built = co_await first.follower().wait_for(10, 1min);
  CHECK(is_built);
  int amount = co_await green::amount(db);
  CHECK(amount == 55);
  std::uint32_t active = co_await first.active();
  CHECK(active == 1);

  blue_green_projection second(store, "balances", 2, {.page = 3});
  bool is_seen_early = false;
  second.create(green::create).apply([&](batch& b, const recorded_event& e, const std::string& table) {
    green::apply_cents(b, e, table);
    // In the middle of the build readers still see the old table, whole.
    if (e.position == 5) b.require("the old one is seen", "select amount = 55 from balances where account = 'a'");
    if (e.position == 5) is_seen_early = true;
  });
  const std::size_t applied = co_await second.catch_up();
  CHECK(applied == 10);
  CHECK(is_seen_early);
  amount = co_await green::amount(db);
  CHECK(amount == 5500);
  active = co_await second.active();
  CHECK(active == 2);
  const std::uint64_t position = co_await second.position();
  CHECK(position == 10);
  const bool has_old = co_await green::has_table(db, "balances_v1"),
             has_new = co_await green::has_table(db, "balances_v2");
  CHECK_FALSE(has_old);
  CHECK(has_new);

  // The old follower finds out with the next event; the new one goes on.
  const auto run_second = [&] { return second.run(); };
  const auto running = spawn(executor, run_second);
  co_await store.append("a", expected::any(), green::amount_of(1));
  const bool is_there = co_await second.follower().wait_for(11, 1min);
  CHECK(is_there);
  amount = co_await green::amount(db);
  CHECK(amount == 5600);
  co_await old_ended.join();
  const std::string old = co_await test::error_of(first.catch_up());
  CHECK(old.find("version 2 of 'balances' is active") != std::string::npos);
  co_await running.stop();
}

DATABASE_TEST("readers never go back in time: a version that is not as far as the active one waits") {
  event_store store = co_await event_store::open(db);
  blue_green_projection first(store, "balances", 1), second(store, "balances", 2), third(store, "balances", 3);
  first.create(green::create).apply(green::apply);
  for (int i = 1; i <= 4; ++i) co_await store.append("a", expected::any(), green::amount_of(i));
  (void)co_await first.catch_up();
  second.create(green::create).apply([](batch&, const recorded_event& e, const std::string&) {
    if (e.position == 3) throw std::runtime_error("cannot");
  });
  const std::string failed = co_await test::error_of(second.catch_up());
  CHECK(failed == "cannot");
  std::uint32_t active = co_await first.active();
  CHECK(active == 1);
  int amount = co_await green::amount(db);
  CHECK(amount == 10);

  // Given up; the next one takes the place of both.
  third.create(green::create).apply(green::apply_cents);
  (void)co_await third.catch_up();
  amount = co_await green::amount(db);
  CHECK(amount == 1000);
  active = co_await third.active();
  CHECK(active == 3);
  const bool has_first = co_await green::has_table(db, "balances_v1"),
             has_second = co_await green::has_table(db, "balances_v2");
  CHECK_FALSE(has_first);
  CHECK_FALSE(has_second);
  const rows positions = co_await db.query("select name from cofferdam_projections");
  REQUIRE(positions.size() == 1);
  CHECK(positions.front().get<std::string>(0) == "balances_v3");
}

TEST_CASE("a new version does not take over from one that has a batch under way") {
  test::postgres_server* const server = test::postgres_server::shared();
  if (server == nullptr) return;  // on SQLite nobody writes meanwhile
  server->clear();
  const std::string url = server->url();
  const auto follow_old = [&]() -> awaitable<void> {
    database db = co_await database::open(url);
    event_store store = co_await event_store::open(db);
    blue_green_projection first(store, "balances", 1);
    first.create(green::create).apply([](batch& b, const recorded_event& e, const std::string& table) {
      green::apply(b, e, table);
      if (e.position == 5) b.execute("select 1 from pg_sleep(0.5)");
    });
    (void)co_await first.catch_up();
  };
  const auto append_fifth = [&]() -> awaitable<void> {
    database db = co_await database::open(url);
    event_store store = co_await event_store::open(db);
    co_await store.append("a", expected::any(), green::amount_of(5));
  };
  const auto wait_for_old = [&]() -> awaitable<void> {
    database db = co_await database::open(url);
    const auto is_amid = [&]() -> awaitable<bool> {
      const rows found = co_await db.query("select count(*) from pg_stat_activity where wait_event = 'PgSleep'");
      co_return found.front().get<int>(0) > 0;
    };
    const bool is_so = co_await test::eventually(is_amid);
    CHECK(is_so);
  };
  const auto body = [&]() -> awaitable<void> {
    database db = co_await database::open(url);
    event_store store = co_await event_store::open(db);
    for (int i = 1; i <= 4; ++i) co_await store.append("a", expected::any(), green::amount_of(i));
    co_await follow_old();
    int commits = 0;  // until the one that takes over
    std::thread old;
    database seen = watched(db, [&](std::string_view call, bool is_over) {
      if (call != "commit" || is_over || commits == 0 || --commits > 0) return;
      test::run_in_real_time(append_fifth);
      old = std::thread([&] { test::run_in_real_time(follow_old); });
      test::run_in_real_time(wait_for_old);
    });
    event_store theirs = co_await event_store::open(seen);
    blue_green_projection second(theirs, "balances", 2);
    second.create(green::create).apply([&](batch& b, const recorded_event& e, const std::string& table) {
      green::apply_cents(b, e, table);
      if (e.position == 4) commits = 2;  // this batch, and that one
    });
    (void)co_await second.catch_up();
    old.join();
    const std::uint64_t position = co_await second.position();
    CHECK(position == 5);
    const int amount = co_await green::amount(db);
    CHECK(amount == 1500);
  };
  test::run_in_real_time(body);
}

ASYNC_TEST("a blue-green projection says what it lacks") {
  database db = co_await database::open("sqlite::memory:");
  event_store store = co_await event_store::open(db);
  CHECK_THROWS_WITH(blue_green_projection(store, "a; drop table x", 1), Catch::Contains("names no view"));
  CHECK_THROWS_WITH(blue_green_projection(store, "fine", 0), Catch::Contains("count from 1"));
  blue_green_projection bare(store, "bare", 1);
  const std::string error = co_await test::error_of(bare.catch_up());
  CHECK(error.find("call create() first") != std::string::npos);
}

DATABASE_TEST("who asks for a blue-green table before anybody has begun it is told that nothing is to be seen") {
  event_store store = co_await event_store::open(db);
  co_await store.append("a", expected::any(), green::amount_of(1));
  blue_green_projection balances(store, "balances", 1);
  auto version = co_await balances.active();
  CHECK(version == 0);
  auto position = co_await balances.position();
  CHECK(position == 0);
  const duration limit = time.shortened(5s);
  bool is_there = co_await balances.wait_for(1, limit);
  CHECK_FALSE(is_there);
  balances.create(green::create).apply(green::apply);
  (void)co_await balances.catch_up();
  is_there = co_await balances.wait_for(1, limit);
  CHECK(is_there);
}

DATABASE_TEST("an inline projection's rows are there with the events, or neither is") {
  event_store store = co_await event_store::open(db);
  batch table;
  table.execute(
      "create table totals(account text primary key, amount bigint not null check(amount < 100), version bigint)");
  co_await db.commit(std::move(table));
  event_query deposits;
  deposits.item().type("deposited");
  store.project_inline(deposits, [](batch& b, const recorded_event& e) {
    b.execute(
        "insert into totals(account, amount, version) values($1, $2, $3) on conflict(account) do update set amount = "
        "totals.amount + $2, version = $3",
        e.stream, std::stoi(e.data), e.version);
  });
  const auto total = [&]() -> awaitable<int> {
    const rows found = co_await db.query("select cast(coalesce(sum(amount), 0) as bigint) from totals");
    co_return found.front().get<int>(0);
  };
  event first = green::amount_of(40);
  random_source random(7);
  first.id(event_id::make(std::chrono::system_clock::time_point(), random));
  const auto done = co_await store.append("a", expected::version(0), first);
  CHECK(done.position == 1);
  int sum = co_await total();
  CHECK(sum == 40);
  const rows version = co_await db.query("select version from totals");
  CHECK(version.front().get<int>(0) == 1);

  // A repetition is told, and counts no second time.
  const auto again = co_await store.append("a", expected::version(0), first);
  CHECK(again.is_duplicate);
  CHECK(again.position == 1);
  sum = co_await total();
  CHECK(sum == 40);
  batch joined;
  append_request same("a", expected::any());
  same.add(first);
  (void)store.append(joined, same);
  const std::string refused = co_await test::error_of(db.commit(std::move(joined)));
  CHECK(refused.find("is new") != std::string::npos);

  // Rows that cannot be, no events; events that cannot be, no rows; other events, none of its business.
  const std::string too_much = co_await test::error_of(store.append("a", expected::any(), green::amount_of(60)));
  CHECK(too_much.find("constraint") != std::string::npos);
  const std::string conflict = co_await test::error_of(store.append("a", expected::none(), green::amount_of(1)));
  CHECK(conflict.find("should not be there") != std::string::npos);
  co_await store.append("a", expected::any(), event("renamed", "A"));
  sum = co_await total();
  CHECK(sum == 40);
  const std::uint64_t at = co_await store.version_of("a");
  CHECK(at == 2);
}

DATABASE_TEST("a live projection is a state in memory that shows what was committed") {
  event_store store = co_await event_store::open(db);
  const auto executor = co_await net::this_coro::executor;
  batch past;
  for (int i = 1; i <= 1'200; ++i) {
    append_request request(i % 2 == 0 ? "a" : "b", expected::any());
    request.add(green::amount_of(i % 3));
    (void)store.append(past, std::move(request));
  }
  co_await db.commit(std::move(past));
  using sums = std::map<std::string, int>;
  live_projection<sums> live(store);
  const std::string unset = co_await test::error_of(live.catch_up());
  CHECK(unset.find("call apply() first") != std::string::npos);
  int fails_at = 700;
  live.apply([&](sums& state, const recorded_event& e) {
    if (e.position == static_cast<std::uint64_t>(fails_at)) throw std::runtime_error("not yet");
    state[e.stream] += std::stoi(e.data);
  });
  const std::string failed = co_await test::error_of(live.catch_up());
  CHECK(failed == "not yet");
  CHECK(live.position() == 699);
  fails_at = 0;
  const std::size_t rest = co_await live.catch_up();
  CHECK(rest == 501);
  CHECK(live.state() == sums{{"a", 600}, {"b", 600}});

  const auto run = [&] { return live.run(); };
  const auto running = spawn(executor, run);
  co_await store.append("c", expected::any(), green::amount_of(5));
  const auto is_read = [&] { return live.position() == 1'201; };
  const bool is_seen = co_await test::eventually(is_read);
  CHECK(is_seen);
  CHECK(live.state().at("c") == 5);
  CHECK(live.position() == 1'201);
  co_await running.stop();
}
