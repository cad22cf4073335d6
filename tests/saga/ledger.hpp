// A world that sagas move money in, and the search for a crash that it does not survive.
#pragma once

#include "async_test.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/saga/barrier.hpp>
#include <cofferdam/saga/chain.hpp>
#include <cofferdam/saga/testing.hpp>

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>

namespace cofferdam::test::ledger {

/// Outside of the process: remembers by idempotency key, so that an effect happens once a key.
struct world {
  std::map<std::string, int> effects;  // by key: what it moved
  std::set<std::string> barred;        // undone before it was done
  std::optional<database> hotel;       // a service with a barrier
  std::optional<saga::barrier> gate;
};

struct transfer {
  int amount = 0;
  int refused = 0;  // which step is
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(transfer, amount, refused)

inline std::string key_undone_by(const saga::step_context& context) {
  const auto key = context.idempotency_key();
  return key.substr(0, key.size() - std::string("!undo").size());
}

inline awaitable<int> move(saga::step_context& context, int amount, bool is_refused) {
  co_await sleep_for(std::chrono::milliseconds(1));
  if (is_refused) throw saga::refused("no");
  auto& w = context.get<world>();
  const auto key = context.idempotency_key();
  if (!w.barred.contains(key)) w.effects.emplace(key, amount);
  co_return amount;
}
inline awaitable<void> move_back(saga::step_context& context, std::optional<int>, int, bool) {
  auto& w = context.get<world>();
  const auto done = key_undone_by(context);
  w.barred.insert(done);
  w.effects.erase(done);
  co_return;
}
inline awaitable<void> move_back_known(saga::step_context& context, const int& amount, int given, bool) {
  if (amount != given) throw saga::fatal("the result is not the action's");
  context.get<world>().effects.erase(key_undone_by(context));
  co_return;
}

inline awaitable<int> watch(saga::step_context&, int amount) {
  co_await sleep_for(std::chrono::milliseconds(1));
  co_return amount;
}

inline constexpr auto take = saga::step<"take", &move, &move_back>;
inline constexpr auto lend = saga::step<"lend", &move, &move_back_known>;
inline constexpr auto give = saga::pivot<"give", &move>;
inline constexpr auto tell = saga::retriable<"tell", &move>;
inline constexpr auto look = saga::read_only<"look", &watch>;

inline saga::task<int> part(saga::scope& s, int amount, bool is_refused) {
  const int moved = co_await s.run(take, amount, false);
  (void)co_await s.run(lend, 0, is_refused);
  co_return moved;
}
inline saga::task<int> slow_part(saga::scope& s, int amount) {
  (void)co_await s.run(take, 1, false);
  co_await s.sleep(std::chrono::minutes(1));
  co_return 1 + co_await s.run(take, amount, false);
}
inline saga::task<int> child(saga::scope& s, transfer t) {
  const int moved = co_await s.run(take, 3, false);
  co_await s.sleep(std::chrono::minutes(1));
  (void)co_await s.run(lend, 0, t.refused == 2);
  co_return moved;
}

/// How sagas may end, by their ids.
using endings = std::map<std::string, std::set<std::string>>;

/// Kills at every point and, of the pairs of points, at one of `pairs`; 0: at none. Every saga must end in each of its
/// ways, and leave no effect unless it is completed; then its money sums to zero.
inline awaitable<saga::crash_explorer::result> explore(std::function<void(saga::engine&)> define,
                                                       std::function<awaitable<void>(saga::engine&, world&)> begin,
                                                       endings expected, std::size_t pairs, std::uint64_t seed = 1) {
  world w;
  endings seen;
  saga::crash_explorer explorer;
  explorer.prepare([&](saga::engine& e) {
    e.provide(w);
    define(e);
  });
  explorer.reset([&w] { w = world(); });
  explorer.begin([&](saga::engine& e) { return begin(e, w); });
  explorer.check([&](database& db, const std::string& where) -> awaitable<void> {
    const rows locked = co_await db.query("select count(*) from cofferdam_saga_locks");
    CHECK(locked.front().get<int>(0) == 0);
    if (w.hotel) {
      const rows booked = co_await w.hotel->query("select key, amount from bookings");
      for (const row r : booked) w.effects.emplace(r.get<std::string>(0), r.get<int>(1));
    }
    for (const auto& [id, ways] : expected) {
      const rows found = co_await db.query("select state, reason from cofferdam_sagas where id = $1", id);
      INFO("killed " << where << ", looking at " << id);
      REQUIRE(found.size() == 1);
      const auto state = std::string(to_string(static_cast<saga::saga_state>(found.front().get<int>(0))));
      INFO("ended " << state << ' ' << found.front().get<std::optional<std::string>>(1).value_or(""));
      seen[id].insert(state);
      CHECK(ways.contains(state));
      int sum = 0;
      std::size_t count = 0;
      for (const auto& [key, moved] : w.effects) {
        if (!key.starts_with(id + '/')) continue;
        sum += moved;
        ++count;
      }
      CHECK(sum == 0);
      CHECK((count == 0) == (state != "completed"));
    }
  });
  explorer.twice(pairs, seed);
  const auto explored = co_await explorer.run();
  CHECK(seen == expected);
  co_return explored;
}

}  // namespace cofferdam::test::ledger
