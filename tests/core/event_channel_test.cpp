// Events: ordered, isolated, never recursive. And durations as people write them.
#include "catch.hpp"

#include <cofferdam/core/event_channel.hpp>
#include <cofferdam/core/units.hpp>

#include <stdexcept>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

TEST_CASE("listeners get events in order; one that throws is isolated and counted", "[core][events]") {
  event_channel<int> channel;
  std::vector<int> seen;
  channel.publish(0);  // nobody listens
  CHECK_FALSE(channel.has_listeners());
  auto bad = channel.subscribe([](int) { throw std::runtime_error("listener"); });
  auto good = channel.subscribe([&](int e) { seen.push_back(e); });
  channel.publish(1);
  channel.publish(2);
  CHECK(seen == std::vector<int>{1, 2});
  CHECK(channel.failed_deliveries() == 2);
}

TEST_CASE("an event published by a listener follows after the present one", "[core][events]") {
  event_channel<int> channel;
  std::vector<int> seen;
  auto first = channel.subscribe([&](int e) {
    if (e == 1) channel.publish(2);
  });
  auto second = channel.subscribe([&](int e) { seen.push_back(e); });
  channel.publish(1);
  CHECK(seen == std::vector<int>{1, 2});
}

TEST_CASE("a subscription ends when it is destroyed, also after the channel", "[core][events]") {
  int heard = 0;
  subscription kept;
  {
    event_channel<int> channel;
    {
      auto brief = channel.subscribe([&](int) { ++heard; });
      channel.publish(1);
    }
    channel.publish(2);
    kept = channel.subscribe([&](int) { ++heard; });
  }
  CHECK(heard == 1);
}

TEST_CASE("durations and rates are read strictly and written back", "[core][units]") {
  CHECK(parse_duration("500ms") == 500ms);
  CHECK(parse_duration("1.5s") == 1500ms);
  CHECK(parse_duration("2min") == 2min);
  CHECK(parse_duration("0s") == 0s);
  for (const char* bad : {"", "5", "ms", "5 ms", "5m", "1e3s", "5msx", "99999999999h", "nan s"})
    CHECK_FALSE(parse_duration(bad));
  CHECK(parse_rate("850/s") == 850.0);
  CHECK(parse_rate("30/min") == 0.5);
  for (const char* bad : {"850", "-1/s", "1/x", "/s"}) CHECK_FALSE(parse_rate(bad));
  for (const auto d : std::initializer_list<duration>{0s, 1ns, 1500us, 20ms, 1500ms, 90s, 1h, 36h}) {
    CHECK(parse_duration(to_string(d)) == d);
  }
  CHECK(to_string(1500ms) == "1.5s");
}
