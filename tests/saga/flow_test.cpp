// How a saga's body may run: races, sagas that call sagas, deadlines, parts undone side by side; with and without a
// journal.
#include "async_test.hpp"
#include "error_of.hpp"
#include "state_of.hpp"

#include <cofferdam/core/deadline.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/saga/admin.hpp>
#include <cofferdam/saga/engine.hpp>

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <variant>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace flows {

using events = std::vector<std::string>;

struct diary {
  events lines;
  std::map<std::string, duration> takes;  // how long an action takes
  std::map<std::string, int> fails;       // how often it still fails
  std::map<std::string, int> polls;       // how often it is still not done
  duration poll_after = 1s;
  std::map<std::string, std::string> refuses;
  std::vector<std::uint32_t> attempts;
  duration undo_takes{};
  int undoing = 0, most_undoing = 0;
};

awaitable<std::string> act(saga::step_context& context, std::string what) {
  auto& d = context.get<diary>();
  d.lines.push_back("do " + what);
  d.attempts.push_back(context.attempt());
  if (d.takes[what] > duration()) co_await sleep_for(d.takes[what]);
  if (d.fails[what] > 0) {
    --d.fails[what];
    throw std::runtime_error(what + " is away");
  }
  if (d.polls[what] > 0) {
    --d.polls[what];
    throw saga::ongoing(d.poll_after);
  }
  if (d.refuses.contains(what)) throw saga::refused(d.refuses[what]);
  co_return what + "!";
}
awaitable<void> unact(saga::step_context& context, std::optional<std::string> result, std::string what) {
  auto& d = context.get<diary>();
  d.most_undoing = std::max(d.most_undoing, ++d.undoing);
  if (d.undo_takes > duration()) co_await sleep_for(d.undo_takes);
  --d.undoing;
  d.attempts.push_back(context.attempt());
  if (d.fails["undo " + what] > 0) {
    --d.fails["undo " + what];
    throw std::runtime_error("undo is away");
  }
  d.lines.push_back("undo " + what + (result ? "" : "?"));
}
constexpr auto do_it = saga::step<"do", &act, &unact>;
constexpr auto commit_it = saga::pivot<"commit", &act>;
constexpr auto send_it = saga::retriable<"send", &act>;

saga::task<std::string> one(saga::scope& s, std::string what) { co_return co_await s.run(do_it, what); }
saga::task<std::string> two(saga::scope& s, std::string what) {
  (void)co_await s.run(do_it, what + "1");
  co_return co_await s.run(do_it, what + "2");
}
saga::task<std::string> with_pivot(saga::scope& s, std::string what) { co_return co_await s.run(commit_it, what); }

saga::task<std::string> racing(saga::scope& s, std::string what) {
  (void)co_await s.run(do_it, std::string("first"));
  const auto won =
      co_await s.any(s.branch<"left">(two, std::string("left")), s.branch<"right">(one, std::string("right")));
  const std::string name = won.index() == 0 ? std::get<0>(won) : std::get<1>(won);
  co_return name + co_await s.run(do_it, what);
}
saga::task<std::string> racing_pivots(saga::scope& s, std::string) {
  const auto won = co_await s.any(s.branch<"left">(with_pivot, std::string("left")));
  co_return std::get<0>(won);
}

saga::task<std::string> parent(saga::scope& s, std::string what) {
  (void)co_await s.run(do_it, std::string("before"));
  const std::string child = co_await s.call<"part">(two, std::string("child"));
  co_return child + co_await s.run(do_it, what);
}

saga::task<std::string> slow(saga::scope& s, std::string what) {
  (void)co_await s.run(do_it, std::string("a"));
  co_await s.sleep(2h);
  co_return co_await s.run(do_it, what);
}
saga::task<std::string> paid(saga::scope& s, std::string what) {
  (void)co_await s.run(commit_it, std::string("paid"));
  co_return co_await s.run(send_it, what);
}
saga::task<std::string> slow_past_pivot(saga::scope& s, std::string what) {
  (void)co_await s.run(commit_it, std::string("paid"));
  co_await s.sleep(2h);
  co_return co_await s.run(send_it, what);
}

/// The loser waits for long when the winner comes.
saga::task<std::string> racing_a_sleeper(saga::scope& s, std::string what) {
  const auto won =
      co_await s.any(s.branch<"slow">(slow, std::string("late")), s.branch<"right">(one, std::string("right")));
  co_return std::get<1>(won) + co_await s.run(do_it, what);
}
saga::task<std::string> pair_and_more(saga::scope& s, std::string what) {
  (void)co_await s.all(s.branch<"left">(one, std::string("left")), s.branch<"right">(one, std::string("right")));
  co_return co_await s.run(do_it, what);
}
saga::task<std::string> left_and_right(saga::scope& s, std::string) {
  const auto both =
      co_await s.all(s.branch<"left">(one, std::string("left1")), s.branch<"right">(one, std::string("right")));
  co_return std::get<0>(both);
}
saga::task<std::string> beside_a_sleeper(saga::scope& s, std::string what) {
  const auto both = co_await s.all(s.branch<"slow">(slow, what), s.branch<"pair">(pair_and_more, std::string("more")));
  co_return std::get<1>(both);
}

saga::task<std::string> listening(saga::scope& s, std::string) {
  const auto word = co_await s.wait_signal<std::string>("word");
  co_return *word;
}
saga::task<std::string> beside_a_listener(saga::scope& s, std::string what) {
  const auto both = co_await s.all(s.branch<"ear">(listening, what), s.branch<"hand">(one, what));
  co_return std::get<0>(both) + std::get<1>(both);
}
saga::task<std::string> branching(saga::scope& s, std::string what) {
  (void)co_await s.run(do_it, std::string("first"));
  (void)co_await s.all(s.branch<"left">(two, std::string("left")), s.branch<"right">(two, std::string("right")))
      .undo_in_parallel();
  co_return co_await s.run(do_it, what);
}

saga::task<std::string> pair(saga::scope& s, std::string what) {
  (void)co_await s.all(s.branch<"left">(one, what + "1"), s.branch<"right">(one, what + "2")).undo_in_parallel();
  co_return what;
}
saga::task<std::string> failing_pair(saga::scope& s, std::string what) {
  (void)co_await s.all(s.branch<"left">(one, what + "1"), s.branch<"right">(one, what + "2")).undo_in_parallel();
  s.fail("no");
}
saga::task<std::string> caught_pair(saga::scope& s, std::string what) {
  try {
    co_return co_await s.nested<"part">(failing_pair, what);
  } catch (const saga::aborted&) {
  }
  co_return what;
}
saga::task<std::string> pairs(saga::scope& s, std::string what) {
  for (int i = 0; i < 5; ++i) (void)co_await s.nested<"more">(pair, what);
  co_return what;
}
saga::task<std::string> undoing_beside_pairs(saga::scope& s, std::string what) {
  const auto both =
      co_await s.all(s.branch<"back">(caught_pair, std::string("back")), s.branch<"on">(pairs, std::string("on")));
  co_return std::get<0>(both) + std::get<1>(both) + what;
}

saga::task<std::string> save_point(saga::scope& s, std::string what) {
  (void)co_await s.run(do_it, std::string("first"));
  for (int i = 0; i < 3; ++i) {
    bool is_back = false;
    try {
      co_return co_await s.nested<"try">(two, what);
    } catch (const saga::aborted&) {
      is_back = true;
    }
    if (is_back) co_await s.sleep(1min);
  }
  s.fail("three times in vain");
}

void define_all(saga::engine& e, diary& d) {
  e.provide(d);
  e.define("two", two, do_it);
  e.define("with_pivot", with_pivot, commit_it);
  e.define("racing", racing, do_it);
  e.define("racing_pivots", racing_pivots, commit_it);
  e.define("parent", parent, do_it);
  e.define("slow", slow, do_it);
  e.define("slow_past_pivot", slow_past_pivot, commit_it, send_it);
  e.define("paid", paid, commit_it, send_it);
  e.define("left_and_right", left_and_right, do_it);
  e.define("racing_a_sleeper", racing_a_sleeper, do_it);
  e.define("beside_a_sleeper", beside_a_sleeper, do_it);
  e.define("beside_a_listener", beside_a_listener, do_it);
  e.define("branching", branching, do_it);
  e.define("undoing_beside_pairs", undoing_beside_pairs, do_it);
  e.define("save_point", save_point, do_it);
}

bool has(const diary& d, const std::string& line) { return std::ranges::find(d.lines, line) != d.lines.end(); }

/// A body with and without a journal, and what became of it.
template <class Check>
awaitable<void> both_ways(saga::task<std::string> (*body)(saga::scope&, std::string), diary told, Check check) {
  {
    diary d = told;
    saga::engine engine;
    engine.provide(d);
    std::string result;
    try {
      result = co_await engine.execute("s-1", body, std::string("last"));
    } catch (const saga::saga_error& e) {
      result = e.what();
    }
    check(result, d);
  }
  database db = co_await database::open("sqlite::memory:");
  diary d = told;
  saga::engine engine = co_await saga::engine::open(db);
  define_all(engine, d);
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  std::string result;
  try {
    result = co_await engine.execute("s-1", body, std::string("last"));
  } catch (const saga::saga_error& e) {
    result = e.what();
  }
  check(result, d);
  co_await worker.stop();
  CHECK(engine.active() == 0);
}

}  // namespace flows

