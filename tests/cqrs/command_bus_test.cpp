#include "async_test.hpp"
#include "database_test.hpp"
#include "error_of.hpp"
#include "tasks.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/core/workers.hpp>
#include <cofferdam/cqrs/command_bus.hpp>
#include <cofferdam/cqrs/query_bus.hpp>
#include <cofferdam/eventsourcing/event_store.hpp>
#include <cofferdam/eventsourcing/projection.hpp>
#include <cofferdam/resilience/retry.hpp>

#include <map>
#include <stdexcept>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace shop {

struct place_order {
  static constexpr const char* name = "place_order";
  using result = std::string;
  std::string customer;
  int total = 0;
};
void to_json(nlohmann::json& j, const place_order& c) { j = {{"customer", c.customer}, {"total", c.total}}; }

struct ping {
  using result = int;
};
struct forget {
  using result = void;
};

struct orders_of {
  using result = int;
  std::string customer;
};

awaitable<int> answer(const ping&) { co_return 1; }

/// Commits an order under a number of its own.
struct order_desk {
  database& db;
  int handled = 0;

  awaitable<std::string> place(const place_order& c, command_context& context) {
    const std::string id = "order-" + std::to_string(++handled);
    batch b;
    b.execute("insert into orders(id, customer, total) values($1, $2, $3)", id, c.customer, c.total);
    co_await context.commit(db, std::move(b), id);
    co_return id;
  }
};

awaitable<void> make_orders(database& db) {
  batch b;
  b.execute("create table orders(id text primary key, customer text not null, total integer not null)");
  co_await db.commit(std::move(b));
}

awaitable<int> count_orders(database& db) {
  const rows found = co_await db.query("select count(*) from orders");
  co_return found.front().get<int>(0);
}

}  // namespace shop

ASYNC_TEST("a command reaches its handler, whatever kind that is") {
  command_bus bus;
  int forgotten = 0;
  bus.handle<shop::ping>(shop::answer);
  bus.handle<shop::place_order>([](const shop::place_order& c) { return c.customer + "!"; });
  bus.handle<shop::forget>([&](const shop::forget&) -> awaitable<void> {
    co_await sleep_for(1s);
    ++forgotten;
  });
  bus.build();
  const shop::ping ping;
  const int one = co_await bus.send(ping);
  CHECK(one == 1);
  const shop::place_order order{"ada", 1};
  const std::string plain = co_await bus.send(order);
  CHECK(plain == "ada!");
  const shop::forget it;
  co_await bus.send(it);
  const auto tried = co_await bus.try_send(it);
  CHECK(tried.has_value());
  CHECK(forgotten == 2);
  CHECK(time.elapsed() == 2s);
}

TEST_CASE("a bus with a missing or a double handler is not built, and says which") {
  command_bus bus;
  bus.expect<shop::place_order, shop::ping>();
  bus.handle<shop::ping>(shop::answer);
  bus.handle<shop::ping>(shop::answer);
  CHECK_THROWS_WITH(bus.build(), Catch::Contains("'place_order' has no handler") &&
                                     Catch::Contains("'shop::ping' has more than one handler"));
  const shop::place_order order{"ada", 1};
  CHECK_THROWS_WITH(bus.send(order), Catch::Contains("nobody handles 'place_order'"));

  query_bus queries;
  queries.expect<shop::orders_of>();
  CHECK_THROWS_WITH(queries.build(), Catch::Contains("'shop::orders_of' has no handler"));
}

