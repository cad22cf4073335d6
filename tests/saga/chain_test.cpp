#include "async_test.hpp"
#include "error_of.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/saga/chain.hpp>

#include <string>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::saga::literals;
using namespace std::chrono_literals;

namespace chains {

struct trip {
  std::string town;
  int nights = 1;
  bool needs_car = false;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(trip, town, nights, needs_car)

struct agency {
  std::vector<std::string> log;
  bool has_no_flight = false;
};

awaitable<std::string> book(saga::step_context& context, std::string what, std::string town) {
  context.get<agency>().log.push_back("book " + what + " " + town);
  co_await sleep_for(2ms);
  co_return what + "-" + town;
}
awaitable<void> cancel_booking(saga::step_context& context, std::string booking) {
  context.get<agency>().log.push_back("cancel " + booking);
  co_return;
}
awaitable<std::string> book_flight(saga::step_context& context, std::string town) {
  auto& a = context.get<agency>();
  a.log.push_back("book flight " + town);
  if (a.has_no_flight) throw saga::refused("no seat");
  co_return "flight-" + town;
}
awaitable<void> cancel_flight(saga::step_context& context, const std::string& flight, std::string) {
  context.get<agency>().log.push_back("cancel " + flight);
  co_return;
}
awaitable<int> pay(saga::step_context& context, int amount) {
  context.get<agency>().log.push_back("pay " + std::to_string(amount));
  co_return amount;
}
awaitable<void> mail(saga::step_context& context, std::string text) {
  context.get<agency>().log.push_back("mail " + text);
  co_return;
}

constexpr auto flight_step = saga::step<"flight", &book_flight, &cancel_flight>;

constexpr auto book_trip =
    saga::start<trip>("trip.book") | saga::step<"hotel">([](const auto& s) {
                                       return book(s.context(), "hotel", s.input().town);
                                     }).undo([](const auto& s) { return cancel_booking(s.context(), s["hotel"_s]); }) |
    saga::when([](const auto& s) { return s.input().needs_car; },
               saga::step<"car">([](const auto& s) {
                 return book(s.context(), "car", s.input().town);
               }).undo([](const auto& s, const std::optional<std::string>& car) {
                 return cancel_booking(s.context(), car.value_or("unknown car"));
               })) |
    flight_step.with([](const auto& s) { return std::tuple(s.input().town); }) |
    saga::pivot<"pay">([](const auto& s) { return pay(s.context(), 100 * s.input().nights); }).timeout(1s) |
    saga::retriable<"mail">(
        [](const auto& s) { return mail(s.context(), s["flight"_s] + " " + std::to_string(s["pay"_s])); });

constexpr auto three_at_once =
    saga::start<trip>("trip.three") |
    saga::all<"bookings">(saga::step<"hotel">([](const auto& s) {
                            return book(s.context(), "hotel", s.input().town);
                          }).undo([](const auto& s) { return cancel_booking(s.context(), s["hotel"_s]); }),
                          saga::step<"car">([](const auto& s) {
                            return book(s.context(), "car", s.input().town);
                          }).undo([](const auto& s) { return cancel_booking(s.context(), s["car"_s]); }),
                          flight_step.with([](const auto& s) { return std::tuple(s.input().town); })) |
    saga::pivot<"pay">([](const auto& s) {
      return pay(s.context(), static_cast<int>(s["hotel"_s].size() + s["car"_s].size() + s["flight"_s].size()));
    });

using lines = std::vector<std::string>;
const trip to_rome{"rome", 2, false};
const trip by_car{"rome", 2, true};

}  // namespace chains

using namespace chains;

ASYNC_TEST("a chain without a journal runs its links, and its results have names") {
  saga::engine engine;
  agency a;
  engine.provide(a);
  const auto done = co_await book_trip.run(engine, "trip-1", to_rome);
  CHECK(done["hotel"_s] == "hotel-rome");
  CHECK(done["pay"_s] == 200);
  CHECK(!done.has("car"_s));
  CHECK(done.has("mail"_s));
  CHECK(a.log == lines{"book hotel rome", "book flight rome", "pay 200", "mail flight-rome 200"});
}

ASYNC_TEST("a chain that fails undoes its links in reverse, with or without a journal") {
  database db = co_await database::open("sqlite::memory:");
  for (const bool has_journal : {false, true}) {
    saga::engine engine;
    if (has_journal) engine = co_await saga::engine::open(db);
    agency a;
    a.has_no_flight = true;
    engine.provide(a);
    engine.define(book_trip);
    const auto why = co_await test::error_of(book_trip.run(engine, "trip-1", by_car));
    CHECK(why == "the saga 'trip-1' went back: the step 'flight' was refused: no seat");
    CHECK(a.log ==
          lines{"book hotel rome", "book car rome", "book flight rome", "cancel car-rome", "cancel hotel-rome"});
  }
}

ASYNC_TEST("a journaled chain keeps its results") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  agency a;
  engine.provide(a);
  engine.define(book_trip).define(three_at_once);
  const auto done = co_await book_trip.run(engine, "trip-1", by_car);
  CHECK(done["car"_s] == "car-rome");
  const auto again = co_await book_trip.run(engine, "trip-1", by_car);
  CHECK(again["pay"_s] == 200);
  CHECK(a.log.size() == 5);
  const auto three = co_await three_at_once.run(engine, "trip-2", to_rome);
  CHECK(three["pay"_s] == 10 + 8 + 11);
}

ASYNC_TEST("the branches of a chain run side by side and are undone when one of them fails") {
  database db = co_await database::open("sqlite::memory:");
  for (const bool has_journal : {false, true}) {
    saga::engine engine;
    if (has_journal) engine = co_await saga::engine::open(db);
    agency a;
    a.has_no_flight = true;
    engine.provide(a);
    engine.define(three_at_once);
    const auto why = co_await test::error_of(three_at_once.run(engine, "trip-1", to_rome));
    CHECK(why == "the saga 'trip-1' went back: the step 'flight' was refused: no seat");
    REQUIRE(a.log.size() == 5);
    CHECK(lines(a.log.begin(), a.log.begin() + 3) == lines{"book hotel rome", "book car rome", "book flight rome"});
    CHECK(lines(a.log.begin() + 3, a.log.end()) == lines{"cancel car-rome", "cancel hotel-rome"});
  }
}

TEST_CASE("a chain shows itself as a graph") {
  CHECK(three_at_once.to_mermaid() == R"x(flowchart TD
  start(["trip.three"])
  s1["hotel, can be undone"]
  start --> s1
  s2["car, can be undone"]
  start --> s2
  s3["flight, can be undone"]
  start --> s3
  s4["pay (pivot)"]
  s1 --> s4
  s2 --> s4
  s3 --> s4
)x");
  CHECK(book_trip.to_dot().find("  s1 -> s3\n  s2 -> s3\n") != std::string::npos);
}
