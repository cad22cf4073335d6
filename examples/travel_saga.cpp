// A journey: flight, hotel and car are booked side by side, then comes the point of no return, then what must succeed
// sooner or later. And a journey that somebody has to approve within a day.
#include "travel_saga.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/virtual_time.hpp>

#include <cstdio>
#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;
using saga::operator""_s;

namespace {

awaitable<void> travel(virtual_time& time) {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  journeys::world w;
  journeys::define(engine, w);
  const auto work = [&engine] { return engine.run(); };
  const auto working = spawn(co_await net::this_coro::executor, work);

  const journeys::trip rome{"Rome", 3};
  std::printf("to Rome:\n");
  const auto done = co_await journeys::journey.run(engine, "journey-1", rome);
  std::printf("  %s and more, for %d\n", done["flight"_s].c_str(), done["pay"_s]);

  w.has_cars = false;
  std::printf("to Rome, without a car:\n");
  try {
    (void)co_await journeys::journey.run(engine, "journey-2", rome);
  } catch (const saga::saga_error& e) {
    std::printf("  %s\n", e.what());
  }

  std::printf("to be approved:\n");
  auto waiting = co_await engine.start("journey-3", journeys::approved_journey, rome);
  auto forgotten = co_await engine.start("journey-4", journeys::approved_journey, rome);
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
  std::printf("%s", journeys::journey.to_mermaid().c_str());
  co_await working.stop();
}

}  // namespace

int main() {
  net::io_context context(1);
  virtual_time time(context);
  time.run(travel, std::ref(time));
}
