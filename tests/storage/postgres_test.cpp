// What PostgreSQL does beyond the contract: servers that go, connections that break, cancelled queries.
#include "async_test.hpp"
#include "certificates.hpp"
#include "postgres_server.hpp"
#include "real_time.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/core/workers.hpp>
#include <cofferdam/storage/database.hpp>

#include <csignal>
#include <utility>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace postgres_cases {

template <class Body> void on_postgres(Body body, database_options options = {}) {
  test::postgres_server* server = test::postgres_server::shared();
  if (server == nullptr) return;
  server->clear();
  const auto open_and_run = [&]() -> awaitable<void> {
    database db = co_await database::open(server->url(), options);
    batch b;
    b.execute("create table lines(id bigserial primary key, line text unique not null)");
    co_await db.commit(std::move(b));
    co_await body(*server, db);
    co_await db.close();
  };
  test::run_in_real_time(open_and_run);
}

batch a_line(const std::string& text) {
  batch b;
  b.execute("insert into lines(line) values($1) returning id", text);
  return b;
}

awaitable<std::int64_t> count_lines(database& db) {
  const rows counted = co_await db.query("select count(*) from lines");
  co_return counted.front().get<std::int64_t>(0);
}

std::string message_of_opening(const std::string& url) {
  try {
    test::run_in_real_time([](std::string where) -> awaitable<void> { co_await database::open(std::move(where)); },
                           url);
  } catch (const storage_error& e) {
    CHECK(e.code() == errc::database_unavailable);
    return e.what();
  }
  return {};
}

}  // namespace postgres_cases

TEST_CASE("a PostgreSQL URL that leads nowhere fails without showing its password") {
  if (test::postgres_server::shared() == nullptr) return;
  const auto nobody = postgres_cases::message_of_opening("postgresql://me:secret@127.0.0.1:1/x");
  CHECK(!nobody.empty());
  CHECK(nobody.find("secret") == std::string::npos);
  const auto nonsense = postgres_cases::message_of_opening("postgresql://me:secret@host/x?nonsense=secret");
  CHECK(!nonsense.empty());
  CHECK(nonsense.find("secret") == std::string::npos);
  const auto missing = postgres_cases::message_of_opening(test::postgres_server::shared()->url() + "&dbname=missing");
  CHECK(missing.find("missing") != std::string::npos);
}

TEST_CASE("after a restart of the PostgreSQL server the pool serves again") {
  postgres_cases::on_postgres([](test::postgres_server& server, database& db) -> awaitable<void> {
    co_await db.commit(postgres_cases::a_line("before"));
    server.stop(SIGQUIT);
    const auto down = co_await db.try_commit(postgres_cases::a_line("down"));
    REQUIRE(!down);
    CHECK(down.code() == errc::database_unavailable);
    server.start();
    for (int i = 0; i < 20; ++i) {  // every connection of the pool has lost its server
      auto line = postgres_cases::a_line("after " + std::to_string(i));
      co_await db.commit(std::move(line));
    }
    const auto left = co_await postgres_cases::count_lines(db);
    CHECK(left == 21);
  });
}

TEST_CASE("a PostgreSQL backend that is terminated amid a batch leaves nothing of it") {
  postgres_cases::on_postgres([](test::postgres_server&, database& db) -> awaitable<void> {
    batch b = postgres_cases::a_line("lost");
    b.execute("select pg_terminate_backend(pg_backend_pid())");
    const auto done = co_await db.try_commit(std::move(b));
    REQUIRE(!done);
    CHECK(done.code() == errc::database_unavailable);
    const auto left = co_await postgres_cases::count_lines(db);
    CHECK(left == 0);
    co_await db.commit(postgres_cases::a_line("next"));
  });
}

TEST_CASE("a cancelled PostgreSQL query ends soon and its connection serves on") {
  postgres_cases::on_postgres([](test::postgres_server&, database& db) -> awaitable<void> {
    for (int i = 0; i < 4; ++i) {
      bool is_late = false;
      try {
        const auto sleep = [&db]() -> awaitable<void> { co_await db.query("select pg_sleep(600)"); };
        co_await with_timeout(20ms, sleep);
      } catch (const std::system_error&) {
        is_late = true;
      }
      CHECK(is_late);
    }
    const auto left = co_await postgres_cases::count_lines(db);
    CHECK(left == 0);
  });
}

TEST_CASE("batches that share a flight with a refused one are committed all the same") {
  postgres_cases::on_postgres([](test::postgres_server&, database& db) -> awaitable<void> {
    int next = 0, done = 0, refused = 0;
    const auto write = [&]() -> awaitable<void> {
      const int me = next++;
      auto line = postgres_cases::a_line(me % 3 == 0 ? "same" : std::to_string(me));
      const auto result = co_await db.try_commit(std::move(line));
      if (!result) CHECK(result.code() == errc::constraint_violated);
      result ? ++done : ++refused;
    };
    co_await detail::run_workers(90, [&] { return write(); });
    CHECK(done == 61);
    CHECK(refused == 29);
    const auto left = co_await postgres_cases::count_lines(db);
    CHECK(left == 61);
  });
}