using flows::both_ways;
using flows::define_all;
using flows::diary;
using flows::events;

// --------------------------------------------------------------------------------------------------------------- races

ASYNC_TEST("the first branch of a race that succeeds wins, and what the others did is undone before the body goes on") {
  diary d;
  d.takes["left1"] = 1s;
  d.takes["left2"] = 1s;
  d.takes["right"] = 1500ms;
  const auto before = time.elapsed();
  co_await both_ways(flows::racing, d, [](const std::string& result, const diary& seen) {
    CHECK(result == "right!last!");
    CHECK(seen.lines == events{"do first", "do left1", "do right", "do left2", "undo left2?", "undo left1", "do last"});
  });
  CHECK(time.elapsed() - before < 4s);  // the attempt that lost was cancelled, twice
}

ASYNC_TEST("a branch of a race that fails leaves the race to the others, and is undone") {
  diary d;
  d.refuses["left2"] = "no";
  d.takes["right"] = 1s;
  co_await both_ways(flows::racing, d, [](const std::string& result, const diary& seen) {
    CHECK(result == "right!last!");
    CHECK(seen.lines == events{"do first", "do left1", "do right", "do left2", "undo left1", "do last"});
  });
}

ASYNC_TEST("a race that nobody wins is undone and fails with the first failure in the order of branches") {
  diary d;
  d.refuses["left2"] = "left says no";
  d.refuses["right"] = "right says no";
  co_await both_ways(flows::racing, d, [](const std::string& result, const diary& seen) {
    CHECK(result == "the saga 's-1' went back: the step 'do' was refused: left says no");
    CHECK(seen.lines == events{"do first", "do left1", "do right", "do left2", "undo left1", "undo first"});
  });
}

