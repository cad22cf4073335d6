// Who may write to a saga, and what is written before what: owners of the past, claims and commits whose outcome nobody
// knows, conditions of a step's own, the decision to go back.
#include "database_test.hpp"
#include "error_of.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/saga/admin.hpp>
#include <cofferdam/saga/engine.hpp>
#include <cofferdam/storage/testing.hpp>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace fencing {

struct notes {
  std::vector<std::string> lines;
  bool is_refused = false;
};

awaitable<int> act(saga::step_context& context, std::string what) {
  auto& n = context.get<notes>();
  n.lines.push_back("do " + what);
  co_await sleep_for(1s);
  if (n.is_refused && what == "b") throw saga::refused("no");
  co_return 1;
}
/// What the journal says when it begins.
awaitable<void> unact(saga::step_context& context, int, std::string what) {
  auto& n = context.get<notes>();
  const rows decided = co_await context.get<database>().query(
      "select count(*) from cofferdam_saga_journal j join cofferdam_sagas s on s.id = j.saga where s.id = $1 and "
      "s.state = 2 and j.kind = 7",
      context.saga_id());
  const bool is_durable = decided.front().get<int>(0) == 1;
  n.lines.push_back("undo " + what + (is_durable ? "" : " before it is decided"));
}
awaitable<int> put_down(saga::step_context& context, batch& b, int coins) {
  context.get<notes>().lines.push_back("put down");
  co_await sleep_for(1s);
  b.execute("insert into coins(n) values($1)", coins);
  co_return coins;
}
awaitable<int> spend(saga::step_context& context, batch& b, int coins) {
  context.get<notes>().lines.push_back("spend");
  b.require("the purse has enough", "select coalesce(sum(n), 0) >= $1 from coins", coins);
  b.execute("insert into coins(n) values(0 - cast($1 as bigint))", coins);
  co_return coins;
}
/// What a feature of the library refuses, a conflict of versions say.
class conflicting : public operation {
 public:
  void run(sqlite::connection&) override { throw storage_error(errc::version_conflict, "the stream is at version 7"); }
};
awaitable<void> append(saga::step_context& context, batch& b) {
  context.get<notes>().lines.push_back("append");
  b.add(std::make_shared<conflicting>());
  co_return;
}
constexpr auto append_step = saga::step<"append", &append>;
constexpr auto pay = saga::pivot<"pay", &act>;
constexpr auto a_step = saga::step<"a", &act, &unact>;
constexpr auto b_step = saga::step<"b", &act, &unact>;
constexpr auto put_step = saga::step<"put", &put_down>;
constexpr auto spend_step = saga::step<"spend", &spend>;
constexpr auto spend_for_good = saga::pivot<"spend for good", &spend>;

saga::task<int> with_a_step(saga::scope& s, int) {
  (void)co_await s.run(a_step, std::string("a"));
  co_return co_await s.run(b_step, std::string("b"));
}
saga::task<int> with_its_end(saga::scope& s, int) { co_return co_await s.run(a_step, std::string("a")); }
saga::task<int> with_a_wait(saga::scope& s, int) {
  (void)co_await s.run(a_step, std::string("a"));
  co_await s.sleep(1h);
  co_return co_await s.run(b_step, std::string("b"));
}
saga::task<int> with_its_way_back(saga::scope& s, int) {
  (void)co_await s.run(a_step, std::string("a"));
  s.fail("changed its mind");
}
saga::task<int> with_a_batch(saga::scope& s, int) { co_return co_await s.run(put_step, 1); }
using body = saga::task<int> (*)(saga::scope&, int);

saga::task<int> spending(saga::scope& s, int coins) {
  (void)co_await s.run(a_step, std::string("a"));
  co_return co_await s.run(spend_step, coins);
}
saga::task<int> spending_first(saga::scope& s, int coins) { co_return co_await s.run(spend_step, coins); }
saga::task<int> spending_for_good(saga::scope& s, int coins) { co_return co_await s.run(spend_for_good, coins); }
saga::task<int> acting_and_spending_for_good(saga::scope& s, int coins) {
  (void)co_await s.run(a_step, std::string("a"));
  co_return co_await s.run(spend_for_good, coins);
}

saga::task<int> appending(saga::scope& s, int n) {
  (void)co_await s.run(a_step, std::string("a"));
  co_await s.run(append_step);
  co_return n;
}
saga::task<int> paying(saga::scope& s, int) { co_return co_await s.run(pay, std::string("pay")); }
saga::task<int> paying_and_spending(saga::scope& s, int coins) {
  (void)co_await s.run(a_step, std::string("a"));
  const auto both = co_await s.all(s.branch<"pay">(paying, coins), s.branch<"spend">(spending_for_good, coins));
  co_return std::get<0>(both) + std::get<1>(both);
}

awaitable<void> make_purse(database& db) {
  batch b;
  b.execute("create table coins(n bigint not null)");
  co_await db.commit(std::move(b));
}
awaitable<void> put_in(database& db, int coins) {
  batch b;
  b.execute("insert into coins(n) values($1)", coins);
  co_await db.commit(std::move(b));
}
awaitable<int> coins_in(database& db) {
  const rows found = co_await db.query("select cast(coalesce(sum(n), 0) as bigint) from coins");
  co_return found.front().get<int>(0);
}

