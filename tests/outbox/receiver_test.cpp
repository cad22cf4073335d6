#include "async_test.hpp"
#include "error_of.hpp"
#include "postgres_server.hpp"
#include "real_time.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/outbox/publisher.hpp>
#include <cofferdam/outbox/receiver.hpp>

#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace receivers {

/// Brings what is not acknowledged again after a restart, as brokers do.
class broker {
 public:
  struct delivery {
    message content;
    std::size_t place = 0;
  };

  void put(const std::string& key, const std::string& id) {
    all_.push_back({message("orders", "placed", id).key(key).id(id), all_.size()});
  }
  awaitable<std::optional<delivery>> next(duration limit) {
    if (is_away) throw std::runtime_error("no connection");
    if (next_ >= all_.size()) {
      co_await sleep_for(std::min<duration>(limit, 10ms));
      co_return std::nullopt;
    }
    co_return std::optional<delivery>(all_[next_++]);
  }
  void acknowledge(const delivery& d) { acknowledged.insert(d.content.id()); }
  void reject(const delivery& d) { rejected.push_back(d.content.id()); }
  /// Everything from the beginning, acknowledged or not.
  void rewind() { next_ = 0; }

  bool is_away = false;
  std::set<std::string> acknowledged;
  std::vector<std::string> rejected;

 private:
  std::vector<delivery> all_;
  std::size_t next_ = 0;
};

/// Effects in a table, with what goes wrong on the way.
struct shop {
  explicit shop(database& d) noexcept : db(&d) {}
  database* db;
  std::set<std::string> failing, refused;
  bool circuit_is_open = false;
  duration takes{};
  std::size_t at_once = 0, most_at_once = 0, calls = 0;

  static awaitable<void> make_table(database& db) {
    batch b;
    b.execute("create table effects(nr bigint not null, key text not null, id text not null unique)");
    co_await db.commit(std::move(b));
  }
  awaitable<void> handle(const message& m, batch& effect) {
    ++calls;
    most_at_once = std::max(most_at_once, ++at_once);
    co_await sleep_for(takes);
    --at_once;
    if (circuit_is_open) throw circuit_open_error(errc::circuit_open, nullptr);
    if (refused.contains(m.id())) throw message_refused_error("makes no sense");
    if (failing.contains(m.id())) throw std::runtime_error("odd");
    effect.execute("insert into effects(nr, key, id) values((select count(*) from effects), $1, $2)", m.key(), m.id());
  }
  awaitable<std::string> of(std::string key) {
    const rows found = co_await db->query("select id from effects where key = $1 order by nr", key);
    std::string all;
    for (const row r : found) all += (all.empty() ? "" : " ") + r.get<std::string>(0);
    co_return all;
  }
};

receiver_options quick() {
  receiver_options o;
  o.max_attempts = 3;
  o.backoff.cap = 1s;
  return o;
}

awaitable<void> park_and_replay(std::string url) {
  database db = co_await database::open(std::move(url));
  co_await shop::make_table(db);
  inbox seen = co_await inbox::open(db, "shipping");
  shop s(db);
  s.failing = {"a2"};
  broker from;
  for (const char* id : {"a1", "b1", "a2", "b2", "a3", "b3"}) from.put(std::string(1, *id), id);
  receiver r(from, seen, "orders", [&s](const message& m, batch& b) { return s.handle(m, b); }, quick());
  const auto executor = co_await net::this_coro::executor;
  const auto w = spawn(executor, [&r] { return r.run(); });
  while (from.acknowledged.size() < 6) co_await sleep_for(10ms);
  auto a = co_await s.of("a");
  CHECK(a == "a1");
  const auto b = co_await s.of("b");
  CHECK(b == "b1 b2 b3");
  auto parked = co_await r.parked();
  REQUIRE(parked.size() == 2);
  CHECK(parked[0].content.id() == "a2");
  CHECK(parked[0].reason == "odd");
  CHECK(parked[0].content.topic() == "orders");
  CHECK(parked[1].content.id() == "a3");
  CHECK(parked[1].reason.empty());

  const auto still = co_await test::error_of(r.replay("a"));
  CHECK(still == "odd");
  s.failing.clear();
  const auto replayed = co_await r.replay("a");
  CHECK(replayed == 2);
  a = co_await s.of("a");
  CHECK(a == "a1 a2 a3");

  s.refused = {"a4"};
  const std::size_t calls = s.calls;
  from.put("a", "a4");
  from.put("a", "a5");
  from.rewind();  // all of it once more
  while (from.acknowledged.size() < 8) co_await sleep_for(10ms);
  parked = co_await r.parked();
  REQUIRE(parked.size() == 2);
  CHECK(parked[0].reason == "makes no sense");
  CHECK(s.calls <= calls + 8);  // refused at the first attempt
  const auto skipped = co_await r.skip("a4");
  CHECK(skipped);
  const auto again = co_await r.skip("a4");
  CHECK(!again);
  (void)co_await r.replay("a");
  from.put("a", "a6");
  while (from.acknowledged.size() < 9) co_await sleep_for(10ms);
  a = co_await s.of("a");
  CHECK(a == "a1 a2 a3 a5 a6");
  co_await w.stop();
  co_await db.close();
}

}  // namespace receivers