ASYNC_TEST("everything that is wrong with a command is said at once, and nothing is handled") {
  command_bus bus;
  int handled = 0;
  bus.handle<shop::place_order>([&](const shop::place_order&) { return std::to_string(++handled); });
  bus.validate<shop::place_order>([](const shop::place_order& c, violations& found) {
    found.require(!c.customer.empty(), "customer", "must be named");
    found.require(c.total > 0, "total", "must be positive");
  });
  bus.validate<shop::place_order>(
      [](const shop::place_order& c, violations& found) { found.require(c.total < 1000, "total", "is too large"); });
  bus.build();
  const shop::place_order wrong{"", -1}, large{"ada", 5000}, right{"ada", 5};
  try {
    co_await bus.send(wrong);
    FAIL("was handled");
  } catch (const command_invalid_error& e) {
    CHECK(e.code() == errc::command_invalid);
    REQUIRE(e.found().all().size() == 2);
    CHECK(e.found().all()[1].field == "total");
    CHECK(std::string(e.what()) == "'place_order' is not valid: customer must be named; total must be positive");
  }
  const auto refused = co_await bus.try_send(large);
  CHECK(refused.code() == errc::command_invalid);
  CHECK(handled == 0);
  const auto done = co_await bus.try_send(right);
  CHECK(done.has_value());
}

ASYNC_TEST("who may not is told so before anything is looked at") {
  command_bus bus;
  int looked_at = 0;
  bus.handle<shop::ping>(shop::answer);
  bus.validate<shop::ping>([&](const shop::ping&, violations&) { ++looked_at; });
  bus.authorise([](const std::string& name, const command_context& c) {
    return name == "shop::ping" && c.principal() == "admin";
  });
  bus.build();
  const shop::ping ping;
  const auto refused = co_await bus.try_send(ping);
  CHECK(refused.code() == errc::command_forbidden);
  CHECK(looked_at == 0);
  command_context admin;
  admin.principal("admin");
  const int done = co_await bus.send(ping, admin);
  CHECK(done == 1);
}

ASYNC_TEST("handlers run under the policies of the bus, with the caller's deadline") {
  command_bus bus;
  int attempts = 0;
  bus.handle<shop::ping>([&](const shop::ping&) -> awaitable<int> {
    if (++attempts < 3) throw std::runtime_error("not yet");
    co_await sleep_for(10s);
    co_return attempts;
  });
  retry_options quick;
  quick.max_attempts = 5;
  bus.use(pipeline("commands", {std::make_shared<retry>(quick)}));
  bus.build();
  const shop::ping ping;
  const auto send = [&] { return bus.send(ping); };
  const auto limited = co_await try_with_timeout(5s, send);
  CHECK(limited.code() == errc::timed_out);
  const int done = co_await bus.send(ping);
  CHECK(done == 4);
  CHECK(bus.describe().find("retry") != std::string::npos);
}

ASYNC_TEST("events tell what became of every command") {
  command_bus bus;
  bool fails = false;
  bus.handle<shop::ping>([&](const shop::ping&) {
    if (fails) throw std::runtime_error("down");
    return 1;
  });
  bus.build();
  std::string heard;
  const auto listening = bus.events().subscribe([&](const command_event& e) {
    const std::map<command_event::kind, const char*> names{
        {command_event::kind::started, "s"}, {command_event::kind::succeeded, "+"}, {command_event::kind::failed, "-"}};
    heard += names.at(e.what);
    if (e.what == command_event::kind::failed) heard += e.why.message();
  });
  const shop::ping ping;
  co_await bus.send(ping);
  fails = true;
  const auto failed = co_await bus.try_send(ping);
  CHECK(!failed);
  CHECK(heard == "s+s-down");
}

