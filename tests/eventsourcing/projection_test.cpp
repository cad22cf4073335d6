#include "database_test.hpp"
#include "error_of.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/eventsourcing/event_subscription.hpp>
#include <cofferdam/eventsourcing/projection.hpp>
#include <cofferdam/storage/testing.hpp>

#include <functional>
#include <stdexcept>
#include <string>
#include <utility>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace projected {

event amount_of(int n) { return event("deposited", std::to_string(n)); }

awaitable<void> make_balances(database& db) {
  batch b;
  b.execute("create table balances(account text primary key, amount integer not null check(amount < 1000))");
  co_await db.commit(std::move(b));
}

void add_to_balance(batch& b, const recorded_event& e) {
  b.execute(
      "insert into balances(account, amount) values($1, $2) on conflict(account) do update set amount = "
      "balances.amount + $2",
      e.stream, std::stoi(e.data));
}

awaitable<int> balance_of(database& db, std::string account) {
  const rows found = co_await db.query("select amount from balances where account = $1", std::move(account));
  co_return found.empty() ? -1 : found.front().get<int>(0);
}

/// Both kinds of database, each under a URL that others can open too.
void on_shared_databases(const std::function<awaitable<void>(std::string)>& body) {
  SECTION("SQLite") {
    const test::temporary_directory directory;
    test::run_in_real_time(body, "sqlite:" + directory.file("shared.db"));
  }
  if (test::postgres_server* server = test::postgres_server::shared()) {
    SECTION("PostgreSQL") {
      server->clear();
      test::run_in_real_time(body, server->url());
    }
  }
}

/// Replays what is put aside of "a", or discards it, from elsewhere.
awaitable<void> open_again(std::string url, bool replays) {
  database db = co_await database::open(std::move(url));
  event_store store = co_await event_store::open(db);
  projection balances(store, "balances", {.parks_failures = true});
  balances.apply(add_to_balance);
  if (replays) {
    (void)co_await balances.replay("a");
  } else {
    (void)co_await balances.discard("a");
  }
}

}  // namespace projected

DATABASE_TEST("a subscription gives what was and what comes, each once, in order") {
  event_store store = co_await event_store::open(db);
  for (int i = 1; i <= 7; ++i) co_await store.append("s", expected::any(), event(i % 2 == 0 ? "even" : "odd", "{}"));
  event_query odd;
  odd.item().type("odd");
  event_subscription news(store, odd, 0, {.page = 2});
  std::vector<std::uint64_t> got;
  for (int i = 0; i < 4; ++i) {
    const recorded_event e = co_await news.next();
    got.push_back(e.position);
    if (i == 0) CHECK(news.position() == 1);
  }
  CHECK(got == std::vector<std::uint64_t>{1, 3, 5, 7});

  const auto executor = co_await net::this_coro::executor;
  const auto began = timers_of(executor).now();
  const auto append_later = [&]() -> awaitable<void> {
    co_await sleep_for(time.shortened(1h));
    co_await store.append("s", expected::any(), event("even", "{}"));
    co_await sleep_for(time.shortened(1h));
    co_await store.append("s", expected::any(), event("odd", "{}"));
  };
  const auto appending = spawn(executor, append_later);
  const recorded_event late = co_await news.next();
  CHECK(late.position == 9);
  if (time.is_virtual) CHECK(timers_of(executor).now() - began == 2h);
  CHECK(news.position() == 9);
  event_subscription resumed(store, odd, 5);
  const recorded_event next = co_await resumed.next();
  CHECK(next.position == 7);
  co_await appending.join();
}

