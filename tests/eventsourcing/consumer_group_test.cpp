// Competing consumers: fair shares, order, failures, fences.
#include "database_test.hpp"
#include "error_of.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/eventsourcing/consumer_group.hpp>
#include <cofferdam/storage/testing.hpp>

#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace grouped {

using lines = std::vector<std::string>;

event numbered(int n) { return event("counted", std::to_string(n)); }

/// Streams s0, s1, ... with numbers 1, 2, ... in each.
awaitable<void> fill(event_store& store, int streams, int events) {
  for (int n = 1; n <= events; ++n) {
    for (int s = 0; s < streams; ++s) co_await store.append("s" + std::to_string(s), expected::any(), numbered(n));
  }
}

/// Writes down what it gets, and fails as it is told.
class clerk {
 public:
  explicit clerk(duration takes = 1ms) : takes_(takes) {}
  consumer_group::handler handler() {
    return [this](const recorded_event& e, batch& b) { return handle(e, b); };
  }
  awaitable<void> handle(const recorded_event& e, batch& b) {
    const std::string line = e.stream + ":" + e.data;
    ++calls[line];
    co_await sleep_for(takes_);
    if (failing.contains(line)) throw std::runtime_error("no " + line);
    log.push_back(line);
    if (with_rows) b.execute("insert into handled(stream, n) values($1, $2)", e.stream, std::stoi(e.data));
  }
  [[nodiscard]] lines of(const std::string& stream) const {
    lines found;
    std::ranges::copy_if(log, std::back_inserter(found),
                         [&stream](const auto& line) { return line.starts_with(stream + ":"); });
    return found;
  }

  std::map<std::string, int> calls;
  std::set<std::string> failing;
  lines log;
  bool with_rows = false;

 private:
  duration takes_;
};

awaitable<void> make_handled(database& db) {
  batch b;
  b.execute("create table handled(stream text not null, n bigint not null check(n < 100), primary key(stream, n))");
  co_await db.commit(std::move(b));
}

/// A sum that counts whatever happens twice.
awaitable<void> make_sum(database& db) {
  batch b;
  b.execute("create table sums(n bigint not null)");
  b.execute("insert into sums(n) values(0)");
  co_await db.commit(std::move(b));
}
void add_to_sum(batch& b, const recorded_event& e) { b.execute("update sums set n = n + $1", std::stoi(e.data)); }
awaitable<int> sum(database& db) {
  const rows found = co_await db.query("select n from sums");
  co_return found.front().get<int>(0);
}

}  // namespace grouped

using grouped::clerk;
using grouped::lines;

DATABASE_TEST("a group of one handles every event once, those of a stream in order, many streams at once") {
  event_store store = co_await event_store::open(db);
  co_await grouped::fill(store, 8, 5);
  clerk c(10ms);
  consumer_group group(store, "clerks", {.concurrency = 8});
  group.handle(c.handler());
  const auto executor = co_await net::this_coro::executor;
  const auto began = timers_of(executor).now();
  const std::size_t handled = co_await group.run_due();
  CHECK(handled == 40);
  CHECK(c.log.size() == 40);
  CHECK(c.of("s3") == lines{"s3:1", "s3:2", "s3:3", "s3:4", "s3:5"});
  if (time.is_virtual) CHECK(timers_of(executor).now() - began == 50ms);  // eight at a time
  const std::size_t again = co_await group.run_due();
  CHECK(again == 0);
  const auto status = co_await group.status();
  CHECK(status.position == 40);
  CHECK(status.behind == 0);
  CHECK(status.owned_parts == 0);
}

DATABASE_TEST("a filter passes over the others, a key orders across streams, a beginning is where it was said") {
  event_store store = co_await event_store::open(db);
  co_await grouped::fill(store, 4, 3);
  event_query some;
  some.item().stream_prefix("s1");
  some.item().stream_prefix("s2");
  clerk c(1ms);
  consumer_group group(store, "some", {.start_after = 4});
  group.filter(some).key([](const recorded_event&) { return "one line"; }).handle(c.handler());
  co_await group.run_due();
  CHECK(c.log == lines{"s1:2", "s2:2", "s1:3", "s2:3"});
  const auto status = co_await group.status();
  CHECK(status.behind == 0);
}

