// A shop, a relay and a warehouse in processes of their own. The shop writes orders and their messages, the relay
// carries the messages to a broker, the warehouse packs a parcel for each. Each is killed while it works, and started
// again; in the end, every order has its parcel, once, and every customer's parcels are in order.
//
//     order_processes        with nothing installed: the broker is a function call, relay and warehouse one process
//     order_processes nats   with a NATS server, which it starts
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/messaging/in_process.hpp>
#include <cofferdam/messaging/nats.hpp>
#include <cofferdam/messaging/nats_process.hpp>
#include <cofferdam/outbox/receiver.hpp>
#include <cofferdam/outbox/relay.hpp>

#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

constexpr int all = 300;

/// Of the shop and its relay; and of the warehouse.
std::string orders_in(const std::string& directory) { return "sqlite:" + directory + "/shop.db"; }
std::string parcels_in(const std::string& directory) { return "sqlite:" + directory + "/warehouse.db"; }

/// Goes on where it was killed: an order in the table has its message, and what is not there has none.
awaitable<void> sell(std::string directory, std::string /*broker*/) {
  database db = co_await database::open(orders_in(directory));
  outbox messages = co_await outbox::open(db);
  const rows found = co_await db.query("select count(*) from orders");
  for (int n = found.front().get<int>(0) + 1; n <= all; ++n) {
    const std::string customer = "customer-" + std::to_string(n % 5);
    batch b;
    b.execute("insert into orders(id, customer) values($1, $2)", n, customer);
    messages.enqueue(b, message("orders.placed", "order.placed", std::to_string(n)).key(customer));
    co_await db.commit(std::move(b));
    co_await sleep_for(5ms);
  }
  co_await sleep_until(never);
}

awaitable<void> carry_to(publisher& to, std::string directory) {
  database db = co_await database::open(orders_in(directory));
  outbox messages = co_await outbox::open(db);
  relay_options options;
  options.lease = 500ms;  // who was killed holds its parts for so long; 15 s when not in a hurry
  relay carrier(messages, to, "relay", options);
  co_await carrier.run();
}

awaitable<void> pack_parcel(const message& m, batch& effect) {
  effect.execute("insert into parcels(order_id, customer) values($1, $2)", std::stoi(m.payload()), m.key());
  co_return;
}
template <class Consumer> awaitable<void> pack_from(Consumer& from, std::string directory) {
  database db = co_await database::open(parcels_in(directory));
  inbox seen = co_await inbox::open(db, "warehouse");
  receiver parcels(from, seen, "ORDERS", pack_parcel);
  co_await parcels.run();
}

#if defined(WITH_NATS)
awaitable<void> carry(std::string directory, std::string broker) {
  const auto to = co_await nats_publisher::connect(broker);
  co_await carry_to(*to, directory);
}
awaitable<void> pack(std::string directory, std::string broker) {
  const auto from = co_await nats_consumer::connect(broker, "ORDERS", "warehouse", 1s);
  co_await pack_from(*from, directory);
}
#endif

/// Where the broker is a function call, relay and warehouse are killed together.
awaitable<void> carry_and_pack(std::string directory, std::string /*broker*/) {
  in_process_bus bus;
  in_process_consumer from(bus, "orders.placed");
  const auto executor = co_await net::this_coro::executor;
  const auto carry_all = [&] { return carry_to(bus, directory); };
  spawn(executor, carry_all);
  co_await pack_from(from, directory);
}

struct role {
  const char* name;
  awaitable<void> (*play)(std::string directory, std::string broker);
};
constexpr role roles[] = {
    {"shop", sell},
    {"relay and warehouse", carry_and_pack},
#if defined(WITH_NATS)
    {"relay", carry},
    {"warehouse", pack},
#endif
};

/// This program again, in a role.
class process {
 public:
  process(std::string role, std::string directory, std::string broker) : words_{role, directory, broker} { start(); }
  process(const process&) = delete;
  process& operator=(const process&) = delete;
  ~process() { kill(); }

  [[nodiscard]] const std::string& role() const noexcept { return words_[0]; }
  void start() {
    std::string name = "order_processes";
    char* words[] = {name.data(), words_[0].data(), words_[1].data(), words_[2].data(), nullptr};
    if (::posix_spawn(&process_, "/proc/self/exe", nullptr, nullptr, words, environ) != 0) std::abort();
  }
  void kill() const {
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }

 private:
  std::string words_[3];
  pid_t process_ = 0;
};

awaitable<int> count_parcels(database& warehouse) {
  const rows found = co_await warehouse.query("select count(*) from parcels");
  co_return found.front().get<int>(0);
}

/// From what is written, when nothing works any more.
awaitable<bool> check(database& shop, database& warehouse) {
  const rows orders = co_await shop.query("select id from orders");
  const rows parcels = co_await warehouse.query("select order_id, customer from parcels order by nr");
  std::map<int, int> times;
  std::map<std::string, int> newest;
  int lost = 0, repeated = 0, out_of_order = 0;
  for (const row r : parcels) {
    const int order = r.get<int>(0);
    if (times[order]++ > 0) ++repeated;
    int& last = newest[r.get<std::string>(1)];
    if (order < last) ++out_of_order;
    last = std::max(last, order);
  }
  for (const row r : orders) lost += times.contains(r.get<int>(0)) ? 0 : 1;
  std::printf("%zu orders: %d lost, %d repeated, %d out of order\n", orders.size(), lost, repeated, out_of_order);
  co_return orders.size() == all&& lost + repeated + out_of_order == 0;
}

/// @param cast  who plays.
awaitable<bool> direct(std::string directory, std::string broker, std::vector<std::string> cast) {
  database orders = co_await database::open(orders_in(directory));
  database warehouse = co_await database::open(parcels_in(directory));
  batch of_shop, of_warehouse;
  of_shop.execute("create table orders(id integer primary key, customer text not null)");
  of_warehouse.execute(
      "create table parcels(nr integer primary key autoincrement, order_id integer not null, customer text not null)");
  co_await orders.commit(std::move(of_shop));
  co_await warehouse.commit(std::move(of_warehouse));
  {
    std::vector<std::unique_ptr<process>> players;
    for (const std::string& each : cast) players.push_back(std::make_unique<process>(each, directory, broker));
    int packed = 0;
    const auto wait_for = [&](int wanted) -> awaitable<void> {
      for (; packed < wanted; packed = co_await count_parcels(warehouse)) co_await sleep_for(2ms);
    };
    for (const auto& victim : players) {
      co_await wait_for(packed + 40);
      victim->kill();
      std::printf("%s: killed\n", victim->role().c_str());
      victim->start();
    }
    co_await wait_for(all);
  }
  const bool is_well = co_await check(orders, warehouse);
  co_await orders.close();
  co_await warehouse.close();
  co_return is_well;
}

int take_role(const std::string& name, const std::string& directory, const std::string& broker) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  net::io_context context(1);
  for (const role& each : roles) {
    if (each.name == name) spawn(context, each.play, directory, broker);
  }
  context.run();
  return 0;
}

awaitable<bool> live_in_process(std::string directory) {
  const std::vector<std::string> cast{"shop", "relay and warehouse"};
  co_return co_await direct(directory, "none", cast);
}

#if defined(WITH_NATS)
awaitable<bool> live_on_nats(std::string directory) {
  const nats_process server(directory);
  {
    const auto to = co_await nats_publisher::connect(server.url());
    co_await to->ensure_stream("ORDERS", "orders.>");
  }
  const std::vector<std::string> cast{"shop", "relay", "warehouse"};
  co_return co_await direct(directory, server.url(), cast);
}
#endif

}  // namespace

int main(int count, char** words) {
  if (count == 4) return take_role(words[1], words[2], words[3]);
  auto play = live_in_process;
#if defined(WITH_NATS)
  if (count == 2 && std::string(words[1]) == "nats") play = live_on_nats;
#endif
  std::string directory = (std::filesystem::temp_directory_path() / "order_processes-XXXXXX").string();
  if (::mkdtemp(directory.data()) == nullptr) return 1;
  bool is_well = false;
  {
    net::io_context context(1);
    const auto live = [&]() -> awaitable<void> { is_well = co_await play(directory); };
    spawn(context, live);
    context.run();
  }
  std::filesystem::remove_all(directory);
  return is_well ? 0 : 1;
}
