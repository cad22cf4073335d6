// The dry run of journals against a build: what would it do with sagas on their way, and with those that ended?
#include "async_test.hpp"
#include "error_of.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/saga/admin.hpp>
#include <cofferdam/saga/chain.hpp>
#include <cofferdam/saga/testing.hpp>

#include <fstream>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace dry {

int performed = 0;

awaitable<int> act(saga::step_context&, int n) {
  ++performed;
  if (n == 13) throw saga::refused("unlucky");
  co_return n;
}
awaitable<void> unact(saga::step_context&, int) {
  ++performed;
  co_return;
}
constexpr auto a = saga::step<"a", &act, &unact>;
constexpr auto b = saga::step<"b", &act, &unact>;
constexpr auto c = saga::step<"c", &act, &unact>;
constexpr auto no_way_back = saga::pivot<"no way back", &act>;

awaitable<void> speak(saga::step_context&, std::string) { co_return; }
constexpr auto say = saga::step<"say", &speak>;

saga::task<int> side(saga::scope& s, int n) {
  const int first = co_await s.run(a, n);
  co_await s.sleep(1h);
  co_return first + co_await s.run(b, n);
}
saga::task<int> side_changed(saga::scope& s, int n) {
  const int first = co_await s.run(c, n);
  co_await s.sleep(1h);
  co_return first + co_await s.run(b, n);
}

/// Waits with a step, and two branches in the middle of their ways, behind it.
saga::task<int> original(saga::scope& s, int n) {
  const int first = co_await s.run(a, n);
  const auto pair = co_await s.all(s.branch<"left">(side, 1), s.branch<"right">(side, 2));
  co_return first + std::get<0>(pair) + std::get<1>(pair) + co_await s.run(b, n);
}
saga::task<int> with_other_arguments(saga::scope& s, int n) {
  const int first = co_await s.run(a, n + 1);
  const auto pair = co_await s.all(s.branch<"left">(side, 1), s.branch<"right">(side, 2));
  co_return first + std::get<0>(pair);
}
saga::task<int> with_another_branch(saga::scope& s, int n) {
  const int first = co_await s.run(a, n);
  const auto pair = co_await s.all(s.branch<"left">(side, 1), s.branch<"right">(side_changed, 2));
  co_return first + std::get<0>(pair);
}
saga::task<int> without_branches(saga::scope& s, int n) { co_return co_await s.run(a, n); }
saga::task<int> with_more_behind(saga::scope& s, int n) {
  const int first = co_await s.run(a, n);
  const auto pair = co_await s.all(s.branch<"left">(side, 1), s.branch<"right">(side, 2));
  const bool is_new = co_await s.patched("more");
  if (is_new) (void)co_await s.run(c, n);
  co_return first + std::get<0>(pair);
}
saga::task<int> with_text(saga::scope& s, std::string text) {
  co_return co_await s.run(a, static_cast<int>(text.size()));
}

saga::task<int> without_branches_but_fails(saga::scope& s, int n) {
  (void)co_await s.run(a, n);
  s.fail("no");
}

/// Waits with a lock, a race and a child behind it.
saga::task<int> quick(saga::scope& s, int n) { co_return co_await s.run(a, n); }
saga::task<int> forked(saga::scope& s, int n) {
  co_await s.lock("account:7");
  const auto won = co_await s.any(s.branch<"slow">(side, 1), s.branch<"quick">(quick, n));
  const int moved = co_await s.call<"part">(quick, n);
  co_await s.sleep(1h);
  co_return moved + (won.index() == 0 ? std::get<0>(won) : std::get<1>(won));
}
saga::task<int> forked_without_lock(saga::scope& s, int n) {
  const auto won = co_await s.any(s.branch<"slow">(side, 1), s.branch<"quick">(quick, n));
  const int moved = co_await s.call<"part">(quick, n);
  co_await s.sleep(1h);
  co_return moved + (won.index() == 0 ? std::get<0>(won) : std::get<1>(won));
}
saga::task<int> forked_otherwise(saga::scope& s, int n) {
  co_await s.lock("account:7");
  const auto won = co_await s.any(s.branch<"slow">(side, 1), s.branch<"fast">(quick, n));
  co_return won.index() == 0 ? std::get<0>(won) : std::get<1>(won);
}
saga::task<int> forked_with_another_child(saga::scope& s, int n) {
  co_await s.lock("account:7");
  const auto won = co_await s.any(s.branch<"slow">(side, 1), s.branch<"quick">(quick, n));
  const int moved = co_await s.call<"part">(quick, n + 1);
  co_return moved + (won.index() == 0 ? std::get<0>(won) : std::get<1>(won));
}
saga::task<int> forked_with_a_winner_that_fails(saga::scope& s, int n) {
  co_await s.lock("account:7");
  const auto won = co_await s.any(s.branch<"slow">(side, 1), s.branch<"quick">(without_branches_but_fails, n));
  co_return won.index() == 0 ? std::get<0>(won) : std::get<1>(won);
}

