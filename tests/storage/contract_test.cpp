// What every database must do, whichever it is: each case runs once per driver.
#include "async_test.hpp"
#include "error_of.hpp"
#include "postgres_server.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/workers.hpp>
#include <cofferdam/storage/database.hpp>

#include <functional>
#include <set>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace contract {

/// Runs `body` on a fresh database of every kind there is.
void on_every_database(const std::function<awaitable<void>(database&)>& body) {
  const auto open_and_run = [&body](std::string url) -> awaitable<void> {
    database db = co_await database::open(std::move(url));
    co_await body(db);
    co_await db.close();
  };
  SECTION("SQLite in memory") { test::run_in_real_time(open_and_run, "sqlite::memory:"); }
  SECTION("SQLite file, in the caller's thread") {
    const test::temporary_directory directory;
    test::run_in_real_time(open_and_run, "sqlite:" + directory.file("test.db") + "?threads=0");
  }
  if (test::postgres_server* server = test::postgres_server::shared()) {
    SECTION("PostgreSQL") {
      server->clear();
      test::run_in_real_time(open_and_run, server->url());
    }
  }
  SECTION("SQLite file") {
    const test::temporary_directory directory;
    test::run_in_real_time(open_and_run, "sqlite:" + directory.file("test.db"));
  }
}

awaitable<void> make_items(database& db) {
  batch b;
  b.execute("create table items(name text primary key, amount bigint not null, note text)");
  co_await db.commit(std::move(b));
}

awaitable<std::int64_t> count_items(database& db) {
  const rows counted = co_await db.query("select count(*) as n from items");
  co_return counted.front().get<std::int64_t>("n");
}

}  // namespace contract

TEST_CASE("what was committed is read back, every type as it was") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    batch b;
    const std::string bytes_type = db.name().starts_with("postgresql:") ? "bytea" : "blob";
    b.execute("create table cells(i bigint, r double precision, t text, b " + bytes_type + ", n text)");
    const blob bytes{std::byte{0}, std::byte{255}, std::byte{'\''}};
    b.execute("insert into cells(i, r, t, b, n) values($1, $2, $3, $4, $5)", -7, 2.5, "na\u00efve \"quoted\" 'text'",
              bytes, nullptr);
    const receipt done = co_await db.commit(std::move(b));
    CHECK(done[1].affected() == 1);
    const rows found = co_await db.query("select i, r, t, b, n from cells");
    REQUIRE(found.size() == 1);
    const row cells = found.front();
    CHECK(cells.get<int>("i") == -7);
    CHECK(cells.get<double>("r") == 2.5);
    CHECK(cells.get<std::string>("t") == "na\u00efve \"quoted\" 'text'");
    CHECK(cells.get<blob>("b") == bytes);
    CHECK(cells["n"].is_null());
    CHECK(cells.get<std::optional<std::string>>("n") == std::nullopt);
    CHECK(cells.get<std::optional<int>>("i") == -7);
  });
}

TEST_CASE("a parameter may be used twice and in any order") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    co_await contract::make_items(db);
    batch b;
    b.execute("insert into items(amount, note, name) values($2, $1, $1)", "bolt", 4);
    co_await db.commit(std::move(b));
    const rows found =
        co_await db.query("select name, amount, note from items where name = $1 and amount > $2", "bolt", 3);
    REQUIRE(found.size() == 1);
    CHECK(found[0].get<std::string>("note") == "bolt");
    CHECK(found[0].get<int>("amount") == 4);
  });
}

TEST_CASE("a batch of which one statement fails leaves nothing behind") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    co_await contract::make_items(db);
    batch b;
    b.execute("insert into items(name, amount) values('bolt', 1)");
    b.execute("insert into items(name, amount) values('bolt', 2)");
    const auto done = co_await db.try_commit(std::move(b));
    REQUIRE(!done);
    CHECK(done.code() == errc::constraint_violated);
    const auto left = co_await contract::count_items(db);
    CHECK(left == 0);
  });
}