DATABASE_TEST("a subscription's query joins types, tags and beginnings of streams, of what was and of what comes") {
  event_store store = co_await event_store::open(db);
  const auto append = [&store](std::string stream, std::string type, std::string tag) {
    event e(std::move(type), "{}");
    e.tag(std::move(tag));
    return store.append(std::move(stream), expected::any(), std::move(e));
  };
  (void)co_await append("order-1", "placed", "region:eu");
  (void)co_await append("order-2", "placed", "region:us");
  (void)co_await append("invoice-1", "placed", "region:eu");
  (void)co_await append("order-3", "paid", "region:eu");
  (void)co_await append("customer-1", "renamed", "vip");
  event_query wanted;
  wanted.item().type("placed").type("cancelled").tag("region:eu").stream_prefix("order-");
  wanted.item().tag("vip");
  event_subscription news(store, wanted, 0, {.page = 2});
  std::vector<std::uint64_t> got;
  const auto note = [&](const recorded_event& e) { got.push_back(e.position); };
  const auto executor = co_await net::this_coro::executor;
  const auto follow = [&] { return news.for_each(note); };
  const auto following = spawn(executor, follow);
  const auto has_past = [&] { return news.position() == 5; };
  const bool is_past = co_await test::eventually(has_past);
  CHECK(is_past);
  CHECK(got == std::vector<std::uint64_t>{1, 5});
  (void)co_await append("order-2", "cancelled", "region:us");
  (void)co_await append("order-1", "cancelled", "region:eu");
  (void)co_await append("orders", "placed", "region:eu");
  (void)co_await append("customer-2", "deleted", "vip");
  const auto has_all = [&] { return news.position() == 9; };
  const bool is_all = co_await test::eventually(has_all);
  CHECK(is_all);
  CHECK(got == std::vector<std::uint64_t>{1, 5, 7, 9});
  co_await following.stop();
}

DATABASE_TEST("a subscription gives each event to a handler, and stays before the one it fails at") {
  event_store store = co_await event_store::open(db);
  const std::vector<std::string> streams{"order-1", "customer-1", "order-2", "order-3"};
  for (const auto& stream : streams) {
    co_await store.append(stream, expected::any(), event("happened", "{}"));
  }
  event_query orders;
  orders.item().stream_prefix("order-");
  event_subscription news(store, orders);
  std::vector<std::string> got;
  const auto handle = [&](const recorded_event& e) -> awaitable<void> {
    co_await sleep_for(1ms);
    if (e.stream == "order-3" && got.size() < 3) {
      got.push_back("failed");
      throw std::runtime_error("not now");
    }
    got.push_back(e.stream);
  };
  std::string error;
  try {
    co_await news.for_each(handle);
  } catch (const std::runtime_error& e) {
    error = e.what();
  }
  CHECK(error == "not now");
  CHECK(news.position() == 3);
  const auto executor = co_await net::this_coro::executor;
  const auto follow = [&] { return news.for_each(handle); };
  const auto following = spawn(executor, follow);
  const auto has_past = [&] { return news.position() == 4; };
  const bool is_past = co_await test::eventually(has_past);
  CHECK(is_past);
  co_await store.append("customer-2", expected::any(), event("happened", "{}"));
  co_await store.append("order-4", expected::any(), event("happened", "{}"));
  const auto has_all = [&] { return news.position() == 6; };
  const bool is_all = co_await test::eventually(has_all);
  CHECK(is_all);
  CHECK(got == std::vector<std::string>{"order-1", "order-2", "failed", "order-3", "order-4"});
  co_await following.stop();

  std::vector<std::uint64_t> plain;
  event_subscription again(store, orders, 3);
  const auto note = [&](const recorded_event& e) {
    plain.push_back(e.position);
    if (e.position == 6) throw std::runtime_error("enough");
  };
  try {
    co_await again.for_each(note);
  } catch (const std::runtime_error& e) {
    error = e.what();
  }
  CHECK(error == "enough");
  CHECK(plain == std::vector<std::uint64_t>{4, 6});

  append_request request("order-5", expected::none());
  CHECK_THROWS_WITH(request.unless(orders), Catch::Contains("names beginnings of streams"));
}

DATABASE_TEST("a projection applies every event once and remembers how far it got") {
  event_store store = co_await event_store::open(db);
  co_await projected::make_balances(db);
  for (int i = 1; i <= 10; ++i) co_await store.append("a", expected::any(), projected::amount_of(i));
  {
    projection balances(store, "balances", {.page = 3});
    balances.apply(projected::add_to_balance);
    const auto applied = co_await balances.catch_up();
    CHECK(applied == 10);
    const auto again = co_await balances.catch_up();
    CHECK(again == 0);
  }
  co_await store.append("b", expected::any(), projected::amount_of(5));
  projection balances(store, "balances");
  balances.apply(projected::add_to_balance);
  const auto applied = co_await balances.catch_up();
  CHECK(applied == 1);
  const auto a = co_await projected::balance_of(db, "a");
  const auto b = co_await projected::balance_of(db, "b");
  const auto position = co_await balances.position();
  CHECK(a == 55);
  CHECK(b == 5);
  CHECK(position == 11);
}

