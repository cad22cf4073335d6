#include "async_test.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/eventsourcing/event_vault.hpp>
#include <cofferdam/outbox/event_log.hpp>
#include <cofferdam/outbox/relay.hpp>

#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace event_logs {

class listener final : public publisher {
 public:
  awaitable<void> publish(const message& m) override {
    co_await sleep_for(1ms);
    if (m.payload() == refused) throw message_refused_error("too strange");
    heard.push_back(m.key() + ":" + m.payload());
    last = m;
  }
  std::string refused;
  std::vector<std::string> heard;
  message last{"", "", ""};
};

std::optional<message> made_of(const recorded_event& e) {
  if (e.type == "secret") return std::nullopt;
  return message("orders." + e.type, e.type, e.data);
}

awaitable<void> append(event_store& store, std::string stream, std::string type, std::string data) {
  const event e(std::move(type), std::move(data));
  (void)co_await store.append(std::move(stream), expected::any(), e);
}

}  // namespace event_logs

ASYNC_TEST("what was appended is published, in order for every stream, and nothing is written for it") {
  database db = co_await database::open("sqlite::memory:");
  event_store store = co_await event_store::open(db);
  event_log log = co_await event_log::open(store, event_logs::made_of);
  event_logs::listener broker;
  relay carrier(log, broker);
  for (int i = 0; i < 20; ++i) {
    co_await event_logs::append(store, "s" + std::to_string(i % 2), i % 5 == 4 ? "secret" : "placed",
                                std::to_string(i));
  }
  auto status = co_await carrier.status();
  CHECK(status.backlog == 20);  // at most
  CHECK(status.oldest.has_value());
  const auto published = co_await carrier.run_due();
  CHECK(published == 16);
  std::vector<std::string> first;
  for (const auto& line : broker.heard) {
    if (line.starts_with("s0:")) first.push_back(line);
  }
  CHECK(first == std::vector<std::string>{"s0:0", "s0:2", "s0:6", "s0:8", "s0:10", "s0:12", "s0:16", "s0:18"});
  const auto id = co_await store.read_event(event_id::parse(broker.last.id()));
  CHECK(id.has_value());
  CHECK(broker.last.topic() == "orders.placed");
  status = co_await carrier.status();
  CHECK(status.backlog == 0);
  const rows written = co_await db.query("select count(*) from cofferdam_outbox");
  CHECK(written.front().get<int>(0) == 0);
}

ASYNC_TEST("an event that a broker refuses parks its stream, and can be replayed; all can be published again") {
  database db = co_await database::open("sqlite::memory:");
  event_store store = co_await event_store::open(db);
  event_log log = co_await event_log::open(store, event_logs::made_of);
  event_query placed;
  placed.item().type("placed");
  log.filter(placed);
  event_logs::listener broker;
  broker.refused = "2";
  relay carrier(log, broker);
  const auto executor = co_await net::this_coro::executor;
  const auto w = spawn(executor, [&carrier] { return carrier.run(); });
  for (int i = 0; i < 6; ++i)
    co_await event_logs::append(store, "s" + std::to_string(i % 2), "placed", std::to_string(i));
  co_await event_logs::append(store, "s1", "shipped", "7");
  co_await sleep_for(1s);
  CHECK(broker.heard.size() == 4);
  const auto parked = co_await carrier.parked();
  REQUIRE(parked.size() == 2);
  CHECK(parked[0].content.payload() == "2");
  CHECK(parked[1].content.payload() == "4");
  broker.refused.clear();
  const auto replayed = co_await carrier.replay("s0");
  CHECK(replayed == 2);
  CHECK(broker.heard.back() == "s0:4");
  co_await w.stop();
  broker.heard.clear();
  const auto again = co_await carrier.republish({}, timers_of(executor).date() + 1s);
  CHECK(again == 6);
}

#ifdef COFFERDAM_TEST_SODIUM

ASYNC_TEST("what is sealed in the store is published sealed") {
  database db = co_await database::open("sqlite::memory:");
  event_store store = co_await event_store::open(db);
  const auto keys = co_await database_key_store::open(db);
  event_vault vault(*keys);
  store.unseal_with(vault);
  event e("placed", R"({"name": "Ada"})");
  co_await vault.seal(e, "ada");
  (void)co_await store.append("s", expected::any(), e);
  const slice read = co_await store.read_all();
  CHECK(read.events[0].data == R"({"name":"Ada"})");
  event_log log = co_await event_log::open(store, event_logs::made_of);
  event_logs::listener broker;
  relay carrier(log, broker);
  (void)co_await carrier.run_due();
  CHECK(broker.last.payload() == e.data());
}

#endif