/// All that its journal has, but for the first step, is in branches.
saga::task<int> with_more_before(saga::scope& s, int n) {
  const int first = co_await s.run(a, n);
  (void)co_await s.run(c, n);
  const auto pair = co_await s.all(s.branch<"left">(side, 1), s.branch<"right">(side, 2));
  co_return first + std::get<0>(pair) + std::get<1>(pair) + co_await s.run(b, n);
}
saga::task<int> with_more_before_in_new_ones(saga::scope& s, int n) {
  const int first = co_await s.run(a, n);
  const bool is_new = co_await s.patched("more");
  if (is_new) (void)co_await s.run(c, n);
  const auto pair = co_await s.all(s.branch<"left">(side, 1), s.branch<"right">(side, 2));
  co_return first + std::get<0>(pair) + std::get<1>(pair) + co_await s.run(b, n);
}

/// What is new is in branches, a race, a part or a round, which have no record of their own in the journal.
saga::task<int> long_ago(saga::scope& s, int n) {
  const int first = co_await s.run(a, n);
  const int nested = co_await s.nested<"part">(quick, 1);
  const auto pair = co_await s.all(s.branch<"left">(quick, 2), s.branch<"right">(side, 3));
  const int last = co_await s.run(b, n);
  co_await s.sleep(1h);
  co_return first + nested + std::get<0>(pair) + last;
}
saga::task<int> quick_c(saga::scope& s, int n) { co_return co_await s.run(c, n); }
saga::task<int> quick_and_c(saga::scope& s, int n) {
  const int first = co_await s.run(a, n);
  co_return first + co_await s.run(c, n);
}
saga::task<bool> asks(saga::scope& s, int) { co_return co_await s.patched("more"); }
template <int Place> saga::task<int> with_news(saga::scope& s, int n) {
  int sum = co_await s.run(a, n);
  if constexpr (Place == 0) {
    const auto both = co_await s.all(s.branch<"x">(quick_c, 1), s.branch<"y">(quick_c, 2));
    sum += std::get<0>(both);
  }
  if constexpr (Place == 1) {
    const auto won = co_await s.any(s.branch<"x">(quick_c, 1), s.branch<"y">(quick_c, 2));
    sum += static_cast<int>(won.index());
  }
  if constexpr (Place == 2) sum += co_await s.nested<"new">(quick_c, 1);
  if constexpr (Place == 3) {
    sum += co_await s.nested<"part">(quick_and_c, 1);
  } else {
    sum += co_await s.nested<"part">(quick, 1);
  }
  if constexpr (Place == 4) {
    const auto pair = co_await s.all(s.branch<"left">(quick_and_c, 2), s.branch<"right">(side, 3));
    sum += std::get<0>(pair);
  } else if constexpr (Place == 5) {
    const auto three =
        co_await s.all(s.branch<"middle">(quick_c, 2), s.branch<"left">(quick, 2), s.branch<"right">(side, 3));
    sum += std::get<0>(three);
  } else {
    const auto pair = co_await s.all(s.branch<"left">(quick, 2), s.branch<"right">(side, 3));
    sum += std::get<0>(pair);
  }
  if constexpr (Place == 6) {
    const bool is_new = co_await s.nested<"asks">(asks, n);
    if (is_new) sum += co_await s.run(c, n);
  }
  sum += co_await s.run(b, n);
  co_await s.sleep(1h);
  co_return sum;
}