TEST_CASE("a condition that does not hold refuses the batch by its name") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    co_await contract::make_items(db);
    batch first;
    first.require("there are no bolts yet", "select not exists(select 1 from items where name = $1)", "bolt");
    first.execute("insert into items(name, amount) values($1, 1)", "bolt");
    batch second = first;
    co_await db.commit(std::move(first));
    const auto again = co_await db.try_commit(std::move(second));
    REQUIRE(!again);
    CHECK(again.code() == errc::condition_failed);
    CHECK(again.why().message().find("there are no bolts yet") != std::string::npos);
    const auto left = co_await contract::count_items(db);
    CHECK(left == 1);
  });
}

TEST_CASE("a change that changes nothing refuses the batch by its name") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    co_await contract::make_items(db);
    batch first;
    first.execute("insert into items(name, amount) values('bolt', 1)");
    first.require_change("there is one bolt", "update items set amount = $2 where name = $1 and amount = 1", "bolt", 2);
    batch second;
    second.execute("insert into items(name, amount) values('nut', 1)");
    second.require_change("there is one bolt", "update items set amount = $2 where name = $1 and amount = 1;", "bolt",
                          3);
    second.require_change("nobody gets here", "delete from items where name = 'bolt'");
    co_await db.commit(std::move(first));
    const auto again = co_await db.try_commit(std::move(second));
    REQUIRE(!again);
    CHECK(again.code() == errc::condition_failed);
    CHECK(again.why().message().find("there is one bolt") != std::string::npos);
    const rows left = co_await db.query("select name, amount from items");
    REQUIRE(left.size() == 1);
    CHECK(left.front().get<int>(1) == 2);
    batch third;  // also where a statement before it changed something
    third.execute("update items set amount = 4");
    third.require_change("there is a screw", "insert into items(name, amount) select 'screw', 1 where 1 = 0");
    const auto in_vain = co_await db.try_commit(std::move(third));
    CHECK(in_vain.code() == errc::condition_failed);
  });
}

TEST_CASE("a condition that has no row does not hold") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    co_await contract::make_items(db);
    batch b;
    b.require("there is a bolt", "select amount > 0 from items where name = 'bolt'");
    const auto done = co_await db.try_commit(std::move(b));
    CHECK(done.code() == errc::condition_failed);
  });
}

TEST_CASE("an empty batch succeeds") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    const receipt done = co_await db.commit(batch());
    CHECK(done.size() == 0);
  });
}

TEST_CASE("wrong SQL names the statement and spoils nothing") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    co_await contract::make_items(db);
    batch b;
    b.execute("insert into items(name, amount) values('bolt', 1)");
    b.execute("insert into itmes(name) values('nut')");
    const auto done = co_await db.try_commit(std::move(b));
    REQUIRE(!done);
    CHECK(done.code() == errc::invalid_statement);
    CHECK(done.why().message().find("itmes") != std::string::npos);
    bool query_failed = false;
    try {
      co_await db.query("select * from itmes");
    } catch (const storage_error& e) {
      query_failed = e.code() == errc::invalid_statement;
    }
    CHECK(query_failed);
    const auto left = co_await contract::count_items(db);
    CHECK(left == 0);
  });
}

TEST_CASE("too few and too many parameters are refused") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    co_await contract::make_items(db);
    batch few;
    few.execute("insert into items(name, amount) values($1, $2)", "bolt");
    const auto too_few = co_await db.try_commit(std::move(few));
    CHECK(too_few.code() == errc::invalid_statement);
    batch many;
    many.execute("insert into items(name, amount) values($1, 1)", "bolt", 2);
    const auto too_many = co_await db.try_commit(std::move(many));
    CHECK(too_many.code() == errc::invalid_statement);
  });
}

TEST_CASE("a query that writes is refused") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    co_await contract::make_items(db);
    errc code = errc();
    try {
      co_await db.query("insert into items(name, amount) values('bolt', 1) returning name");
    } catch (const storage_error& e) {
      code = static_cast<errc>(e.code().value());
    }
    CHECK(code == errc::invalid_statement);
    const auto left = co_await contract::count_items(db);
    CHECK(left == 0);
  });
}

namespace contract {

/// As others would write them, to get by.
const std::vector<std::string> transaction_control{
    "commit",     " End ;", "rollback",       "/* all's well */ commit", "-- now\n\tCOMMIT",          "; commit",
    "commit/**/", "begin",  "savepoint half", "release savepoint half",  "rollback to savepoint half"};

}  // namespace contract

