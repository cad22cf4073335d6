// Killed at any moment: what was acknowledged is there, once, whole, and the table that follows agrees.
#include "catch.hpp"
#include "count_from.hpp"
#include "postgres_server.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/workers.hpp>
#include <cofferdam/eventsourcing/projection.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <functional>
#include <map>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace crash {

constexpr int writers = 6;

/// The n-th pair of a writer, with the ids it has however often it is appended.
append_request pair_of(int writer, int n) {
  append_request request("writer-" + std::to_string(writer), expected::version(static_cast<std::uint64_t>(n) * 2));
  for (int half = 0; half < 2; ++half) {
    event e("half", std::to_string(n));
    event_id::bytes_type bytes{};
    bytes[0] = static_cast<std::uint8_t>(writer);
    for (int i = 0; i < 4; ++i) bytes[static_cast<std::size_t>(4 + i)] = static_cast<std::uint8_t>(n >> (8 * i));
    bytes[15] = static_cast<std::uint8_t>(half + 1);
    e.id(event_id(bytes)).tag("writer:" + std::to_string(writer));
    request.add(std::move(e));
  }
  return request;
}

void count_event(batch& b, const recorded_event& e) {
  b.execute(
      "insert into counts(stream, events) values($1, 1) on conflict(stream) do update set events = counts.events + 1",
      e.stream);
}

/// Does `work`, which may be begun again, until it ends otherwise than by the server's absence.
template <class Work> awaitable<void> insist(Work work) {
  for (;;) {
    bool is_away = false;
    try {
      co_await work();
      co_return;
    } catch (const storage_error& e) {
      if (!e.is_retryable() && e.code() != errc::outcome_unknown) throw;
      is_away = true;
    }
    if (is_away) co_await sleep_for(5ms);
  }
}

awaitable<void> append_and_follow(std::string url, int acknowledgements) {
  database db = co_await database::open(std::move(url));
  event_store store = co_await event_store::open(db);
  projection counts(store, "counts", {.page = 7});
  counts.apply(count_event);
  int next = 0;
  const auto work = [&]() -> awaitable<void> {
    const int me = next++;
    const auto follow = [&counts] { return counts.run(); };
    if (me == writers) co_await insist(follow);
    // Begins with the last pair that may have been written: that is then the same one again.
    const auto version = co_await store.version_of("writer-" + std::to_string(me));
    for (int n = std::max(0, static_cast<int>(version / 2) - 1);; ++n) {
      const auto append = [&store, me, n]() -> awaitable<void> { co_await store.append(pair_of(me, n)); };
      co_await insist(append);
      const int message[2] = {me, n};
      if (::write(acknowledgements, message, sizeof message) != sizeof message) ::_exit(1);
    }
  };
  co_await detail::run_workers(writers + 1, [&] { return work(); });
}

/// The server may still be at what a killed process has sent.
awaitable<void> wait_for_silence(database& db) {
  if (!db.name().starts_with("postgresql:")) co_return;
  for (;;) {
    const rows busy = co_await db.query(
        "select count(*) from pg_stat_activity where backend_type = 'client backend' and state <> 'idle' and pid <> "
        "pg_backend_pid()");
    if (busy.front().get<int>(0) == 0) co_return;
    co_await sleep_for(1ms);
  }
}

/// Returns what the table counts in all.
awaitable<std::int64_t> check(std::string url, const std::vector<int>& acknowledged) {
  database db = co_await database::open(std::move(url));
  co_await wait_for_silence(db);
  event_store store = co_await event_store::open(db);
  std::map<std::string, std::uint64_t> versions;
  std::map<std::string, std::int64_t> up_to_position;
  projection counts(store, "counts");
  counts.apply(count_event);
  const auto followed_to = co_await counts.position();
  read_options options;
  options.from = 1;
  for (slice page; !page.is_end; options.from = page.scanned_to + 1) {
    page = co_await store.read_all(options);
    for (const auto& e : page.events) {
      const bool is_next = e.version == ++versions[e.stream];
      CHECK(is_next);
      CHECK(e.data == std::to_string((e.version - 1) / 2));
      if (e.position <= followed_to) ++up_to_position[e.stream];
    }
  }
  for (int writer = 0; writer < writers; ++writer) {
    const auto version = versions["writer-" + std::to_string(writer)];
    CHECK(version % 2 == 0);  // no half pair
    CHECK(version >= static_cast<std::uint64_t>(acknowledged[static_cast<std::size_t>(writer)] + 1) * 2);
  }
  const rows counted = co_await db.query("select stream, events from counts");
  for (const row r : counted) CHECK(r.get<std::int64_t>("events") == up_to_position[r.get<std::string>("stream")]);
  CHECK(counted.size() == up_to_position.size());
  std::int64_t followed = 0;
  for (const auto& [stream, events] : up_to_position) followed += events;
  co_return followed;
}

