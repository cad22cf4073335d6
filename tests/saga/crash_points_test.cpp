// Every saga of the tests, killed at every point.
#include "async_test.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/saga/chain.hpp>
#include <cofferdam/saga/testing.hpp>

#include <map>
#include <set>
#include <string>

using namespace cofferdam;
using namespace cofferdam::saga::literals;
using namespace std::chrono_literals;

namespace ledger {

/// A world outside of the process: remembers by idempotency key, so that an effect happens once a key.
struct world {
  std::map<std::string, int> effects;  // by key: what it moved
  std::set<std::string> barred;        // undone before it was done
  int refuse_at = 0;                   // the n-th step is refused

  [[nodiscard]] int sum() const {
    int total = 0;
    for (const auto& [key, moved] : effects) total += moved;
    return total;
  }
};

struct transfer {
  int amount = 0;
  int refused = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(transfer, amount, refused)

awaitable<int> move(saga::step_context& context, int amount, bool is_refused) {
  co_await sleep_for(1ms);
  if (is_refused) throw saga::refused("no");
  auto& w = context.get<world>();
  const auto key = context.idempotency_key();
  if (!w.barred.contains(key)) w.effects.emplace(key, amount);
  co_return amount;
}
awaitable<void> move_back(saga::step_context& context, std::optional<int>, int, bool) {
  auto& w = context.get<world>();
  const auto key = context.idempotency_key();
  const std::string done = key.substr(0, key.size() - std::string("!undo").size());
  w.barred.insert(done);
  w.effects.erase(done);
  co_return;
}
awaitable<void> move_back_known(saga::step_context& context, const int& amount, int given, bool) {
  if (amount != given) throw saga::fatal("the result is not the action's");
  auto& w = context.get<world>();
  const auto key = context.idempotency_key();
  w.effects.erase(key.substr(0, key.size() - std::string("!undo").size()));
  co_return;
}

constexpr auto take = saga::step<"take", &move, &move_back>;
constexpr auto lend = saga::step<"lend", &move, &move_back_known>;
constexpr auto give = saga::pivot<"give", &move>;
constexpr auto tell = saga::retriable<"tell", &move>;

saga::task<int> part(saga::scope& s, int amount, bool is_refused) {
  const int moved = co_await s.run(take, amount, false);
  (void)co_await s.run(lend, 0, is_refused);
  co_return moved;
}

saga::task<int> body(saga::scope& s, transfer t) {
  const int first = co_await s.run(take, -t.amount, t.refused == 1);
  auto pair = co_await s.all(s.branch<"left">(part, 1, t.refused == 2), s.branch<"right">(part, -1, t.refused == 3));
  co_await s.sleep(1h);
  bool is_nested_back = false;
  try {
    (void)co_await s.nested<"extra">(part, 5, t.refused == 4);
  } catch (const saga::aborted&) {
    is_nested_back = true;
  }
  if (!is_nested_back) (void)co_await s.run(take, -5, false);
  const auto signal = co_await s.wait_signal<int>("go", 24h);
  if (!signal) s.fail("nobody said go");
  (void)co_await s.run(give, t.amount, t.refused == 5);
  (void)co_await s.run(tell, 0, false);
  co_return first + std::get<0>(pair) + std::get<1>(pair);
}

constexpr auto links =
    saga::start<transfer>("transfer.chain") |
    take.with([](const auto& s) { return std::tuple(-s.input().amount, s.input().refused == 1); }) |
    saga::all<"both">(
        saga::step<"left">([](const auto& s) {
          return move(s.context(), 1, s.input().refused == 2);
        }).undo([](const auto& s, const std::optional<int>& moved) { return move_back(s.context(), moved, 0, false); }),
        saga::step<"right">([](const auto& s) {
          return move(s.context(), -1, s.input().refused == 3);
        }).undo([](const auto& s) { return move_back_known(s.context(), s["right"_s], -1, false); })) |
    saga::pause(1h) | saga::wait<"go", int>(24h) |
    saga::pivot<"give">([](const auto& s) { return move(s.context(), s.input().amount, s.input().refused == 5); }) |
    tell.with([](const auto& s) { return std::tuple(s["left"_s] - 1, false); });

saga::task<int> slow_part(saga::scope& s, int amount) {
  (void)co_await s.run(take, 1, false);
  co_await s.sleep(1min);
  co_return co_await s.run(take, amount, false);
}
saga::task<int> child(saga::scope& s, transfer t) {
  const int moved = co_await s.run(take, 3, false);
  co_await s.sleep(1min);
  (void)co_await s.run(lend, 0, t.refused == 2);
  co_return moved;
}
/// Everything that has a way of its own to be undone.
saga::task<int> flow(saga::scope& s, transfer t) {
  co_await s.lock("account");
  (void)co_await s.run(take, -t.amount, false);
  const auto won = co_await s.any(s.branch<"slow">(slow_part, 9), s.branch<"fast">(part, 2, t.refused == 1));
  const int moved = won.index() == 0 ? std::get<0>(won) + 1 : std::get<1>(won);
  (void)co_await s.run(take, -moved, false);
  const int called = co_await s.call<"child">(child, t);
  (void)co_await s.run(take, -called, false);
  (void)co_await s.all(s.branch<"left">(part, 1, false), s.branch<"right">(part, -1, t.refused == 3))
      .undo_in_parallel();
  co_return co_await s.run(give, t.amount, t.refused == 4);
}
constexpr auto looping =
    saga::start<transfer>("transfer.loop") |
    saga::any<"race">(saga::step<"dear">([](const auto& s) { return move(s.context(), 9, true); }),
                      saga::step<"cheap">([](const auto& s) {
                        return move(s.context(), 1, false);
                      }).undo([](const auto& s, const std::optional<int>& moved) {
                        return move_back(s.context(), moved, 0, false);
                      })) |
    saga::repeat<"round">(
        [](const auto& s) { return s["round"_s] < 3; },
        saga::step<"again">([](const auto& s) {
          return move(s.context(), int(s["round"_s]), false);
        }).undo([](const auto& s) { return move_back_known(s.context(), s["again"_s], int(s["round"_s]), false); }),
        saga::pause(1min)) |
    saga::call<"child">(&child, [](const auto& s) { return s.input(); }) |
    saga::pivot<"give">([](const auto& s) { return move(s.context(), -10, s.input().refused == 4); });

enum class way { body, chain, flow, loop };

awaitable<void> start(saga::engine& e, way how, transfer t) {
  if (how == way::chain) (void)co_await e.start("t-1", links, t);
  if (how == way::body) (void)co_await e.start("t-1", body, t);
  if (how == way::flow) (void)co_await e.start("t-1", flow, t);
  if (how == way::loop) (void)co_await e.start("t-1", looping, t);
  if (how == way::flow || how == way::loop) co_return;
  const int word = 7;
  try {
    co_await e.signal("t-1", "go", word, "message-1");
  } catch (const saga::saga_error& wrong) {
    if (wrong.code() != errc::saga_wrong_state) throw;  // it has ended before
  }
}

awaitable<std::size_t> explore(way how, int refused, bool twice) {
  world w;
  const transfer t{100, refused};
  saga::crash_explorer explorer;
  explorer.prepare([&w](saga::engine& e) {
    e.provide(w);
    e.define("transfer", body, take, lend, give, tell);
    e.define(links);
    e.define("flow", flow, take, lend, give);
    e.define("child", child, take, lend);
    e.define(looping);
  });
  explorer.reset([&w] { w = world(); });
  explorer.begin([how, t](saga::engine& e) { return start(e, how, t); });
  std::set<std::string> ends;
  explorer.check([&](database& db, const std::string& where) -> awaitable<void> {
    const rows found = co_await db.query("select state from cofferdam_sagas where id = 't-1'");
    const rows locked = co_await db.query("select count(*) from cofferdam_saga_locks");
    CHECK(locked.front().get<int>(0) == 0);
    const auto state = static_cast<saga::saga_state>(found.front().get<int>(0));
    ends.insert(std::string(to_string(state)));
    INFO("killed " << where << ", ended " << to_string(state));
    CHECK(found.size() == 1);
    CHECK(w.sum() == 0);
    const bool is_done = state == saga::saga_state::completed;
    CHECK(w.effects.empty() == !is_done);
  });
  explorer.twice(twice);
  const auto explored = co_await explorer.run();
  const bool survives = (how == way::body && refused == 4) || (how == way::flow && refused == 1);
  const bool goes_back = refused != 0 && !survives;
  CHECK(ends == std::set<std::string>{goes_back ? "compensated" : "completed"});
  CHECK(explored.points >= 8);
  co_return explored.runs;
}

}  // namespace ledger

ASYNC_TEST("a coroutine saga killed at any point ends well, and money is neither made nor lost") {
  for (int refused = 0; refused <= 5; ++refused) {
    const auto runs = co_await ledger::explore(ledger::way::body, refused, false);
    CHECK(runs >= 9);
  }
}

ASYNC_TEST("a chain killed at any point ends well, and money is neither made nor lost") {
  for (const int refused : {0, 1, 2, 3, 5}) {
    const auto runs = co_await ledger::explore(ledger::way::chain, refused, false);
    CHECK(runs >= 9);
  }
}

ASYNC_TEST("a saga killed at any two points ends well") {
  const auto coroutine = co_await ledger::explore(ledger::way::body, 3, true);
  CHECK(coroutine > 100);
  const auto chain = co_await ledger::explore(ledger::way::chain, 2, true);
  CHECK(chain > 100);
}

ASYNC_TEST("races, calls, locks and branches undone side by side, killed at any point, end well") {
  for (int refused = 0; refused <= 4; ++refused) {
    const auto runs = co_await ledger::explore(ledger::way::flow, refused, false);
    CHECK(runs >= 9);
  }
}

ASYNC_TEST("a chain that races, repeats and calls, killed at any point, ends well") {
  for (const int refused : {0, 2, 4}) {
    const auto runs = co_await ledger::explore(ledger::way::loop, refused, false);
    CHECK(runs >= 9);
  }
}