ASYNC_TEST(
    "a message that cannot be handled is put aside with its key, the others flow; replayed, its key flows in order") {
  co_await receivers::park_and_replay("sqlite::memory:");
}

TEST_CASE("messages are put aside and replayed on PostgreSQL, too") {
  test::postgres_server* server = test::postgres_server::shared();
  if (server == nullptr) return;
  server->clear();
  test::run_in_real_time(receivers::park_and_replay, server->url());
}

ASYNC_TEST("as many messages are handled at once as there may be, those of a key one after the other") {
  database db = co_await database::open("sqlite::memory:");
  co_await receivers::shop::make_table(db);
  inbox seen = co_await inbox::open(db, "shipping");
  receivers::shop s(db);
  s.takes = 1s;
  receivers::broker from;
  std::string expected;
  for (int i = 0; i < 60; ++i) {
    const std::string key = i % 2 == 0 ? "hot" : "k" + std::to_string(i);
    from.put(key, "m" + std::to_string(i));
    if (i % 2 == 0) expected += (expected.empty() ? "m" : " m") + std::to_string(i);
  }
  receiver_options options;
  options.max_concurrent = 4;
  receiver r(from, seen, "orders", [&s](const message& m, batch& b) { return s.handle(m, b); }, options);
  const auto executor = co_await net::this_coro::executor;
  const auto w = spawn(executor, [&r] { return r.run(); });
  while (from.acknowledged.size() < 60) co_await sleep_for(1s);
  CHECK(time.elapsed() < 45s);  // 30 of one key take 30 seconds; the others go beside them, and have their turn
  CHECK(s.most_at_once == 4);
  const auto hot = co_await s.of("hot");
  CHECK(hot == expected);
  co_await w.stop();
}

ASYNC_TEST("what is in trouble costs no attempts: nothing is put aside, and everything happens when it is well again") {
  database db = co_await database::open("sqlite::memory:");
  co_await receivers::shop::make_table(db);
  inbox seen = co_await inbox::open(db, "shipping");
  receivers::shop s(db);
  s.circuit_is_open = true;
  receivers::broker from;
  for (int i = 0; i < 20; ++i) from.put("k" + std::to_string(i % 3), "m" + std::to_string(i));
  receiver r(from, seen, "orders", [&s](const message& m, batch& b) { return s.handle(m, b); }, receivers::quick());
  int troubled = 0;
  const auto listening = r.events().subscribe([&troubled](const receiver_event& e) {
    if (e.what == receiver_event::kind::troubled) ++troubled;
  });
  const auto executor = co_await net::this_coro::executor;
  const auto w = spawn(executor, [&r] { return r.run(); });
  co_await sleep_for(10min);
  CHECK(from.acknowledged.empty());
  CHECK(troubled > 100);
  from.is_away = true;
  s.circuit_is_open = false;
  co_await sleep_for(1min);
  from.is_away = false;
  co_await sleep_for(1min);
  CHECK(from.acknowledged.size() == 20);
  const auto parked = co_await r.parked();
  CHECK(parked.empty());
  co_await w.stop();
}

ASYNC_TEST("a receiver that is cancelled finishes what it is at, and gives back the rest") {
  database db = co_await database::open("sqlite::memory:");
  co_await receivers::shop::make_table(db);
  inbox seen = co_await inbox::open(db, "shipping");
  receivers::shop s(db);
  s.takes = 5s;
  receivers::broker from;
  for (int i = 0; i < 6; ++i) from.put("k" + std::to_string(i % 2), "m" + std::to_string(i));
  receiver r(from, seen, "orders", [&s](const message& m, batch& b) { return s.handle(m, b); });
  const auto executor = co_await net::this_coro::executor;
  const auto w = spawn(executor, [&r] { return r.run(); });
  co_await sleep_for(2s);
  co_await w.stop();
  CHECK(time.elapsed() < 6s);
  CHECK(from.acknowledged == std::set<std::string>{"m0", "m1"});
  std::ranges::sort(from.rejected);
  CHECK(from.rejected == std::vector<std::string>{"m2", "m3", "m4", "m5"});
  const rows effects = co_await db.query("select count(*) from effects");
  CHECK(effects.front().get<int>(0) == 2);
}