ASYNC_TEST("a race that is over does not wait for the time that its loser waited for") {
  diary d;
  d.takes["right"] = 1s;
  const auto before = time.elapsed();
  co_await both_ways(flows::racing_a_sleeper, d, [](const std::string& result, const diary& seen) {
    CHECK(result == "right!last!");
    CHECK(seen.lines == events{"do a", "do right", "undo a", "do last"});
  });
  CHECK(time.elapsed() - before < 1min);
}

ASYNC_TEST(
    "a race that is over, or branches of which one failed, do not wait for the long rest of another one's step") {
  diary d;
  d.takes["right"] = 1s;
  d.polls["left1"] = 1;
  d.poll_after = 1h;
  auto before = time.elapsed();
  co_await both_ways(flows::racing, d, [](const std::string& result, const diary& seen) {
    CHECK(result == "right!last!");
    CHECK(seen.lines == events{"do first", "do left1", "do right", "undo left1?", "do last"});
  });
  CHECK(time.elapsed() - before < 5s);
  d.refuses["right"] = "no";
  before = time.elapsed();
  co_await both_ways(flows::left_and_right, d, [](const std::string& result, const diary& seen) {
    CHECK(result == "the saga 's-1' went back: the step 'do' was refused: no");
    CHECK(seen.lines == events{"do left1", "do right", "undo left1?"});
  });
  CHECK(time.elapsed() - before < 5s);
}

ASYNC_TEST("a branch goes on after branches of its own, whatever another one waits for") {
  co_await both_ways(flows::beside_a_sleeper, diary(), [](const std::string& result, const diary& seen) {
    CHECK(result == "more!");
    CHECK(seen.lines == events{"do a", "do left", "do right", "do more", "do last"});
  });
}

ASYNC_TEST("a branch that waits for ever beside one that works looks only when something came") {
  database db = co_await database::open("sqlite::memory:");
  diary d;
  d.takes["x"] = 20s;
  saga::engine engine = co_await saga::engine::open(db);
  define_all(engine, d);
  auto started = co_await engine.start("s-1", flows::beside_a_listener, std::string("x"));
  co_await sleep_for(1s);
  const auto before = db.stats().queries;
  co_await sleep_for(10s);
  const auto after = db.stats().queries;
  CHECK(after == before);
  const std::string word = "now";
  co_await engine.signal("s-1", "word", word);
  const auto result = co_await started.result();
  CHECK(result == "nowx!");
}

