// A shop writes an order and its message in one batch; a relay carries the message to the warehouse, whose inbox makes
// sure that each order leaves once. The warehouse is away for a while, and one message makes no sense.
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/messaging/in_process.hpp>
#include <cofferdam/outbox/inbox.hpp>
#include <cofferdam/outbox/relay.hpp>

#include <cstdio>
#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

/// State and message commit together, or neither does.
awaitable<void> place_order(outbox& messages, std::string id, std::string customer, int total) {
  batch b;
  b.execute("insert into orders(id, total) values($1, $2)", id, total);
  messages.enqueue(b, message("orders", "order.placed", id).key(customer).header("ce-source", "shop"));
  co_await messages.storage().commit(std::move(b));
}

struct warehouse {
  warehouse(database& d, inbox& i) noexcept : db(&d), seen(&i) {}
  database* db;
  inbox* seen;
  bool is_away = false;

  awaitable<void> receive(const message& m) {
    if (is_away) throw std::runtime_error("the warehouse does not answer");
    if (m.payload().empty()) throw message_refused_error("an order without a number");
    batch effect;
    effect.execute("insert into parcels(order_id) values($1)", m.payload());
    const bool is_new = co_await seen->commit(std::move(effect), "shop", m.id());
    std::printf("  %s: %s\n", m.payload().c_str(), is_new ? "packed" : "was packed before");
  }
};

awaitable<void> trade() {
  database db = co_await database::open("sqlite::memory:");
  batch tables;
  tables.execute("create table orders(id text primary key, total bigint not null)");
  tables.execute("create table parcels(order_id text primary key)");
  co_await db.commit(std::move(tables));
  outbox messages = co_await outbox::open(db);
  inbox seen = co_await inbox::open(db, "warehouse");
  warehouse w(db, seen);
  in_process_bus bus;
  bus.subscribe("orders", [&w](const message& m) { return w.receive(m); });
  relay carrier(messages, bus);
  const auto executor = co_await net::this_coro::executor;
  const auto run = [&carrier] { return carrier.run(); };
  const auto carrying = spawn(executor, run);

  co_await place_order(messages, "order-1", "ada", 30);
  co_await sleep_for(1s);
  try {
    co_await place_order(messages, "order-1", "ada", 30);
  } catch (const storage_error&) {
    std::printf("order-1 is there already: no second message either\n");
  }

  std::printf("the warehouse is away for a minute\n");
  w.is_away = true;
  for (const char* id : {"order-2", "order-3", "order-4"}) co_await place_order(messages, id, "ada", 10);
  co_await sleep_for(1min);
  auto status = co_await carrier.status();
  std::printf("  %d messages wait, %d are parked\n", static_cast<int>(status.backlog), static_cast<int>(status.parked));
  w.is_away = false;
  co_await sleep_for(20s);

  std::printf("a message without sense parks its customer's, not those of others\n");
  batch odd;
  messages.enqueue(odd, message("orders", "order.placed", "").key("eve"));
  co_await db.commit(std::move(odd));
  co_await place_order(messages, "order-5", "eve", 5);
  co_await place_order(messages, "order-6", "ada", 6);
  co_await sleep_for(1s);
  const auto parked = co_await carrier.parked();
  for (const auto& p : parked) {
    std::printf("  parked: '%s' of %s, %s\n", p.content.payload().c_str(), p.content.key().c_str(),
                p.reason.empty() ? "which follows" : p.reason.c_str());
  }
  (void)co_await carrier.skip(parked.front().content.number());
  const auto replayed = co_await carrier.replay("eve");
  std::printf("  %d replayed\n", static_cast<int>(replayed));

  std::printf("everything once more, as after a loss at the broker\n");
  const auto again = co_await carrier.republish({}, timers_of(executor).date());
  const rows parcels = co_await db.query("select count(*) from parcels");
  std::printf("%d published again, %d parcels\n", static_cast<int>(again), parcels.front().get<int>(0));
  co_await carrying.stop();
}

}  // namespace

int main() {
  net::io_context context(1);
  virtual_time time(context);
  time.run(trade);
}
