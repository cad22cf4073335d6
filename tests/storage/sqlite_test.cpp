// What SQLite does beyond the contract: files, other processes, group commit, its own errors.
#include "async_test.hpp"
#include "count_from.hpp"
#include "database_test.hpp"
#include "error_of.hpp"
#include "harness.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/workers.hpp>
#include <cofferdam/storage/database.hpp>
#include <cofferdam/storage/sqlite.hpp>

#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <thread>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace sqlite_cases {

/// How much of the file those who read may keep, in kibibytes; SQLite counts them below zero.
awaitable<std::int64_t> cache_of_readers(std::string url, database_options options) {
  database db = co_await database::open(std::move(url), options);
  const rows said = co_await db.query("pragma cache_size");
  co_await db.close();
  co_return said.front().get<std::int64_t>(0);
}

awaitable<void> make_log(database& db) {
  batch b;
  b.execute("create table log(id integer primary key autoincrement, line text not null)");
  co_await db.commit(std::move(b));
}

batch a_line(const std::string& text) {
  batch b;
  b.execute("insert into log(line) values($1)", text);
  return b;
}

/// A connection of somebody else's.
struct stranger {
  explicit stranger(const std::string& path) { REQUIRE(sqlite3_open(path.c_str(), &db) == SQLITE_OK); }
  ~stranger() { sqlite3_close(db); }
  stranger(const stranger&) = delete;
  stranger& operator=(const stranger&) = delete;
  void run(const char* sql) { REQUIRE(sqlite3_exec(db, sql, nullptr, nullptr, nullptr) == SQLITE_OK); }
  sqlite3* db = nullptr;
};

errc code_of_opening(const std::string& url, std::string& message) {
  try {
    test::run_in_real_time([](std::string where) -> awaitable<void> { co_await database::open(std::move(where)); },
                           url);
  } catch (const storage_error& e) {
    message = e.what();
    return static_cast<errc>(e.code().value());
  }
  return errc();
}

class insert_two final : public operation {
 public:
  void run(sqlite::connection& connection) override {
    ++runs;
    auto insert = connection.prepare("insert into log(line) values($1)");
    insert.bind(1, "one").execute();
    insert.bind(1, "two").execute();
    last_id = connection.last_insert_id();
    if (fails) throw std::runtime_error("changed its mind");
  }

  int runs = 0;
  std::int64_t last_id = 0;
  bool fails = false;
};

}  // namespace sqlite_cases

TEST_CASE("a URL that cannot work says what is wrong with it") {
  std::string message;
  CHECK(sqlite_cases::code_of_opening("sqlite:/no/such/directory/x.db", message) == errc::database_unavailable);
  CHECK(message.find("/no/such/directory/x.db") != std::string::npos);
  CHECK(sqlite_cases::code_of_opening("sqlite:", message) == errc::database_unavailable);
  CHECK(message.find("names no file") != std::string::npos);
  CHECK(sqlite_cases::code_of_opening("sqlite:a.db?thread=0", message) == errc::database_unavailable);
  CHECK(message.find("thread=0") != std::string::npos);
  CHECK(sqlite_cases::code_of_opening("mysql://me:secret@host/db", message) == errc::database_unavailable);
  CHECK(message.find("mysql") != std::string::npos);
  CHECK(message.find("secret") == std::string::npos);
  CHECK(sqlite_cases::code_of_opening("sqlite::memory:?threads=1", message) == errc::database_unavailable);
}

