// Steps that only look: nothing is written before them, nothing is undone, and they may stand anywhere.
#include "async_test.hpp"
#include "error_of.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/saga/admin.hpp>
#include <cofferdam/saga/chain.hpp>
#include <cofferdam/saga/testing.hpp>

#include <map>
#include <string>
#include <tuple>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::saga::literals;
using namespace std::chrono_literals;

namespace looking {

using lines = std::vector<std::string>;

struct market {
  lines log, keys;
  std::map<std::string, int> fails;  // how often a look at this still fails
  std::string refuses, hangs;
};

awaitable<int> price(saga::step_context& context, std::string what) {
  auto& m = context.get<market>();
  m.log.push_back("look " + what);
  m.keys.push_back(context.idempotency_key());
  co_await sleep_for(what == "slow" ? 10ms : 1ms);
  if (m.hangs == what) co_await sleep_for(1h);
  if (m.fails[what]-- > 0) throw std::runtime_error(what + " is away");
  if (m.refuses == what) throw saga::refused("no " + what);
  co_return static_cast<int>(what.size());
}
awaitable<int> buy(saga::step_context& context, int amount) {
  context.get<market>().log.push_back("buy " + std::to_string(amount));
  co_return amount;
}
awaitable<void> give_back(saga::step_context& context, const int& amount, int) {
  context.get<market>().log.push_back("give back " + std::to_string(amount));
  co_return;
}
constexpr auto look = saga::read_only<"look", &price>;
constexpr auto buy_it = saga::step<"buy", &buy, &give_back>;
constexpr auto pay = saga::pivot<"pay", &buy>;

saga::task<int> shopping(saga::scope& s, std::string what) {
  (void)co_await s.run(buy_it, 1);
  const int cost = co_await s.run(look, what);
  (void)co_await s.run(buy_it, cost);
  (void)co_await s.run(pay, cost);
  co_return co_await s.run(look, std::string("receipt"));
}
constexpr auto shopping_list = saga::start<std::string>("shopping list") |
                               buy_it.with([](const auto&) { return std::tuple(1); }) |
                               look.with([](const auto& s) { return std::tuple(s.input()); }) |
                               pay.with([](const auto& s) { return std::tuple(s["look"_s]); }) |
                               saga::read_only<"receipt">([](const auto& s) { return price(s.context(), "receipt"); });
saga::task<int> shopping_as_listed(saga::scope& s, std::string what) {
  (void)co_await s.run(buy_it, 1);
  const int cost = co_await s.run(look, what);
  co_return co_await s.run(pay, cost);
}
saga::task<int> looking_first(saga::scope& s, std::string what) {
  const int cost = co_await s.run(look, what);
  co_return co_await s.run(buy_it, cost);
}
saga::task<int> looking_twice(saga::scope& s, std::string what) {
  int cost = 0;
  try {
    cost = co_await s.run(look, what);
  } catch (const saga::step_failed&) {  // then at something else
  }
  if (cost == 0) cost = co_await s.run(look, std::string("other"));
  co_await s.sleep(1h);
  co_return co_await s.run(buy_it, cost);
}
saga::task<int> only_look(saga::scope& s, std::string what) { co_return co_await s.run(look, what); }
saga::task<int> comparing(saga::scope& s, std::string) {
  const auto first =
      co_await s.any(s.branch<"a">(only_look, std::string("slow")), s.branch<"b">(only_look, std::string("fast")));
  const auto both =
      co_await s.all(s.branch<"c">(only_look, std::string("one")), s.branch<"d">(only_look, std::string("three")));
  co_return 100 * static_cast<int>(first.index()) + 10 * std::get<0>(both) + std::get<1>(both);
}
constexpr auto comparison =
    saga::start<std::string>("comparison") |
    saga::any<"first">(saga::read_only<"slow">([](const auto& s) { return price(s.context(), "slow"); }),
                       saga::read_only<"fast">([](const auto& s) { return price(s.context(), "fast"); })) |
    saga::all<"both">(saga::read_only<"one">([](const auto& s) { return price(s.context(), "one"); }),
                      look.with([](const auto& s) { return std::tuple(s.input()); }));

void define(saga::engine& e, market& m) {
  e.provide(m);
  e.define("shopping", shopping, look, buy_it, pay);
  e.define("as listed", shopping_as_listed, look, buy_it, pay);
  e.define("first", looking_first, look, buy_it);
  e.define("twice", looking_twice, look, buy_it);
  e.define("comparing", comparing, look);
  e.define(shopping_list);
  e.define(comparison);
}

/// What comes of "s-1" when its process dies and another one goes on.
awaitable<int> taken_over(database& db, saga::engine& dying, market& m) {
  saga::kill(dying);
  saga::engine second = co_await saga::engine::open(db);
  define(second, m);
  const auto executor = co_await net::this_coro::executor;
  const auto run = [&second] { return second.run(); };
  const auto worker = spawn(executor, run);
  const int result = co_await second.find<int>("s-1").result();
  while (dying.active() > 0) co_await sleep_for(1s);
  co_await worker.stop();
  co_return result;
}

}  // namespace looking

