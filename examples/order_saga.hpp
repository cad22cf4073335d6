// The saga of order_saga.cpp, its steps and the world they change. Its test kills it at every point.
#pragma once

#include <cofferdam/saga/chain.hpp>

#include <cstdio>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>

namespace orders {

using namespace cofferdam;

struct order {
  std::string sku;
  int quantity = 1;
  int total = 0;
  std::string address;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(order, sku, quantity, total, address)

/// What lies outside of the saga. Whoever is called remembers the keys of what was done, so that it is done once.
struct shop {
  std::set<std::string> reservations, parcels;
  std::map<std::string, int> charges;  // by saga
  bool is_silent = false;

  void tell(const std::string& line) const {
    if (!is_silent) std::printf("  %s\n", line.c_str());
  }
};

// What each step does, and how it is undone.
inline awaitable<std::string> reserve(saga::step_context& context, std::string sku, int quantity) {
  auto& s = context.get<shop>();
  s.tell("reserve " + std::to_string(quantity) + " x " + sku);
  s.reservations.insert("reservation-" + sku);
  co_return "reservation-" + sku;
}
inline awaitable<void> release(saga::step_context& context, const std::string& reservation, std::string, int) {
  auto& s = context.get<shop>();
  s.tell("release " + reservation);
  s.reservations.erase(reservation);
  co_return;
}
inline awaitable<int> charge(saga::step_context& context, int total) {
  auto& s = context.get<shop>();
  s.tell("charge " + std::to_string(total) + ", once for the key " + context.idempotency_key());
  s.charges.emplace(context.saga_id(), total);
  co_return total;
}
inline awaitable<void> refund(saga::step_context& context, std::optional<int> charged, int total) {
  auto& s = context.get<shop>();
  s.tell("refund " + std::to_string(charged.value_or(total)));
  s.charges.erase(context.saga_id());
  co_return;
}
inline awaitable<std::string> ship(saga::step_context& context, std::string reservation, std::string address) {
  auto& s = context.get<shop>();
  s.tell("ship " + reservation + " to " + address);
  if (address.empty()) throw saga::refused("no address", "no_address");
  s.parcels.insert(context.idempotency_key());
  co_return "parcel-1";
}

constexpr auto reserve_stock = saga::step<"reserve", &reserve, &release>;
constexpr auto charge_card = saga::step<"charge", &charge, &refund>;
constexpr auto ship_parcel = saga::step<"ship", &ship>;

inline saga::task<std::string> place_order(saga::scope& s, order o) {
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

inline void define(saga::engine& engine, shop& s) {
  engine.provide(s);
  engine.define("order.place", place_order, reserve_stock, charge_card, ship_parcel);
  engine.define(order_chain);
}

}  // namespace orders
