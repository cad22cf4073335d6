// A relay that dies before and after each of its calls: nothing is lost, every key keeps its order, what comes twice
// has the same id, and behind an inbox it happens once.
#include "async_test.hpp"
#include "count_from.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/outbox/inbox.hpp>
#include <cofferdam/outbox/testing.hpp>

#include <map>
#include <memory>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace relay_points {

constexpr int keys = 3, of_each = 3;

std::string name(int key, int n) { return "k" + std::to_string(key) + "-" + std::to_string(n); }

awaitable<void> write(outbox& o) {
  for (int n = 0; n < of_each; ++n) {
    batch b;
    for (int k = 0; k < keys; ++k) {
      o.enqueue(b, message("t", "counted", std::to_string(n)).key("k" + std::to_string(k)).id(name(k, n)));
    }
    co_await o.storage().commit(std::move(b));
  }
}

/// What a broker has, and what a receiver behind an inbox made of it.
struct far_side {
  std::map<std::string, std::vector<int>> stored;  // by key; with repetitions
  std::unique_ptr<database> db;
  std::unique_ptr<inbox> seen;
  std::string refused;

  awaitable<void> open() {
    db = std::make_unique<database>(co_await database::open("sqlite::memory:"));
    batch b;
    b.execute("create table effects(key text not null, n integer not null, primary key(key, n))");
    co_await db->commit(std::move(b));
    seen = std::make_unique<inbox>(co_await inbox::open(*db, "far"));
  }
  awaitable<void> take(const message& m) {
    if (!db) co_await open();
    co_await sleep_for(1ms);
    if (m.id() == refused) throw message_refused_error("too strange");
    stored[m.key()].push_back(std::stoi(m.payload()));
    batch effect;
    effect.require("the one before it is there", "select count(*) = $2 from effects where key = $1", m.key(),
                   std::stoi(m.payload()));
    effect.execute("insert into effects(key, n) values($1, $2)", m.key(), std::stoi(m.payload()));
    (void)co_await seen->commit(std::move(effect), "relay", m.id());
  }
  void reset() {
    stored.clear();
    db.reset();
    seen.reset();
  }
};

awaitable<std::size_t> explore(std::string refused, std::size_t second_step) {
  far_side far;
  far.refused = refused;
  relay_options options;
  options.page = 4;
  options.lease = 3s;
  relay_crash_explorer explorer(options);
  explorer.reset([&far] { far.reset(); });
  explorer.begin([](outbox& o) { return write(o); });
  explorer.publish_to([&far](const message& m) { return far.take(m); });
  explorer.check([&](const std::string& where) -> awaitable<void> {
    INFO("died " << where);
    const rows effects = co_await far.db->query("select count(*) from effects");
    const int wanted = keys * of_each - (refused.empty() ? 0 : 2);  // k1-1 is refused, k1-2 waits behind it
    CHECK(effects.front().get<int>(0) == wanted);
    for (const auto& [key, numbers] : far.stored) {
      // Repetitions begin again further back, and then go on in order.
      for (std::size_t i = 1; i < numbers.size(); ++i) CHECK(numbers[i] <= numbers[i - 1] + 1);
    }
  });
  explorer.twice(second_step);
  const auto explored = co_await explorer.run();
  CHECK(explored.points > 50);
  co_return explored.runs;
}

}  // namespace relay_points

ASYNC_TEST("a relay killed at any point loses nothing, keeps the order, and repeats only what has the same id") {
  const auto runs = co_await relay_points::explore("", 0);
  CHECK(runs > 50);
}

ASYNC_TEST("a relay killed at any point while it parks a key parks it once") {
  const auto runs = co_await relay_points::explore("k1-1", 0);
  CHECK(runs > 50);
}

ASYNC_TEST("relays killed at any two points, one after the other, lose nothing", "[torture]") {
  const std::size_t step = test::count_from("COFFERDAM_TEST_CRASH_STEP", 37);  // 1: every pair
  const auto runs = co_await relay_points::explore("", step);
  CHECK(runs > 200);
}