using events = std::vector<std::string>;

}  // namespace fencing

using fencing::notes;

ASYNC_TEST("an owner of the past writes nothing, though the new one has not written yet, whatever comes next") {
  const std::pair<std::string, fencing::body> what_comes_next[] = {{"step", fencing::with_a_step},
                                                                   {"end", fencing::with_its_end},
                                                                   {"wait", fencing::with_a_wait},
                                                                   {"way back", fencing::with_its_way_back},
                                                                   {"batch", fencing::with_a_batch}};
  for (const auto& [name, body] : what_comes_next) {
    INFO(name);
    database db = co_await database::open("sqlite::memory:");
    co_await fencing::make_purse(db);
    saga::engine zombie = co_await saga::engine::open(db);
    notes n;
    zombie.provide(n);
    zombie.provide(db);
    zombie.define("fenced", body, fencing::a_step, fencing::b_step, fencing::put_step);
    int lost = 0, failed = 0;
    const auto listening = zombie.events().subscribe([&](const saga::saga_event& e) {
      if (e.what == saga::saga_event::kind::lost) ++lost;
      if (e.what == saga::saga_event::kind::attempt_failed) ++failed;
    });
    (void)co_await zombie.start("s-1", body, 1);
    batch claimed;  // as another worker does that takes it for dead; its next number is still the same
    claimed.execute("update cofferdam_sagas set owner = 'the new one', epoch = epoch + 1, claims = claims + 1");
    co_await db.commit(std::move(claimed));
    saga::admin desk(db);
    const auto before = co_await desk.export_history("s-1");
    co_await sleep_for(1min);
    const auto after = co_await desk.export_history("s-1");
    CHECK(after == before);
    const rows owner = co_await db.query("select owner from cofferdam_sagas");
    CHECK(owner.front().get<std::optional<std::string>>(0) == "the new one");
    const int coins = co_await fencing::coins_in(db);
    CHECK(coins == 0);
    CHECK(n.lines.size() == 1);
    CHECK(lost == 1);
    CHECK(failed == 0);
    CHECK(zombie.active() == 0);
  }
}

ASYNC_TEST("the decision to go back is in the database before the first undo begins") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  notes n;
  n.is_refused = true;
  engine.provide(n);
  engine.provide(db);
  engine.define("refused", fencing::with_a_step, fencing::a_step, fencing::b_step);
  engine.define("failed", fencing::with_its_way_back, fencing::a_step);
  const auto refused = co_await test::error_of(engine.execute("s-1", fencing::with_a_step, 1));
  CHECK(refused == "the saga 's-1' went back: the step 'b' was refused: no");
  const auto failed = co_await test::error_of(engine.execute("s-2", fencing::with_its_way_back, 1));
  CHECK(failed == "the saga 's-2' went back: changed its mind");
  CHECK(n.lines == fencing::events{"do a", "do b", "undo a", "do a", "undo a"});
}

ASYNC_TEST("a worker that cannot tell whether its claim was kept takes the saga up, whether it was or not") {
  for (const bool is_kept : {true, false}) {
    INFO((is_kept ? "kept" : "not kept"));
    database db = co_await database::open("sqlite::memory:");
    notes n;
    {
      saga::engine first = co_await saga::engine::open(db);
      first.provide(n);
      first.provide(db);
      first.define("waits", fencing::with_a_wait, fencing::a_step, fencing::b_step);
      (void)co_await first.start("s-1", fencing::with_a_wait, 1);
      co_await sleep_for(2h);
    }
    bool is_unsure = false;
    database shaky = watched(db, [&](std::string_view call, bool is_over) {
      if (call != "commit" || is_over != is_kept || !std::exchange(is_unsure, false)) return;
      throw storage_error(errc::outcome_unknown, "the connection broke");
    });
    saga::engine second = co_await saga::engine::open(shaky);
    second.provide(n);
    second.provide(db);
    second.define("waits", fencing::with_a_wait, fencing::a_step, fencing::b_step);
    is_unsure = true;
    const std::size_t taken = co_await second.run_due();
    CHECK(!is_unsure);
    CHECK(taken == (is_kept ? 0 : 1));
    const rows owned = co_await db.query("select count(*) from cofferdam_sagas where owner is not null");
    CHECK(owned.front().get<int>(0) == (is_kept ? 1 : 0));
    const auto executor = co_await net::this_coro::executor;
    const auto run = [&second] { return second.run(); };
    const auto worker = spawn(executor, run);
    const auto before = time.elapsed();
    const int result = co_await second.find<int>("s-1").result();
    CHECK(result == 1);
    CHECK(time.elapsed() - before <= 10s);  // a third of the lease, and the step's second
    CHECK(n.lines == fencing::events{"do a", "do b"});
    co_await worker.stop();
  }
}