TEST_CASE("a statement of a batch neither ends nor divides its transaction") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    co_await contract::make_items(db);
    for (const std::string& control : contract::transaction_control) {
      INFO(control);
      batch b;
      b.execute("insert into items(name, amount) values('half', 1)");
      b.execute(control);
      const auto done = co_await db.try_commit(std::move(b));
      CHECK(done.code() == errc::invalid_statement);
      batch condition;
      condition.execute("insert into items(name, amount) values('half', 1)");
      condition.require("it is so", control);
      const auto required = co_await db.try_commit(std::move(condition));
      CHECK(required.code() == errc::invalid_statement);
      batch change;
      change.execute("insert into items(name, amount) values('half', 1)");
      change.require_change("it is changed", control);
      const auto changed = co_await db.try_commit(std::move(change));
      CHECK(changed.code() == errc::invalid_statement);
      const auto left = co_await contract::count_items(db);
      CHECK(left == 0);
    }
  });
}

TEST_CASE("a query begins no transaction, and the next one sees what was committed since") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    co_await contract::make_items(db);
    const auto ask = [&db](std::string control) -> awaitable<void> { (void)co_await db.query(statement(control)); };
    const auto look = [&db](std::string control) -> awaitable<void> {
      cursor reading = co_await db.stream(statement(control));
      (void)co_await reading.next();
    };
    for (const std::string& control : contract::transaction_control) {
      INFO(control);
      const std::string asked = co_await test::error_of(ask(control));
      CHECK(asked != "");
      const std::string streamed = co_await test::error_of(look(control));
      CHECK(streamed != "");
    }
    for (int i = 1; i <= 5; ++i) {
      batch b;
      b.execute("insert into items(name, amount) values($1, 1)", std::to_string(i));
      co_await db.commit(std::move(b));
      const auto seen = co_await contract::count_items(db);
      CHECK(seen == i);
    }
  });
}

TEST_CASE("a batch that would end the transaction takes no other along, and none is written twice") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    co_await contract::make_items(db);
    batch first;
    first.execute("insert into items(name, amount) values('bolt', 0)");
    co_await db.commit(std::move(first));
    int next = 0, done = 0, refused = 0;
    const auto write = [&]() -> awaitable<void> {
      const bool ends = next++ % 8 == 7;
      batch b;
      b.execute("update items set amount = amount + 1");
      if (ends) b.execute("commit");
      const auto result = co_await db.try_commit(std::move(b));
      result ? ++done : ++refused;
    };
    co_await detail::run_workers(32, [&] { return write(); });
    CHECK(done == 28);
    CHECK(refused == 4);
    const rows counted = co_await db.query("select amount from items");
    CHECK(counted.front().get<int>(0) == 28);
  });
}

TEST_CASE("of those who take from a stock at once none gets what is not there") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    batch stock;
    stock.execute("create table stock(item text primary key, amount bigint not null)");
    stock.execute("create table orders(id text primary key, total bigint not null)");
    stock.execute("insert into stock(item, amount) values('bolt', 5)");
    co_await db.commit(std::move(stock));
    int next = 0, done = 0, sold_out = 0;
    const auto buy = [&]() -> awaitable<void> {
      const std::string item = "bolt", id = std::to_string(next++);
      batch b;
      b.require_change("stock is left", "update stock set amount = amount - 1 where item = $1 and amount > 0", item);
      const std::size_t inserted = b.execute("insert into orders(id, total) values($1, $2) returning id", id, 12);
      const auto result = co_await db.try_commit(std::move(b));
      if (result) {
        CHECK((*result)[inserted].front().get<std::string>(0) == id);
        ++done;
      } else {
        CHECK(result.code() == errc::condition_failed);
        ++sold_out;
      }
    };
    co_await detail::run_workers(20, [&] { return buy(); });
    CHECK(done == 5);
    CHECK(sold_out == 15);
    const rows left = co_await db.query("select (select amount from stock), (select count(*) from orders)");
    CHECK(left.front().get<int>(0) == 0);
    CHECK(left.front().get<int>(1) == 5);
  });
}