/// All that there is counts once more, when nobody is killed.
awaitable<void> finish(std::string url) {
  database db = co_await database::open(std::move(url));
  event_store store = co_await event_store::open(db);
  projection counts(store, "counts");
  counts.apply(count_event);
  (void)co_await counts.catch_up();
  const slice last = co_await store.read_all({.limit = 1, .order = direction::backward});
  REQUIRE(last.events.size() == 1);
  const auto position = co_await counts.position();
  CHECK(position == last.events[0].position);
  const rows counted =
      co_await db.query("select (select sum(events) from counts) = (select count(*) from cofferdam_events)");
  CHECK(counted.front().get<bool>(0));
}

/// @param between  called in every round once the process has done something; what it does may disturb the database.
void kill_in_a_loop(const std::string& url, int rounds, const std::function<void(int)>& between) {
  const auto prepare = [&]() -> awaitable<void> {
    database db = co_await database::open(url);
    batch b;
    b.execute("create table counts(stream text primary key, events bigint not null)");
    co_await db.commit(std::move(b));
  };
  test::run_in_real_time(prepare);

  std::vector<int> acknowledged(writers, -1);
  std::int64_t followed_before = 0;
  int rounds_that_followed = 0;
  for (int round = 0; round < rounds; ++round) {
    int told[2];
    REQUIRE(::pipe(told) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
      ::close(told[0]);
      try {
        test::run_in_real_time(append_and_follow, url, told[1]);
      } catch (...) {
      }
      ::_exit(1);
    }
    ::close(told[1]);
    int message[2] = {0, 0};
    int heard = 0;
    const auto hear = [&] {
      if (::read(told[0], message, sizeof message) != sizeof message) return false;
      auto& newest = acknowledged[static_cast<std::size_t>(message[0])];
      newest = std::max(newest, message[1]);
      return true;
    };
    const int wanted = 5 + (round % 40) * 2;
    while (heard < wanted && hear()) ++heard;
    CHECK(heard == wanted);
    between(round);
    for (int more = 0; more < 5; ++more) CHECK(hear());
    ::kill(child, SIGKILL);
    while (hear()) {
    }
    ::close(told[0]);
    int status = 0;
    ::waitpid(child, &status, 0);
    CHECK(WIFSIGNALED(status));
    const std::int64_t followed = test::run_in_real_time(check, url, std::cref(acknowledged));
    rounds_that_followed += followed > followed_before ? 1 : 0;
    followed_before = followed;
  }
  CHECK(rounds_that_followed > rounds / 4);  // the table moved on while processes were killed
  test::run_in_real_time(finish, url);
}

}  // namespace crash

TEST_CASE("an event store killed at any moment keeps what it acknowledged, whole and once, and so do its tables",
          "[torture]") {
  const test::temporary_directory directory;
  crash::kill_in_a_loop("sqlite:" + directory.file("events.db"),
                        static_cast<int>(test::count_from("COFFERDAM_KILLS", 40)), [](int) {});
}

TEST_CASE("so does one on PostgreSQL, whose server falls over as well", "[torture]") {
  test::postgres_server* server = test::postgres_server::shared();
  if (server == nullptr) return;
  server->clear();
  crash::kill_in_a_loop(server->url(), static_cast<int>(test::count_from("COFFERDAM_POSTGRES_KILLS", 15)),
                        [server](int round) {
                          if (round % 3 != 2) return;
                          server->stop(round % 2 == 0 ? SIGQUIT : SIGKILL);
                          server->start();
                        });
}
