// Sagas in which many things happen, killed at every point.
#include "ledger.hpp"

using namespace cofferdam;
using namespace cofferdam::saga::literals;
using namespace std::chrono_literals;
using namespace cofferdam::test::ledger;

namespace dying {

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

/// Everything that has a way of its own to be undone.
saga::task<int> flow(saga::scope& s, transfer t) {
  co_await s.lock("account");
  (void)co_await s.run(take, -t.amount, false);
  const auto won = co_await s.any(s.branch<"slow">(slow_part, 9), s.branch<"fast">(part, 2, t.refused == 1));
  const int moved = won.index() == 0 ? std::get<0>(won) : std::get<1>(won);
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

void define(saga::engine& e) {
  e.define("transfer", body, take, lend, give, tell);
  e.define(links);
  e.define("flow", flow, take, lend, give);
  e.define("child", child, take, lend);
  e.define(looping);
}

awaitable<void> say_go(saga::engine& e) {
  const int word = 7;
  try {
    co_await e.signal("t-1", "go", word, "message-1");
  } catch (const saga::saga_error& wrong) {
    if (wrong.code() != errc::saga_wrong_state) throw;  // it has ended before
  }
}

template <class Saga> awaitable<void> die(const Saga& what, int refused, bool goes_back) {
  const transfer t{100, refused};
  const auto begin = [&what, t](saga::engine& e, world&) -> awaitable<void> {
    (void)co_await e.start("t-1", what, t);
    co_await say_go(e);
  };
  const endings expected{{"t-1", {goes_back ? "compensated" : "completed"}}};
  const auto explored = co_await explore(define, begin, expected, 0);
  CHECK(explored.points >= 8);
}

}  // namespace dying

ASYNC_TEST("a coroutine saga killed at any point ends well, and money is neither made nor lost") {
  for (int refused = 0; refused <= 5; ++refused) {
    co_await dying::die(dying::body, refused, refused != 0 && refused != 4);
  }
}

ASYNC_TEST("a chain killed at any point ends well, and money is neither made nor lost") {
  for (const int refused : {0, 1, 2, 3, 5}) co_await dying::die(dying::links, refused, refused != 0);
}

ASYNC_TEST("races, calls, locks and branches undone side by side, killed at any point, end well") {
  for (int refused = 0; refused <= 4; ++refused) co_await dying::die(dying::flow, refused, refused > 1);
}

ASYNC_TEST("a chain that races, repeats and calls, killed at any point, ends well") {
  for (const int refused : {0, 2, 4}) co_await dying::die(dying::looping, refused, refused != 0);
}