TEST_CASE("a cell read as what it is not names its column") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    const rows found = co_await db.query("select 'text' as word, 300 as number");
    CHECK_THROWS_WITH(found.front().get<int>("word"), Catch::Contains("word") && Catch::Contains("text"));
    CHECK_THROWS_WITH(found.front().get<std::uint8_t>("number"), Catch::Contains("number") && Catch::Contains("300"));
    CHECK_THROWS_WITH(found.front().get<int>("nothing"), Catch::Contains("nothing"));
    CHECK(found.front().get<int>("number") == 300);
  });
}

TEST_CASE("batches of many coroutines each get their own outcome") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    co_await contract::make_items(db);
    constexpr int writers = 40, each = 5;
    int next = 0, refused = 0, done = 0;
    const auto write = [&]() -> awaitable<void> {
      const int me = next++;
      for (int i = 0; i < each; ++i) {
        batch b;
        // Every writer's third name is somebody else's: one of two is refused.
        b.execute("insert into items(name, amount) values($1, 1)",
                  i == 2 ? "shared " + std::to_string(me / 2) : std::to_string(me) + "." + std::to_string(i));
        b.execute("update items set amount = amount + 1 where name = '0.0'");
        const auto result = co_await db.try_commit(std::move(b));
        result ? ++done : ++refused;
      }
    };
    co_await detail::run_workers(writers, [&] { return write(); });
    CHECK(refused == writers / 2);
    CHECK(done == writers * each - writers / 2);
    const auto left = co_await contract::count_items(db);
    CHECK(left == done);
    const rows counted = co_await db.query("select amount from items where name = '0.0'");
    CHECK(counted.front().get<int>(0) <= done + 1);
    const auto stats = db.stats();
    CHECK(stats.batches == static_cast<std::uint64_t>(done) + 1);
    CHECK(stats.refused_batches == static_cast<std::uint64_t>(refused));
  });
}

TEST_CASE("a cursor gives every row once, page by page, from one snapshot") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    co_await contract::make_items(db);
    batch b;
    for (int i = 0; i < 25; ++i) b.execute("insert into items(name, amount) values($1, $2)", std::to_string(i), i);
    co_await db.commit(std::move(b));
    statement all("select amount from items where amount >= $1 order by amount", 0);
    cursor reading = co_await db.stream(std::move(all), 10);
    std::vector<std::size_t> pages;
    std::int64_t expected = 0;
    for (;;) {
      const auto page = co_await reading.next();
      if (!page) break;
      pages.push_back(page->size());
      for (const row r : *page) CHECK(r.get<std::int64_t>(0) == expected++);
      batch late;
      late.execute("insert into items(name, amount) values($1, 1000)", "late " + std::to_string(pages.size()));
      co_await db.commit(std::move(late));
    }
    CHECK(pages == std::vector<std::size_t>{10, 10, 5});
    CHECK(expected == 25);
    const auto after_the_end = co_await reading.next();
    CHECK(!after_the_end);
  });
}

TEST_CASE("a cursor that is dropped half-way lets others write and read") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    co_await contract::make_items(db);
    batch b;
    for (int i = 0; i < 5; ++i) b.execute("insert into items(name, amount) values($1, $2)", std::to_string(i), i);
    co_await db.commit(std::move(b));
    {
      statement all("select * from items");
      cursor reading = co_await db.stream(std::move(all), 2);
      const auto page = co_await reading.next();
      CHECK(page->size() == 2);
      CHECK(db.stats().open_cursors == 1);
    }
    CHECK(db.stats().open_cursors == 0);
    batch more;
    more.execute("delete from items");
    const receipt done = co_await db.commit(std::move(more));
    CHECK(done[0].affected() == 5);
  });
}

TEST_CASE("a schema grows step by step and only once") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    std::vector<migration> history;
    history.push_back({1, "orders", {"create table orders(id text primary key)"}});
    co_await db.migrate("shop", history);
    history.push_back(
        {2, "totals", {"alter table orders add column total bigint", "create index by_total on orders(total)"}});
    co_await db.migrate("shop", history);
    co_await db.migrate("shop", history);
    batch b;
    b.execute("insert into orders(id, total) values('a', 1)");
    co_await db.commit(std::move(b));

    std::string message;
    try {
      auto edited = history;
      edited[0].statements[0] += " ";
      co_await db.migrate("shop", edited);
    } catch (const storage_error& e) {
      CHECK(e.code() == errc::schema_mismatch);
      message = e.what();
    }
    CHECK(message.find("orders") != std::string::npos);

    bool older_refused = false;
    try {
      history.pop_back();
      co_await db.migrate("shop", history);
    } catch (const storage_error& e) {
      older_refused = e.code() == errc::schema_mismatch;
    }
    CHECK(older_refused);
  });
}