ASYNC_TEST("members share the parts fairly, and a stream is never with two of them") {
  database db = co_await database::open("sqlite::memory:");
  event_store store = co_await event_store::open(db);
  const auto executor = co_await net::this_coro::executor;
  clerk a, b;
  consumer_group first(store, "shared", {.parts = 8, .lease = 10s}),
      second(store, "shared", {.parts = 8, .lease = 10s});
  first.handle(a.handler());
  second.handle(b.handler());
  int lost = 0, taken = 0;
  const auto count = [&](const consumer_event& e) {
    if (e.what == consumer_event::kind::lost) ++lost;
    if (e.what == consumer_event::kind::taken) ++taken;
  };
  const auto one = first.events().subscribe(count);
  const auto other = second.events().subscribe(count);
  const auto run_first = [&] { return first.run(); };
  const auto run_second = [&] { return second.run(); };
  const auto running = spawn(executor, run_first);
  co_await sleep_for(1s);
  CHECK(taken == 8);
  const auto joining = spawn(executor, run_second);
  co_await sleep_for(20s);
  co_await grouped::fill(store, 40, 3);
  co_await sleep_for(10s);
  CHECK(a.log.size() + b.log.size() == 120);
  CHECK_FALSE(a.log.empty());
  CHECK_FALSE(b.log.empty());
  for (int s = 0; s < 40; ++s) {
    const std::string name = "s" + std::to_string(s);
    const lines of_a = a.of(name), of_b = b.of(name);
    CHECK((of_a.empty() || of_b.empty()));
    CHECK(of_a.size() + of_b.size() == 3);
  }
  CHECK(lost == 0);
  CHECK(taken == 12);

  running.cancel();  // leaves its parts, which the other takes
  co_await sleep_for(30s);
  const std::size_t before = b.log.size();
  co_await grouped::fill(store, 40, 1);
  co_await sleep_for(10s);
  CHECK(b.log.size() == before + 40);
  co_await joining.stop();
}

ASYNC_TEST("a member that is silent for longer than its lease loses its parts, and writes nothing of them any more") {
  database db = co_await database::open("sqlite::memory:");
  event_store store = co_await event_store::open(db);
  co_await grouped::make_handled(db);
  const auto executor = co_await net::this_coro::executor;
  co_await sleep_for(1h);  // the clock does not stand at 0, as the lease will
  co_await grouped::fill(store, 1, 1);
  consumer_group slow(store, "fenced", {.parts = 1, .lease = 10s}), quick(store, "fenced", {.parts = 1, .lease = 10s});
  clerk c;
  c.with_rows = true;
  quick.handle(c.handler());
  std::string error = "none";
  int lost = 0;
  const auto listening = slow.events().subscribe([&](const consumer_event& e) {
    if (e.what == consumer_event::kind::lost) ++lost;
  });
  // Its process stands still: nobody renews the lease while the row says that it is long over.
  slow.handle([&](const recorded_event& e, batch& b) -> awaitable<void> {
    b.execute("insert into handled(stream, n) values($1, $2)", "slow " + e.stream, 1);
    batch over;
    over.execute("update cofferdam_group_parts set expires_at = 0");
    co_await db.commit(std::move(over));
    (void)co_await quick.run_due();
  });
  const auto run = [&] { return slow.run(); };
  const auto running = spawn(executor, run);
  co_await sleep_for(1s);
  running.cancel();
  co_await sleep_for(1s);
  const rows handled = co_await db.query("select stream from handled");
  REQUIRE(handled.size() == 1);
  CHECK(handled.front().get<std::string>(0) == "s0");
  CHECK(lost == 1);
}