/// Goes on without what is too long to be written down.
saga::task<int> with_a_long_argument(saga::scope& s, int n) {
  bool is_too_long = false;
  try {
    (void)co_await s.run(say, std::string(200, 'x'));
  } catch (const saga::step_failed& e) {
    is_too_long = e.code() == "payload_too_large";
  }
  const int first = co_await s.run(no_way_back, n);
  co_await s.sleep(1h);
  co_return is_too_long ? first : 0;
}

/// One name for different things.
saga::task<int> named_part(saga::scope& s, int n) { co_return co_await s.nested<"a">(side, n); }
saga::task<int> named_step(saga::scope& s, int n) {
  const int first = co_await s.run(a, n);
  co_await s.sleep(1h);
  co_return first;
}
saga::task<int> named_branch(saga::scope& s, int n) {
  const auto only = co_await s.all(s.branch<"a">(side, n));
  co_return std::get<0>(only);
}
saga::task<int> named_child(saga::scope& s, int n) { co_return co_await s.call<"a">(quick, n); }
saga::task<int> named_mark(saga::scope& s, int n) {
  const bool is_new = co_await s.patched("a");
  co_return is_new ? n : 0;
}

using body = saga::task<int> (*)(saga::scope&, int);

/// What a build with this body says of a saga that the original one began.
awaitable<std::string> verdict(database& db, body changed) {
  saga::engine engine = co_await saga::engine::open(db);
  engine.define("dry", changed, a, b, c);
  engine.define("quick", quick, a);
  const auto report = co_await engine.check();
  CHECK(report.checked == 1);
  co_return report.drifts.empty() ? "agrees" : report.drifts.front().message();
}

awaitable<void> begin(database& db, int n, body first = original) {
  saga::engine engine = co_await saga::engine::open(db);
  engine.define("dry", first, a, b);
  engine.define("quick", quick, a);
  (void)co_await engine.start("d-1", first, n);
  co_await sleep_for(1s);
  (void)co_await engine.run_due();  // children are anybody's work
}

/// A history of a saga that ended.
awaitable<nlohmann::json> recorded(int n) {
  database db = co_await database::open("sqlite::memory:");
  co_await begin(db, n);
  saga::engine engine = co_await saga::engine::open(db);
  engine.define("dry", original, a, b);
  co_await sleep_for(2h);
  (void)co_await engine.run_due();
  saga::admin desk(db);
  co_return co_await desk.export_history("d-1");
}

}  // namespace dry

ASYNC_TEST("a build that goes on as sagas began is told so, and nothing is performed or written") {
  database db = co_await database::open("sqlite::memory:");
  co_await dry::begin(db, 7);
  saga::admin desk(db);
  const auto before = co_await desk.export_history("d-1");
  dry::performed = 0;
  const auto same = co_await dry::verdict(db, dry::original);
  CHECK(same == "agrees");
  const auto more = co_await dry::verdict(db, dry::with_more_behind);
  CHECK(more == "agrees");
  CHECK(dry::performed == 0);
  const auto after = co_await desk.export_history("d-1");
  CHECK(after == before);
}

ASYNC_TEST("what a changed build would do is told with the saga, the place and both versions") {
  database db = co_await database::open("sqlite::memory:");
  co_await dry::begin(db, 7);
  const std::string head = "the saga 'd-1' ('dry', version 1)";
  const auto arguments = co_await dry::verdict(db, dry::with_other_arguments);
  CHECK(arguments == head + " at 'a#1': its journal has 'a' with [7], this build does 'a' with [8]");
  const auto branch = co_await dry::verdict(db, dry::with_another_branch);
  CHECK(branch == head + ": its journal has 'right#1/a#1', 'right#1/sleep#1', this build does 'right#1/c#1'");
  const auto shorter = co_await dry::verdict(db, dry::without_branches);
  CHECK(shorter == head +
                       ": its journal has 'left#1/a#1', 'right#1/a#1', 'left#1/sleep#1', 'right#1/sleep#1', this build "
                       "ends before that");
}

