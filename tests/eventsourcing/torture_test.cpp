// Many writers at once: the order of events holds for whoever reads it, and conditions let in only one.
#include "catch.hpp"
#include "count_from.hpp"
#include "postgres_server.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/random.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/workers.hpp>
#include <cofferdam/eventsourcing/event_subscription.hpp>

#include <map>
#include <string>
#include <utility>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace torture {

database_options many_connections() {
  database_options options;
  options.connections = 12;
  return options;
}

/// @param pause  a statement that takes some time inside of the transaction, after the events have their numbers.
awaitable<void> write_and_read(std::string url, int each, std::string pause) {
  database db = co_await database::open(url, many_connections());
  database reader_db = co_await database::open(url);
  event_store store = co_await event_store::open(db);
  event_store reader_store = co_await event_store::open(reader_db);
  constexpr int writers = 12;
  int next = 0, acknowledged = 0, rolled_back = 0;
  bool has_ended = false;
  std::vector<std::pair<std::string, std::uint64_t>> read;
  random_source random(7);
  const auto write = [&]() -> awaitable<void> {
    const int me = next++;
    for (int i = 0; i < each; ++i) {
      append_request request("stream-" + std::to_string(me % 5), expected::any());
      request.add(event("e", std::to_string(me)));
      if (i % 7 == 3) request.add(event("e", "a second one"));
      batch b;
      const auto done = store.append(b, std::move(request));
      if (!pause.empty()) b.execute(pause, random.uniform() * 0.003);
      if (i % 5 == 2) b.require("never", "select 0");  // rolled back, after it has drawn its positions
      const auto result = co_await db.try_commit(std::move(b));
      if (result) acknowledged += i % 7 == 3 ? 2 : 1;
      if (!result) ++rolled_back;
      if (i % 3 == 0) co_await sleep_for(std::chrono::microseconds(static_cast<int>(random.uniform() * 2000)));
    }
  };
  const auto read_on = [&]() -> awaitable<void> {
    event_subscription news(reader_store, event_query(), 0, {.page = 7});
    std::uint64_t position = 0;
    for (bool is_last = false; !is_last;) {
      const bool had_ended = has_ended;
      const auto page = co_await news.next_page();
      for (const auto& e : page) {
        CHECK(e.position > position);
        position = e.position;
        read.emplace_back(e.stream, e.version);
      }
      is_last = had_ended && page.empty();
    }
  };
  int workers = 0;
  const auto all_writers = [&]() -> awaitable<void> {
    co_await detail::run_workers(writers, [&] { return write(); });
    has_ended = true;
  };
  const auto both = [&]() -> awaitable<void> {
    if (workers++ == 0) return read_on();
    return all_writers();
  };
  co_await detail::run_workers(2, [&] { return both(); });
  CHECK(static_cast<int>(read.size()) == acknowledged);
  CHECK(rolled_back == writers * each / 5);
  std::map<std::string, std::uint64_t> versions;
  for (const auto& [stream, version] : read) CHECK(version == ++versions[stream]);
  co_await reader_db.close();
  co_await db.close();
}

/// Four that want to be the only one, and one that just is, let loose together.
awaitable<void> race(std::string url, int rounds) {
  database db = co_await database::open(std::move(url), many_connections());
  event_store store = co_await event_store::open(db);
  random_source random(11);
  int with_winner = 0;
  for (int round = 0; round < rounds; ++round) {
    const std::string tag = "round:" + std::to_string(round);
    int next = 0, winners = 0;
    std::uint64_t plain = 0, won = 0;
    const auto take_part = [&]() -> awaitable<void> {
      const int me = next++;
      event e("taken", "{}");
      e.tag(tag).tag("other:" + std::to_string(me));
      append_request request("r" + std::to_string(round) + "-" + std::to_string(me), expected::any());
      request.add(std::move(e));
      event_query taken;
      taken.item().tag(tag);
      if (me > 0) request.unless(std::move(taken));
      co_await sleep_for(std::chrono::microseconds(static_cast<int>(random.uniform() * (me > 0 ? 300 : 900))));
      const auto done = co_await store.try_append(std::move(request));
      if (!done) {
        CHECK(done.code() == errc::append_condition_failed);
      } else if (me == 0) {
        plain = done->position;
      } else {
        ++winners;
        won = done->position;
      }
    };
    co_await detail::run_workers(5, [&] { return take_part(); });
    CHECK(winners <= 1);
    CHECK(plain > 0);
    if (winners > 0) CHECK(won < plain);  // else its condition has missed the plain one
    with_winner += winners;
  }
  CHECK(with_winner > 0);
  co_await db.close();
}

}  // namespace torture

TEST_CASE("many writers and one reader: every event is read once, in the order of positions", "[concurrent][torture]") {
  SECTION("SQLite") {
    const test::temporary_directory directory;
    test::run_in_real_time(torture::write_and_read, "sqlite:" + directory.file("torture.db"), 40, std::string());
  }
  if (test::postgres_server* server = test::postgres_server::shared()) {
    SECTION("PostgreSQL") {
      server->clear();
      test::run_in_real_time(torture::write_and_read, server->url(),
                             static_cast<int>(test::count_from("COFFERDAM_TORTURE_EVENTS", 60)),
                             std::string("select pg_sleep($1)"));
    }
  }
}

TEST_CASE("of writers that each want to be the only one, one wins, and log and conditions agree", "[torture]") {
  test::postgres_server* server = test::postgres_server::shared();
  if (server == nullptr) return;
  server->clear();
  test::run_in_real_time(torture::race, server->url(),
                         static_cast<int>(test::count_from("COFFERDAM_TORTURE_RACES", 100)));
}

TEST_CASE("batches that append to the same streams in another order do not wait for each other in a circle") {
  test::postgres_server* server = test::postgres_server::shared();
  if (server == nullptr) return;
  server->clear();
  const auto body = [&]() -> awaitable<void> {
    database db = co_await database::open(server->url(), torture::many_connections());
    event_store store = co_await event_store::open(db);
    int next = 0, done = 0;
    const auto transfer = [&]() -> awaitable<void> {
      const int me = next++;
      for (int i = 0; i < 20; ++i) {
        batch b;
        append_request from(me % 2 == 0 ? "a" : "b", expected::any()), to(me % 2 == 0 ? "b" : "a", expected::any());
        event_query seen;
        seen.item().tag(me % 3 == 0 ? "x" : "y");
        event out("out", "{}");
        out.tag(me % 3 == 0 ? "y" : "x");
        from.add(std::move(out));
        to.add(event("in", "{}")).unless(std::move(seen), 1'000'000);
        (void)store.append(b, std::move(from));
        b.execute("select pg_sleep(0.0005)");
        (void)store.append(b, std::move(to));
        const auto committed = co_await db.try_commit(std::move(b));
        CHECK(committed.has_value());  // not database_busy, which is what a deadlock ends with
        done += committed ? 1 : 0;
      }
    };
    co_await detail::run_workers(8, [&] { return transfer(); });
    CHECK(done == 160);
    const auto a = co_await store.version_of("a");
    CHECK(a == 160);
    co_await db.close();
  };
  test::run_in_real_time(body);
}
