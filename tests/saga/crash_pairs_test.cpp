// Each way to get on and to be undone in a saga of its own, killed at one of ten pairs of points: COFFERDAM_CRASH_PAIRS
// says at one of how many (1: all), COFFERDAM_SAGA_SEED at which ones.
#include "count_from.hpp"
#include "ledger.hpp"

using namespace cofferdam;
using namespace cofferdam::saga::literals;
using namespace std::chrono_literals;
using namespace cofferdam::test::ledger;

namespace dying_twice {

using task = saga::task<int>;

task plain(saga::scope& s, transfer t) {
  const int amount = co_await s.run(look, t.amount);
  (void)co_await s.run(take, -t.amount, false);
  const int same = co_await s.run(look, amount);
  (void)co_await s.run(lend, 0, t.refused == 1);
  (void)co_await s.wait_signal<int>("never", 1h);
  const int given = co_await s.run(give, same, t.refused == 2);
  (void)co_await s.run(look, given);
  (void)co_await s.run(tell, 0, false);
  co_return given;
}
task racing(saga::scope& s, transfer t) {
  const auto won = co_await s.any(s.branch<"slow">(slow_part, 9), s.branch<"fast">(part, 2, t.refused == 1));
  const int moved = won.index() == 0 ? std::get<0>(won) : std::get<1>(won);
  co_return co_await s.run(give, -moved, t.refused == 2);
}
task racing_in_vain(saga::scope& s, transfer) {
  int moved = 0;
  try {
    const auto won = co_await s.any(s.branch<"a">(part, 1, true), s.branch<"b">(part, 2, true));
    moved = won.index() == 0 ? std::get<0>(won) : std::get<1>(won);
  } catch (const saga::aborted&) {  // then without it
  }
  const int first = co_await s.run(take, -4, false);
  co_return co_await s.run(give, -moved - first, false);
}
task calling(saga::scope& s, transfer t) {
  const int called = co_await s.call<"child">(child, t);
  (void)co_await s.run(take, -called, false);
  co_return co_await s.run(give, 0, t.refused == 1);
}
task calling_in_a_race(saga::scope& s, transfer t) {
  const int moved = co_await s.call<"child">(child, t);
  co_return moved;
}
task racing_calls(saga::scope& s, transfer t) {
  const auto won = co_await s.any(s.branch<"called">(calling_in_a_race, t), s.branch<"fast">(part, 2, false));
  const int moved = won.index() == 0 ? std::get<0>(won) : std::get<1>(won);
  co_return co_await s.run(give, -moved, t.refused == 1);
}
/// Back to the save point until the third time, or for good.
task trying(saga::scope& s, transfer t) {
  (void)co_await s.run(take, -t.amount, false);
  for (int i = 0; i < 3; ++i) {
    bool is_back = false;
    try {
      (void)co_await s.nested<"try">(part, t.amount, t.refused == 1 || i < 2);
    } catch (const saga::aborted&) {
      is_back = true;
    }
    if (!is_back) co_return co_await s.run(give, 0, t.refused == 2);
    co_await s.sleep(1min);
  }
  s.fail("three times in vain");
}
constexpr auto repeating =
    saga::start<transfer>("repeating") |
    saga::repeat<"round">(
        [](const auto& s) { return s["round"_s] < 3; },
        saga::step<"again">([](const auto& s) {
          return move(s.context(), int(s["round"_s]), s.input().refused == 1 && s["round"_s] == 2);
        }).undo([](const auto& s) { return move_back_known(s.context(), s["again"_s], int(s["round"_s]), false); }),
        saga::pause(1min)) |
    saga::pivot<"give">([](const auto& s) { return move(s.context(), -6, s.input().refused == 2); });
task locking(saga::scope& s, transfer t) {
  co_await s.lock("account");
  (void)co_await s.run(take, -t.amount, false);
  co_return co_await s.run(give, t.amount, t.refused == 1);
}
task branching(saga::scope& s, transfer t) {
  (void)co_await s.run(take, -t.amount, false);
  (void)co_await s.all(s.branch<"left">(part, 1, false), s.branch<"right">(part, -1, t.refused == 1))
      .undo_in_parallel();
  co_return co_await s.run(give, t.amount, t.refused == 2);
}
task waiting(saga::scope& s, transfer t) {
  (void)co_await s.run(take, -t.amount, false);
  co_await s.sleep(1h);
  (void)co_await s.run(lend, 0, false);
  co_return co_await s.run(give, t.amount, false);
}

/// At a service that knows nothing of sagas but what its barrier tells it.
awaitable<int> book(saga::step_context& context, int amount, bool is_refused) {
  co_await sleep_for(1ms);
  if (is_refused) throw saga::refused("no");
  const saga::participant_call call(context);
  batch work;  // a second time would violate the primary key
  work.execute("insert into bookings(key, amount) values($1, $2)", context.idempotency_key(), amount);
  const auto answer = co_await context.get<world>().gate->act(call, std::move(work), amount);
  if (!answer.result) throw std::runtime_error("the hotel does not know us any more");
  co_return *answer.result;
}
awaitable<void> unbook(saga::step_context& context, std::optional<int>, int, bool) {
  const saga::participant_call call(context);
  batch work;
  work.execute("delete from bookings where key = $1", key_undone_by(context));
  (void)co_await context.get<world>().gate->undo(call, std::move(work));
}
constexpr auto book_it = saga::step<"book", &book, &unbook>;
task booking(saga::scope& s, transfer t) {
  const int booked = co_await s.run(book_it, t.amount, false);
  const int back = co_await s.run(book_it, -t.amount, t.refused == 1);
  co_return co_await s.run(give, -booked - back, t.refused == 2);
}
awaitable<void> open_hotel(world& w) {
  if (w.gate) co_return;
  w.hotel.emplace(co_await database::open("sqlite::memory:"));
  batch b;
  b.execute("create table bookings(key text primary key, amount bigint not null)");
  co_await w.hotel->commit(std::move(b));
  w.gate.emplace(co_await saga::barrier::open(*w.hotel));
}

void define(saga::engine& e) {
  e.define("plain", plain, take, lend, give, tell, look);
  e.define("racing", racing, take, lend, give);
  e.define("racing in vain", racing_in_vain, take, lend, give);
  e.define("child", child, take, lend);
  e.define("calling", calling, take, give);
  e.define("racing calls", racing_calls, take, lend, give);
  e.define("trying", trying, take, lend, give);
  e.define(repeating);
  e.define("locking", locking, take, give);
  e.define("branching", branching, take, lend, give);
  e.define("waiting", waiting, take, lend, give);
  e.define("booking", booking, book_it, give);
}

const endings completes{{"t-1", {"completed"}}};
const endings goes_back{{"t-1", {"compensated"}}};

awaitable<void> die_twice(std::function<awaitable<void>(saga::engine&, world&)> begin, endings expected) {
  const auto pairs = static_cast<std::size_t>(test::count_from("COFFERDAM_CRASH_PAIRS", 10));
  const auto seed = test::count_from("COFFERDAM_SAGA_SEED", 1);
  const auto explored = co_await explore(define, std::move(begin), std::move(expected), pairs, seed);
  CHECK(explored.points >= 8);
  CHECK(explored.runs > explored.points + 1);  // some died twice
}
template <class Saga> awaitable<void> die_twice(const Saga& what, int refused, endings expected) {
  const transfer t{100, refused};
  const auto begin = [&what, t](saga::engine& e, world& w) -> awaitable<void> {
    co_await open_hotel(w);
    (void)co_await e.start("t-1", what, t);
  };
  co_await die_twice(begin, std::move(expected));
}

}  // namespace dying_twice

