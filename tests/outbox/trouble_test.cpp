// What the world can do to a relay: poison, outages, slowness, a full disk, a cancellation at the wrong moment.
#include "async_test.hpp"
#include "error_of.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/outbox/relay.hpp>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace troubles {

class broker final : public publisher {
 public:
  awaitable<void> publish(const message& m) override {
    ++calls;
    co_await sleep_for(latency);
    if (is_down) throw std::runtime_error("no connection");
    if (m.type() == "refused") throw message_refused_error("too strange");
    if (m.type() == "failing") throw std::runtime_error("odd");
    if (m.type() == "hanging") co_await sleep_until(never);
    of_key[m.key()].push_back(std::stoi(m.payload()));
    ++published;
  }
  duration latency = 1ms;
  bool is_down = false;
  std::size_t published = 0, calls = 0;
  std::map<std::string, std::vector<int>> of_key;
};

/// `n` messages over `keys` keys; every `poisoned`-th of another type.
awaitable<void> fill(outbox& o, int n, int keys, int poisoned = 0, std::string poison = {}) {
  for (int i = 0; i < n;) {
    batch b;
    for (const int end = std::min(n, i + 500); i < end; ++i) {
      const bool is_poison = poisoned > 0 && i % poisoned == poisoned / 2;
      // A poisoned key is its own: what would wait behind it is not what is measured here.
      const std::string key = is_poison ? "poison " + std::to_string(i) : "k" + std::to_string(i % keys);
      o.enqueue(b, message("t", is_poison ? poison : "good", std::to_string(i)).key(key));
    }
    co_await o.storage().commit(std::move(b));
  }
}

/// How long a relay takes for the good ones of 10,000 messages.
awaitable<duration> time_to_drain(int poisoned, std::string poison) {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  broker b;
  relay r(o, b);
  constexpr int all = 10'000;
  co_await fill(o, all, 200, poisoned, poison);
  const std::size_t good = poisoned > 0 ? all - all / static_cast<std::size_t>(poisoned) : all;
  const auto executor = co_await net::this_coro::executor;
  const auto& timers = timers_of(executor);
  const auto begin = timers.now();
  const auto w = spawn(executor, [&r] { return r.run(); });
  while (b.published < good) co_await sleep_for(1ms);
  const duration took = timers.now() - begin;
  co_await sleep_for(1s);
  // What fails again and again is known for poison only while others pass.
  for (int i = 0; poison == "failing" && i < 200; ++i) {
    co_await fill(o, 1, 1);
    co_await sleep_for(100ms);
  }
  const std::size_t late = poison == "failing" ? 200 : 0;
  const auto status = co_await r.status();
  CHECK(status.parked == all - good);
  CHECK(status.backlog == 0);
  CHECK(b.published == good + late);
  co_await w.stop();
  co_return took;
}

}  // namespace troubles

ASYNC_TEST("one poisoned message in 500 costs the others less than a twentieth of their throughput") {
  const auto healthy = co_await troubles::time_to_drain(0, "");
  for (const char* poison : {"refused", "failing"}) {
    INFO(poison);
    const auto poisoned = co_await troubles::time_to_drain(500, poison);
    CHECK(static_cast<double>(healthy.count()) >= 0.95 * static_cast<double>(poisoned.count()));
  }
}

ASYNC_TEST(
    "a message that fails when nothing else is sent keeps nobody waiting, and is not parked before others pass") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  troubles::broker b;
  relay r(o, b);
  co_await troubles::fill(o, 1, 1, 1, "failing");
  const auto executor = co_await net::this_coro::executor;
  const auto w = spawn(executor, [&r] { return r.run(); });
  co_await sleep_for(1min);
  auto status = co_await r.status();
  CHECK(status.parked == 0);
  CHECK(status.backlog == 1);
  CHECK(b.calls < 60);
  co_await troubles::fill(o, 100, 100);
  co_await sleep_for(2s);  // at most one break of the circuit, which the one message may have opened
  CHECK(b.published == 100);
  for (int i = 0; i < 60; ++i) {
    co_await troubles::fill(o, 1, 1);
    co_await sleep_for(1s);
  }
  status = co_await r.status();
  CHECK(status.parked == 1);
  CHECK(status.backlog == 0);
  CHECK(b.published == 160);
  co_await w.stop();
}