TEST_CASE("what PostgreSQL finds wrong only when an operation commits refuses its batch alone") {
  struct orphan final : operation {
    void run(sqlite::connection&) override {}
    std::vector<statement> statements() override {
      std::vector<statement> one;
      one.emplace_back("insert into notes(line) values(-1)");
      return one;
    }
    void answered(std::vector<rows>) override { is_answered = true; }
    bool is_answered = false;
  };
  postgres_cases::on_postgres([](test::postgres_server&, database& db) -> awaitable<void> {
    batch b;
    b.execute("create table notes(line bigint references lines(id) deferrable initially deferred)");
    co_await db.commit(std::move(b));
    int next = 0, refused = 0, done = 0;
    const auto write = [&]() -> awaitable<void> {
      const int me = next++;
      batch mine;
      const auto lonely = std::make_shared<orphan>();
      if (me % 10 == 9) {
        mine.add(lonely);
      } else {
        mine = postgres_cases::a_line(std::to_string(me));
      }
      const auto result = co_await db.try_commit(std::move(mine));
      if (!result) CHECK(result.code() == errc::constraint_violated);
      CHECK_FALSE(lonely->is_answered);
      result ? ++done : ++refused;
    };
    co_await detail::run_workers(60, [&] { return write(); });
    CHECK(done == 54);
    CHECK(refused == 6);
    const auto left = co_await postgres_cases::count_lines(db);
    CHECK(left == 54);
    next = 9;
    co_await write();  // alone
    CHECK(refused == 7);
  });
}

TEST_CASE("PostgreSQL tells another process what was committed") {
  postgres_cases::on_postgres([](test::postgres_server& server, database& db) -> awaitable<void> {
    database other = co_await database::open(server.url());
    const auto seen = other.changes();
    co_await db.commit(postgres_cases::a_line("news"));
    const auto heard = co_await other.wait_for_change(seen, 60s);
    CHECK(heard > seen);
    co_await other.close();
  });
}

TEST_CASE("PostgreSQL refuses text with a zero byte and transactions in a batch") {
  postgres_cases::on_postgres([](test::postgres_server&, database& db) -> awaitable<void> {
    auto zero = postgres_cases::a_line(std::string("a\0b", 3));
    const auto stored = co_await db.try_commit(std::move(zero));
    CHECK(stored.code() == errc::invalid_statement);
    batch ends = postgres_cases::a_line("half");
    ends.execute("Commit");
    const auto ended = co_await db.try_commit(std::move(ends));
    CHECK(ended.code() == errc::invalid_statement);
    const auto left = co_await postgres_cases::count_lines(db);
    CHECK(left == 0);
  });
}

TEST_CASE("a PostgreSQL server that stands still under load ends calls when their time is over, and close as well") {
  database_options quick;
  quick.statement_limit = 200ms;
  quick.connect_timeout = 200ms;
  postgres_cases::on_postgres(
      [](test::postgres_server& server, database& db) -> awaitable<void> {
        int next = 0, succeeded = 0, unknown = 0, unavailable = 0, other = 0;
        bool has_stopped = false;
        const auto write = [&]() -> awaitable<void> {
          for (;;) {
            if (next == 40 && !std::exchange(has_stopped, true)) server.signal(SIGSTOP);
            auto line = postgres_cases::a_line(std::to_string(next++));
            const auto done = co_await db.try_commit(std::move(line));
            if (done) {
              ++succeeded;
              continue;
            }
            ++(done.code() == errc::outcome_unknown        ? unknown
               : done.code() == errc::database_unavailable ? unavailable
                                                           : other);
            co_return;
          }
        };
        co_await detail::run_workers(30, [&] { return write(); });
        CHECK(unknown > 0);
        CHECK(other == 0);
        const auto look = [&db]() -> awaitable<void> { (void)co_await db.query("select count(*) from lines"); };
        bool is_refused = false;
        try {
          co_await with_timeout(20ms, look);  // nobody hears of this cancellation
        } catch (const std::system_error&) {
          is_refused = true;
        }
        CHECK(is_refused);
        auto last = postgres_cases::a_line("last");
        const auto refused = co_await db.try_commit(std::move(last));
        CHECK(refused.code() == errc::database_unavailable);
        const auto stats = db.stats();
        CHECK(stats.lost_connections > 0);
        CHECK(stats.failed_connects > 0);
        co_await db.close();
        server.signal(SIGCONT);
        database again = co_await database::open(server.url());
        const auto left = co_await postgres_cases::count_lines(again);
        CHECK(succeeded > 0);
        CHECK(left >= succeeded);
        CHECK(left <= succeeded + unknown);
        co_await again.close();
      },
      quick);
}