using looking::market;

ASYNC_TEST("a read-only step costs no commit of its own, and what it found is in the journal") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  market m;
  looking::define(engine, m);
  const auto before = db.stats().batches;
  const int found = co_await engine.execute("s-1", looking::shopping, std::string("tea"));
  CHECK(found == 7);
  CHECK(m.log == looking::lines{"buy 1", "look tea", "buy 3", "buy 3", "look receipt"});
  CHECK(db.stats().batches - before == 4);  // five steps, of which two only look
  saga::admin desk(db);
  const auto shown = co_await desk.show("s-1");
  looking::lines entries;
  for (const auto& each : shown.entries) entries.push_back(each.kind + ' ' + each.key);
  CHECK(entries == looking::lines{"intent buy#1", "succeeded buy#1", "intent look#1", "succeeded look#1",
                                  "intent buy#2", "succeeded buy#2", "intent pay#1", "succeeded pay#1", "intent look#2",
                                  "succeeded look#2"});
}

ASYNC_TEST("a saga that begins with a read-only step is durable when it was started") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  market m;
  looking::define(engine, m);
  m.hangs = "tea";
  (void)co_await engine.start("s-1", looking::looking_first, std::string("tea"));
  CHECK(time.elapsed() < 1s);
  market other;
  const int bought = co_await looking::taken_over(db, engine, other);
  CHECK(bought == 3);
  CHECK(other.log == looking::lines{"look tea", "buy 3"});
}

ASYNC_TEST("a process that dies while it only looks leaves a step that is repeated, with the same key") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  market m;
  looking::define(engine, m);
  m.hangs = "tea";
  (void)co_await engine.start("s-1", looking::shopping, std::string("tea"));
  co_await sleep_for(1s);
  const rows known = co_await db.query("select count(*) from cofferdam_saga_journal where key = 'look#1'");
  CHECK(known.front().get<int>(0) == 0);
  market other;
  const int found = co_await looking::taken_over(db, engine, other);
  CHECK(found == 7);
  // What was bought first is bought again, too: its outcome would have been written with the next intent.
  CHECK(other.log == looking::lines{"buy 1", "look tea", "buy 3", "buy 3", "look receipt"});
  CHECK(other.keys.front() == m.keys.front());
}