ASYNC_TEST("a saga that goes back after a race undoes the winner, and the losers once") {
  diary d;
  d.takes["left1"] = 1s;
  d.refuses["last"] = "no";
  co_await both_ways(flows::racing, d, [](const std::string& result, const diary& seen) {
    CHECK(result == "the saga 's-1' went back: the step 'do' was refused: no");
    CHECK(seen.lines ==
          events{"do first", "do left1", "do right", "undo left1?", "do last", "undo right", "undo first"});
  });
}

ASYNC_TEST("a pivot cannot run in a race") {
  database db = co_await database::open("sqlite::memory:");
  diary d;
  saga::engine engine = co_await saga::engine::open(db);
  define_all(engine, d);
  (void)co_await engine.start("s-1", flows::racing_pivots, std::string("x"));
  co_await sleep_for(1s);
  saga::admin desk(db);
  const auto shown = co_await desk.show("s-1");
  CHECK(shown.info.state == saga::saga_state::stuck);
  CHECK(shown.info.reason ==
        "'left#1/commit#1' is a pivot, and cannot be undone when another branch of its race wins: let it follow the "
        "race");
  CHECK(d.lines.empty());
}

// ------------------------------------------------------------------------------------------------------------ children

ASYNC_TEST("a saga calls another, which has an id and a journal of its own, and gets its result") {
  co_await both_ways(flows::parent, diary(), [](const std::string& result, const diary& seen) {
    CHECK(result == "child2!last!");
    CHECK(seen.lines == events{"do before", "do child1", "do child2", "do last"});
  });
}

ASYNC_TEST("a child that goes back is a step that was refused") {
  diary d;
  d.refuses["child2"] = "no";
  co_await both_ways(flows::parent, d, [](const std::string& result, const diary& seen) {
    CHECK(result.ends_with("' was refused: went back: the step 'do' was refused: no"));
    CHECK(seen.lines == events{"do before", "do child1", "do child2", "undo child1", "undo before"});
  });
}

ASYNC_TEST("a saga that goes back undoes the child that has completed") {
  diary d;
  d.refuses["last"] = "no";
  co_await both_ways(flows::parent, d, [](const std::string& result, const diary& seen) {
    CHECK(result == "the saga 's-1' went back: the step 'do' was refused: no");
    CHECK(seen.lines ==
          events{"do before", "do child1", "do child2", "do last", "undo child2", "undo child1", "undo before"});
  });
}

// ----------------------------------------------------------------------------------------------------------- deadlines

ASYNC_TEST("a saga whose deadline is over goes back, wherever it waits or acts") {
  database db = co_await database::open("sqlite::memory:");
  diary d;
  saga::engine engine = co_await saga::engine::open(db);
  define_all(engine, d);
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  const saga::start_options within{.deadline = 1h};
  const auto waiting = co_await test::error_of(engine.execute("s-1", flows::slow, std::string("x"), within));
  CHECK(waiting == "the saga 's-1' went back: its deadline is over");
  CHECK(d.lines == events{"do a", "undo a"});
  CHECK(time.elapsed() >= 1h);
  CHECK(time.elapsed() < 1h + 1s);

  d = diary();
  d.takes["x1"] = 30s;
  d.takes["x2"] = 30s;
  const saga::start_options shorter{.deadline = 40s};
  const auto before = time.elapsed();
  const auto acting = co_await test::error_of(engine.execute("s-2", flows::two, std::string("x"), shorter));
  CHECK(acting == "the saga 's-2' went back: its deadline is over");
  CHECK(d.lines == events{"do x1", "do x2", "undo x2?", "undo x1"});
  CHECK(time.elapsed() - before < 41s);

  d = diary();
  const auto past = co_await engine.execute("s-3", flows::slow_past_pivot, std::string("x"), within);
  CHECK(past == "x!");  // there was no way back
  co_await worker.stop();

  saga::engine here;
  here.provide(d);
  d = diary();
  const auto without = co_await test::error_of(here.execute("s-4", flows::slow, std::string("x"), within));
  CHECK(without == "the saga 's-4' went back: its deadline is over");
  CHECK(d.lines == events{"do a", "undo a"});
}

