#include "async_test.hpp"
#include "error_of.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/outbox/inbox.hpp>
#include <cofferdam/outbox/relay.hpp>

#include <map>
#include <set>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace relays {

/// A broker that does as it is told.
class broker final : public publisher {
 public:
  awaitable<void> publish(const message& m) override {
    ++calls;
    co_await sleep_for(latency);
    if (is_down) throw std::runtime_error("no connection");
    if (refused.contains(m.id())) throw message_refused_error("too strange: " + m.id());
    if (failing.contains(m.id())) throw std::runtime_error("odd: " + m.id());
    log.push_back(m.key() + ":" + m.id());
    ids.insert(m.id());
  }
  [[nodiscard]] std::vector<std::string> of_key(const std::string& key) const {
    std::vector<std::string> found;
    for (const auto& line : log) {
      if (line.starts_with(key + ":")) found.push_back(line.substr(key.size() + 1));
    }
    return found;
  }

  duration latency = 1ms;
  bool is_down = false;
  std::set<std::string> refused, failing;
  std::vector<std::string> log;
  std::set<std::string> ids;
  int calls = 0;
};

message made(const std::string& key, const std::string& id) { return message("topic", "type", "{}").key(key).id(id); }

awaitable<void> put(outbox& o, std::string key, std::string id) {
  batch b;
  o.enqueue(b, made(key, id));
  co_await o.storage().commit(std::move(b));
}

using lines = std::vector<std::string>;

}  // namespace relays

using relays::lines;

ASYNC_TEST("messages are published in order for every key, each once, when nothing fails") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  relays::broker b;
  relay r(o, b);
  lines expected;
  for (int i = 0; i < 300; ++i) {
    co_await relays::put(o, "k" + std::to_string(i % 7), "m" + std::to_string(i));
    if (i % 7 == 3) expected.push_back("m" + std::to_string(i));
  }
  auto status = co_await r.status();
  CHECK(status.backlog == 300);
  CHECK(status.oldest.has_value());
  const auto published = co_await r.run_due();
  CHECK(published == 300);
  CHECK(b.calls == 300);
  CHECK(b.of_key("k3") == expected);
  status = co_await r.status();
  CHECK(status.backlog == 0);
  const auto again = co_await r.run_due();
  CHECK(again == 0);
  relay other(o, b, "other");
  const auto all_again = co_await other.run_due();
  CHECK(all_again == 300);
}

ASYNC_TEST("a batch that fails leaves no message, and one that commits does not lose it") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  relays::broker b;
  relay r(o, b);
  batch bad;
  o.enqueue(bad, relays::made("k", "lost"));
  bad.require("never", "select 0");
  const auto refused = co_await db.try_commit(std::move(bad));
  CHECK(!refused);
  co_await relays::put(o, "k", "kept");
  (void)co_await r.run_due();
  CHECK(b.log == lines{"k:kept"});
}

ASYNC_TEST("a running relay hears of new messages at once, and gives its parts back when it ends") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  relays::broker b;
  relay r(o, b);
  const auto executor = co_await net::this_coro::executor;
  const auto w = spawn(executor, [&r] { return r.run(); });
  co_await sleep_for(100ms);
  for (int i = 0; i < 20; ++i) {
    co_await relays::put(o, "k" + std::to_string(i), "m" + std::to_string(i));
    co_await sleep_for(20ms);
    CHECK(b.log.size() == static_cast<std::size_t>(i) + 1);
  }
  auto status = co_await r.status();
  CHECK(status.owned_parts == o.parts());
  co_await w.stop();
  status = co_await r.status();
  CHECK(status.owned_parts == 0);
}

ASYNC_TEST("a message that is refused parks its key, the others flow; replayed, its key flows in order") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  relays::broker b;
  b.refused = {"a2"};
  relay r(o, b);
  for (const char* id : {"a1", "b1", "a2", "b2", "a3", "b3"}) co_await relays::put(o, std::string(1, *id), id);
  (void)co_await r.run_due();
  CHECK(b.of_key("a") == lines{"a1"});
  CHECK(b.of_key("b") == lines{"b1", "b2", "b3"});
  co_await relays::put(o, "a", "a4");
  (void)co_await r.run_due();
  CHECK(b.of_key("a") == lines{"a1"});
  const auto parked = co_await r.parked();
  REQUIRE(parked.size() == 3);
  CHECK(parked[0].content.id() == "a2");
  CHECK(parked[0].reason == "too strange: a2");
  CHECK(parked[1].reason.empty());
  CHECK(parked[2].content.id() == "a4");
  const auto still = co_await test::error_of(r.replay("a"));
  CHECK(still == "too strange: a2");
  const auto is_gone = co_await r.skip(parked[0].content.number());
  CHECK(is_gone);
  const auto replayed = co_await r.replay("a");
  CHECK(replayed == 2);
  CHECK(b.of_key("a") == lines{"a1", "a3", "a4"});
  co_await relays::put(o, "a", "a5");
  (void)co_await r.run_due();
  CHECK(b.of_key("a") == lines{"a1", "a3", "a4", "a5"});
}