ASYNC_TEST("what is added before branches is noticed, though all that the journal has is in the branches") {
  database db = co_await database::open("sqlite::memory:");
  co_await dry::begin(db, 7);
  dry::performed = 0;
  const auto before = co_await dry::verdict(db, dry::with_more_before);
  CHECK(before ==
        "the saga 'd-1' ('dry', version 1): its journal has 'left#1/a#1', 'right#1/a#1', 'left#1/sleep#1', "
        "'right#1/sleep#1', this build does 'c#1'");
  const auto patched = co_await dry::verdict(db, dry::with_more_before_in_new_ones);
  CHECK(patched == "agrees");
  // The same of a worker that goes on with it.
  saga::engine engine = co_await saga::engine::open(db);
  engine.define("dry", dry::with_more_before_in_new_ones, dry::a, dry::b, dry::c);
  co_await sleep_for(2h);
  (void)co_await engine.run_due();
  const auto sum = co_await engine.find<int>("d-1").result();
  CHECK(sum == 20);
  CHECK(dry::performed == 3);  // what was to come, in both branches and behind them
}

ASYNC_TEST("branches, races and parts that are new before what the journal has are noticed, and their saga is parked") {
  const std::string part = "'part#1/a#1', ", rest = "'left#1/a#1', 'right#1/a#1', 'right#1/sleep#1', 'right#1/b#1', ",
                    last = "'b#1', 'sleep#1'";
  struct {
    dry::body build;
    std::string journal, does;
  } const news[] = {{dry::with_news<0>, part + rest + last, "x#1/c#1"},
                    {dry::with_news<1>, part + rest + last, "x#1/c#1"},
                    {dry::with_news<2>, part + rest + last, "new#1/c#1"},
                    {dry::with_news<3>, rest + last, "part#1/c#1"},
                    {dry::with_news<4>, last, "left#1/c#1"},
                    {dry::with_news<5>, last, "middle#1/c#1"}};
  for (const auto& each : news) {
    database db = co_await database::open("sqlite::memory:");
    co_await dry::begin(db, 7, dry::long_ago);
    co_await sleep_for(1h);
    saga::engine old = co_await saga::engine::open(db);
    old.define("dry", dry::long_ago, dry::a, dry::b);
    (void)co_await old.run_due();
    dry::performed = 0;
    const auto drift = co_await dry::verdict(db, each.build);
    CHECK(drift == "the saga 'd-1' ('dry', version 1): its journal has " + each.journal + ", this build does '" +
                       each.does + "'");
    const auto patched = co_await dry::verdict(db, dry::with_news<6>);
    CHECK(patched == "agrees");
    co_await sleep_for(2h);
    saga::engine engine = co_await saga::engine::open(db);
    engine.define("dry", each.build, dry::a, dry::b, dry::c);
    (void)co_await engine.run_due();
    const rows found = co_await db.query("select state, reason from cofferdam_sagas where id = 'd-1'");
    CHECK(found.front().get<int>(0) == static_cast<int>(saga::saga_state::stuck));
    CHECK(found.front().get<std::optional<std::string>>(1).value_or("").starts_with(
        "the body has changed: it now does '" + each.does + "', where the journal has " + each.journal));
    CHECK(dry::performed == 0);
  }
}

ASYNC_TEST("a branch that is new beside others on their way is no change of what they did") {
  database db = co_await database::open("sqlite::memory:");
  co_await dry::begin(db, 7, dry::long_ago);  // its right branch waits
  const auto drift = co_await dry::verdict(db, dry::with_news<5>);
  CHECK(drift == "agrees");
}