DATABASE_TEST("a command with a key happens once and is answered alike every time") {
  co_await shop::make_orders(db);
  shop::order_desk desk{db};
  command_bus bus;
  bus.handle<shop::place_order>(
      [&](const shop::place_order& c, command_context& context) { return desk.place(c, context); });
  co_await bus.once(db);
  bus.build();
  const shop::place_order order{"ada", 5}, other{"ada", 6};
  const auto send = [&](const shop::place_order& c, std::string key, std::string tenant) -> awaitable<std::string> {
    command_context context;
    context.idempotency_key(std::move(key)).tenant(std::move(tenant));
    const auto done = co_await bus.try_send(c, context);
    co_return done ? *done : done.code() == errc::command_key_reused ? "reused" : done.why().message();
  };
  const auto first = co_await send(order, "k1", "");
  const auto again = co_await send(order, "k1", "");
  CHECK(first == "order-1");
  CHECK(again == "order-1");
  CHECK(desk.handled == 1);
  const auto reused = co_await send(other, "k1", "");
  CHECK(reused == "reused");
  const auto elsewhere = co_await send(order, "k1", "another tenant");
  CHECK(elsewhere == "order-2");
  const auto without = co_await send(order, "", "");
  CHECK(without == "order-3");
  const auto count = co_await shop::count_orders(db);
  CHECK(count == 3);

  co_await sleep_for(time.shortened(1h));
  const auto executor = co_await net::this_coro::executor;
  const auto between = timers_of(executor).date();
  co_await sleep_for(time.shortened(1h));
  const auto later = co_await send(order, "k2", "");
  const auto forgotten = co_await bus.forget_before(between);
  CHECK(forgotten == 2);
  const auto anew = co_await send(order, "k1", "");
  const auto kept = co_await send(order, "k2", "");
  CHECK(anew == "order-5");
  CHECK(kept == later);
}

DATABASE_TEST("of twins that run at the same time one happens, and both get its result") {
  co_await shop::make_orders(db);
  shop::order_desk desk{db};
  command_bus bus;
  bus.handle<shop::place_order>([&](const shop::place_order& c, command_context& context) -> awaitable<std::string> {
    co_await sleep_for(time.shortened(1s));  // both have looked, and found nothing
    co_return co_await desk.place(c, context);
  });
  co_await bus.once(db);
  bus.build();
  const shop::place_order order{"ada", 5};
  std::vector<std::string> answers;
  const auto twin = [&]() -> awaitable<void> {
    command_context context;
    context.idempotency_key("k1");
    answers.push_back(co_await bus.send(order, context));
  };
  const auto twins = [&] { return twin(); };
  co_await detail::run_workers(4, twins);
  CHECK(answers == std::vector<std::string>(4, answers[0]));
  const auto count = co_await shop::count_orders(db);
  CHECK(count == 1);
  CHECK(desk.handled == 4);
}

DATABASE_TEST("a command with a key that failed may be sent again") {
  co_await shop::make_orders(db);
  shop::order_desk desk{db};
  command_bus bus;
  bool fails = true;
  bus.handle<shop::place_order>([&](const shop::place_order& c, command_context& context) -> awaitable<std::string> {
    if (fails) throw std::runtime_error("no stock");
    co_return co_await desk.place(c, context);
  });
  co_await bus.once(db);
  bus.build();
  const shop::place_order order{"ada", 5};
  command_context context;
  context.idempotency_key("k1");
  const auto refused = co_await bus.try_send(order, context);
  CHECK(refused.why().message() == "no stock");
  fails = false;
  const auto done = co_await bus.send(order, context);
  CHECK(done == "order-1");
}

DATABASE_TEST("a repeated command brings the token of the first time") {
  event_store store = co_await event_store::open(db);
  co_await store.append("before", expected::any(), event("x", "{}"));
  command_bus bus;
  bus.handle<shop::place_order>([&](const shop::place_order& c, command_context& context) -> awaitable<std::string> {
    batch b;
    append_request request("order-1", expected::none());
    event placed("placed", nlohmann::json(c).dump());
    context.mark(placed);
    request.add(std::move(placed));
    (void)store.append(b, std::move(request));
    std::string id = "order-1";
    co_await context.commit(db, std::move(b), id);
    co_return id;
  });
  co_await bus.once(db);
  bus.build();
  const shop::place_order order{"ada", 5};
  for (int i = 0; i < 3; ++i) {
    command_context context;
    context.idempotency_key("k1").correlation("request-1").causation("click-2");
    (void)co_await bus.send(order, context);
    CHECK(context.token().position == 2);
    co_await store.append("after", expected::any(), event("x", "{}"));
  }
  const slice placed = co_await store.read_stream("order-1");
  REQUIRE(placed.events.size() == 1);
  CHECK(placed.events[0].correlation == "request-1");
  CHECK(placed.events[0].causation == "click-2");
}