ASYNC_TEST("a message that fails while others pass is parked after max_attempts; nothing is published twice for it") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  relays::broker b;
  b.failing = {"a1"};
  relay r(o, b);
  const auto executor = co_await net::this_coro::executor;
  const auto w = spawn(executor, [&r] { return r.run(); });
  co_await relays::put(o, "a", "a1");
  co_await relays::put(o, "a", "a2");
  for (int i = 0; i < 400; ++i) {
    co_await relays::put(o, "k" + std::to_string(i), "m" + std::to_string(i));
    co_await sleep_for(50ms);
  }
  const auto parked = co_await r.parked();
  REQUIRE(parked.size() == 2);
  CHECK(parked[0].reason == "odd: a1");
  CHECK(parked[1].content.id() == "a2");
  co_await sleep_for(20s);
  CHECK(b.log.size() == 400);
  CHECK(b.ids.size() == 400);
  co_await w.stop();
}

ASYNC_TEST("a broker that is away costs nothing but time: all is accepted, nothing is parked, all arrives in order") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  relays::broker b;
  relay r(o, b);
  const auto executor = co_await net::this_coro::executor;
  const auto w = spawn(executor, [&r] { return r.run(); });
  b.is_down = true;
  for (int i = 0; i < 600; ++i) {
    co_await relays::put(o, "k" + std::to_string(i % 3), "m" + std::to_string(1000 + i));
    co_await sleep_for(100ms);
  }
  auto status = co_await r.status();
  CHECK(status.backlog == 600);
  CHECK(b.calls < 400);  // a breaker keeps calls back
  b.is_down = false;
  co_await sleep_for(30s);
  status = co_await r.status();
  CHECK(status.backlog == 0);
  CHECK(status.parked == 0);
  for (const char* key : {"k0", "k1", "k2"}) {
    const auto of_key = b.of_key(key);
    CHECK(of_key.size() == 200);
    CHECK(std::ranges::is_sorted(of_key));
  }
  co_await w.stop();
}

ASYNC_TEST("a message with a time is not published before it") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  relays::broker b;
  relay r(o, b);
  const auto executor = co_await net::this_coro::executor;
  const auto w = spawn(executor, [&r] { return r.run(); });
  const auto date = timers_of(executor).date();
  batch later;
  o.enqueue(later, relays::made("k", "later").deliver_at(date + 1h));
  o.enqueue(later, relays::made("k", "now"));
  co_await db.commit(std::move(later));
  co_await sleep_for(59min);
  CHECK(b.log == lines{"k:now"});
  co_await sleep_for(61s);
  CHECK(b.log == lines{"k:now", "k:later"});
  co_await w.stop();
}

ASYNC_TEST("two relays share the parts, and each message is published by one of them") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  relays::broker b1, b2;
  relay r1(o, b1), r2(o, b2);
  const auto executor = co_await net::this_coro::executor;
  const auto w1 = spawn(executor, [&r1] { return r1.run(); });
  co_await sleep_for(10s);
  const auto w2 = spawn(executor, [&r2] { return r2.run(); });
  co_await sleep_for(30s);
  for (int i = 0; i < 200; ++i) co_await relays::put(o, "k" + std::to_string(i), "m" + std::to_string(i));
  co_await sleep_for(10s);
  CHECK(b1.log.size() + b2.log.size() == 200);
  CHECK(b1.log.size() > 50);
  CHECK(b2.log.size() > 50);
  co_await w2.stop();
  co_await w1.stop();
}