using dying_twice::completes;
using dying_twice::die_twice;
using dying_twice::goes_back;

ASYNC_TEST("steps, a wait, a pivot and looks between them, killed at any two points, end well", "[torture]") {
  co_await die_twice(dying_twice::plain, 0, completes);
  co_await die_twice(dying_twice::plain, 1, goes_back);
  co_await die_twice(dying_twice::plain, 2, goes_back);
}

ASYNC_TEST("a race killed at any two points is decided once, and its losers are undone", "[torture]") {
  co_await die_twice(dying_twice::racing, 0, completes);
  co_await die_twice(dying_twice::racing, 1, completes);
  co_await die_twice(dying_twice::racing, 2, goes_back);
  co_await die_twice(dying_twice::racing_in_vain, 0, completes);
}

ASYNC_TEST("a saga and its child, killed at any two points, end in the same way", "[torture]") {
  const endings both_go_back{{"t-1", {"compensated"}}, {"t-1/child#1", {"compensated"}}};
  co_await die_twice(dying_twice::calling, 0, completes);
  co_await die_twice(dying_twice::calling, 1, both_go_back);
  co_await die_twice(dying_twice::calling, 2, both_go_back);
  co_await die_twice(dying_twice::racing_calls, 0, completes);
  co_await die_twice(dying_twice::racing_calls, 1, goes_back);  // the race may be over before the child is there
}