ASYNC_TEST("a handler with a key that commits past its context is noticed; one with nothing to do commits nothing") {
  database db = co_await database::open("sqlite::memory:");
  co_await shop::make_orders(db);
  command_bus bus;
  bool is_careful = false;
  bus.handle<shop::place_order>([&](const shop::place_order&, command_context& context) -> awaitable<std::string> {
    std::string id = "none";
    batch nothing;
    if (is_careful) co_await context.commit(db, std::move(nothing), id);
    co_return id;
  });
  co_await bus.once(db);
  bus.build();
  const shop::place_order order{"ada", 5};
  command_context context;
  context.idempotency_key("k1");
  const std::string noticed = co_await test::error_of(bus.send(order, context));
  CHECK(noticed.find("did not commit through command_context::commit") != std::string::npos);
  is_careful = true;
  const std::string done = co_await bus.send(order, context);
  CHECK(done == "none");
  is_careful = false;
  const std::string again = co_await bus.send(order, context);
  CHECK(again == "none");
  command_context keyless;
  const std::string free = co_await bus.send(order, keyless);
  CHECK(free == "none");
}

ASYNC_TEST("events say how long a command took, and whose it was") {
  command_bus bus;
  bus.handle<shop::place_order>([](const shop::place_order&) -> awaitable<std::string> {
    co_await sleep_for(3s);
    co_return "done";
  });
  bus.build();
  std::string heard;
  const auto listening = bus.events().subscribe(
      [&](const command_event& e) { heard += e.context->principal() + " " + std::to_string(e.took / 1s) + ";"; });
  const shop::place_order order{"ada", 5};
  command_context context;
  context.principal("ada");
  (void)co_await bus.send(order, context);
  CHECK(heard == "ada 0;ada 3;");
}

DATABASE_TEST("a query that must know of a command waits for its table, or says how far that is") {
  const auto executor = co_await net::this_coro::executor;
  const auto began = timers_of(executor).now();
  event_store store = co_await event_store::open(db);
  co_await shop::make_orders(db);
  projection table(store, "orders");
  table.apply([](batch& b, const recorded_event& e) {
    b.execute("insert into orders(id, customer, total) values($1, $2, 0)", e.stream, e.data);
  });
  command_bus commands;
  commands.handle<shop::place_order>(
      [&](const shop::place_order& c, command_context& context) -> awaitable<std::string> {
        batch b;
        append_request request("order-1", expected::none());
        request.add(event("order.placed", c.customer));
        const auto done = store.append(b, std::move(request));
        const std::string id = "order-1";
        co_await context.commit(db, std::move(b), id);
        context.reached(done->position);
        co_return id;
      });
  query_bus queries;
  queries.handle<shop::orders_of>([&](const shop::orders_of& q) -> awaitable<int> {
    const rows found = co_await db.query("select count(*) from orders where customer = $1", q.customer);
    co_return found.front().get<int>(0);
  });
  queries.reads<shop::orders_of>(table);
  queries.build();

  const shop::place_order order{"ada", 5};
  command_context context;
  co_await commands.send(order, context);
  CHECK(context.token().position == 1);
  const shop::orders_of mine{"ada"};
  const int at_once = co_await queries.ask(mine);
  CHECK(at_once == 0);
  std::string message;
  try {
    co_await queries.ask(mine, {.at_least = context.token(), .limit = time.shortened(2s)});
  } catch (const storage_error& e) {
    CHECK(e.code() == errc::stale_read);
    message = e.what();
  }
  CHECK(message.find("position 1, its table is at 0") != std::string::npos);
  if (time.is_virtual) CHECK(timers_of(executor).now() - began == 2s);

  const auto follow_late = [&]() -> awaitable<void> {
    co_await sleep_for(time.shortened(1s));
    co_await table.catch_up();
  };
  const auto following = spawn(executor, follow_late);
  const int knows = co_await queries.ask(mine, {.at_least = context.token(), .limit = 5s});
  CHECK(knows == 1);
  if (time.is_virtual) CHECK(timers_of(executor).now() - began == 3s);
  co_await following.join();
}