ASYNC_TEST("a name that was a step's is not taken for a part, a branch, a child or a mark, nor the other way round") {
  const std::string head = "the saga 'd-1' ('dry', version 1)", step = " at 'a#1': its journal has 'a' with [7], ";
  {
    database db = co_await database::open("sqlite::memory:");
    co_await dry::begin(db, 7, dry::named_step);
    const auto part = co_await dry::verdict(db, dry::named_part);
    CHECK(part == head + step + "this build does a part of its own");
    const auto branch = co_await dry::verdict(db, dry::named_branch);
    CHECK(branch == head + step + "this build does a branch");
    const auto child = co_await dry::verdict(db, dry::named_child);
    CHECK(child == head + step + "this build does a saga with 7");
    const auto mark = co_await dry::verdict(db, dry::named_mark);
    CHECK(mark == head + step + "this build does a question to patched()");
    saga::engine engine = co_await saga::engine::open(db);
    engine.define("dry", dry::named_part, dry::a, dry::b, dry::c);
    co_await sleep_for(2h);
    dry::performed = 0;
    (void)co_await engine.run_due();
    const rows found = co_await db.query("select reason from cofferdam_sagas where id = 'd-1'");
    CHECK(found.front().get<std::string>(0) ==
          "the body has changed: at 'a#1' it now does a part of its own, where the journal has 'a' with [7]");
    CHECK(dry::performed == 0);
  }
  database db = co_await database::open("sqlite::memory:");
  co_await dry::begin(db, 7, dry::named_part);
  const auto was_part = co_await dry::verdict(db, dry::named_step);
  CHECK(was_part == head + ": its journal has 'a#1/a#1', 'a#1/sleep#1', this build does 'a#1'");
}

ASYNC_TEST("arguments too long to be written fail their step again when its saga is replayed, which is no change") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine_options small;
  small.max_payload = 100;
  saga::engine engine = co_await saga::engine::open(db, small);
  engine.define("long", dry::with_a_long_argument, dry::say, dry::no_way_back);
  auto started = co_await engine.start("l-1", dry::with_a_long_argument, 7);
  co_await sleep_for(1s);
  const auto report = co_await engine.check();
  CHECK(report.checked == 1);
  CHECK(report.drifts.empty());
  co_await sleep_for(1h);
  (void)co_await engine.run_due();
  saga::admin desk(db);
  const auto shown = co_await desk.show("l-1");
  CHECK(shown.info.reason == "");
  CHECK(shown.info.state == saga::saga_state::completed);
}

ASYNC_TEST("races, child sagas and locks are compared, too") {
  database db = co_await database::open("sqlite::memory:");
  co_await dry::begin(db, 7, dry::forked);
  saga::admin desk(db);
  auto before = co_await desk.export_history("d-1");
  dry::performed = 0;
  const auto same = co_await dry::verdict(db, dry::forked);
  CHECK(same == "agrees");
  const std::string head = "the saga 'd-1' ('dry', version 1)";
  const auto lock = co_await dry::verdict(db, dry::forked_without_lock);
  CHECK(lock == head + ": its journal has 'lock:account:7#1', this build does 'sleep#1'");
  const auto race = co_await dry::verdict(db, dry::forked_otherwise);
  CHECK(race ==
        head + " at 'any#1': its journal has 'quick#1', which won, this build does a race of 'slow#1', 'fast#1'");
  const auto child = co_await dry::verdict(db, dry::forked_with_another_child);
  CHECK(child == head + " at 'part#1': its journal has 'quick' with 7, this build does a saga with 8");
  const auto winner = co_await dry::verdict(db, dry::forked_with_a_winner_that_fails);
  CHECK(winner == head +
                      ": its journal has what it has, this build says: the body has changed: 'quick#1', which won "
                      "its race, now fails");
  CHECK(dry::performed == 0);
  const auto after = co_await desk.export_history("d-1");
  CHECK(after == before);

  saga::engine engine;
  engine.define("dry", dry::forked, dry::a, dry::b);
  const auto now = co_await engine.check(before);
  CHECK(!now.has_value());
  before.erase("deadline");  // as builds before deadlines and children wrote it
  before.erase("parent");
  const auto older = co_await engine.check(before);
  CHECK(!older.has_value());
}

ASYNC_TEST("sagas whose definition, step or input this build does not know are told") {
  database db = co_await database::open("sqlite::memory:");
  co_await dry::begin(db, 7);
  const std::string head = "the saga 'd-1' ('dry', version 1)";
  saga::engine none = co_await saga::engine::open(db);
  const auto unknown = co_await none.check();
  REQUIRE(unknown.drifts.size() == 1);
  CHECK(unknown.drifts[0].message() == head + ": its journal has this definition, this build does not define it");
  saga::engine fewer = co_await saga::engine::open(db);
  fewer.define("dry", dry::original, dry::b);
  const auto no_step = co_await fewer.check();
  REQUIRE(no_step.drifts.size() == 1);
  CHECK(no_step.drifts[0].message() ==
        head + " at 'a#1': its journal has the step 'a', this build has no such step in this definition");
  saga::engine other = co_await saga::engine::open(db);
  other.define("dry", dry::with_text, dry::a, dry::b);
  const auto no_input = co_await other.check();
  REQUIRE(no_input.drifts.size() == 1);
  CHECK(no_input.drifts[0].message().find(head + ": its journal has the input 7, this build cannot read it: ") == 0);
}