ASYNC_TEST("attempts rest as long past a deadline as before it: behind the pivot, and on the way back") {
  diary d;
  saga::engine_options options;
  options.backoff.kind = options.undo_backoff.kind = backoff_kind::constant;
  options.backoff.base = options.undo_backoff.base = 1s;
  options.backoff.jitter = options.undo_backoff.jitter = jitter_kind::none;
  database db = co_await database::open("sqlite::memory:");
  saga::engine journaled = co_await saga::engine::open(db, options), here(options);
  define_all(journaled, d);
  here.provide(d);
  const saga::start_options within{.deadline = 5s};
  const std::array engines{&journaled, &here};
  for (saga::engine* const each : engines) {
    d = diary();
    d.fails["x"] = 20;
    auto before = time.elapsed();
    const auto past = co_await each->execute("s-1", flows::paid, std::string("x"), within);
    CHECK(past == "x!");
    CHECK(d.lines.size() == 22);
    CHECK(time.elapsed() - before >= 20s);
    CHECK(time.elapsed() - before < 21s);

    d = diary();
    d.polls["x"] = 20;
    before = time.elapsed();
    const auto polled = co_await each->execute("s-2", flows::paid, std::string("x"), within);
    CHECK(polled == "x!");
    CHECK(time.elapsed() - before >= 20s);
    CHECK(time.elapsed() - before < 21s);

    d = diary();
    d.fails["x2"] = 99;
    d.fails["undo x1"] = 10;
    before = time.elapsed();
    const auto back = co_await test::error_of(each->execute("s-3", flows::two, std::string("x"), within));
    CHECK(back.starts_with("the saga 's-3' went back: "));
    CHECK(time.elapsed() - before >= 13s);
    CHECK(time.elapsed() - before < 17s);
  }
}

// ------------------------------------------------------------------------------------------------------------- undoing

ASYNC_TEST("branches are undone side by side when the saga asks for it, each last first") {
  diary d;
  d.refuses["last"] = "no";
  d.undo_takes = 1s;
  co_await both_ways(flows::branching, d, [](const std::string& result, const diary& seen) {
    CHECK(result == "the saga 's-1' went back: the step 'do' was refused: no");
    CHECK(seen.most_undoing == 2);
    CHECK(seen.lines.back() == "undo first");
    const auto at = [&seen](const char* line) { return std::ranges::find(seen.lines, line) - seen.lines.begin(); };
    CHECK(at("undo left2") < at("undo left1"));
    CHECK(at("undo right2") < at("undo right1"));
    CHECK(seen.lines.size() == 11);
  });
}

ASYNC_TEST("branches are undone side by side while other branches begin more of that kind") {
  diary d;
  d.undo_takes = 1s;
  d.takes["on1"] = 300ms;
  co_await both_ways(flows::undoing_beside_pairs, d, [](const std::string& result, const diary& seen) {
    CHECK(result == "backonlast");
    CHECK(seen.most_undoing == 2);
    CHECK(std::ranges::count(seen.lines, "do on2") == 5);
    CHECK(std::ranges::count(seen.lines, "undo back1") == 1);
    CHECK(std::ranges::count(seen.lines, "undo back2") == 1);
  });
}

ASYNC_TEST("a part that is undone alone can be tried again: a save point") {
  diary d;
  d.refuses["last2"] = "no";
  co_await both_ways(flows::save_point, d, [](const std::string& result, const diary& seen) {
    CHECK(result == "the saga 's-1' went back: three times in vain");
    CHECK(std::ranges::count(seen.lines, "undo last1") == 3);
    CHECK(seen.lines.back() == "undo first");
  });
}

// ------------------------------------------------------------------------------------------------------------ attempts

ASYNC_TEST("attempts are counted on by a worker that takes over, and a long rest between them leaves the memory") {
  database db = co_await database::open("sqlite::memory:");
  diary d;
  d.fails["x1"] = 2;
  saga::engine_options options;
  options.backoff.kind = backoff_kind::constant;
  options.backoff.base = 1min;
  options.backoff.cap = 1min;
  options.backoff.jitter = jitter_kind::none;
  saga::engine first = co_await saga::engine::open(db, options);
  define_all(first, d);
  auto started = co_await first.start("s-1", flows::two, std::string("x"));
  co_await sleep_for(1s);
  CHECK(first.active() == 0);
  const auto state = co_await test::state_of(db, "s-1");
  CHECK(state == "waiting");
  saga::engine second = co_await saga::engine::open(db, options);
  define_all(second, d);
  (void)co_await second.run_due();
  CHECK(d.lines == events{"do x1"});  // it rests
  co_await sleep_for(1min);
  (void)co_await second.run_due();
  CHECK(d.attempts == std::vector<std::uint32_t>{1, 2});
  saga::admin desk(db);
  co_await desk.retry_now("s-1", {"ada", "it is back"});
  (void)co_await second.run_due();
  CHECK(d.attempts == std::vector<std::uint32_t>{1, 2, 3, 1});
  const auto result = co_await started.result();
  CHECK(result == "x2!");
  const auto shown = co_await desk.show("s-1");
  CHECK(std::ranges::count(shown.entries, "attempted", &saga::saga_entry::kind) == 1);  // the last one counts
}