ASYNC_TEST(
    "a broker that is down for a minute under load: all is accepted, the backlog is exact, it drains at full rate") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  troubles::broker b;
  relay r(o, b);
  const auto executor = co_await net::this_coro::executor;
  const auto w = spawn(executor, [&r] { return r.run(); });
  co_await troubles::fill(o, 6'000, 60);
  const auto began = time.now();
  while (b.published < 6'000) co_await sleep_for(1ms);
  const duration healthy = time.now() - began;
  b.is_down = true;
  for (int i = 0; i < 60; ++i) {
    co_await troubles::fill(o, 100, 60);
    co_await sleep_for(1s);
    const auto status = co_await r.status();
    CHECK(status.backlog == static_cast<std::uint64_t>(i + 1) * 100);
  }
  b.is_down = false;
  while (b.published == 6'000) co_await sleep_for(1ms);
  const auto back = time.now();
  while (b.published < 11'900) co_await sleep_for(1ms);  // the last part to hear of it may be a pause behind
  const duration drained = time.now() - back;
  INFO("healthy " << healthy.count() << ", drained " << drained.count());
  CHECK(drained <= 10s + healthy);
  co_await sleep_for(11s);
  const auto status = co_await r.status();
  CHECK(status.backlog == 0);
  CHECK(status.parked == 0);
  CHECK(b.published == 12'000);
  co_await w.stop();
}

ASYNC_TEST("a burst of refused messages is not taken for a broker in trouble") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  troubles::broker b;
  relay r(o, b);
  co_await troubles::fill(o, 50, 50, 1, "refused");
  co_await troubles::fill(o, 50, 50);
  const auto published = co_await r.run_due();
  CHECK(published == 50);
  CHECK(time.elapsed() < 100ms);
  const auto status = co_await r.status();
  CHECK(status.parked == 50);
}

ASYNC_TEST("a slow broker is waited for: nothing is published twice, and no part is lost meanwhile") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  troubles::broker b;
  b.latency = 9s;
  relay r(o, b);
  int lost = 0;
  const auto listening = r.events().subscribe([&lost](const relay_event& e) {
    if (e.what == relay_event::kind::lost) ++lost;
  });
  co_await troubles::fill(o, 40, 2);
  const auto executor = co_await net::this_coro::executor;
  const auto w = spawn(executor, [&r] { return r.run(); });
  co_await sleep_for(4min);
  CHECK(b.published == 40);
  CHECK(b.calls == 40);
  CHECK(lost == 0);
  co_await w.stop();
}

ASYNC_TEST("a message whose publish never ends is parked after its time limits, and the others flow") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  troubles::broker b;
  relay_options options;
  options.publish_timeout = 1s;
  relay r(o, b, "relay", options);
  co_await troubles::fill(o, 1, 1, 1, "hanging");
  const auto executor = co_await net::this_coro::executor;
  const auto w = spawn(executor, [&r] { return r.run(); });
  for (int i = 0; i < 60; ++i) {
    co_await troubles::fill(o, 40, 40);
    co_await sleep_for(1s);
  }
  CHECK(b.published == 2'400);
  const auto parked = co_await r.parked();
  REQUIRE(parked.size() == 1);
  CHECK(parked[0].reason == "timed out");
  co_await w.stop();
}

ASYNC_TEST("what is on its way when a relay is cancelled arrives, and its place is written") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  troubles::broker b;
  b.latency = 2s;
  relay r(o, b);
  co_await troubles::fill(o, 200, 40);
  const auto executor = co_await net::this_coro::executor;
  const auto w = spawn(executor, [&r] { return r.run(); });
  co_await sleep_for(1s);
  co_await w.stop();
  CHECK(time.elapsed() < 3s);
  CHECK(b.published == 40);  // the first of every key
  CHECK(b.calls == 40);
  relay next(o, b);
  b.latency = 1ms;
  const auto rest = co_await next.run_due();
  CHECK(rest == 160);
  CHECK(b.published == 200);
  for (const auto& [key, numbers] : b.of_key) CHECK(std::ranges::is_sorted(numbers));
}

ASYNC_TEST("a full disk refuses what is new; what is there is published, and forgetting it makes room") {
  const test::temporary_directory directory;
  database db = co_await database::open("sqlite:" + directory.file("full.db") + "?threads=0");
  outbox o = co_await outbox::open(db);
  troubles::broker b;
  relay r(o, b);
  co_await troubles::fill(o, 1, 1);
  (void)co_await r.run_due();
  batch limit;
  limit.execute("pragma max_page_count = 120");
  co_await db.commit(std::move(limit));
  std::size_t committed = 1;
  std::error_code why;
  while (!why) {
    batch one;
    o.enqueue(one, message("t", "good", std::to_string(committed)).key("k").header("filler", std::string(2'000, 'x')));
    const auto done = co_await db.try_commit(std::move(one));
    why = done.code();
    if (done) ++committed;
  }
  CHECK(why == errc::database_full);
  CHECK(committed > 50);
  (void)co_await r.run_due();
  CHECK(b.published == committed);
  const auto executor = co_await net::this_coro::executor;
  const auto gone = co_await r.forget_before(timers_of(executor).date() + 1s);
  CHECK(gone == committed);
  co_await troubles::fill(o, 1, 1);
  (void)co_await r.run_due();
  CHECK(b.published == committed + 1);
  co_await db.close();
}

ASYNC_TEST("a relay tells how far behind it is, and forgets what is past its retention") {
  database db = co_await database::open("sqlite::memory:");
  outbox o = co_await outbox::open(db);
  troubles::broker b;
  relay_options options;
  options.retention = 1h;
  relay r(o, b, "relay", options);
  std::vector<relay_status> measured;
  std::size_t forgotten = 0;
  const auto listening = r.events().subscribe([&](const relay_event& e) {
    if (e.what == relay_event::kind::measured) measured.push_back(e.status);
    if (e.what == relay_event::kind::forgotten) forgotten += e.count;
  });
  const auto executor = co_await net::this_coro::executor;
  const auto w = spawn(executor, [&r] { return r.run(); });
  co_await sleep_for(25s);
  REQUIRE(measured.size() == 2);
  CHECK(measured.back().backlog == 0);
  CHECK(measured.back().owned_parts == 8);
  b.is_down = true;
  co_await troubles::fill(o, 2'500, 10);
  const auto since = timers_of(executor).date();
  co_await sleep_for(10s);
  CHECK(measured.back().backlog == 2'500);
  REQUIRE(measured.back().oldest);
  CHECK(*measured.back().oldest == since);
  b.is_down = false;
  co_await sleep_for(55min);
  CHECK(forgotten == 0);
  co_await sleep_for(10min);
  CHECK(forgotten == 2'500);
  const rows left = co_await db.query("select count(*) from cofferdam_outbox");
  CHECK(left.front().get<int>(0) == 0);
  co_await w.stop();
}