ASYNC_TEST("leases are kept while a handler takes longer than they last") {
  database db = co_await database::open("sqlite::memory:");
  event_store store = co_await event_store::open(db);
  const auto executor = co_await net::this_coro::executor;
  co_await grouped::fill(store, 1, 1);
  clerk lasting(5min), other;
  consumer_group first(store, "kept", {.parts = 1, .lease = 10s}), second(store, "kept", {.parts = 1, .lease = 10s});
  first.handle(lasting.handler());
  second.handle(other.handler());
  const auto run_first = [&] { return first.run(); };
  const auto run_second = [&] { return second.run(); };
  const auto one = spawn(executor, run_first);
  co_await sleep_for(1s);
  const auto two = spawn(executor, run_second);
  co_await sleep_for(6min);
  CHECK(lasting.log == lines{"s0:1"});
  CHECK(other.calls.empty());
  co_await one.stop();
  co_await two.stop();
}

DATABASE_TEST(
    "an event that fails is tried again with pauses, then its key is put aside, in order, until it is replayed") {
  event_store store = co_await event_store::open(db);
  co_await grouped::make_handled(db);
  const auto executor = co_await net::this_coro::executor;
  clerk c;
  c.with_rows = true;
  c.failing = {"s1:2"};
  consumer_group group(store, "parking", {.parts = 2, .max_attempts = 3, .retry_after = time.shortened(1s)});
  group.handle(c.handler());
  co_await grouped::fill(store, 6, 4);
  const auto run = [&] { return group.run(); };
  const auto running = spawn(executor, run);
  const auto everything_passed = [&]() -> awaitable<bool> {
    const auto status = co_await group.status();
    co_return status.behind == 0;
  };
  bool has_passed = co_await test::eventually(everything_passed);
  CHECK(has_passed);
  CHECK(c.calls["s1:2"] == 3);
  CHECK(c.calls["s1:3"] == 0);
  const rows written = co_await db.query("select count(*) from handled");
  CHECK(written.front().get<int>(0) == 21);
  for (int s = 0; s < 6; ++s) {
    if (s != 1) CHECK(c.of("s" + std::to_string(s)).size() >= 4);
  }
  auto parked = co_await group.parked();
  REQUIRE(parked.size() == 3);
  CHECK(parked[0].event.data == "2");
  CHECK(parked[0].key == "s1");
  CHECK(parked[0].reason == "no s1:2");
  CHECK(parked[1].reason.empty());
  co_await store.append("s1", expected::any(), grouped::numbered(5));
  has_passed = co_await test::eventually(everything_passed);
  CHECK(has_passed);
  parked = co_await group.parked();
  CHECK(parked.size() == 4);

  const std::string still = co_await test::error_of(group.replay("s1"));
  CHECK(still == "no s1:2");
  c.failing.clear();
  const std::size_t replayed = co_await group.replay("s1");
  CHECK(replayed == 4);
  co_await store.append("s1", expected::any(), grouped::numbered(6));
  has_passed = co_await test::eventually(everything_passed);
  CHECK(has_passed);
  const rows of_s1 = co_await db.query("select n from handled where stream = 's1' order by n");
  CHECK(of_s1.size() == 6);
  const auto status = co_await group.status();
  CHECK(status.parked == 0);
  CHECK(status.behind == 0);
  co_await running.stop();
}

DATABASE_TEST("rows that cannot be written put aside the event whose they are, and nobody else's") {
  event_store store = co_await event_store::open(db);
  co_await grouped::make_handled(db);
  for (int n = 1; n <= 5; ++n) co_await store.append("s", expected::any(), grouped::numbered(n));
  co_await store.append("t", expected::any(), grouped::numbered(100));  // against the table's check
  for (int n = 6; n <= 9; ++n) co_await store.append("s", expected::any(), grouped::numbered(n));
  const auto executor = co_await net::this_coro::executor;
  clerk c;
  c.with_rows = true;
  consumer_group group(store, "rows", {.parts = 1, .max_attempts = 2, .retry_after = time.shortened(1s)});
  group.handle(c.handler());
  const auto run = [&] { return group.run(); };
  const auto running = spawn(executor, run);
  const auto everything_passed = [&]() -> awaitable<bool> {
    const auto status = co_await group.status();
    co_return status.behind == 0;
  };
  const bool has_passed = co_await test::eventually(everything_passed);
  CHECK(has_passed);
  co_await running.stop();
  const rows written = co_await db.query("select stream, n from handled order by n");
  CHECK(written.size() == 9);
  const auto parked = co_await group.parked();
  REQUIRE(parked.size() == 1);
  CHECK(parked[0].key == "t");
  CHECK(parked[0].reason.find("constraint") != std::string::npos);
  const std::size_t discarded = co_await group.discard("t");
  CHECK(discarded == 1);
}