ASYNC_TEST("attempts of an undo are counted on, too, and limited over all takeovers") {
  database db = co_await database::open("sqlite::memory:");
  diary d;
  d.fails["undo x1"] = 2;
  d.refuses["x2"] = "no";
  saga::engine_options options;
  options.undo_backoff.kind = backoff_kind::constant;
  options.undo_backoff.base = 1h;
  options.undo_backoff.cap = 1h;
  options.undo_backoff.jitter = jitter_kind::none;
  saga::engine engine = co_await saga::engine::open(db, options);
  define_all(engine, d);
  const auto executor = co_await net::this_coro::executor;
  auto started = co_await engine.start("s-1", flows::two, std::string("x"));
  co_await sleep_for(1s);
  CHECK(engine.active() == 0);
  const auto state = co_await test::state_of(db, "s-1");
  CHECK(state == "compensating");
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  const auto why = co_await test::error_of(started.result());
  CHECK(why == "the saga 's-1' went back: the step 'do' was refused: no");
  CHECK(d.attempts == std::vector<std::uint32_t>{1, 1, 1, 2, 3});
  CHECK(time.elapsed() >= 2h);
  CHECK(time.elapsed() < 2h + 5s);
  co_await worker.stop();
}

// -------------------------------------------------------------------------------------------------------------- limits

ASYNC_TEST("sagas beyond max_active wait in the database until there is room, those that are started, too") {
  database db = co_await database::open("sqlite::memory:");
  diary d;
  d.takes["x1"] = 10s;
  saga::engine_options options;
  options.max_active = 2;
  saga::engine engine = co_await saga::engine::open(db, options);
  define_all(engine, d);
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  std::vector<saga::handle<std::string>> started;
  for (int i = 0; i < 5; ++i) {
    started.push_back(co_await engine.start("s-" + std::to_string(i), flows::two, std::string("x")));
  }
  CHECK(engine.active() == 2);
  co_await sleep_for(1s);
  CHECK(d.lines.size() == 2);
  for (auto& each : started) {
    const auto result = co_await each.result();
    CHECK(result == "x2!");
  }
  CHECK(time.elapsed() >= 30s);
  CHECK(time.elapsed() < 32s);
  const auto again = co_await engine.start("s-4", flows::two, std::string("x"));
  CHECK(again.id() == "s-4");
  co_await worker.stop();
}

namespace flows {
int guards = 0;
struct guard {
  guard() { ++guards; }
  guard(const guard&) = delete;
  guard& operator=(const guard&) = delete;
  ~guard() { --guards; }
};
saga::task<std::string> guarded(saga::scope& s, std::string what) {
  const guard held;
  (void)co_await s.wait_signal<int>("go");
  co_return what;
}
awaitable<void> start_guarded(database& db, std::optional<saga::engine>& engine) {
  engine.emplace(co_await saga::engine::open(db));
  engine->define("guarded", guarded);
  for (int i = 0; i < 10; ++i) (void)co_await engine->start("g-" + std::to_string(i), guarded, std::string("x"));
}
}  // namespace flows

TEST_CASE(
    "a saga that waits holds nothing: its frames are gone, their destructors ran, and run() of the context returns") {
  net::io_context context;
  std::optional<database> db;
  std::optional<saga::engine> engine;
  const auto work = [&]() -> awaitable<void> {
    db.emplace(co_await database::open("sqlite::memory:"));
    co_await flows::start_guarded(*db, engine);
  };
  spawn(context, work);
  context.run();
  CHECK(engine->active() == 0);
  CHECK(flows::guards == 0);
  context.restart();
  std::string result;
  const auto wake = [&]() -> awaitable<void> {
    const int word = 1;
    co_await engine->signal("g-3", "go", word);
    (void)co_await engine->run_due();
    result = co_await engine->find<std::string>("g-3").result();
  };
  spawn(context, wake);
  context.run();
  CHECK(result == "x");
  CHECK(flows::guards == 0);
  engine.reset();
  db.reset();
}
