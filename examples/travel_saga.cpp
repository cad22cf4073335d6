// A journey: flight, hotel and car are booked side by side, then comes the point of no return, then what must succeed
// sooner or later. And a journey that somebody has to approve within a day.
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/saga/chain.hpp>

#include <cstdio>
#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;
using saga::operator""_s;

namespace {

struct trip {
  std::string town;
  int nights = 1;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(trip, town, nights)

struct world {
  bool has_cars = true;
  int mails_that_fail = 2;
};

awaitable<std::string> book(saga::step_context& context, std::string what, std::string town, duration takes) {
  co_await sleep_for(takes);
  if (what == "car" && !context.get<world>().has_cars) throw saga::refused("no car in " + town);
  std::printf("  booked a %s in %s\n", what.c_str(), town.c_str());
  co_return what + "-" + town;
}
awaitable<void> cancel_booking(saga::step_context&, std::string booking) {
  std::printf("  cancelled %s\n", booking.c_str());
  co_return;
}
awaitable<int> pay(saga::step_context&, int amount) {
  std::printf("  paid %d\n", amount);
  co_return amount;
}
awaitable<void> mail(saga::step_context& context, std::string text) {
  if (context.get<world>().mails_that_fail-- > 0) throw std::runtime_error("the mail server is away");
  std::printf("  mailed: %s\n", text.c_str());
  co_return;
}

constexpr auto journey =
    saga::start<trip>("journey") |
    saga::all<"bookings">(saga::step<"flight">([](const auto& s) {
                            return book(s.context(), "flight", s.input().town, 30ms);
                          }).undo([](const auto& s) { return cancel_booking(s.context(), s["flight"_s]); }),
                          saga::step<"hotel">([](const auto& s) {
                            return book(s.context(), "hotel", s.input().town, 10ms);
                          }).undo([](const auto& s) { return cancel_booking(s.context(), s["hotel"_s]); }),
                          saga::step<"car">([](const auto& s) {
                            return book(s.context(), "car", s.input().town, 20ms);
                          }).undo([](const auto& s) { return cancel_booking(s.context(), s["car"_s]); })) |
    saga::pivot<"pay">([](const auto& s) { return pay(s.context(), 100 * s.input().nights); }) |
    saga::retriable<"mail">(
        [](const auto& s) { return mail(s.context(), s["flight"_s] + ", " + s["hotel"_s] + ", " + s["car"_s]); });

constexpr auto approved_journey =
    saga::start<trip>("journey.approved") |
    saga::step<"hotel">([](const auto& s) {
      return book(s.context(), "hotel", s.input().town, 10ms);
    }).undo([](const auto& s) { return cancel_booking(s.context(), s["hotel"_s]); }) |
    saga::wait<"approved", std::string>(24h) | saga::step<"answer">([](const auto& s) -> awaitable<std::string> {
      if (!s["approved"_s]) throw saga::refused("nobody approved it within a day");
      co_return "approved by " + *s["approved"_s];
    }) |
    saga::pivot<"pay">([](const auto& s) { return pay(s.context(), 100 * s.input().nights); });

awaitable<void> travel(virtual_time& time) {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  world w;
  engine.provide(w);
  engine.define(journey).define(approved_journey);
  const auto work = [&engine] { return engine.run(); };
  const auto working = spawn(co_await net::this_coro::executor, work);

  const trip rome{"Rome", 3};
  std::printf("to Rome:\n");
  const auto done = co_await journey.run(engine, "journey-1", rome);
  std::printf("  %s and more, for %d\n", done["flight"_s].c_str(), done["pay"_s]);

  w.has_cars = false;
  std::printf("to Rome, without a car:\n");
  try {
    (void)co_await journey.run(engine, "journey-2", rome);
  } catch (const saga::saga_error& e) {
    std::printf("  %s\n", e.what());
  }

  std::printf("to be approved:\n");
  auto waiting = co_await engine.start("journey-3", approved_journey, rome);
  auto forgotten = co_await engine.start("journey-4", approved_journey, rome);
  co_await sleep_for(20h);
  std::printf("  after 20 hours there are %zu sagas in memory\n", engine.active());
  co_await engine.signal("journey-3", "approved", std::string("Ada"));
  const auto approved = co_await waiting.result();
  std::printf("  %s\n", approved["answer"_s].c_str());
  try {
    (void)co_await forgotten.result();
  } catch (const saga::saga_error& e) {
    const auto hours = std::chrono::floor<std::chrono::hours>(time.elapsed()).count();
    std::printf("  after %d hours: %s\n", static_cast<int>(hours), e.what());
  }
  std::printf("%s", journey.to_mermaid().c_str());
  working.cancel();
  co_await sleep_for(1s);
}

}  // namespace

int main() {
  net::io_context context(1);
  virtual_time time(context);
  time.run(travel, std::ref(time));
}