DATABASE_TEST(
    "a step whose own condition does not hold fails as any other step: tried again, then its saga goes back") {
  co_await fencing::make_purse(db);
  saga::engine_options hurried;
  hurried.backoff.base = 1ms;
  saga::engine engine = co_await saga::engine::open(db, hurried);
  notes n;
  engine.provide(n);
  engine.provide(db);
  engine.define("spending", fencing::spending, fencing::a_step, fencing::spend_step);
  engine.define("spending first", fencing::spending_first, fencing::spend_step);
  engine.define("spending for good", fencing::spending_for_good, fencing::spend_for_good);
  const auto executor = co_await net::this_coro::executor;
  int lost = 0, failed = 0;
  const auto listening = engine.events().subscribe([&](const saga::saga_event& e) {
    if (e.what == saga::saga_event::kind::lost) ++lost;
    if (e.what == saga::saga_event::kind::attempt_failed && ++failed == 6) {
      net::co_spawn(executor, fencing::put_in(db, 5), net::detached);
    }
  });
  const auto poor = co_await test::error_of(engine.execute("s-1", fencing::spending, 5));
  CHECK(
      poor ==
      "the saga 's-1' went back: the step 'spend' failed: the database refuses what it wrote: a condition of the batch "
      "does not hold: the purse has enough");
  CHECK(n.lines == fencing::events{"do a", "spend", "spend", "spend", "spend", "undo a"});
  const int rich = co_await engine.execute("s-2", fencing::spending_for_good, 5);  // when somebody has put it in
  CHECK(rich == 5);
  CHECK(failed >= 6);
  n.lines.clear();
  const auto poor_again = co_await test::error_of(engine.execute("s-3", fencing::spending_first, 5));
  CHECK(poor_again.starts_with("the saga 's-3' went back: the step 'spend' failed"));
  CHECK(n.lines.size() == 4);
  const int left = co_await fencing::coins_in(db);
  CHECK(left == 0);
  CHECK(lost == 0);
  CHECK(engine.active() == 0);
}

ASYNC_TEST("whatever the database refuses of what a step wrote is that step's failure") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  notes n;
  engine.provide(n);
  engine.provide(db);
  engine.define("appending", fencing::appending, fencing::a_step, fencing::append_step);
  const auto refused = co_await test::error_of(engine.execute("s-1", fencing::appending, 1));
  CHECK(refused ==
        "the saga 's-1' went back: the step 'append' failed: the database refuses what it wrote: the stream is not "
        "as expected: the stream is at version 7");
  CHECK(n.lines == fencing::events{"do a", "append", "append", "append", "append", "undo a"});
}

ASYNC_TEST("a pivot that is refused what it wrote does not take back another one that has happened") {
  database db = co_await database::open("sqlite::memory:");
  co_await fencing::make_purse(db);
  saga::engine engine = co_await saga::engine::open(db);
  notes n;
  engine.provide(n);
  engine.provide(db);
  engine.define("both", fencing::paying_and_spending, fencing::a_step, fencing::pay, fencing::spend_for_good);
  const auto executor = co_await net::this_coro::executor;
  const auto run = [&engine] { return engine.run(); };
  const auto worker = spawn(executor, run);
  auto both = co_await engine.start("s-1", fencing::paying_and_spending, 5);
  co_await sleep_for(30s);
  (void)co_await test::error_of(engine.cancel("s-1", "too late"));
  co_await fencing::put_in(db, 5);
  const int sum = co_await both.result();
  CHECK(sum == 6);
  CHECK(std::ranges::count(n.lines, "undo a") == 0);
  CHECK(std::ranges::count(n.lines, "spend") > 3);
  co_await worker.stop();
}

ASYNC_TEST("a pivot that writes together with its outcome leaves no doubt: while it fails its saga can go back") {
  database db = co_await database::open("sqlite::memory:");
  co_await fencing::make_purse(db);
  saga::engine engine = co_await saga::engine::open(db);
  notes n;
  engine.provide(n);
  engine.provide(db);
  engine.define("spending", fencing::acting_and_spending_for_good, fencing::a_step, fencing::spend_for_good);
  const auto executor = co_await net::this_coro::executor;
  const auto run = [&engine] { return engine.run(); };
  const auto worker = spawn(executor, run);
  const saga::start_options soon{.deadline = 1min};
  auto late = co_await engine.start("s-1", fencing::acting_and_spending_for_good, 5, soon);
  auto cancelled = co_await engine.start("s-2", fencing::acting_and_spending_for_good, 5);
  co_await sleep_for(30s);
  co_await engine.cancel("s-2", "changed my mind");
  const auto by_word = co_await test::error_of(cancelled.result());
  CHECK(by_word == "the saga 's-2' went back: changed my mind");
  const auto by_time = co_await test::error_of(late.result());
  CHECK(by_time == "the saga 's-1' went back: its deadline is over");
  CHECK(time.elapsed() < 62s);
  CHECK(std::ranges::count(n.lines, "undo a") == 2);
  CHECK(std::ranges::count(n.lines, "spend") > 8);  // more often than a step
  co_await worker.stop();
}