TEST_CASE("a file that is no database is left as it is") {
  const test::temporary_directory directory;
  const std::string path = directory.file("notes.txt");
  const std::string content(10'000, 'x');
  std::ofstream(path) << content;
  std::string message;
  CHECK(sqlite_cases::code_of_opening("sqlite:" + path, message) == errc::database_corrupt);
  CHECK(message.find("notes.txt") != std::string::npos);
  std::ifstream in(path);
  const std::string after((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  CHECK(after == content);
}

TEST_CASE("a database is not made where the options say so") {
  const test::temporary_directory directory;
  const auto open = [](std::string url) -> awaitable<errc> {
    database_options options;
    options.create = false;
    try {
      co_await database::open(std::move(url), options);
    } catch (const storage_error& e) {
      co_return static_cast<errc>(e.code().value());
    }
    co_return errc();
  };
  CHECK(test::run_in_real_time(open, "sqlite:" + directory.file("x.db")) == errc::database_unavailable);
}

ASYNC_TEST("a database in memory works in virtual time") {
  database db = co_await database::open("sqlite::memory:");
  co_await sqlite_cases::make_log(db);
  co_await sleep_for(1h);
  batch b = sqlite_cases::a_line("later");
  co_await db.commit(std::move(b));
  const rows found = co_await db.query("select count(*) from log");
  CHECK(found.front().get<int>(0) == 1);
  CHECK(time.elapsed() == 1h);
  const auto seen = db.changes();
  const auto after = co_await db.wait_for_change(seen, 1min);
  CHECK(after == seen);
  CHECK(time.elapsed() == 1h + 1min);
}

ASYNC_TEST("an operation runs inside its batch and keeps what it found out") {
  database db = co_await database::open("sqlite::memory:");
  co_await sqlite_cases::make_log(db);
  const auto insert = std::make_shared<sqlite_cases::insert_two>();
  batch b = sqlite_cases::a_line("zero");
  b.add(insert);
  co_await db.commit(std::move(b));
  CHECK(insert->last_id == 3);

  const auto failing = std::make_shared<sqlite_cases::insert_two>();
  failing->fails = true;
  batch bad = sqlite_cases::a_line("never");
  bad.add(failing);
  const auto refused = co_await db.try_commit(std::move(bad));
  CHECK(refused.why().message() == "changed its mind");
  const rows found = co_await db.query("select count(*) from log");
  CHECK(found.front().get<int>(0) == 3);
}

TEST_CASE("batches that come together share commits, and each keeps its own fate") {
  // Refused before it has written, or halfway.
  const bool halfway = GENERATE(false, true);
  const test::temporary_directory directory;
  const auto body = [halfway](std::string url) -> awaitable<database_stats> {
    database db = co_await database::open(std::move(url));
    co_await sqlite_cases::make_log(db);
    int next = 0, wrong = 0;
    const auto write = [&]() -> awaitable<void> {
      const int me = next++;
      for (int i = 0; i < 20; ++i) {
        const bool is_bad = (me + i) % 7 == 0;
        batch b;
        if (is_bad && !halfway) b.require("there is a line too many", "select count(*) > 1000000 from log");
        b.add(sqlite_cases::a_line(std::to_string(me)));
        if (is_bad && halfway) b.execute("insert into log(id, line) values(1, 'taken')");
        const auto result = co_await db.try_commit(std::move(b));
        if (result.has_value() == is_bad) ++wrong;
      }
    };
    co_await detail::run_workers(32, [&] { return write(); });
    CHECK(wrong == 0);
    const rows counted = co_await db.query("select count(*) from log");
    const auto s = db.stats();
    CHECK(counted.front().get<std::uint64_t>(0) == s.batches - 1);
    co_return s;
  };
  const auto stats = test::run_in_real_time(body, "sqlite:" + directory.file("group.db"));
  CHECK(stats.batches + stats.refused_batches == 641);
  CHECK(stats.commits < stats.batches);
}

TEST_CASE("a lock held by somebody else ends as database_busy, and trying again works") {
  const test::temporary_directory directory;
  const std::string path = directory.file("busy.db");
  const auto body = [&]() -> awaitable<void> {
    database_options options;
    options.busy_timeout = 20ms;
    database db = co_await database::open("sqlite:" + path, options);
    co_await sqlite_cases::make_log(db);
    sqlite_cases::stranger other(path);
    other.run("begin immediate");
    batch b = sqlite_cases::a_line("now");
    const auto busy = co_await db.try_commit(std::move(b));
    CHECK(busy.code() == errc::database_busy);
    CHECK(storage_error::is_retryable(busy.code()));
    CHECK(db.stats().failed_commits == 1);
    const rows readable = co_await db.query("select count(*) from log");
    CHECK(readable.front().get<int>(0) == 0);
    other.run("rollback");
    batch again = sqlite_cases::a_line("now");
    const auto done = co_await db.try_commit(std::move(again));
    CHECK(done.has_value());
  };
  test::run_in_real_time(body);
}

TEST_CASE("a file that may grow no further is database_full; what is there stays readable") {
  const test::temporary_directory directory;
  const auto body = [](std::string url) -> awaitable<void> {
    database db = co_await database::open(std::move(url));
    co_await sqlite_cases::make_log(db);
    batch limit;
    limit.execute("pragma max_page_count = 8");
    co_await db.commit(std::move(limit));
    batch big = sqlite_cases::a_line(std::string(100'000, 'x'));
    const auto full = co_await db.try_commit(std::move(big));
    CHECK(full.code() == errc::database_full);
    batch small = sqlite_cases::a_line("small");
    const auto done = co_await db.try_commit(std::move(small));
    CHECK(done.has_value());
    const rows found = co_await db.query("select line from log");
    REQUIRE(found.size() == 1);
    CHECK(found[0].get<std::string>(0) == "small");
  };
  test::run_in_real_time(body, "sqlite:" + directory.file("full.db"));
}

TEST_CASE("a full disk under one of many batches spares the others") {
  const test::temporary_directory directory;
  const auto body = [](std::string url) -> awaitable<void> {
    database db = co_await database::open(std::move(url));
    co_await sqlite_cases::make_log(db);
    batch limit;
    limit.execute("pragma max_page_count = 10");
    co_await db.commit(std::move(limit));
    int next = 0, small_done = 0, full = 0;
    const auto write = [&]() -> awaitable<void> {
      const int me = next++;
      batch b = sqlite_cases::a_line(me % 4 == 0 ? std::string(100'000, 'x') : std::string("small"));
      const auto result = co_await db.try_commit(std::move(b));
      if (result && me % 4 != 0) ++small_done;
      if (result.code() == errc::database_full && me % 4 == 0) ++full;
    };
    co_await detail::run_workers(16, [&] { return write(); });
    CHECK(full == 4);
    CHECK(small_done == 12);
  };
  test::run_in_real_time(body, "sqlite:" + directory.file("full.db"));
}

TEST_CASE("too many waiting batches are refused") {
  const test::temporary_directory directory;
  const std::string path = directory.file("queue.db");
  const auto body = [&]() -> awaitable<void> {
    database_options options;
    options.max_waiting_batches = 3;
    database db = co_await database::open("sqlite:" + path, options);
    co_await sqlite_cases::make_log(db);
    auto other = std::make_unique<sqlite_cases::stranger>(path);
    other->run("begin immediate");  // the writer waits for this lock, the rest for the writer
    int next = 0, overloaded = 0, done = 0;
    const auto write = [&]() -> awaitable<void> {
      if (next++ == 30) {
        other->run("rollback");
        co_return;
      }
      batch b = sqlite_cases::a_line("x");
      const auto result = co_await db.try_commit(std::move(b));
      if (result) ++done;
      if (result.code() == errc::database_overloaded) ++overloaded;
    };
    co_await detail::run_workers(31, [&] { return write(); });
    CHECK(done + overloaded == 30);
    CHECK(overloaded > 0);
    CHECK(done >= 3);
  };
  test::run_in_real_time(body);
}

TEST_CASE("a cancelled commit that has not begun is taken back; one that has tells the truth") {
  const test::temporary_directory directory;
  const std::string path = directory.file("cancel.db");
  const auto body = [&]() -> awaitable<void> {
    database db = co_await database::open("sqlite:" + path);
    co_await sqlite_cases::make_log(db);
    sqlite_cases::stranger other(path);
    other.run("begin immediate");  // the first batch is stuck in the writer, the second in the queue
    const auto executor = co_await net::this_coro::executor;
    int committed = 0, cancelled = 0;
    const auto write = [&]() -> awaitable<void> {
      batch b = sqlite_cases::a_line("x");
      const auto result = co_await db.try_commit(std::move(b));
      if (result) ++committed;
      if (!result && result.why().is_cancellation()) ++cancelled;
    };
    const auto first = spawn(executor, write);
    while (db.stats().waiting_batches > 0 || db.changes() == 0) co_await net::post(executor, net::use_awaitable);
    const auto second = spawn(executor, write);
    const auto third = spawn(executor, write);
    for (int i = 0; i < 10; ++i) co_await net::post(executor, net::use_awaitable);
    second.cancel();
    for (int i = 0; i < 10; ++i) co_await net::post(executor, net::use_awaitable);
    other.run("rollback");
    first.cancel();  // whether the writer has it already is a race; the outcome tells, and the file agrees
    while (committed + cancelled < 3) co_await net::post(executor, net::use_awaitable);
    const rows found = co_await db.query("select count(*) from log");
    CHECK(found.front().get<int>(0) == committed);
    CHECK(cancelled >= 1);
  };
  test::run_in_real_time(body);
}

TEST_CASE("connections keep as much of the file in memory as the options say") {
  const test::temporary_directory directory;
  const std::string url = "sqlite:" + directory.file("cached.db");
  const database_options usual, small{.cached_bytes = 100'000};
  CHECK(test::run_in_real_time(sqlite_cases::cache_of_readers, url, usual) == -16 * 1024);
  CHECK(test::run_in_real_time(sqlite_cases::cache_of_readers, url, small) == -97);
}

ASYNC_TEST("a row reader sees every cell until it has enough, and SQL without one is told so") {
  database db = co_await database::open("sqlite::memory:");
  struct sum_of_cells final : sqlite::row_reader {
    bool read(const sqlite::cells& row) override {
      seen += std::to_string(row.integer(0)) + std::string(row.text(1)) + std::to_string(row.bytes(2).size()) + ";";
      return row.integer(0) == enough;
    }
    std::string seen;
    std::int64_t enough = 0;
  };
  struct reading final : operation {
    void run(sqlite::connection& connection) override {
      auto found = connection.prepare(
          "select 1 from (values(1, 'a', x'0001'), (2, null, x''), (3, 'c', null)) where cofferdam_row($1, column1, "
          "column2, column3)");
      found.bind_reader(1, cells);
      has_stopped.push_back(found.step());
      cells.enough = 2;
      found.reset();
      has_stopped.push_back(found.step());
      has_stopped.push_back(found.step());
    }
    sum_of_cells cells;
    std::vector<bool> has_stopped;
  };
  const auto read = std::make_shared<reading>();
  co_await db.read(read);
  CHECK(read->cells.seen == "1a2;20;3c0;1a2;20;3c0;");
  CHECK(read->has_stopped == std::vector<bool>{false, true, false});
  const std::string error = co_await test::error_of(db.query("select cofferdam_row(1, 2)"));
  CHECK(error.find("cofferdam_row is for programs") != std::string::npos);
}

TEST_CASE("a cancelled query is interrupted") {
  const test::temporary_directory directory;
  const auto body = [](std::string url) -> awaitable<void> {
    database db = co_await database::open(std::move(url));
    const auto executor = co_await net::this_coro::executor;
    bool cancelled = false;
    const auto endless = [&]() -> awaitable<void> {
      try {
        co_await db.query("with recursive c(x) as (select 1 union all select x + 1 from c) select count(*) from c");
      } catch (const net::asio_system_error& e) {
        cancelled = is_cancellation(e.code());
      }
    };
    const auto job = spawn(executor, endless);
    while (db.stats().queries == 0) co_await net::post(executor, net::use_awaitable);
    job.cancel();
    while (!cancelled) co_await net::post(executor, net::use_awaitable);
    const rows fine = co_await db.query("select 1");
    CHECK(fine.size() == 1);
  };
  test::run_in_real_time(body, "sqlite:" + directory.file("endless.db"));
}

namespace sqlite_cases {

/// Counts rows, and the threads it does so in.
class counting final : public operation {
 public:
  explicit counting(std::int64_t rows) : rows_(rows) {}
  void run(sqlite::connection& connection) override {
    threads.push_back(std::this_thread::get_id());
    counted = 0;
    auto p = connection.prepare(
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < $1) select i from n");
    p.bind(1, rows_);
    while (p.step()) ++counted;
  }
  [[nodiscard]] bool is_short() const noexcept override { return true; }
  std::int64_t counted = 0;
  std::vector<std::thread::id> threads;

 private:
  std::int64_t rows_;
};

}  // namespace sqlite_cases

TEST_CASE("a short read is done in the calling thread, one that turns out long is begun anew in another") {
  const test::temporary_directory directory;
  const auto body = [&]() -> awaitable<void> {
    database db = co_await database::open("sqlite:" + directory.file("short.db"));
    const auto brief = std::make_shared<sqlite_cases::counting>(3);
    const auto lasting = std::make_shared<sqlite_cases::counting>(300'000);
    for (int i = 0; i < 2; ++i) {
      co_await db.read(brief);
      co_await db.read(lasting);
      CHECK(brief->counted == 3);
      CHECK(lasting->counted == 300'000);
    }
    const auto here = std::this_thread::get_id();
    CHECK(brief->threads == std::vector(2, here));
    REQUIRE(lasting->threads.size() == 4);
    CHECK(lasting->threads[2] == here);
    CHECK(lasting->threads[3] != here);
    CHECK(db.stats().queries == 4);
    co_await db.close();
    const auto refused = co_await test::error_of(db.read(brief));
    CHECK(refused.find("was closed") != std::string::npos);
  };
  test::run_in_real_time(body);
}

TEST_CASE("statistics tell the size of the log, which is moved into the database when it has grown") {
  const std::string where = GENERATE("", "?threads=0");
  const test::temporary_directory directory;
  const std::string path = directory.file("log.db"), log = path + "-wal";
  const auto body = [&]() -> awaitable<void> {
    database_options options;
    options.checkpoint_pages = 30;
    database db = co_await database::open("sqlite:" + path + where, options);
    std::atomic<int> moved{0};
    const auto listening = db.events().subscribe([&](const database_event& e) {
      if (e.what == database_event::kind::checkpointed) ++moved;
    });
    co_await sqlite_cases::make_log(db);
    const auto after_one = db.stats().log_bytes;
    CHECK(after_one == std::filesystem::file_size(log));
    batch small = sqlite_cases::a_line("small");
    co_await db.commit(std::move(small));
    const auto after_two = db.stats().log_bytes;
    CHECK(after_two > after_one);
    CHECK(after_two == std::filesystem::file_size(log));
    batch refused = sqlite_cases::a_line("refused");
    refused.require("it is so", "select 0");
    (void)co_await db.try_commit(std::move(refused));
    CHECK(db.stats().log_bytes == after_two);
    CHECK(moved == 0);

    batch big = sqlite_cases::a_line(std::string(200'000, 'x'));
    co_await db.commit(std::move(big));
    const auto is_moved = [&] { return moved > 0; };
    const bool has_moved = co_await test::eventually(is_moved);
    CHECK(has_moved);
    CHECK(db.stats().log_bytes == 0);
    CHECK(std::filesystem::file_size(log) == 0);
    batch again = sqlite_cases::a_line("small");
    co_await db.commit(std::move(again));
    CHECK(db.stats().log_bytes == std::filesystem::file_size(log));
    CHECK(db.stats().log_bytes > 0);
    co_await db.close();
  };
  test::run_in_real_time(body);
}

TEST_CASE("what another process commits is heard of and seen") {
  const test::temporary_directory directory;
  const std::string path = directory.file("shared.db");
  const auto body = [&]() -> awaitable<void> {
    database db = co_await database::open("sqlite:" + path);
    co_await sqlite_cases::make_log(db);
    auto seen = db.changes();
    seen = co_await db.wait_for_change(seen, 0ms);  // from here on others are heard
    const pid_t child = ::fork();
    if (child == 0) {
      ::execlp("sqlite3", "sqlite3", path.c_str(), "insert into log(line) values('from outside')", nullptr);
      ::_exit(127);
    }
    int status = 0;
    for (;;) {
      seen = co_await db.wait_for_change(seen, 60s);
      const rows found = co_await db.query("select line from log");
      if (!found.empty()) break;
    }
    ::waitpid(child, &status, 0);
    CHECK(status == 0);
  };
  test::run_in_real_time(body);
}

TEST_CASE("a writer killed at any moment loses nothing that was acknowledged and leaves no half batch", "[torture]") {
  const test::temporary_directory directory;
  const std::string path = directory.file("killed.db");
  const auto prepare = [&]() -> awaitable<void> {
    database db = co_await database::open("sqlite:" + path);
    batch b;
    b.execute("create table pairs(writer integer, n integer, half integer, primary key(writer, n, half))");
    co_await db.commit(std::move(b));
    co_await db.close();
  };
  test::run_in_real_time(prepare);

  std::vector<std::int64_t> acknowledged(8, 0);
  const auto rounds = static_cast<int>(test::count_from("COFFERDAM_KILLS", 100));
  for (int round = 0; round < rounds; ++round) {
    int told[2];
    REQUIRE(::pipe(told) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
      ::close(told[0]);
      const auto write_for_ever = [&]() -> awaitable<void> {
        database db = co_await database::open("sqlite:" + path);
        std::int32_t next = 0;
        const auto write = [&]() -> awaitable<void> {
          const std::int32_t me = next++;
          const rows last = co_await db.query("select coalesce(max(n), 0) from pairs where writer = $1", me);
          for (std::int64_t n = last.front().get<std::int64_t>(0) + 1;; ++n) {
            batch b;
            b.execute("insert into pairs(writer, n, half) values($1, $2, 0)", me, n);
            b.execute("insert into pairs(writer, n, half) values($1, $2, 1)", me, n);
            co_await db.commit(std::move(b));
            const std::int64_t message[2] = {me, n};
            if (::write(told[1], message, sizeof message) != sizeof message) ::_exit(1);
          }
        };
        co_await detail::run_workers(8, [&] { return write(); });
      };
      try {
        test::run_in_real_time(write_for_ever);
      } catch (...) {
      }
      ::_exit(1);
    }
    ::close(told[1]);
    std::int64_t message[2] = {0, 0};
    int heard = 0;
    const int until = 1 + round % 100 * 3;
    while (heard < until && ::read(told[0], message, sizeof message) == sizeof message) {
      acknowledged[static_cast<std::size_t>(message[0])] = message[1];
      ++heard;
    }
    CHECK(heard == until);
    ::kill(child, SIGKILL);
    while (::read(told[0], message, sizeof message) == sizeof message) {
      acknowledged[static_cast<std::size_t>(message[0])] = message[1];
    }
    ::close(told[0]);
    int status = 0;
    ::waitpid(child, &status, 0);
    CHECK(WIFSIGNALED(status));

    sqlite_cases::stranger checker(path);
    sqlite3_stmt* torn = nullptr;
    REQUIRE(sqlite3_prepare_v2(checker.db,
                               "select count(*) from (select 1 from pairs group by writer, n having count(*) != 2)", -1,
                               &torn, nullptr) == SQLITE_OK);
    REQUIRE(sqlite3_step(torn) == SQLITE_ROW);
    CHECK(sqlite3_column_int(torn, 0) == 0);
    sqlite3_finalize(torn);
    for (std::size_t writer = 0; writer < acknowledged.size(); ++writer) {
      sqlite3_stmt* count = nullptr;
      REQUIRE(sqlite3_prepare_v2(checker.db, "select count(*) from pairs where writer = ? and half = 0 and n <= ?", -1,
                                 &count, nullptr) == SQLITE_OK);
      sqlite3_bind_int64(count, 1, static_cast<std::int64_t>(writer));
      sqlite3_bind_int64(count, 2, acknowledged[writer]);
      REQUIRE(sqlite3_step(count) == SQLITE_ROW);
      CHECK(sqlite3_column_int64(count, 0) == acknowledged[writer]);
      sqlite3_finalize(count);
    }
  }
}

TEST_CASE("coroutines on several threads use one database", "[concurrent]") {
  const test::temporary_directory directory;
  net::thread_pool pool(4);
  std::atomic<int> done{0};
  {
    std::optional<database> db;
    const auto open = [&]() -> awaitable<void> {
      db.emplace(co_await database::open("sqlite:" + directory.file("threads.db")));
      co_await sqlite_cases::make_log(*db);
    };
    std::optional<std::exception_ptr> opened;
    std::mutex mutex;
    std::condition_variable changed;
    net::co_spawn(pool, open, [&](std::exception_ptr e) {
      const std::lock_guard lock(mutex);
      opened = std::move(e);
      changed.notify_all();
    });
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return opened.has_value(); });
      REQUIRE(!*opened);
    }
    const auto work = [&]() -> awaitable<void> {
      for (int i = 0; i < 50; ++i) {
        batch b = sqlite_cases::a_line("x");
        co_await db->commit(std::move(b));
        const rows found = co_await db->query("select count(*) from log");
        if (found.front().get<int>(0) > 0) done.fetch_add(1);
      }
    };
    for (int i = 0; i < 8; ++i) spawn(pool, work);
    pool.join();
  }
  CHECK(done == 400);
}
