// Commands change, queries read: an order is placed once however often the client sends it, and who placed it reads it.
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/cqrs/command_bus.hpp>
#include <cofferdam/cqrs/query_bus.hpp>
#include <cofferdam/eventsourcing/event_store.hpp>
#include <cofferdam/eventsourcing/projection.hpp>

#include <cstdio>

using namespace cofferdam;
using namespace std::chrono_literals;

struct place_order {
  static constexpr const char* name = "place_order";
  using result = std::string;  // the order's id
  std::string customer;
  int total = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(place_order, customer, total)

struct orders_of {
  using result = std::vector<std::string>;
  std::string customer;
};

namespace {

class order_service {
 public:
  order_service(database& db, event_store& store) : db_(db), store_(store) {}

  awaitable<std::string> place(const place_order& c, command_context& context) {
    const std::string id = "order-" + std::to_string(++last_);
    event placed("order.placed", nlohmann::json(c).dump());
    placed.correlation(context.correlation());
    append_request request(id, expected::none());
    request.add(std::move(placed));
    batch b;
    const auto done = store_.append(b, std::move(request));
    co_await context.commit(db_, std::move(b), id);  // the events, and that this command has happened
    context.reached(done->position);
    co_return id;
  }

  awaitable<std::vector<std::string>> find(const orders_of& q) {
    const rows found = co_await db_.query("select id from orders where customer = $1 order by id", q.customer);
    std::vector<std::string> ids;
    for (const row r : found) ids.push_back(r.get<std::string>("id"));
    co_return ids;
  }

 private:
  database& db_;
  event_store& store_;
  int last_ = 0;
};

awaitable<void> shop() {
  database db = co_await database::open("sqlite::memory:");
  event_store store = co_await event_store::open(db);
  batch table;
  table.execute("create table orders(id text primary key, customer text not null)");
  co_await db.commit(std::move(table));
  projection orders(store, "orders");
  orders.apply([](batch& b, const recorded_event& e) {
    b.execute("insert into orders(id, customer) values($1, $2)", e.stream,
              nlohmann::json::parse(e.data).at("customer").get<std::string>());
  });

  order_service service(db, store);
  command_bus commands;
  commands.handle<place_order>(
      [&](const place_order& c, command_context& context) { return service.place(c, context); });
  commands.validate<place_order>([](const place_order& c, violations& found) {
    found.require(!c.customer.empty(), "customer", "must be named");
    found.require(c.total > 0, "total", "must be positive");
  });
  co_await commands.once(db);
  commands.build();
  query_bus queries;
  queries.handle<orders_of>([&](const orders_of& q) { return service.find(q); }).reads<orders_of>(orders);
  queries.build();
  const auto follow = [&] { return orders.run(); };
  const auto following = spawn(co_await net::this_coro::executor, follow);

  const place_order wrong{"", -1}, order{"ada", 12};
  const auto refused = co_await commands.try_send(wrong);
  std::printf("%s\n", refused.why().message().c_str());
  command_context context;
  context.idempotency_key("from Ada's phone, 1").correlation("request-7");
  for (int i = 0; i < 2; ++i) {  // the first answer was lost on the way
    const std::string id = co_await commands.send(order, context);
    std::printf("placed %s\n", id.c_str());
  }
  const orders_of mine{"ada"};
  const auto found = co_await queries.ask(mine, {.at_least = context.token(), .limit = 1s});
  std::printf("Ada has %zu order: %s\n", found.size(), found.at(0).c_str());
  co_await following.stop();  // it ends before what it works on
}

}  // namespace

int main() {
  net::io_context context(1);
  virtual_time time(context);
  time.run(shop);
  time.run();
}
