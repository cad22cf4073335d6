// The sagas of travel_saga.cpp, their steps and the world they change. Their test kills them at every point.
#pragma once

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/saga/chain.hpp>

#include <cstdio>
#include <map>
#include <set>
#include <string>

namespace journeys {

using namespace cofferdam;
using namespace std::chrono_literals;
using saga::operator""_s;

struct trip {
  std::string town;
  int nights = 1;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(trip, town, nights)

/// What lies outside of the sagas.
struct world {
  bool has_cars = true;
  int mails_that_fail = 2;
  std::set<std::string> bookings, mails;
  std::map<std::string, int> payments;  // by idempotency key
  bool is_silent = false;

  void tell(const std::string& line) const {
    if (!is_silent) std::printf("  %s\n", line.c_str());
  }
};

inline awaitable<std::string> book(saga::step_context& context, std::string what, std::string town, duration takes) {
  co_await sleep_for(takes);
  auto& w = context.get<world>();
  if (what == "car" && !w.has_cars) throw saga::refused("no car in " + town);
  w.tell("booked a " + what + " in " + town);
  w.bookings.insert(what + "-" + town);
  co_return what + "-" + town;
}
inline awaitable<void> cancel_booking(saga::step_context& context, std::string booking) {
  auto& w = context.get<world>();
  w.tell("cancelled " + booking);
  w.bookings.erase(booking);
  co_return;
}
inline awaitable<int> pay(saga::step_context& context, int amount) {
  auto& w = context.get<world>();
  w.tell("paid " + std::to_string(amount));
  w.payments.emplace(context.idempotency_key(), amount);
  co_return amount;
}
inline awaitable<void> mail(saga::step_context& context, std::string text) {
  auto& w = context.get<world>();
  if (w.mails_that_fail-- > 0) throw std::runtime_error("the mail server is away");
  w.tell("mailed: " + text);
  w.mails.insert(context.idempotency_key());
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

inline void define(saga::engine& engine, world& w) {
  engine.provide(w);
  engine.define(journey).define(approved_journey);
}

}  // namespace journeys
