#include "async_test.hpp"
#include "error_of.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/saga/engine.hpp>

#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace placing {

struct order {
  std::string sku;
  int quantity = 1;
  int total = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(order, sku, quantity, total)

struct shop {
  std::vector<std::string> log;
  int failing_charges = 0;
  bool refuses_charge = false;
  bool refuses_undo = false;
  int failing_undos = 0;
};

awaitable<std::string> reserve(saga::step_context& context, std::string sku, int quantity) {
  context.get<shop>().log.push_back("reserve " + sku + " " + std::to_string(quantity));
  co_await sleep_for(1ms);
  co_return "r-" + sku;
}
awaitable<void> release(saga::step_context& context, const std::string& reservation, std::string, int) {
  auto& s = context.get<shop>();
  s.log.push_back("release " + reservation);
  if (s.failing_undos > 0) {
    --s.failing_undos;
    throw std::runtime_error("the warehouse is away");
  }
  if (s.refuses_undo) throw saga::cannot_undo("it was sold");
  co_return;
}
awaitable<std::string> label(saga::step_context& context, std::string reservation) {
  context.get<shop>().log.push_back("label " + reservation);
  co_return "l-" + reservation;
}
awaitable<void> tear(saga::step_context& context, std::optional<std::string> label, std::string) {
  context.get<shop>().log.push_back("tear " + label.value_or("unknown"));
  co_return;
}
awaitable<int> charge(saga::step_context& context, int total) {
  auto& s = context.get<shop>();
  s.log.push_back("charge " + std::to_string(total));
  if (s.refuses_charge) throw saga::refused("the card is empty", "card_empty");
  if (s.failing_charges > 0) {
    --s.failing_charges;
    throw std::runtime_error("the bank is away");
  }
  co_return total;
}
awaitable<std::string> ship(saga::step_context& context, std::string reservation) {
  context.get<shop>().log.push_back("ship " + reservation);
  co_return "p-" + reservation;
}

constexpr auto reserve_step = saga::step<"reserve", &reserve, &release>;
constexpr auto label_step = saga::step<"label", &label, &tear>;
constexpr auto charge_step = saga::pivot<"charge", &charge>;
constexpr auto ship_step = saga::retriable<"ship", &ship>;

saga::task<std::string> place(saga::scope& s, order o) {
  const auto reservation = co_await s.run(reserve_step, o.sku, o.quantity);
  (void)co_await s.run(label_step, reservation);
  (void)co_await s.run(charge_step, o.total);
  co_return co_await s.run(ship_step, reservation);
}

const order two_books{"book", 2, 30};

using lines = std::vector<std::string>;

}  // namespace placing

using namespace placing;

ASYNC_TEST("a saga without a journal runs its steps in order and returns what its body does") {
  saga::engine engine;
  shop s;
  engine.provide(s);
  const auto parcel = co_await engine.execute("order-1", place, two_books);
  CHECK(parcel == "p-r-book");
  CHECK(s.log == lines{"reserve book 2", "label r-book", "charge 30", "ship r-book"});
}

ASYNC_TEST("an engine without a journal has no sagas to be found") {
  saga::engine engine;
  const auto why = co_await test::error_of(engine.find<std::string>("order-1").result());
  CHECK(why == "an engine without a journal keeps no saga to wait for");
}

ASYNC_TEST("a saga without a journal that fails undoes its steps in reverse") {
  saga::engine engine;
  shop s;
  s.refuses_charge = true;
  engine.provide(s);
  const auto why = co_await test::error_of(engine.execute("order-1", place, two_books));
  CHECK(why == "the saga 'order-1' went back: the step 'charge' was refused: the card is empty");
  CHECK(s.log == lines{"reserve book 2", "label r-book", "charge 30", "tear l-r-book", "release r-book"});
}

ASYNC_TEST("a journaled saga runs through, and its result is there for whoever asks later") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  shop s;
  engine.provide(s);
  engine.define("order.place", place, reserve_step, label_step, charge_step, ship_step);
  const auto before = db.stats().batches;
  auto started = co_await engine.start("order-1", place, two_books);
  const auto parcel = co_await started.result();
  CHECK(parcel == "p-r-book");
  CHECK(db.stats().batches - before == 5);  // N + 1
  CHECK(s.log == lines{"reserve book 2", "label r-book", "charge 30", "ship r-book"});
  const auto again = co_await engine.find<std::string>("order-1").result();
  CHECK(again == "p-r-book");
  CHECK(engine.active() == 0);
}

ASYNC_TEST("a journaled saga that fails undoes its steps in reverse, one commit each") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  shop s;
  s.refuses_charge = true;
  engine.provide(s);
  engine.define("order.place", place, reserve_step, label_step, charge_step, ship_step);
  const auto before = db.stats().batches;
  const auto why = co_await test::error_of(engine.execute("order-1", place, two_books));
  CHECK(why == "the saga 'order-1' went back: the step 'charge' was refused: the card is empty");
  CHECK(s.log == lines{"reserve book 2", "label r-book", "charge 30", "tear l-r-book", "release r-book"});
  CHECK(db.stats().batches - before == 6);  // three intents, the abort, two undos, the last with the end
}

ASYNC_TEST("a start that comes again finds the same saga, and an id with another input is refused") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  shop s;
  engine.provide(s);
  engine.define("order.place", place, reserve_step, label_step, charge_step, ship_step);
  auto first = co_await engine.start("order-1", place, two_books);
  auto second = co_await engine.start("order-1", place, two_books);
  const auto a = co_await first.result();
  const auto b = co_await second.result();
  CHECK(a == b);
  CHECK(s.log.size() == 4);
  auto third = co_await engine.start("order-1", place, two_books);
  const auto c = co_await third.result();
  CHECK(c == a);
  const order other{"lamp", 1, 9};
  const auto why = co_await test::error_of(engine.start("order-1", place, other));
  CHECK(why == "the id 'order-1' belongs to a saga 'order.place' with another input");
}
