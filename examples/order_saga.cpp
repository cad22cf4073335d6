// An order in three steps, as a coroutine and as a chain: the parcel cannot be sent, so the money goes back and the
// stock is released, in reverse. Both write the same journal.
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/saga/admin.hpp>
#include <cofferdam/saga/chain.hpp>

#include <cstdio>
#include <string>
#include <tuple>
#include <vector>

using namespace cofferdam;

namespace {

struct order {
  std::string sku;
  int quantity = 1;
  int total = 0;
  std::string address;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(order, sku, quantity, total, address)

// What each step does, and how it is undone.
awaitable<std::string> reserve(saga::step_context&, std::string sku, int quantity) {
  std::printf("  reserve %d x %s\n", quantity, sku.c_str());
  co_return "reservation-" + sku;
}
awaitable<void> release(saga::step_context&, const std::string& reservation, std::string, int) {
  std::printf("  release %s\n", reservation.c_str());
  co_return;
}
awaitable<int> charge(saga::step_context& context, int total) {
  std::printf("  charge %d, once for the key %s\n", total, context.idempotency_key().c_str());
  co_return total;
}
awaitable<void> refund(saga::step_context&, std::optional<int> charged, int total) {
  std::printf("  refund %d\n", charged.value_or(total));
  co_return;
}
awaitable<std::string> ship(saga::step_context&, std::string reservation, std::string address) {
  std::printf("  ship %s to %s\n", reservation.c_str(), address.c_str());
  if (address.empty()) throw saga::refused("no address", "no_address");
  co_return "parcel-1";
}

constexpr auto reserve_stock = saga::step<"reserve", &reserve, &release>;
constexpr auto charge_card = saga::step<"charge", &charge, &refund>;
constexpr auto ship_parcel = saga::step<"ship", &ship>;

saga::task<std::string> place_order(saga::scope& s, order o) {
  const auto reservation = co_await s.run(reserve_stock, o.sku, o.quantity);
  (void)co_await s.run(charge_card, o.total);
  co_return co_await s.run(ship_parcel, reservation, o.address);
}

using saga::operator""_s;
constexpr auto order_chain =
    saga::start<order>("order.chain") |
    reserve_stock.with([](const auto& s) { return std::tuple(s.input().sku, s.input().quantity); }) |
    charge_card.with([](const auto& s) { return std::tuple(s.input().total); }) |
    ship_parcel.with([](const auto& s) { return std::tuple(s["reserve"_s], s.input().address); });

awaitable<std::vector<std::string>> journal_of(database& db, std::string id) {
  saga::admin admin(db);
  const auto history = co_await admin.show(std::move(id));
  std::vector<std::string> lines;
  for (const auto& e : history.entries) lines.push_back(e.kind + " " + e.key + " " + e.payload.dump());
  co_return lines;
}

awaitable<void> sell() {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  engine.define("order.place", place_order, reserve_stock, charge_card, ship_parcel);
  engine.define(order_chain);

  const order good{"book", 2, 30, "Rome"};
  std::printf("an order that works:\n");
  const auto parcel = co_await engine.execute("order-1", place_order, good);
  std::printf("%s\n", parcel.c_str());

  const order bad{"lamp", 1, 90, ""};
  std::printf("as a coroutine, without an address:\n");
  try {
    (void)co_await engine.execute("order-2", place_order, bad);
  } catch (const saga::saga_error& e) {
    std::printf("%s\n", e.what());
  }
  std::printf("as a chain:\n");
  try {
    (void)co_await order_chain.run(engine, "order-3", bad);
  } catch (const saga::saga_error& e) {
    std::printf("%s\n", e.what());
  }

  const auto of_coroutine = co_await journal_of(db, "order-2");
  const auto of_chain = co_await journal_of(db, "order-3");
  std::printf("the journals %s:\n", of_coroutine == of_chain ? "agree" : "differ");
  for (const auto& line : of_chain) std::printf("  %s\n", line.c_str());
}

}  // namespace

int main() {
  net::io_context context(1);
  virtual_time time(context);
  time.run(sell);
}