ASYNC_TEST("a relay whose lease was taken cannot write where it got to") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  relays::broker slow, quick;
  slow.latency = 5s;
  relay first(o, slow), second(o, quick);
  const auto executor = co_await net::this_coro::executor;
  int lost = 0;
  const auto listening = first.events().subscribe([&lost](const relay_event& e) {
    if (e.what == relay_event::kind::lost) ++lost;
  });
  const auto w = spawn(executor, [&first] { return first.run(); });
  co_await relays::put(o, "k", "m1");
  co_await sleep_for(1s);  // m1 is on its way
  batch thief;
  thief.execute("update cofferdam_relay_parts set owner = null, epoch = epoch + 1");
  co_await db.commit(std::move(thief));
  const auto published = co_await second.run_due();
  CHECK(published == 1);
  co_await sleep_for(20s);
  CHECK(lost >= 1);
  const auto status = co_await first.status();
  CHECK(status.backlog == 0);
  co_await w.stop();
}

ASYNC_TEST("what was published can be published again, and forgotten when every relay has it") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  relays::broker b;
  relay r(o, b);
  const auto executor = co_await net::this_coro::executor;
  const auto& timers = timers_of(executor);
  for (int i = 0; i < 10; ++i) {
    co_await relays::put(o, "k", "m" + std::to_string(i));
    co_await sleep_for(1s);
  }
  const auto early = co_await r.forget_before(timers.date());
  CHECK(early == 0);  // nobody has them
  (void)co_await r.run_due();
  b.log.clear();
  const auto again = co_await r.republish(timers.date() - 5500ms, timers.date());
  CHECK(again == b.log.size());
  CHECK(b.log.front() == "k:m5");
  CHECK(b.log.back() == "k:m9");
  const auto gone = co_await r.forget_before(timers.date() - 5500ms);
  CHECK(gone == 5);
  co_await relays::put(o, "k", "m10");
  b.log.clear();
  (void)co_await r.run_due();
  CHECK(b.log == lines{"k:m10"});
}

ASYNC_TEST("an effect happens once for a message id, and for a growing number") {
  database db = co_await database::open("sqlite::memory:");
  inbox seen = co_await inbox::open(db, "shipping");
  batch table;
  table.execute("create table parcels(id text primary key)");
  co_await db.commit(std::move(table));
  const auto effect = [](const std::string& id) {
    batch b;
    b.execute("insert into parcels(id) values($1)", id);
    return b;
  };
  const auto first = co_await seen.commit(effect("p1"), "orders", "m1");
  const auto second = co_await seen.commit(effect("p1"), "orders", "m1");
  CHECK(first);
  CHECK(!second);
  const auto other_source = co_await test::error_of(seen.commit(effect("p1"), "returns", "m1"));
  CHECK(other_source.find("UNIQUE") != std::string::npos);  // the effect's own failure, and the message is not seen
  const auto has = co_await seen.has("returns", "m1");
  CHECK(!has);
  const auto n5 = co_await seen.commit_up_to(effect("n5"), "stream", 5);
  const auto n5_again = co_await seen.commit_up_to(effect("n5b"), "stream", 5);
  const auto n4 = co_await seen.commit_up_to(effect("n4"), "stream", 4);
  const auto n6 = co_await seen.commit_up_to(effect("n6"), "stream", 6);
  CHECK((n5 && !n5_again && !n4 && n6));
  const auto last = co_await seen.last("stream");
  CHECK(last == 6);
  const rows parcels = co_await db.query("select count(*) from parcels");
  CHECK(parcels.front().get<int>(0) == 3);
}

ASYNC_TEST("what cannot be stored is refused when it is enqueued") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db, {.max_payload = 10});
  batch b;
  CHECK_THROWS_WITH(o.enqueue(b, message("", "t", "")), "a message needs a topic");
  CHECK_THROWS_WITH(o.enqueue(b, message("t", "t", "01234567890")),
                    "a message for 't' has 11 bytes; max_payload is 10");
  CHECK_THROWS_AS(o.enqueue(b, message("t", "t", "").header("h", "\xff")), message_refused_error);
  CHECK(b.empty());
}

ASYNC_TEST("a relay whose database was in trouble takes its parts again") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  relays::broker b;
  relay r(o, b);
  const auto executor = co_await net::this_coro::executor;
  const auto w = spawn(executor, [&r] { return r.run(); });
  co_await sleep_for(1s);
  batch away;
  away.execute("alter table cofferdam_relay_members rename to elsewhere");
  co_await db.commit(std::move(away));
  co_await sleep_for(10s);
  batch back;
  back.execute("alter table elsewhere rename to cofferdam_relay_members");
  co_await db.commit(std::move(back));
  co_await relays::put(o, "k", "m1");
  co_await sleep_for(60s);
  CHECK(b.log == lines{"k:m1"});
  co_await w.stop();
}