DATABASE_TEST("what was appended can be read once the projection has it") {
  event_store store = co_await event_store::open(db);
  co_await projected::make_balances(db);
  projection balances(store, "balances");
  balances.apply(projected::add_to_balance);
  const auto executor = co_await net::this_coro::executor;
  const appended first = co_await store.append("a", expected::any(), projected::amount_of(1));
  const auto too_early = co_await balances.wait_for(first.position, time.shortened(1s));
  CHECK_FALSE(too_early);
  const auto follow = [&] { return balances.run(); };
  const auto running = spawn(executor, follow);
  const appended second = co_await store.append("a", expected::any(), projected::amount_of(2));
  const auto in_time = co_await balances.wait_for(second.position, 1min);
  CHECK(in_time);
  const auto amount = co_await projected::balance_of(db, "a");
  CHECK(amount == 3);
  co_await running.stop();
}

ASYNC_TEST("a projection with nothing to do writes nothing") {
  database db = co_await database::open("sqlite::memory:");
  event_store store = co_await event_store::open(db);
  projection idle(store, "idle");
  idle.apply([](batch&, const recorded_event&) {});
  const auto executor = co_await net::this_coro::executor;
  const auto run = [&] { return idle.run(); };
  const auto running = spawn(executor, run);
  co_await sleep_for(1s);
  const std::uint64_t before = db.changes();
  co_await sleep_for(1h);
  CHECK(db.changes() == before);
  co_await running.stop();
}

DATABASE_TEST("a second follower of the same name stops, and nothing counts twice") {
  event_store store = co_await event_store::open(db);
  co_await projected::make_balances(db);
  for (int i = 0; i < 4; ++i) co_await store.append("a", expected::any(), projected::amount_of(1));
  projection balances(store, "balances", {.page = 2, .parks_failures = true});
  balances.apply(projected::add_to_balance);
  std::string ended;
  const auto run = [&]() -> awaitable<void> { ended = co_await test::error_of(balances.run()); };
  const auto executor = co_await net::this_coro::executor;
  const auto running = spawn(executor, run);
  const bool is_there = co_await balances.wait_for(4, 1min);
  CHECK(is_there);
  // The other one is faster: what comes next is applied before this one hears of it.
  batch other;
  append_request request("a", expected::any());
  request.add(projected::amount_of(1));
  (void)store.append(other, std::move(request));
  other.execute("update balances set amount = amount + 1");
  other.execute("update cofferdam_projections set position = 5 where name = 'balances'");
  co_await db.commit(std::move(other));
  co_await running.join();
  CHECK(ended.find("'balances' is followed by nobody else") != std::string::npos);
  const auto amount = co_await projected::balance_of(db, "a");
  CHECK(amount == 5);
  const auto parked = co_await balances.parked();
  CHECK(parked.empty());
}

DATABASE_TEST("an event that cannot be applied stops the projection where it is") {
  event_store store = co_await event_store::open(db);
  co_await projected::make_balances(db);
  for (int i = 1; i <= 6; ++i) co_await store.append("a", expected::any(), projected::amount_of(i == 4 ? 5000 : 1));
  projection balances(store, "balances");
  balances.apply(projected::add_to_balance);
  errc code = errc();
  try {
    co_await balances.catch_up();
  } catch (const storage_error& e) {
    code = static_cast<errc>(e.code().value());
  }
  CHECK(code == errc::constraint_violated);
  const auto position = co_await balances.position();
  const auto amount = co_await projected::balance_of(db, "a");
  CHECK(position == 3);
  CHECK(amount == 3);
}