DATABASE_TEST("a cancelled member writes what it had handled, and gives its parts back") {
  event_store store = co_await event_store::open(db);
  co_await grouped::make_handled(db);
  co_await grouped::fill(store, 1, 10);
  const auto executor = co_await net::this_coro::executor;
  clerk c(time.shortened(1s));
  c.with_rows = true;
  consumer_group group(store, "stopped", {.parts = 4});
  group.handle(c.handler());
  const auto run = [&] { return group.run(); };
  const auto running = spawn(executor, run);
  const auto has_begun_the_fourth = [&] { return c.calls.contains("s0:4"); };
  const bool is_amid = co_await test::eventually(has_begun_the_fourth);
  CHECK(is_amid);
  co_await running.stop();
  const rows written = co_await db.query("select count(*) from handled");
  CHECK(written.front().get<int>(0) == 3);
  const auto status = co_await group.status();
  CHECK(status.owned_parts == 0);
  const std::size_t rest = co_await group.run_due();
  CHECK(rest == 7);
}

DATABASE_TEST("a group keeps the number of parts that it began with, and wants a handler") {
  event_store store = co_await event_store::open(db);
  clerk c;
  consumer_group group(store, "g", {.parts = 4}), other(store, "g", {.parts = 5}), idle(store, "idle");
  group.handle(c.handler());
  other.handle(c.handler());
  co_await group.run_due();
  const std::string error = co_await test::error_of(other.run_due());
  CHECK(error.find("began with 4 parts, not 5") != std::string::npos);
  const std::string unset = co_await test::error_of(idle.run());
  CHECK(unset.find("call handle() first") != std::string::npos);
}

DATABASE_TEST("a commit of which nobody knows whether it happened is looked for, and its effects count once") {
  int handled = 0, unsure = 0;
  bool breaks = false;
  database shaky = watched(db, [&](std::string_view call, bool is_over) {
    if (call != "commit" || !is_over || !std::exchange(breaks, false)) return;
    ++unsure;
    throw storage_error(errc::outcome_unknown, "the connection broke after the commit");
  });
  event_store store = co_await event_store::open(shaky);
  co_await grouped::make_sum(db);
  co_await grouped::fill(store, 1, 3);
  consumer_group group(store, "unsure", {.parts = 1});
  group.handle([&](const recorded_event& e, batch& b) -> awaitable<void> {
    grouped::add_to_sum(b, e);
    ++handled;
    breaks = e.data == "3";
    co_return;
  });
  const auto executor = co_await net::this_coro::executor;
  const auto run = [&] { return group.run(); };
  const auto running = spawn(executor, run);
  const auto is_unsure = [&] { return unsure == 1; };
  bool is_so = co_await test::eventually(is_unsure);
  CHECK(is_so);
  co_await store.append("s0", expected::any(), grouped::numbered(4));
  const auto has_gone_on = [&]() -> awaitable<bool> {
    const auto status = co_await group.status();
    co_return status.position == 4;
  };
  is_so = co_await test::eventually(has_gone_on);
  CHECK(is_so);
  const int total = co_await grouped::sum(db);
  CHECK(total == 10);
  CHECK(handled == 4);
  co_await running.stop();
}

