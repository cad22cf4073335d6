// Events: ordered, isolated, never recursive. And durations as people write them.
#include "catch.hpp"

#include <cofferdam/core/event_channel.hpp>
#include <cofferdam/core/units.hpp>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
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

TEST_CASE("a listener hears what is published after it came, and nothing after it left", "[core][events]") {
  event_channel<int> channel;
  std::vector<int> early, late;
  auto first = channel.subscribe([&](int e) { early.push_back(e); });
  channel.publish(1);
  auto second = channel.subscribe([&](int e) { late.push_back(e); });
  channel.publish(2);
  first = subscription();
  channel.publish(3);
  CHECK(early == std::vector{1, 2});
  CHECK(late == std::vector{2, 3});
}

TEST_CASE("a queued event waits for the drain", "[core][events]") {
  event_channel<int> channel;
  channel.enqueue(0);  // nobody listens: not kept
  std::vector<int> seen;
  auto listening = channel.subscribe([&](int e) { seen.push_back(e); });
  channel.enqueue(1);
  channel.enqueue(2);
  CHECK(seen.empty());
  channel.drain();
  CHECK(seen == std::vector{1, 2});
  channel.drain();
  CHECK(seen == std::vector{1, 2});
}

TEST_CASE("an event of any listener reaches all of them in one order", "[core][events]") {
  event_channel<int> channel;
  std::vector<std::pair<char, int>> seen;
  auto a = channel.subscribe([&](int e) {
    seen.emplace_back('a', e);
    if (e < 10) channel.publish(e * 10);
  });
  auto b = channel.subscribe([&](int e) {
    seen.emplace_back('b', e);
    if (e < 10) channel.publish(e * 10 + 1);
  });
  channel.publish(1);
  CHECK(seen == std::vector<std::pair<char, int>>{{'a', 1}, {'b', 1}, {'a', 10}, {'b', 10}, {'a', 11}, {'b', 11}});
}

TEST_CASE("a listener may subscribe and unsubscribe others and itself", "[core][events]") {
  event_channel<int> channel;
  std::vector<std::string> seen;
  subscription self, other, added;
  self = channel.subscribe([&](int) {
    seen.emplace_back("once");
    self = subscription();
    other = subscription();
    added = channel.subscribe([&](int e) { seen.push_back("added " + std::to_string(e)); });
  });
  other = channel.subscribe([&](int) { seen.emplace_back("other"); });
  channel.publish(1);  // the present event still goes to all who listened when its delivery began
  channel.publish(2);
  CHECK(seen == std::vector<std::string>{"once", "other", "added 2"});
}

TEST_CASE("a listener and an event are destroyed without a lock: what they own may use the channel", "[core][events]") {
  struct farewell {
    std::function<void()> say;
    ~farewell() {
      if (say) say();
    }
  };
  using event = std::shared_ptr<farewell>;
  event_channel<event> channel;
  int heard = 0, farewells = 0;
  auto audience = channel.subscribe([&](const event&) { ++heard; });
  const auto parting = [&] {
    auto owned = std::make_shared<farewell>();
    owned->say = [&] {
      ++farewells;
      channel.publish(nullptr);
    };
    return owned;
  };
  SECTION("a listener that is unsubscribed") {
    {
      auto brief = channel.subscribe([owned = parting()](const event&) {});
    }
    CHECK(farewells == 1);
    CHECK(heard == 1);
  }
  SECTION("a listener that is unsubscribed while it listens") {
    std::optional<subscription> brief;
    brief = channel.subscribe([&brief, owned = parting()](const event&) { brief.reset(); });
    channel.publish(nullptr);
    CHECK(farewells == 1);
    CHECK(heard == 2);
  }
  SECTION("an event") {
    channel.publish(parting());
    CHECK(farewells == 1);
    CHECK(heard == 2);
  }
}

TEST_CASE("a subscription moves, and a detached one listens for the channel's life", "[core][events]") {
  event_channel<int> channel;
  int heard = 0;
  {
    auto one = channel.subscribe([&](int) { ++heard; });
    const subscription moved = std::move(one);
    channel.publish(1);
    CHECK(heard == 1);
  }
  channel.publish(2);
  CHECK(heard == 1);
  channel.subscribe([&](int) { ++heard; }).detach();
  channel.publish(3);
  CHECK(heard == 2);
  auto replaced = channel.subscribe([&](int) { heard += 10; });
  replaced = channel.subscribe([&](int) { heard += 100; });
  channel.publish(4);
  CHECK(heard == 103);
}

TEST_CASE("a listener that throws does not keep the others or later events from anybody", "[core][events]") {
  event_channel<int> channel;
  std::vector<int> seen;
  auto bad = channel.subscribe([&](int e) {
    if (e == 1) channel.publish(2);
    throw e;  // not even an exception
  });
  auto good = channel.subscribe([&](int e) { seen.push_back(e); });
  channel.publish(1);
  CHECK(seen == std::vector{1, 2});
  CHECK(channel.failed_deliveries() == 2);
}

TEST_CASE("an idle channel is three words", "[core][events]") {
  CHECK(sizeof(event_channel<int>) <= 3 * sizeof(void*));
}

TEST_CASE("four threads: events come one at a time, all of them, each thread's in its order",
          "[core][events][concurrent]") {
  event_channel<std::pair<int, int>> channel;
  constexpr int each = 5'000;
  std::vector<std::pair<int, int>> seen;  // delivered one at a time, so no lock
  std::atomic<int> inside{0}, crowded{0};
  auto listening = channel.subscribe([&](const std::pair<int, int>& e) {
    if (++inside > 1) ++crowded;
    seen.push_back(e);
    --inside;
  });
  const auto work = [&](int thread) {
    for (int i = 0; i < each; ++i) {
      channel.publish({thread, i});
      if (i % 100 == 0) auto brief = channel.subscribe([](const std::pair<int, int>&) {});
    }
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) threads.emplace_back(work, t);
  for (auto& thread : threads) thread.join();
  CHECK(crowded == 0);
  CHECK(seen.size() == 4 * each);
  for (int t = 0; t < 4; ++t) {
    std::vector<int> mine;
    for (const auto& [thread, i] : seen) {
      if (thread == t) mine.push_back(i);
    }
    CHECK(mine.size() == each);
    CHECK(std::ranges::is_sorted(mine));
  }
}

TEST_CASE("a channel whose last listener left costs nothing again, and may be listened to again", "[core][events]") {
  event_channel<int> channel;
  std::vector<int> heard;
  const auto listen = [&](int event) { heard.push_back(event); };
  {
    const auto watch = channel.subscribe(listen);
    CHECK(channel.has_listeners());
    channel.publish(1);
    channel.enqueue(2);
  }
  CHECK_FALSE(channel.has_listeners());
  channel.publish(3);
  const auto again = channel.subscribe(listen);
  channel.publish(4);
  CHECK(heard == std::vector<int>{1, 4});  // 2 was queued for somebody who left
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
