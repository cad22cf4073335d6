// Reactors and streaming queries.
#include "database_test.hpp"
#include "error_of.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/cqrs/answer_stream.hpp>
#include <cofferdam/cqrs/query_bus.hpp>
#include <cofferdam/cqrs/reactor.hpp>

#include <stdexcept>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace reading_on {

struct ship {
  static constexpr const char* name = "ship";
  using result = int;
  std::string order;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ship, order)

struct all_numbers {
  using result = answer_stream<int>;
  int from = 0;
};

/// Counts 1, 2, 3, and how often it was asked.
struct counter {
  counter(int first, int& asked) : n(first), asked_(&asked) {}
  awaitable<std::optional<int>> next() {
    ++*asked_;
    if (n == 5) throw std::runtime_error("five");
    if (n > 2'000) co_return std::nullopt;
    co_return n++;
  }
  int n;
  int* asked_;
};

}  // namespace reading_on

using reading_on::ship;

DATABASE_TEST("a reactor turns events into commands, once each, whatever fails in between") {
  event_store store = co_await event_store::open(db);
  batch table;
  table.execute("create table shipped(id text not null, causation text not null, correlation text not null)");
  co_await db.commit(std::move(table));
  command_bus bus;
  int handled = 0;
  bus.handle<ship>([&](const ship& c, command_context& context) -> awaitable<int> {
    batch b;
    b.execute("insert into shipped(id, causation, correlation) values($1, $2, $3)", c.order, context.causation(),
              context.correlation());
    const int number = ++handled;
    co_await context.commit(db, std::move(b), number);
    co_return number;
  });
  CHECK_THROWS_WITH(reactor(store, bus, "early"), Catch::Contains("call once(db) first"));
  co_await bus.once(db);
  bus.build();

  event placed("placed", "{}");
  placed.correlation("process-1");
  co_await store.append("o1", expected::any(), placed);
  co_await store.append("o1", expected::any(), event("noted", "{}"));
  co_await store.append("o2", expected::any(), event("placed", "{}"));

  reactor shipping(store, bus, "shipping", {.retry_after = time.shortened(1s)});
  event_query orders;
  orders.item().type("placed");
  int failures = 1;
  shipping.filter(orders).on([&](const recorded_event& e, reaction& r) -> awaitable<void> {
    const ship parcel{e.stream + " parcel"}, letter{e.stream + " letter"};
    (void)co_await r.send(parcel);
    if (failures-- > 0) throw std::runtime_error("between the two");
    (void)co_await r.send(letter);
  });
  const auto executor = co_await net::this_coro::executor;
  const auto run = [&] { return shipping.run(); };
  const auto running = spawn(executor, run);
  const auto is_shipped = [&]() -> awaitable<bool> {
    const rows counted = co_await db.query("select count(*) from shipped");
    co_return counted.front().get<int>(0) == 4;
  };
  const bool are_all = co_await test::eventually(is_shipped);
  CHECK(are_all);
  co_await running.stop();
  const rows shipped = co_await db.query("select id, causation, correlation from shipped order by id");
  REQUIRE(shipped.size() == 4);
  CHECK(shipped[0].get<std::string>(0) == "o1 letter");
  CHECK(shipped[1].get<std::string>(0) == "o1 parcel");
  CHECK(shipped[0].get<std::string>(2) == "process-1");
  const slice all = co_await store.read_all();
  CHECK(shipped[0].get<std::string>(1) == all.events[0].id.to_string());
  CHECK(shipped[3].get<std::string>(2) == all.events[2].id.to_string());
}

ASYNC_TEST("a streaming query works out what is asked for, and no more") {
  query_bus bus;
  int asked = 0;
  bus.handle<reading_on::all_numbers>(
      [&](const reading_on::all_numbers& q) { return answer_stream<int>(reading_on::counter(q.from, asked)); });
  bus.build();
  const reading_on::all_numbers q{6};
  auto found = co_await bus.ask(q);
  CHECK(asked == 0);
  const auto first = co_await found.next();
  const auto second = co_await found.next();
  CHECK(first == 6);
  CHECK(second == 7);
  CHECK(asked == 2);
  const reading_on::all_numbers near_the_end{1'999};
  auto rest = co_await bus.ask(near_the_end);
  std::vector<int> got;
  for (auto next = co_await rest.next(); next; next = co_await rest.next()) got.push_back(*next);
  CHECK(got == std::vector<int>{1'999, 2'000});
  const auto after = co_await rest.next();
  CHECK(!after);

  const reading_on::all_numbers unlucky{5};
  auto broken = co_await bus.ask(unlucky);
  const std::string error = co_await test::error_of(broken.next());
  CHECK(error == "five");
  const auto ended = co_await broken.next();
  CHECK(!ended);
}

TEST_CASE("rows are streamed from a file page by page, and one who leaves lets the cursor go") {
  const test::temporary_directory directory;
  const auto body = [&]() -> awaitable<void> {
    database db = co_await database::open("sqlite:" + directory.file("rows.db"));
    batch b;
    b.execute("create table n(i integer primary key)");
    b.execute(
        "with recursive c(i) as (select 1 union all select i + 1 from c where i < 1000) insert into n select i from c");
    co_await db.commit(std::move(b));
    const statement all("select i from n order by i");
    {
      auto some = co_await stream_rows<int>(db, all, [](const row& r) { return r.get<int>(0); }, 10);
      const auto first = co_await some.next();
      CHECK(first == 1);
      CHECK(db.stats().open_cursors == 1);
    }
    CHECK(db.stats().open_cursors == 0);
    auto every = co_await stream_rows<int>(db, all, [](const row& r) { return r.get<int>(0); }, 10);
    int sum = 0;
    for (auto next = co_await every.next(); next; next = co_await every.next()) sum += *next;
    CHECK(sum == 500'500);
    CHECK(db.stats().open_cursors == 0);
  };
  test::run_in_real_time(body);
}
