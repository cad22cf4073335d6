// The sagas of the examples, killed at every point, and at every two; of long journeys at one of twenty pairs, or at
// one of as many as COFFERDAM_CRASH_PAIRS says.
#include "../../examples/order_saga.hpp"
#include "../../examples/saga_survives.hpp"
#include "../../examples/travel_saga.hpp"
#include "async_test.hpp"
#include "count_from.hpp"

#include <cofferdam/saga/testing.hpp>

#include <set>
#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace shown {

awaitable<std::string> end_of_the_one(database& db) {
  const rows found = co_await db.query("select state from cofferdam_sagas");
  CHECK(found.size() == 1);
  co_return std::string(to_string(static_cast<saga::saga_state>(found.front().get<int>(0))));
}

/// A lease of an hour makes days pass in few looks.
saga::crash_explorer explorer(std::size_t pairs) {
  saga::engine_options options;
  options.lease = 1h;
  saga::crash_explorer made(options);
  made.twice(pairs, test::count_from("COFFERDAM_SAGA_SEED", 1));
  return made;
}

awaitable<void> start_order(saga::engine& e, bool is_chain, orders::order o) {
  if (is_chain) {
    (void)co_await e.start("order-1", orders::order_chain, o);
  } else {
    (void)co_await e.start("order-1", orders::place_order, o);
  }
}

awaitable<void> explore_order(bool is_chain, bool has_address) {
  orders::shop shop;
  orders::order o{"lamp", 1, 90, ""};
  if (has_address) o.address = "Rome";
  auto explore = explorer(1);
  explore.prepare([&shop](saga::engine& e) { orders::define(e, shop); });
  explore.reset([&shop] {
    shop = orders::shop();
    shop.is_silent = true;
  });
  explore.begin([&](saga::engine& e) { return start_order(e, is_chain, o); });
  explore.check([&](database& db, const std::string& where) -> awaitable<void> {
    const auto end = co_await end_of_the_one(db);
    INFO("killed " << where << ", ended " << end);
    CHECK(end == (has_address ? "completed" : "compensated"));
    const std::size_t once = has_address ? 1 : 0;
    CHECK(shop.reservations.size() == once);
    CHECK(shop.charges.size() == once);
    CHECK(shop.parcels.size() == once);
  });
  const auto explored = co_await explore.run();
  CHECK(explored.points >= 13);
  CHECK(explored.runs > 100);
}

template <class Chain> awaitable<void> start_journey(saga::engine& e, const Chain& chain, bool is_approved) {
  const journeys::trip rome{"Rome", 3};
  (void)co_await e.start("journey-1", chain, rome);
  if (!is_approved) co_return;
  try {
    co_await e.signal("journey-1", "approved", std::string("Ada"), "message-1");
  } catch (const saga::saga_error& wrong) {
    if (wrong.code() != errc::saga_wrong_state) throw;  // it has ended before
  }
}

template <class Chain>
awaitable<void> explore_journey(const Chain& chain, bool has_cars, bool is_approved, bool ends_well,
                                std::size_t pairs) {
  journeys::world w;
  auto explore = explorer(pairs);
  explore.prepare([&w](saga::engine& e) { journeys::define(e, w); });
  explore.reset([&] {
    w = journeys::world();
    w.is_silent = true;
    w.has_cars = has_cars;
  });
  explore.begin([&](saga::engine& e) { return start_journey(e, chain, is_approved); });
  explore.check([&](database& db, const std::string& where) -> awaitable<void> {
    const auto end = co_await end_of_the_one(db);
    INFO("killed " << where << ", ended " << end);
    CHECK(end == (ends_well ? "completed" : "compensated"));
    CHECK(w.bookings.size() == (!ends_well ? 0U : is_approved ? 1U : 3U));
    CHECK(w.payments.size() == (ends_well ? 1U : 0U));
    CHECK(w.mails.size() == (ends_well && !is_approved ? 1U : 0U));
  });
  const auto explored = co_await explore.run();
  CHECK(explored.points >= 10);
  CHECK(explored.runs >= explored.points * (1 + 8 / pairs));
}

awaitable<void> explore_parcel() {
  parcels::worker w;
  auto explore = explorer(1);
  explore.prepare([&w](saga::engine& e) { parcels::define(e, w); });
  explore.reset([&w] {
    w = parcels::worker();
    w.is_silent = true;
  });
  explore.begin([](saga::engine& e) -> awaitable<void> {
    (void)co_await e.start("parcel-7", parcels::send, std::string("tea"));
  });
  explore.check([&](database& db, const std::string& where) -> awaitable<void> {
    const auto end = co_await end_of_the_one(db);
    INFO("killed " << where << ", ended " << end);
    CHECK(end == "completed");
    CHECK(w.boxes == std::map<std::string, std::string>{{"parcel-7/pack#1", "box of tea"}});
  });
  const auto explored = co_await explore.run();
  CHECK(explored.points >= 8);
}

}  // namespace shown

ASYNC_TEST("the order of the example, in both spellings, survives any two deaths") {
  for (const bool is_chain : {false, true}) {
    co_await shown::explore_order(is_chain, true);
    co_await shown::explore_order(is_chain, false);
  }
}

ASYNC_TEST("the journeys of the example survive any death, and any two where they go back, else some", "[torture]") {
  const auto some = static_cast<std::size_t>(test::count_from("COFFERDAM_CRASH_PAIRS", 20));
  co_await shown::explore_journey(journeys::journey, true, false, true, some);
  co_await shown::explore_journey(journeys::journey, false, false, false, 1);
  co_await shown::explore_journey(journeys::approved_journey, true, true, true, some);
  co_await shown::explore_journey(journeys::approved_journey, true, false, false, some);
}

ASYNC_TEST("the parcel of the example survives any two deaths") { co_await shown::explore_parcel(); }
