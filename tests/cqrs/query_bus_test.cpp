#include "database_test.hpp"
#include "error_of.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/cqrs/answer_stream.hpp>
#include <cofferdam/cqrs/query_bus.hpp>
#include <cofferdam/eventsourcing/blue_green.hpp>
#include <cofferdam/resilience/retry.hpp>

#include <stdexcept>
#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace asking {

struct amount {
  static constexpr const char* name = "amount";
  using result = int;
};
struct all_amounts {
  using result = answer_stream<int>;
};

struct two_numbers {
  int n = 0;
  awaitable<std::optional<int>> next() {
    if (n == 2) co_return std::nullopt;
    co_return ++n;
  }
};

void create(batch& b, const std::string& table) { b.execute("create table " + table + "(amount bigint not null)"); }
void apply(batch& b, const recorded_event& e, const std::string& table) {
  b.execute("insert into " + table + "(amount) values($1)", std::stoll(e.data));
}

/// Somebody who knows of what happened up to there.
command_context knowing(std::uint64_t position) {
  command_context context;
  context.reached(position);
  return context;
}

}  // namespace asking

ASYNC_TEST("who may not ask is told so, and the tables are not waited for") {
  query_bus bus;
  int asked = 0;
  bus.handle<asking::amount>([&](const asking::amount&) { return ++asked; });
  bus.authorise(
      [](const std::string& name, const command_context& c) { return name == "amount" && c.principal() == "auditor"; });
  bus.build();
  const asking::amount q;
  const std::string nobody = co_await test::error_of(bus.ask(q));
  CHECK(nobody.find("amount") != std::string::npos);
  command_context thief, auditor;
  thief.principal("thief");
  auditor.principal("auditor");
  errc code = errc();
  try {
    (void)co_await bus.ask(q, thief);
  } catch (const error& e) {
    code = static_cast<errc>(e.code().value());
  }
  CHECK(code == errc::command_forbidden);
  CHECK(asked == 0);
  const int answered = co_await bus.ask(q, auditor);
  CHECK(answered == 1);
}

ASYNC_TEST("queries run under the policies of their bus, with the caller's deadline") {
  query_bus bus;
  int attempts = 0;
  bus.handle<asking::amount>([&](const asking::amount&) -> awaitable<int> {
    if (++attempts < 3) throw std::runtime_error("not yet");
    co_await sleep_for(10s);
    co_return attempts;
  });
  bus.handle<asking::all_amounts>([](const asking::all_amounts&) { return answer_stream<int>(asking::two_numbers()); });
  retry_options quick;
  quick.max_attempts = 5;
  bus.use(pipeline("queries", {std::make_shared<retry>(quick)}));
  bus.build();
  const asking::amount q;
  const auto ask = [&] { return bus.ask(q); };
  const auto limited = co_await try_with_timeout(5s, ask);
  CHECK(limited.code() == errc::timed_out);
  const int answered = co_await bus.ask(q);
  CHECK(answered == 4);
  const asking::all_amounts all;
  auto found = co_await bus.ask(all);
  const auto first = co_await found.next();
  CHECK(first == 1);
}

ASYNC_TEST("events tell what became of every query, how long it took, and whose it was") {
  query_bus bus;
  bool fails = false;
  bus.handle<asking::amount>([&](const asking::amount&) -> awaitable<int> {
    co_await sleep_for(3s);
    if (fails) throw std::runtime_error("down");
    co_return 1;
  });
  bus.build();
  std::string heard;
  const auto listening = bus.events().subscribe([&](const query_event& e) {
    heard += e.query + " " + std::to_string(static_cast<int>(e.what)) + " " + std::to_string(e.took / 1s) +
             e.context->principal() + e.why.message() + ";";
  });
  const asking::amount q;
  command_context ada;
  ada.principal(" ada ");
  (void)co_await bus.ask(q, ada);
  fails = true;
  const std::string why = co_await test::error_of(bus.ask(q));
  CHECK(why == "down");
  bus.authorise([](const std::string&, const command_context&) { return false; });
  const std::string forbidden = co_await test::error_of(bus.ask(q, ada));
  CHECK(forbidden != "");
  CHECK(heard.starts_with("amount 0 0 ada ;amount 1 3 ada ;amount 0 0;amount 3 3down;amount 0 0 ada ;amount 2 0 ada "));
}

DATABASE_TEST("a query of a blue-green table waits for the version that readers see, not for one that is built") {
  event_store store = co_await event_store::open(db);
  blue_green_projection first(store, "amounts", 1), second(store, "amounts", 2);
  first.create(asking::create).apply(asking::apply);
  bool is_broken = true;
  second.create(asking::create).apply([&](batch& b, const recorded_event& e, const std::string& table) {
    if (is_broken && e.position == 3) throw std::runtime_error("half built");
    asking::apply(b, e, table);
  });
  for (int i = 1; i <= 3; ++i) co_await store.append("a", expected::any(), event("deposited", std::to_string(i)));
  (void)co_await first.catch_up();

  query_bus bus;
  bus.handle<asking::amount>([&](const asking::amount&) -> awaitable<int> {
    const rows found = co_await db.query("select cast(coalesce(sum(amount), 0) as bigint) from amounts");
    co_return found.front().get<int>(0);
  });
  bus.reads<asking::amount>(second);  // whose process builds the new version
  bus.build();
  const std::string failed = co_await test::error_of(second.catch_up());
  CHECK(failed == "half built");
  const asking::amount q;
  const command_context third = asking::knowing(3), fourth = asking::knowing(4);
  int answered = co_await bus.ask(q, third);  // the old version knows, whatever the new one does
  CHECK(answered == 6);

  is_broken = false;
  co_await store.append("a", expected::any(), event("deposited", "4"));
  std::string message = co_await test::error_of(bus.ask(q, fourth, {.limit = time.shortened(2s)}));
  CHECK(message.find("position 4, its table is at 3") != std::string::npos);
  const auto executor = co_await net::this_coro::executor;
  const auto build_late = [&]() -> awaitable<void> {
    co_await sleep_for(time.shortened(1s));
    (void)co_await second.catch_up();
  };
  const auto building = spawn(executor, build_late);
  answered = co_await bus.ask(q, fourth, {.limit = 5s});
  CHECK(answered == 10);
  co_await building.join();
  const auto active = co_await second.active();
  CHECK(active == 2);
  const auto seen = co_await first.position();
  CHECK(seen == 4);
}

ASYNC_TEST("a table of the program's own is waited for, if it can be") {
  struct shelf {
    awaitable<bool> wait_for(std::uint64_t position, duration limit) {
      co_await sleep_for(limit / 2);
      co_return position <= 7;
    }
    awaitable<std::uint64_t> position() { co_return 7; }
  };
  shelf table;
  query_bus bus;
  bus.handle<asking::amount>([](const asking::amount&) { return 1; }).reads<asking::amount>(table);
  bus.build();
  const asking::amount q;
  const int answered = co_await bus.ask(q, {.at_least = {7}, .limit = 2s});
  CHECK(answered == 1);
  CHECK(time.elapsed() == 1s);
  const std::string late = co_await test::error_of(bus.ask(q, {.at_least = {8}, .limit = 2s}));
  CHECK(late.find("'amount' is asked for position 8, its table is at 7") != std::string::npos);
}