TEST_CASE("a step that fails is named and leaves the schema as it was") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    std::vector<migration> history;
    history.push_back({1, "broken", {"create table fine(id text)", "create tabel nonsense"}});
    std::string message;
    try {
      co_await db.migrate("shop", history);
    } catch (const storage_error& e) {
      message = e.what();
    }
    CHECK(message.find("step 1 of 'shop' (broken)") != std::string::npos);
    history[0].statements[1] = "create table nonsense(id text)";
    co_await db.migrate("shop", history);
    co_await db.query("select * from fine, nonsense");
  });
}

TEST_CASE("several who migrate at once all find the schema made") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    int made = 0;
    std::string problem;
    const auto migrate = [&]() -> awaitable<void> {
      std::vector<migration> history;
      for (std::uint32_t i = 1; i <= 3; ++i) {
        history.push_back({i, "step", {"create table t" + std::to_string(i) + "(id text)"}});
      }
      try {
        co_await db.migrate("shop", std::move(history));
        ++made;
      } catch (const storage_error& e) {
        problem = e.what();
      }
    };
    co_await detail::run_workers(5, [&] { return migrate(); });
    CHECK(problem == "");
    CHECK(made == 5);
  });
}

TEST_CASE("a commit is heard of by who waits for a change") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    co_await contract::make_items(db);
    const auto seen = db.changes();
    std::uint64_t heard = 0;
    bool is_waiting = false;
    const auto wait = [&]() -> awaitable<void> {
      is_waiting = true;
      heard = co_await db.wait_for_change(seen, 60s);
    };
    const auto change = [&]() -> awaitable<void> {
      batch b;
      b.execute("insert into items(name, amount) values('bolt', 1)");
      co_await db.commit(std::move(b));
    };
    int started = 0;
    const auto both = [&]() -> awaitable<void> {
      if (started++ == 0) {
        co_await wait();
      } else {
        co_await change();
      }
    };
    co_await detail::run_workers(2, [&] { return both(); });
    CHECK(is_waiting);
    CHECK(heard > seen);
    const auto at_once = co_await db.wait_for_change(seen, 60s);
    CHECK(at_once >= heard);  // a server may tell us of our own commit once more
  });
}

TEST_CASE("a closed database refuses what comes and has finished what it took") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    co_await contract::make_items(db);
    int next = 0, done = 0;
    const auto write_or_close = [&]() -> awaitable<void> {
      const int me = next++;
      if (me == 10) {
        co_await db.close();
        co_return;
      }
      batch b;
      b.execute("insert into items(name, amount) values($1, 1)", std::to_string(me));
      const auto result = co_await db.try_commit(std::move(b));
      if (result) ++done;
      if (!result) CHECK(result.code() == errc::database_closed);
    };
    co_await detail::run_workers(20, [&] { return write_or_close(); });
    CHECK(done >= 10);
    batch late;
    late.execute("delete from items");
    const auto refused = co_await db.try_commit(std::move(late));
    CHECK(refused.code() == errc::database_closed);
    bool query_refused = false;
    try {
      co_await db.query("select 1");
    } catch (const storage_error& e) {
      query_refused = e.code() == errc::database_closed;
    }
    CHECK(query_refused);
  });
}

TEST_CASE("a database that answers is healthy, one that is closed is not") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    const auto fine = co_await db.check_health();
    CHECK(fine.has_value());
    co_await db.close();
    const auto closed = co_await db.check_health();
    CHECK(closed.code() == errc::database_closed);
  });
}

TEST_CASE("events say how many batches became durable") {
  contract::on_every_database([](database& db) -> awaitable<void> {
    std::mutex mutex;
    std::size_t committed = 0;
    const auto listening = db.events().subscribe([&](const database_event& e) {
      const std::lock_guard lock(mutex);
      if (e.what == database_event::kind::committed) committed += e.batches;
    });
    co_await contract::make_items(db);
    co_await db.close();
    const std::lock_guard lock(mutex);
    CHECK(committed == 1);
  });
}
