// Commands change, queries read: an order is placed, and paid for, once however often the client sends the command, and
// who did so reads it.
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/cqrs/command_bus.hpp>
#include <cofferdam/cqrs/query_bus.hpp>
#include <cofferdam/eventsourcing/projection.hpp>
#include <cofferdam/eventsourcing/repository.hpp>

#include <cstdio>
#include <stdexcept>

using namespace cofferdam;
using namespace std::chrono_literals;

struct place_order {
  static constexpr const char* name = "place_order";
  using result = std::string;  // the order's id
  std::string customer;
  int total = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(place_order, customer, total)

struct pay_order {
  static constexpr const char* name = "pay_order";
  using result = int;  // what is still due
  std::string order;
  int amount = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(pay_order, order, amount)

struct orders_of {
  using result = std::vector<std::string>;
  std::string customer;
};

// --- what can happen, and what it adds up to

struct placed {
  std::string customer;
  int total = 0;
};
struct paid {
  int amount = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(placed, customer, total)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(paid, amount)

struct order {
  using event = std::variant<placed, paid>;
  int due = 0;

  void apply(const placed& e) { due = e.total; }
  void apply(const paid& e) { due -= e.amount; }
};

namespace {

event_codec codec() {
  event_codec c;
  c.add<placed>("order.placed").add<paid>("order.paid");
  return c;
}

class order_service {
 public:
  order_service(database& db, event_store& store) : db_(db), store_(store), orders_(store, codec_, "") {}

  awaitable<std::string> place(const place_order& c, command_context& context) {
    const std::string id = "order-" + std::to_string(++last_);
    event first = codec_.encode(placed{c.customer, c.total});
    context.mark(first);
    append_request request(id, expected::none());
    request.add(std::move(first));
    batch b;
    const auto done = store_.append(b, std::move(request));
    co_await context.commit(db_, std::move(b), id);  // the events, and that this command has happened
    context.reached(done->position);
    co_return id;
  }

  awaitable<int> pay(const pay_order& c, command_context& context) {
    const auto decide = [&c](const order& o) -> std::vector<order::event> {
      if (c.amount > o.due) throw std::runtime_error("only " + std::to_string(o.due) + " is due");
      return {paid{c.amount}};
    };
    const auto commit = [&](batch b, const repository<order>::loaded& next) {
      return context.commit(db_, std::move(b), next.state.due);
    };
    const auto done = co_await orders_.decide(c.order, decide, commit);  // again, if something else came in between
    context.reached(done.position);
    co_return done.state.due;
  }

  awaitable<std::vector<std::string>> find(const orders_of& q) {
    const rows found = co_await db_.query("select id, due from orders where customer = $1 order by id", q.customer);
    std::vector<std::string> lines;
    for (const row r : found) lines.push_back(r.get<std::string>("id") + ", due " + std::to_string(r.get<int>("due")));
    co_return lines;
  }

 private:
  database& db_;
  event_store& store_;
  event_codec codec_ = codec();
  repository<order> orders_;
  int last_ = 0;
};

awaitable<void> shop() {
  database db = co_await database::open("sqlite::memory:");
  event_store store = co_await event_store::open(db);
  batch table;
  table.execute("create table orders(id text primary key, customer text not null, due integer not null)");
  co_await db.commit(std::move(table));
  projection orders(store, "orders");
  const event_codec events = codec();
  orders.apply([&events](batch& b, const recorded_event& e) {
    const auto what = events.decode<order::event>(e);
    if (const auto* first = std::get_if<placed>(&*what)) {
      b.execute("insert into orders(id, customer, due) values($1, $2, $3)", e.stream, first->customer, first->total);
    } else {
      b.execute("update orders set due = due - $2 where id = $1", e.stream, std::get<paid>(*what).amount);
    }
  });

  order_service service(db, store);
  command_bus commands;
  commands.handle<place_order>(
      [&](const place_order& c, command_context& context) { return service.place(c, context); });
  commands.handle<pay_order>([&](const pay_order& c, command_context& context) { return service.pay(c, context); });
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

  const place_order wrong{"", -1}, twelve{"ada", 12};
  const auto refused = co_await commands.try_send(wrong);
  std::printf("%s\n", refused.why().message().c_str());
  command_context context;
  context.idempotency_key("from Ada's phone, 1").correlation("request-7");
  for (int i = 0; i < 2; ++i) {  // the first answer was lost on the way
    const std::string id = co_await commands.send(twelve, context);
    std::printf("placed %s\n", id.c_str());
  }
  const pay_order five{"order-1", 5}, eight{"order-1", 8};
  command_context payment;
  payment.idempotency_key("from Ada's phone, 2");
  for (int i = 0; i < 2; ++i) {
    const int due = co_await commands.send(five, payment);
    std::printf("paid 5, %d is due\n", due);
  }
  const auto too_much = co_await commands.try_send(eight);
  std::printf("%s\n", too_much.why().message().c_str());
  const orders_of mine{"ada"};
  const auto found = co_await queries.ask(mine, payment);  // knows of the payment
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