ASYNC_TEST("before the pivot a read-only step fails as a step does, and its failure is written down") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  market m;
  looking::define(engine, m);
  m.refuses = "tea";
  const auto refused = co_await test::error_of(engine.execute("s-1", looking::shopping, std::string("tea")));
  CHECK(refused == "the saga 's-1' went back: the step 'look' was refused: no tea");
  CHECK(m.log == looking::lines{"buy 1", "look tea", "give back 1"});
  m = market();
  m.fails["tea"] = 4;
  const auto failed = co_await test::error_of(engine.execute("s-2", looking::shopping, std::string("tea")));
  CHECK(failed == "the saga 's-2' went back: the step 'look' failed: tea is away");
  CHECK(m.log == looking::lines{"buy 1", "look tea", "look tea", "look tea", "look tea", "give back 1"});

  m = market();
  m.refuses = "tea";
  auto started = co_await engine.start("s-3", looking::looking_twice, std::string("tea"));
  co_await sleep_for(2h);
  m.refuses.clear();
  (void)co_await engine.run_due();
  const int bought = co_await started.result();
  CHECK(bought == 5);
  CHECK(m.log == looking::lines{"look tea", "look other", "buy 5"});
}

ASYNC_TEST("after the pivot a read-only step is tried until it succeeds; refused, it waits for an operator") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  market m;
  looking::define(engine, m);
  const auto executor = co_await net::this_coro::executor;
  const auto run = [&engine] { return engine.run(); };
  const auto worker = spawn(executor, run);
  m.fails["receipt"] = 20;
  const saga::start_options soon{.deadline = 1s};
  auto late = co_await engine.start("s-1", looking::shopping, std::string("tea"), soon);
  const int found = co_await late.result();
  CHECK(found == 7);
  CHECK(m.log.size() == 25);
  m.refuses = "receipt";
  auto started = co_await engine.start("s-2", looking::shopping, std::string("tea"));
  co_await sleep_for(1min);
  saga::admin desk(db);
  const auto shown = co_await desk.show("s-2");
  CHECK(shown.info.state == saga::saga_state::stuck);
  CHECK(shown.info.reason == "the retriable step 'look#2' was refused: no receipt");
  const nlohmann::json result(9);
  co_await desk.skip("s-2", "look#2", result, {"ada", "it was printed"});
  const int skipped = co_await started.result();
  CHECK(skipped == 9);
  co_await worker.stop();
}

ASYNC_TEST("read-only steps race and stand side by side, in chains and in bodies, with and without a journal") {
  database db = co_await database::open("sqlite::memory:");
  for (const bool has_journal : {true, false}) {
    saga::engine engine;
    if (has_journal) engine = co_await saga::engine::open(db);
    market m;
    looking::define(engine, m);
    const int compared = co_await engine.execute("s-1", looking::comparing, std::string());
    CHECK(compared == 135);
    const auto chained = co_await engine.execute("s-2", looking::comparison, std::string("three"));
    CHECK(chained["fast"_s] == 4);
    CHECK(!chained.has("slow"_s));
    CHECK(chained["one"_s] + chained["look"_s] == 8);
    const auto listed = co_await engine.execute("s-3", looking::shopping_list, std::string("tea"));
    CHECK(listed["pay"_s] == 3);
    CHECK(listed["receipt"_s] == 7);
  }
}

ASYNC_TEST("a read-only step writes the same journal in a chain as in a body, and graphs tell what it is") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  market m;
  looking::define(engine, m);
  (void)co_await engine.execute("s-1", looking::shopping_as_listed, std::string("tea"));
  (void)co_await engine.execute("s-2", looking::shopping_list, std::string("tea"));
  const rows same = co_await db.query(
      "select count(*) from cofferdam_saga_journal a join cofferdam_saga_journal b on a.seq = b.seq and a.kind = "
      "b.kind and a.key = b.key and a.step = b.step and a.payload = b.payload where a.saga = 's-1' and b.saga = 's-2'");
  CHECK(same.front().get<int>(0) == 6);
  CHECK(looking::shopping_list.to_mermaid().find("s2[\"look (read-only)\"]") != std::string::npos);
  CHECK(looking::shopping_list.to_dot().find("[label=\"receipt (read-only)\"]") != std::string::npos);
}