DATABASE_TEST(
    "an event put aside takes along what follows in its stream, the others flow, and replay keeps the order") {
  event_store store = co_await event_store::open(db);
  co_await projected::make_balances(db);
  const std::vector<std::pair<std::string, std::string>> all{{"a", "1"}, {"b", "1"}, {"a", "oops"}, {"b", "2"},
                                                             {"a", "4"}, {"b", "4"}, {"c", "7"}};
  for (const auto& [stream, data] : all) {
    event e("deposited", data);
    co_await store.append(stream, expected::any(), e);
  }
  bool is_mended = false;
  std::vector<std::string> order;
  projection balances(store, "balances", {.parks_failures = true});
  balances.apply([&](batch& b, const recorded_event& e) {
    if (e.data == "oops" && !is_mended) throw std::runtime_error("no number");
    if (e.stream == "a") order.push_back(e.data);
    if (e.data != "oops") projected::add_to_balance(b, e);
  });
  co_await balances.catch_up();
  const auto a = co_await projected::balance_of(db, "a");
  const auto b = co_await projected::balance_of(db, "b");
  const auto c = co_await projected::balance_of(db, "c");
  CHECK(a == 1);
  CHECK(b == 7);
  CHECK(c == 7);
  const auto aside = co_await balances.parked();
  REQUIRE(aside.size() == 2);
  CHECK(aside[0].event.data == "oops");
  CHECK(aside[0].reason == "no number");
  CHECK(aside[1].event.data == "4");
  CHECK(aside[1].reason.empty());

  event later("deposited", "8");
  co_await store.append("a", expected::any(), later);
  co_await balances.catch_up();
  const auto waiting = co_await balances.parked();
  CHECK(waiting.size() == 3);
  std::string still_broken;
  try {
    co_await balances.replay("a");
  } catch (const std::runtime_error& e) {
    still_broken = e.what();
  }
  CHECK(still_broken == "no number");
  is_mended = true;
  order.clear();
  const auto replayed = co_await balances.replay("a");
  CHECK(replayed == 3);
  CHECK(order == std::vector<std::string>{"oops", "4", "8"});
  const auto mended = co_await projected::balance_of(db, "a");
  CHECK(mended == 13);
  event normal("deposited", "16");
  co_await store.append("a", expected::any(), normal);
  co_await balances.catch_up();
  const auto flowing = co_await projected::balance_of(db, "a");
  CHECK(flowing == 29);
}

DATABASE_TEST("a projection that may put aside no more stops rather than lose an event") {
  event_store store = co_await event_store::open(db);
  for (int i = 0; i < 3; ++i) co_await store.append("a", expected::any(), projected::amount_of(1));
  projection broken(store, "broken", {.parks_failures = true, .max_parked = 2});
  broken.apply([](batch&, const recorded_event&) { throw std::runtime_error("always"); });
  std::string message;
  try {
    co_await broken.catch_up();
  } catch (const storage_error& e) {
    message = e.what();
  }
  CHECK(message.find("max_parked = 2") != std::string::npos);
  const auto aside = co_await broken.parked();
  CHECK(aside.size() == 2);
  const auto given_up = co_await broken.discard("a");
  CHECK(given_up == 2);
  const auto position = co_await broken.position();
  CHECK(position == 2);
}

TEST_CASE("a stream that was replayed or given up is open, whatever the follower was about to put behind it") {
  const auto body = [](std::string url) -> awaitable<void> {
    database db = co_await database::open(url);
    bool opens = false, replays = true;
    const auto watch = [&](std::string_view call, bool is_over) {
      if (call == "commit" && !is_over && std::exchange(opens, false)) {
        test::run_in_real_time(projected::open_again, url, replays);
      }
    };
    database seen = watched(db, watch);
    event_store store = co_await event_store::open(seen);
    co_await projected::make_balances(db);
    projection balances(store, "balances", {.parks_failures = true});
    balances.apply([](batch& b, const recorded_event& e) {
      if (e.data == "2") throw std::runtime_error("cannot");
      projected::add_to_balance(b, e);
    });
    for (int i = 1; i <= 2; ++i) co_await store.append("a", expected::any(), projected::amount_of(i));
    (void)co_await balances.catch_up();
    co_await store.append("a", expected::any(), projected::amount_of(4));
    opens = true;
    (void)co_await balances.catch_up();
    CHECK_FALSE(opens);
    auto parked = co_await balances.parked();
    CHECK(parked.empty());
    auto amount = co_await projected::balance_of(db, "a");
    CHECK(amount == 7);

    co_await store.append("a", expected::any(), projected::amount_of(2));
    (void)co_await balances.catch_up();
    co_await store.append("a", expected::any(), projected::amount_of(8));
    opens = true;
    replays = false;
    (void)co_await balances.catch_up();
    CHECK_FALSE(opens);
    parked = co_await balances.parked();
    CHECK(parked.empty());
    amount = co_await projected::balance_of(db, "a");
    CHECK(amount == 15);
  };
  projected::on_shared_databases(body);
}