ASYNC_TEST("a saga that goes back is checked for its steps only: its body is not asked") {
  database db = co_await database::open("sqlite::memory:");
  co_await dry::begin(db, 7);
  saga::engine engine = co_await saga::engine::open(db);
  batch b;
  b.execute("update cofferdam_sagas set state = 2, seq = seq + 1");
  b.execute(
      "insert into cofferdam_saga_journal(saga, seq, kind, key, step, payload, epoch, at) select id, seq, 7, '', '', "
      "'{\"why\":\"no\"}', 1, 1 from cofferdam_sagas");
  co_await db.commit(std::move(b));
  const auto changed = co_await dry::verdict(db, dry::with_other_arguments);
  CHECK(changed == "agrees");
}

ASYNC_TEST("recorded histories are replayed against definitions, without a database") {
  const auto history = co_await dry::recorded(7);
  CHECK(history["state"] == static_cast<int>(saga::saga_state::completed));
  dry::performed = 0;
  saga::engine engine;
  engine.define("dry", dry::original, dry::a, dry::b);
  const auto same = co_await engine.check(history);
  CHECK(!same.has_value());
  CHECK(dry::performed == 0);
  saga::engine changed;
  changed.define("dry", dry::with_more_behind, dry::a, dry::b, dry::c);
  const auto drift = co_await changed.check(history);
  REQUIRE(drift.has_value());
  CHECK(drift->message() == "the saga 'd-1' ('dry', version 1): its journal has 'b#1', this build ends before that");

  const test::temporary_directory directory;
  std::ofstream(directory.file("first.json")) << history.dump();
  const auto refused = co_await dry::recorded(13);
  CHECK(refused["state"] == static_cast<int>(saga::saga_state::compensated));
  std::ofstream(directory.file("second.json")) << refused.dump();
  const auto replayed = co_await saga::replay_histories(engine, directory.file(""));
  CHECK(replayed == 2);
  const auto why = co_await test::error_of(saga::replay_histories(changed, directory.file("first.json")));
  CHECK(why == directory.file("first.json") + ": " + drift->message());
  std::ofstream(directory.file("third.json")) << "{";
  const auto damaged = co_await test::error_of(saga::replay_histories(engine, directory.file("")));
  CHECK(damaged == directory.file("third.json") + ": is no JSON");
  const auto missing = co_await test::error_of(saga::replay_histories(engine, directory.file("nowhere")));
  CHECK(missing == directory.file("nowhere") + ": there is no history here, no file and no directory with *.json");
}

namespace moving {

awaitable<int> count(saga::step_context&, int n) { co_return n; }
constexpr auto count_step = saga::step<"count", &count>;
saga::task<int> many(saga::scope& s, int count) {
  for (int n = 0; n < count; ++n) (void)co_await s.run(count_step, n);
  co_return count;
}

awaitable<void> look_while_it_works(std::string url) {
  database db = co_await database::open(std::move(url));
  saga::engine engine = co_await saga::engine::open(db);
  engine.define("many", many, count_step);
  saga::admin desk(db);
  auto started = co_await engine.start("m-1", many, 100);
  std::size_t looks = 0, wrong = 0;
  for (; engine.active() > 0; ++looks) {
    const auto history = co_await desk.export_history("m-1");
    const auto drift = co_await engine.check(history);
    const auto report = co_await engine.check();
    wrong += (drift ? 1 : 0) + report.drifts.size();
  }
  CHECK(wrong == 0);
  CHECK(looks > 0);
  (void)co_await started.result();
  co_await db.close();
}

}  // namespace moving

TEST_CASE("what is exported and checked belongs together, also while its saga works") {
  const test::temporary_directory directory;
  test::run_in_real_time(moving::look_while_it_works, "sqlite:" + directory.file("sagas.db"));
}