TEST_CASE("a statement that takes longer than the limit ends, and nothing of its batch is there") {
  database_options quick;
  quick.statement_limit = 100ms;
  postgres_cases::on_postgres(
      [](test::postgres_server&, database& db) -> awaitable<void> {
        batch slow = postgres_cases::a_line("slow");
        slow.execute("select pg_sleep(60)");
        const auto done = co_await db.try_commit(std::move(slow));
        CHECK(done.code() == errc::database_busy);
        const auto left = co_await postgres_cases::count_lines(db);
        CHECK(left == 0);
      },
      quick);
}

TEST_CASE("connections that break under load come back, and the pool says so") {
  postgres_cases::on_postgres([](test::postgres_server& server, database& db) -> awaitable<void> {
    database killer = co_await database::open(server.url() + "&application_name=killer");
    int next = 0, done = 0, unknown = 0, unavailable = 0;
    bool is_over = false;
    const auto write = [&]() -> awaitable<void> {
      while (!is_over) {
        auto line = postgres_cases::a_line(std::to_string(next++));
        const auto result = co_await db.try_commit(std::move(line));
        if (result) {
          ++done;
        } else if (result.code() == errc::outcome_unknown) {
          ++unknown;
        } else {
          CHECK(result.code() == errc::database_unavailable);
          ++unavailable;
        }
      }
    };
    int worker = 0;
    const auto cut = [&]() -> awaitable<void> {
      for (int cuts = 0; cuts < 10; ++cuts) {
        const int before = done;
        while (done < before + 50) co_await sleep_for(1ms);
        batch b;
        b.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'client backend' and "
            "application_name <> 'killer'");
        co_await killer.commit(std::move(b));
      }
      is_over = true;
    };
    const auto work = [&]() -> awaitable<void> { return worker++ == 0 ? cut() : write(); };
    co_await detail::run_workers(9, [&] { return work(); });
    const auto left = co_await postgres_cases::count_lines(db);
    CHECK(left >= done);
    CHECK(left <= done + unknown);
    const auto stats = db.stats();
    CHECK(stats.lost_connections > 0);
    CHECK(stats.connects > stats.lost_connections);
    CHECK(stats.open_connections > 0);
    co_await killer.close();
  });
}

TEST_CASE("what the URL says about TLS reaches the server, and its password reaches nobody") {
  test::postgres_server* server = test::postgres_server::shared();
  if (server == nullptr) return;
  const auto refused = postgres_cases::message_of_opening(server->url() + "&password=secret&sslmode=nonsense");
  CHECK(refused.find("nonsense") != std::string::npos);
  CHECK(refused.find("secret") == std::string::npos);
  const auto body = [&]() -> awaitable<void> {
    database db = co_await database::open(server->url() + "&password=hush&sslmode=prefer");
    CHECK(db.name().find("hush") == std::string::npos);
    const auto wrong = co_await db.check_health();
    CHECK(wrong.has_value());
    batch b;
    b.execute("select no_such_function()");
    const auto failed = co_await db.try_commit(std::move(b));
    CHECK(failed.why().message().find("hush") == std::string::npos);
    co_await db.close();
  };
  test::run_in_real_time(body);
}

TEST_CASE("over TLS the URL's authority is believed, no other one, and no text shows the password") {
  if (test::postgres_server::shared() == nullptr || !test::certificates::can_be_made()) return;
  test::postgres_server server(test::postgres_server::shared()->programs());
  const test::certificates ours, others;
  ours.sign("server");
  const std::string port = std::to_string(server.serve_tls(ours.certificate("server"), ours.key("server")));
  const auto set_password = [&]() -> awaitable<void> {
    database db = co_await database::open(server.url());
    batch b;
    b.execute("alter role tester password 'hush-hush'");
    co_await db.commit(std::move(b));
    co_await db.close();
  };
  test::run_in_real_time(set_password);

  const std::string query = "/postgres?sslmode=verify-full&sslrootcert=";
  const std::string place = "postgresql://tester:hush-hush@127.0.0.1:" + port + query;
  const auto ask = [&]() -> awaitable<void> {
    database db = co_await database::open(place + ours.ca());
    const rows mine = co_await db.query("select ssl from pg_stat_ssl where pid = pg_backend_pid()");
    CHECK(mine.front().get<bool>(0));
    CHECK(db.name().find("hush") == std::string::npos);
    co_await db.close();
  };
  test::run_in_real_time(ask);

  const auto refused = [](const std::string& url, const std::string& why) {
    const std::string message = postgres_cases::message_of_opening(url);
    INFO(message);
    CHECK(message.find(why) != std::string::npos);
    CHECK(message.find("hush") == std::string::npos);
  };
  refused(place + others.ca(), "certificate verify failed");
  refused(place + "/no/such/root.pem", "/no/such/root.pem");
  refused(place + ours.ca() + "&host=elsewhere.example&hostaddr=127.0.0.1", "does not match host name");
  refused("postgresql://tester:hush-hush@127.0.0.1:" + port + "/postgres?sslmode=disable", "no encryption");
  refused("postgresql://tester:hush-wrong@127.0.0.1:" + port + query + ours.ca(), "password authentication failed");
}