DATABASE_TEST("what is aside is asked for once a page, and a replay reads each event once") {
  int queries = 0, reads = 0;
  database counted = watched(db, [&](std::string_view call, bool is_over) {
    if (is_over) return;
    if (call == "query") ++queries;
    if (call == "read") ++reads;
  });
  event_store store = co_await event_store::open(counted);
  co_await projected::make_balances(db);
  for (int i = 0; i < 40; ++i) co_await store.append("a", expected::any(), projected::amount_of(1));
  bool is_broken = false;
  projection balances(store, "balances", {.page = 20, .parks_failures = true});
  balances.apply([&](batch& b, const recorded_event& e) {
    if (is_broken) throw std::runtime_error("cannot");
    projected::add_to_balance(b, e);
  });
  queries = 0;
  (void)co_await balances.catch_up();
  CHECK(queries <= 5);
  is_broken = true;
  for (int i = 0; i < 10; ++i) co_await store.append("b", expected::any(), projected::amount_of(1));
  (void)co_await balances.catch_up();
  is_broken = false;
  reads = 0;
  const std::size_t replayed = co_await balances.replay("b");
  CHECK(replayed == 10);
  CHECK(reads == 10);
  const auto b = co_await projected::balance_of(db, "b");
  CHECK(b == 10);
}

DATABASE_TEST("a condition of the handler's own that fails is a fault of its event") {
  event_store store = co_await event_store::open(db);
  co_await projected::make_balances(db);
  for (int i = 1; i <= 5; ++i) {
    co_await store.append(i == 3 ? "b" : "a", expected::any(), projected::amount_of(i));
  }
  const auto apply = [](batch& b, const recorded_event& e) {
    if (e.stream == "b") {
      b.require("the account may be credited", "select count(*) > 0 from balances where account = 'nobody'");
    }
    projected::add_to_balance(b, e);
  };
  projection parking(store, "parking", {.parks_failures = true});
  parking.apply(apply);
  (void)co_await parking.catch_up();
  const auto parked = co_await parking.parked();
  REQUIRE(parked.size() == 1);
  CHECK(parked[0].event.position == 3);
  CHECK(parked[0].reason.find("the account may be credited") != std::string::npos);
  const auto a = co_await projected::balance_of(db, "a");
  CHECK(a == 12);
  projection stopping(store, "stopping");
  stopping.apply(apply);
  const std::string error = co_await test::error_of(stopping.catch_up());
  CHECK(error.find("the account may be credited") != std::string::npos);
  const auto position = co_await stopping.position();
  CHECK(position == 2);
}

DATABASE_TEST("a projection waits for a database that is away, and applies nothing twice when it cannot tell") {
  int away = 0, unsure = 0;
  database shaky = watched(db, [&](std::string_view call, bool is_over) {
    if (!is_over && away > 0) {
      --away;
      throw storage_error(errc::database_unavailable, "nobody there");
    }
    if (is_over && call == "commit" && unsure > 0) {
      --unsure;
      throw storage_error(errc::outcome_unknown, "the connection broke after the commit");
    }
  });
  event_store store = co_await event_store::open(db), theirs = co_await event_store::open(shaky);
  co_await projected::make_balances(db);
  projection balances(theirs, "balances");
  balances.apply(projected::add_to_balance);
  const auto run = [&] { return balances.run(); };
  const auto executor = co_await net::this_coro::executor;
  const auto running = spawn(executor, run);
  const auto has = [&db](int wanted) -> awaitable<bool> {
    const auto is_so = [&]() -> awaitable<bool> {
      const auto amount = co_await projected::balance_of(db, "a");
      co_return amount == wanted;
    };
    co_return co_await test::eventually(is_so);
  };
  co_await store.append("a", expected::any(), projected::amount_of(1));
  bool is_there = co_await has(1);
  REQUIRE(is_there);
  away = 4;
  co_await store.append("a", expected::any(), projected::amount_of(2));
  is_there = co_await has(3);
  REQUIRE(is_there);
  CHECK(away == 0);
  unsure = 1;
  co_await store.append("a", expected::any(), projected::amount_of(4));
  is_there = co_await has(7);
  REQUIRE(is_there);
  co_await store.append("a", expected::any(), projected::amount_of(8));
  is_there = co_await has(15);
  CHECK(is_there);
  CHECK(unsure == 0);
  co_await running.stop();
}