DATABASE_TEST("a member writes only what follows the position that it began at") {
  event_store store = co_await event_store::open(db);
  co_await grouped::make_sum(db);
  co_await grouped::fill(store, 1, 3);
  consumer_group group(store, "moved", {.parts = 1});
  group.handle([&](const recorded_event& e, batch& b) -> awaitable<void> {
    grouped::add_to_sum(b, e);
    if (e.position > 1) co_return;
    batch skip;  // somebody's hand
    skip.execute("update cofferdam_group_parts set position = 2");
    co_await db.commit(std::move(skip));
  });
  const auto executor = co_await net::this_coro::executor;
  const auto run = [&] { return group.run(); };
  const auto running = spawn(executor, run);
  const auto has_ended = [&]() -> awaitable<bool> {
    const auto status = co_await group.status();
    co_return status.position == 3;
  };
  const bool is_over = co_await test::eventually(has_ended);
  CHECK(is_over);
  co_await running.stop();
  const int total = co_await grouped::sum(db);
  CHECK(total == 3);
  const auto status = co_await group.status();
  CHECK(status.parked == 0);
}

TEST_CASE("a key that was replayed is open, whatever a member was about to put behind it") {
  test::postgres_server* const server = test::postgres_server::shared();
  if (server == nullptr) return;  // on SQLite nobody writes meanwhile
  server->clear();
  const auto body = [&]() -> awaitable<void> {
    database db = co_await database::open(server->url());
    event_store store = co_await event_store::open(db);
    bool is_broken = true, is_amid = false;
    consumer_group group(store, "slow", {.parts = 1, .max_attempts = 1});
    group.handle([&](const recorded_event& e, batch& b) -> awaitable<void> {
      if (is_broken) throw std::runtime_error("cannot");
      if (e.stream != "other") co_return;
      b.execute("select 1 from pg_sleep(0.5)");  // with what is put aside, in one commit
      is_amid = true;
    });
    co_await store.append("s", expected::any(), grouped::numbered(1));
    (void)co_await group.run_due();
    is_broken = false;
    co_await store.append("s", expected::any(), grouped::numbered(2));
    co_await store.append("other", expected::any(), grouped::numbered(3));
    const auto executor = co_await net::this_coro::executor;
    const auto run = [&] { return group.run_due(); };
    const auto running = spawn(executor, run);
    const auto has_begun = [&] { return is_amid; };
    const bool has = co_await test::eventually(has_begun);
    CHECK(has);
    co_await sleep_for(100ms);
    const std::size_t replayed = co_await group.replay("s");
    CHECK(replayed == 2);
    co_await running.join();
    const auto parked = co_await group.parked();
    CHECK(parked.empty());
    const auto status = co_await group.status();
    CHECK(status.position == 3);
  };
  test::run_in_real_time(body);
}

TEST_CASE("members on several threads handle every event once and in order", "[concurrent]") {
  const test::temporary_directory directory;
  constexpr int streams = 20, events = 10;
  const auto body = [&]() -> awaitable<void> {
    database db = co_await database::open("sqlite:" + directory.file("groups.db"));
    event_store store = co_await event_store::open(db);
    co_await grouped::make_handled(db);
    co_await grouped::fill(store, streams, events);
    std::vector<std::thread> members;
    for (int m = 0; m < 3; ++m) {
      members.emplace_back([&store] {
        const auto work = [&store]() -> awaitable<void> {
          consumer_group group(store, "threads", {.parts = 6, .page = 20});
          group.handle([](const recorded_event& e, batch& b) -> awaitable<void> {
            b.require("the one before was handled",
                      "select count(*) = cast($2 as bigint) - 1 from handled where stream = $1", e.stream,
                      std::stoi(e.data));
            b.execute("insert into handled(stream, n) values($1, $2)", e.stream, std::stoi(e.data));
            co_return;
          });
          for (;;) {
            const auto status = co_await group.status();
            if (status.behind == 0 && status.position > 0) co_return;
            (void)co_await group.run_due();
          }
        };
        test::run_in_real_time(work);
      });
    }
    for (auto& m : members) m.join();
    const rows written = co_await db.query("select count(*) from handled");
    CHECK(written.front().get<int>(0) == streams * events);
    const rows parked = co_await db.query("select count(*) from cofferdam_group_parked");
    CHECK(parked.front().get<int>(0) == 0);
  };
  test::run_in_real_time(body);
}