ASYNC_TEST("a saga that goes back to its save point, killed at any two points, tries as often as it should",
           "[torture]") {
  for (const int refused : {0, 1, 2}) {
    co_await die_twice(dying_twice::trying, refused, refused == 0 ? completes : goes_back);
  }
}

ASYNC_TEST("a chain that repeats, killed at any two points, ends well", "[torture]") {
  for (const int refused : {0, 1, 2}) {
    co_await die_twice(dying_twice::repeating, refused, refused == 0 ? completes : goes_back);
  }
}

ASYNC_TEST("sagas that want the same lock, killed at any two points, both end, and the lock is free", "[torture]") {
  const auto begin = [](saga::engine& e, world&) -> awaitable<void> {
    const transfer refused{100, 1}, fine{10, 0};
    (void)co_await e.start("t-1", dying_twice::locking, refused);
    (void)co_await e.start("t-2", dying_twice::locking, fine);
  };
  const endings expected{{"t-1", {"compensated"}}, {"t-2", {"completed"}}};
  co_await die_twice(begin, expected);
}

ASYNC_TEST("branches killed at any two points end well, also when they are undone side by side", "[torture]") {
  for (const int refused : {0, 1, 2}) {
    co_await die_twice(dying_twice::branching, refused, refused == 0 ? completes : goes_back);
  }
}

ASYNC_TEST("a saga whose deadline passes, killed at any two points, goes back unless it is past its pivot",
           "[torture]") {
  const auto late = [](saga::engine& e, world&) -> awaitable<void> {
    const transfer t{100, 0};
    const saga::start_options within{.deadline = 30min};
    (void)co_await e.start("t-1", dying_twice::waiting, t, within);
  };
  co_await die_twice(late, goes_back);
  // Two takeovers may take longer than this one has: it must be one or the other.
  const auto tight = [](saga::engine& e, world&) -> awaitable<void> {
    const transfer t{100, 0};
    const saga::start_options within{.deadline = 1h + 10s};
    (void)co_await e.start("t-1", dying_twice::waiting, t, within);
  };
  const endings either{{"t-1", {"completed", "compensated"}}};
  co_await die_twice(tight, either);
}

ASYNC_TEST("a saga that is cancelled, killed at any two points, goes back", "[torture]") {
  const auto begin = [](saga::engine& e, world&) -> awaitable<void> {
    const transfer t{100, 0};
    (void)co_await e.start("t-1", dying_twice::waiting, t);
    co_await e.cancel("t-1", "changed my mind");
  };
  co_await die_twice(begin, goes_back);
}

ASYNC_TEST("a saga and a service with a barrier, killed at any two points, agree", "[torture]") {
  for (const int refused : {0, 1, 2}) {
    co_await die_twice(dying_twice::booking, refused, refused == 0 ? completes : goes_back);
  }
}
