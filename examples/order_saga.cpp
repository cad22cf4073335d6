// An order in three steps, as a coroutine and as a chain: the parcel cannot be sent, so the money goes back and the
// stock is released, in reverse. Both write the same journal.
#include "order_saga.hpp"

#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/saga/admin.hpp>

#include <cstdio>
#include <string>
#include <vector>

using namespace cofferdam;

namespace {

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
  orders::shop shop;
  orders::define(engine, shop);

  const orders::order good{"book", 2, 30, "Rome"};
  std::printf("an order that works:\n");
  const auto parcel = co_await engine.execute("order-1", orders::place_order, good);
  std::printf("%s\n", parcel.c_str());

  const orders::order bad{"lamp", 1, 90, ""};
  std::printf("as a coroutine, without an address:\n");
  try {
    (void)co_await engine.execute("order-2", orders::place_order, bad);
  } catch (const saga::saga_error& e) {
    std::printf("%s\n", e.what());
  }
  std::printf("as a chain:\n");
  try {
    (void)co_await orders::order_chain.run(engine, "order-3", bad);
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
