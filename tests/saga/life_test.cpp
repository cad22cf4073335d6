// What a saga's life can bring: waits, signals, cancellation, other owners, changed code, undos that fail.
#include "async_test.hpp"
#include "error_of.hpp"
#include "fault_vfs.hpp"
#include "real_time.hpp"
#include "state_of.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/saga/admin.hpp>
#include <cofferdam/saga/chain.hpp>
#include <cofferdam/saga/engine.hpp>
#include <cofferdam/saga/testing.hpp>

#include <sqlite3.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::saga::literals;
using namespace std::chrono_literals;

namespace lives {

struct diary {
  std::vector<std::string> lines;
  std::map<std::string, int> fails;  // how often a step still fails
  bool hangs = false;
  std::string hangs_at{}, undo_says = "undo is away";
  bool refuses_undo = false;
  std::vector<std::string> keys;
};

awaitable<std::string> act(saga::step_context& context, std::string what) {
  auto& d = context.get<diary>();
  d.lines.push_back("do " + what);
  d.keys.push_back(context.idempotency_key());
  if (d.hangs || d.hangs_at == what) co_await sleep_for(1h);
  if (d.fails[what] > 0) {
    --d.fails[what];
    throw std::runtime_error(what + " is away");
  }
  if (what == "nothing") throw saga::refused("no", "refused");
  co_return what + "!";
}
awaitable<void> unact(saga::step_context& context, std::optional<std::string> result, std::string) {
  auto& d = context.get<diary>();
  d.lines.push_back("undo " + result.value_or("unknown"));
  if (d.fails["undo"] > 0) {
    --d.fails["undo"];
    throw std::runtime_error(d.undo_says);
  }
  if (d.refuses_undo) throw saga::cannot_undo("too late");
  co_return;
}
awaitable<void> nap(saga::step_context& /*context*/) { co_await sleep_for(1s); }
constexpr auto nap_step = saga::step<"nap", &nap>;
constexpr auto a_step = saga::step<"a", &act, &unact>;
constexpr auto b_step = saga::step<"b", &act, &unact>;
constexpr auto the_pivot = saga::pivot<"pivot", &act>;
constexpr auto after = saga::retriable<"after", &act>;

saga::task<std::string> approval(saga::scope& s, std::string what) {
  const auto first = co_await s.run(a_step, what);
  const auto approved = co_await s.wait_signal<bool>("approved", 24h);
  if (!approved) s.fail("nobody answered");
  if (!*approved) s.fail("not approved", "rejected");
  co_return first + co_await s.run(b_step, std::string("b"));
}
saga::task<std::string> all_kinds(saga::scope& s, std::string what) {
  (void)co_await s.run(a_step, std::string("a"));
  (void)co_await s.run(the_pivot, std::string("pivot"));
  co_return co_await s.run(after, what);
}
constexpr auto limited_pivot = saga::pivot<"limited", &act>.max_attempts(3);
saga::task<std::string> with_limited_pivot(saga::scope& s, std::string what) {
  (void)co_await s.run(a_step, std::string("a"));
  co_return co_await s.run(limited_pivot, what);
}
saga::task<std::string> without_its_pivot(saga::scope& s, std::string what) {
  (void)co_await s.run(a_step, std::string("a"));
  bool is_refused = false;
  try {
    (void)co_await s.run(limited_pivot, what);
  } catch (const saga::step_failed&) {
    is_refused = true;
  }
  co_return co_await s.run(b_step, std::string(is_refused ? "b" : "c"));
}
saga::task<std::string> only_pivot(saga::scope& s, std::string what) { co_return co_await s.run(the_pivot, what); }
saga::task<std::string> only_b(saga::scope& s, std::string what) { co_return co_await s.run(b_step, what); }
saga::task<std::string> pivot_beside_b(saga::scope& s, std::string what) {
  (void)co_await s.run(a_step, std::string("a"));
  const auto both = co_await s.all(s.branch<"pay">(only_pivot, what), s.branch<"more">(only_b, std::string("nothing")));
  co_return std::get<0>(both);
}
saga::task<std::string> grumpy(saga::scope& s, std::string what) {
  (void)co_await s.run(a_step, what);
  s.fail("gr\xfcmpy");
}
awaitable<std::string> mumble(saga::step_context& context, int) {
  auto& d = context.get<diary>();
  d.lines.push_back("do mumble");
  if (d.fails["mumble"]-- > 0) throw std::runtime_error("\xfc");
  co_return "\xfc";
}
awaitable<void> unmumble(saga::step_context&, const std::string&, int) { co_return; }
awaitable<int> ring(saga::step_context& context) {
  context.get<diary>().lines.push_back("do ring");
  co_return 1;
}
awaitable<void> unring(saga::step_context& context) {
  context.get<diary>().lines.push_back("undo ring");
  co_return;
}
constexpr auto ring_step = saga::step<"ring", &ring, &unring>;
saga::task<std::string> ringing(saga::scope& s, std::string what) {
  (void)co_await s.run(ring_step);
  co_return co_await s.run(b_step, what);
}
constexpr auto mumble_step = saga::step<"mumble", &mumble, &unmumble>.max_attempts(2);
saga::task<std::string> mumbling(saga::scope& s, std::string what) {
  (void)co_await s.run(a_step, what);
  co_return co_await s.run(mumble_step, 1);
}
saga::task<std::string> two(saga::scope& s, std::string what) {
  (void)co_await s.run(a_step, std::string("a"));
  co_return co_await s.run(b_step, what);
}
saga::task<void> busy(saga::scope& s, int steps) {
  for (int n = 0; n < steps; ++n) co_await s.run(nap_step);
}
saga::task<std::string> sleepy(saga::scope& s, std::string what) {
  (void)co_await s.run(a_step, what);
  co_await s.sleep(1h);
  co_return co_await s.run(b_step, what);
}
saga::task<std::string> sleepy_renamed(saga::scope& s, std::string what) {
  (void)co_await s.run(b_step, what);
  co_await s.sleep(1h);
  co_return co_await s.run(a_step, what);
}
saga::task<std::string> sleepy_patched(saga::scope& s, std::string what) {
  const bool is_new = co_await s.patched("extra step");
  if (is_new) (void)co_await s.run(b_step, std::string("extra"));
  (void)co_await s.run(a_step, what);
  co_await s.sleep(1h);
  co_return co_await s.run(b_step, what);
}

using events = std::vector<std::string>;

void define_all(saga::engine& e, diary& d) {
  e.provide(d);
  e.define("approval", approval, a_step, b_step);
  e.define("all_kinds", all_kinds, a_step, the_pivot, after);
  e.define("two", two, a_step, b_step);
  e.define("sleepy", sleepy, a_step, b_step);
  e.define("with_limited_pivot", with_limited_pivot, a_step, limited_pivot);
  e.define("without_its_pivot", without_its_pivot, a_step, limited_pivot, b_step);
  e.define("grumpy", grumpy, a_step);
  e.define("ringing", ringing, ring_step, b_step);
  e.define("mumbling", mumbling, a_step, mumble_step);
  e.define("pivot_beside_b", pivot_beside_b, a_step, b_step, the_pivot);
}

/// A writer of the same file, whose lock nobody else gets past.
class stranger {
 public:
  explicit stranger(const std::string& path) { REQUIRE(sqlite3_open(path.c_str(), &file_) == SQLITE_OK); }
  ~stranger() { sqlite3_close(file_); }
  stranger(const stranger&) = delete;
  stranger& operator=(const stranger&) = delete;
  void run(const char* sql) { REQUIRE(sqlite3_exec(file_, sql, nullptr, nullptr, nullptr) == SQLITE_OK); }

 private:
  sqlite3* file_ = nullptr;
};

/// Leaves the beating of its heart when the database has refused it once, and is to be asked again.
awaitable<int> leave_beat(saga::step_context& context, int turns) {
  const auto executor = co_await net::this_coro::executor;
  const auto& db = context.get<database>();
  auto& other = context.get<stranger>();
  other.run("begin immediate");
  const auto failed_before = db.stats().failed_commits;
  const spawned beat = spawn(executor, [&context] { return context.heartbeat(1); });
  while (db.stats().failed_commits == failed_before) co_await net::post(net::use_awaitable);
  for (int i = 0; i < turns; ++i) co_await net::post(net::use_awaitable);
  co_await beat.stop();
  other.run("rollback");
  co_return turns;
}
constexpr auto hasty = saga::step<"hasty", &leave_beat>;
saga::task<int> hasty_saga(saga::scope& s, int turns) {
  (void)co_await s.run(hasty, turns);
  co_return co_await s.run(hasty, turns);
}

}  // namespace lives

using lives::define_all;

ASYNC_TEST("a saga that waits for a signal leaves the memory and comes back for it") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  lives::diary d;
  define_all(engine, d);
  const auto executor = co_await net::this_coro::executor;
  auto started = co_await engine.start("s-1", lives::approval, std::string("x"));
  co_await sleep_for(1s);
  CHECK(engine.active() == 0);
  const auto waiting = co_await test::state_of(db, "s-1");
  CHECK(waiting == "waiting");
  {
    const auto worker = spawn(executor, [&engine] { return engine.run(); });
    co_await sleep_for(20h);
    co_await engine.signal("s-1", "approved", true);
    const auto result = co_await started.result();
    CHECK(result == "x!b!");
    CHECK(time.elapsed() < 20h + 2s);
    co_await worker.stop();
  }
  CHECK(d.lines == lives::events{"do x", "do b"});
}

ASYNC_TEST("a signal that comes before it is asked for is kept, and one message counts once") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  lives::diary d;
  define_all(engine, d);
  auto started = co_await engine.start("s-1", lives::approval, std::string("x"));
  co_await engine.signal("s-1", "approved", true, "m-1");
  co_await engine.signal("s-1", "approved", false, "m-1");
  (void)co_await engine.run_due();
  const auto result = co_await started.result();
  CHECK(result == "x!b!");
  const rows kept = co_await db.query("select payload from cofferdam_saga_inbox where saga = 's-1'");
  CHECK(kept.size() == 1);
  CHECK(kept.front().get<std::string>(0) == "true");
  const auto late = co_await test::error_of(engine.signal("s-1", "approved", true));
  CHECK(late == "the saga 's-1' has ended: it is completed");
  const auto unknown = co_await test::error_of(engine.signal("s-2", "approved", true));
  CHECK(unknown == "there is no saga 's-2'");
}

ASYNC_TEST("a saga whose signal does not come in time goes back") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  lives::diary d;
  define_all(engine, d);
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  const auto why = co_await test::error_of(engine.execute("s-1", lives::approval, std::string("x")));
  CHECK(why == "the saga 's-1' went back: nobody answered");
  CHECK(time.elapsed() >= 24h);
  CHECK(time.elapsed() < 24h + 5s);
  co_await worker.stop();
  CHECK(d.lines == lives::events{"do x", "undo x!"});
}

ASYNC_TEST("a step that fails is tried again, and undone when no attempt succeeds") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  lives::diary d;
  define_all(engine, d);
  d.fails["b"] = 3;
  const auto result = co_await engine.execute("s-1", lives::two, std::string("b"));
  CHECK(result == "b!");
  CHECK(d.lines == lives::events{"do a", "do b", "do b", "do b", "do b"});
  CHECK(d.keys[1] == d.keys[4]);  // one effect, whatever the attempt
  CHECK(d.keys[1] == "s-1/b#1");
  d.lines.clear();
  d.fails["b"] = 4;
  const auto why = co_await test::error_of(engine.execute("s-2", lives::two, std::string("b")));
  CHECK(why == "the saga 's-2' went back: the step 'b' failed: b is away");
  CHECK(d.lines == lives::events{"do a", "do b", "do b", "do b", "do b", "undo unknown", "undo a!"});
}

TEST_CASE("an action may leave its heartbeat while the database is busy: the saga goes on") {
  const test::temporary_directory directory;
  const std::string path = directory.file("sagas.db");
  const auto body = [&path]() -> awaitable<void> {
    database_options options;
    options.busy_timeout = 1ms;
    database db = co_await database::open("sqlite:" + path, options);
    lives::stranger other(path);
    saga::engine engine = co_await saga::engine::open(db);
    engine.provide(db);
    engine.provide(other);
    engine.define("hasty", lives::hasty_saga, lives::hasty);
    for (int turns = 0; turns < 8; ++turns) {
      const auto result = co_await engine.execute("s-" + std::to_string(turns), lives::hasty_saga, turns);
      CHECK(result == turns);
    }
    CHECK(engine.active() == 0);
  };
  test::run_in_real_time(body);
}

ASYNC_TEST("a step that was refused is not tried again, and not undone") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  lives::diary d;
  define_all(engine, d);
  const auto why = co_await test::error_of(engine.execute("s-1", lives::two, std::string("nothing")));
  CHECK(why == "the saga 's-1' went back: the step 'b' was refused: no");
  CHECK(d.lines == lives::events{"do a", "do nothing", "undo a!"});
}

ASYNC_TEST("what comes after the pivot is tried until it succeeds") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  lives::diary d;
  define_all(engine, d);
  d.fails["x"] = 50;
  int attention = 0;
  const auto listening = engine.events().subscribe([&attention](const saga::saga_event& e) {
    if (e.what == saga::saga_event::kind::attention) ++attention;
  });
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  const auto result = co_await engine.execute("s-1", lives::all_kinds, std::string("x"));
  CHECK(result == "x!");
  CHECK(d.lines.size() == 53);
  CHECK(attention == 1);
  co_await worker.stop();
}

ASYNC_TEST("a saga that is cancelled while it waits, or acts, goes back; past its pivot it cannot") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  lives::diary d;
  define_all(engine, d);
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  auto waiting = co_await engine.start("s-1", lives::approval, std::string("x"));
  co_await sleep_for(1s);
  co_await engine.cancel("s-1", "changed my mind");
  const auto why = co_await test::error_of(waiting.result());
  CHECK(why == "the saga 's-1' went back: changed my mind");
  CHECK(d.lines == lives::events{"do x", "undo x!"});

  d.lines.clear();
  d.hangs = true;
  auto acting = co_await engine.start("s-2", lives::two, std::string("b"));
  co_await sleep_for(1s);
  const auto before = time.elapsed();
  co_await engine.cancel("s-2", "too slow");
  const auto slow = co_await test::error_of(acting.result());
  CHECK(slow == "the saga 's-2' went back: too slow");
  CHECK(time.elapsed() - before < 2s);  // the action in flight was cancelled
  CHECK(d.lines == lives::events{"do a", "undo unknown"});
  d.hangs = false;

  d.fails["x"] = 5;
  auto past = co_await engine.start("s-3", lives::all_kinds, std::string("x"));
  co_await sleep_for(500ms);
  const auto too_late = co_await test::error_of(engine.cancel("s-3", "no"));
  CHECK(too_late == "the saga 's-3' is past its pivot: it cannot be cancelled");
  const auto result = co_await past.result();
  CHECK(result == "x!");
  co_await worker.stop();
}

ASYNC_TEST("an undo that fails is tried again; one that cannot work stops the saga for an operator") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  lives::diary d;
  define_all(engine, d);
  d.fails["undo"] = 3;
  const auto why = co_await test::error_of(engine.execute("s-1", lives::two, std::string("nothing")));
  CHECK(why == "the saga 's-1' went back: the step 'b' was refused: no");
  CHECK(d.lines.size() == 6);
  d.refuses_undo = true;
  std::string stuck;
  const auto listening = engine.events().subscribe([&stuck](const saga::saga_event& e) {
    if (e.what == saga::saga_event::kind::stuck) stuck = e.message;
  });
  (void)co_await engine.start("s-2", lives::two, std::string("nothing"));
  co_await sleep_for(1s);
  CHECK(stuck == "'a#1' cannot be undone: too late");
  const auto state = co_await test::state_of(db, "s-2");
  CHECK(state == "stuck");
  CHECK(engine.active() == 0);
}

ASYNC_TEST("a step without arguments is undone from the journal, too") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  lives::diary d;
  define_all(engine, d);
  (void)co_await engine.start("s-1", lives::ringing, std::string("nothing"));
  co_await sleep_for(1min);
  const auto state = co_await test::state_of(db, "s-1");
  CHECK(state == "compensated");
  CHECK(d.lines == lives::events{"do ring", "do nothing", "undo ring"});
}

ASYNC_TEST("texts that are not UTF-8 stop nothing; a result that is not stops a saga on its way back with its reason") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  lives::diary d;
  define_all(engine, d);
  d.fails["undo"] = 2;
  d.undo_says = "z\xfcgig";
  const auto undone = co_await test::error_of(engine.execute("s-1", lives::two, std::string("nothing")));
  CHECK(undone == "the saga 's-1' went back: the step 'b' was refused: no");
  CHECK(d.lines.back() == "undo a!");
  const auto failed = co_await test::error_of(engine.execute("s-2", lives::grumpy, std::string("x")));
  CHECK(failed == "the saga 's-2' went back: gr\xef\xbf\xbdmpy");

  d.fails["mumble"] = 2;
  (void)co_await engine.start("s-3", lives::mumbling, std::string("x"));
  co_await sleep_for(1min);
  const rows found = co_await db.query("select state, reason from cofferdam_sagas where id = 's-3'");
  CHECK(found.front().get<int>(0) == static_cast<int>(saga::saga_state::stuck));
  const auto reason = found.front().get<std::string>(1);
  CHECK(reason.starts_with("it cannot go back: "));
  CHECK(reason.find("invalid UTF-8 byte") != std::string::npos);
  CHECK(engine.active() == 0);
}

ASYNC_TEST("a saga left by a dead worker is taken over when its lease is over, and its step repeated with its key") {
  database db = co_await database::open("sqlite::memory:");
  lives::diary d;
  d.hangs = true;
  saga::engine first = co_await saga::engine::open(db);
  define_all(first, d);
  (void)co_await first.start("s-1", lives::two, std::string("b"));
  saga::kill(first);  // it hangs in its action and will never commit again
  saga::engine second = co_await saga::engine::open(db);
  lives::diary other;
  define_all(second, other);
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&second] { return second.run(); });
  const auto result = co_await second.find<std::string>("s-1").result();
  CHECK(result == "b!");
  CHECK(time.elapsed() > 10s);
  CHECK(time.elapsed() < 20s);
  CHECK(other.keys.front() == d.keys.front());
  while (first.active() > 0) co_await sleep_for(1s);
  co_await worker.stop();
}

ASYNC_TEST("a worker that writes all the time keeps its sagas past its lease") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine first = co_await saga::engine::open(db);
  first.define("busy", lives::busy, lives::nap_step);
  saga::engine second = co_await saga::engine::open(db);
  second.define("busy", lives::busy, lives::nap_step);
  int claimed = 0;
  const auto listening = second.events().subscribe([&claimed](const saga::saga_event& e) {
    if (e.what == saga::saga_event::kind::claimed) ++claimed;
  });
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&second] { return second.run(); });
  auto started = co_await first.start("s-1", lives::busy, 60);
  co_await started.result();
  CHECK(claimed == 0);
  co_await worker.stop();
}

ASYNC_TEST("an owner that lost its saga cannot write to it") {
  database db = co_await database::open("sqlite::memory:");
  lives::diary d;
  saga::engine engine = co_await saga::engine::open(db);
  define_all(engine, d);
  d.fails["a"] = 1;  // so that it rests between two attempts
  auto started = co_await engine.start("s-1", lives::two, std::string("b"));
  batch b;
  b.execute("update cofferdam_sagas set epoch = epoch + 1, owner = null, wake_at = 0 where id = 's-1'");
  co_await db.commit(std::move(b));
  int lost = 0;
  const auto listening = engine.events().subscribe([&lost](const saga::saga_event& e) {
    if (e.what == saga::saga_event::kind::lost) ++lost;
  });
  co_await sleep_for(5s);
  CHECK(lost == 1);
  CHECK(engine.active() == 0);
  (void)co_await engine.run_due();
  const auto result = co_await started.result();
  CHECK(result == "b!");
}

TEST_CASE("a saga that is started while a worker claims it is not left to nobody") {
  const test::temporary_directory directory;
  const std::string path = directory.file("sagas.db");
  const auto body = [&path]() -> awaitable<void> {
    database db = co_await database::open("sqlite:" + path);
    lives::diary d;
    saga::engine_options full;
    full.max_active = 0;
    saga::engine clerk = co_await saga::engine::open(db, full);
    define_all(clerk, d);
    (void)co_await clerk.start("s-1", lives::two, std::string("b"));
    saga::engine_options quick;
    quick.lease = 300ms;
    saga::engine engine = co_await saga::engine::open(db, quick);
    define_all(engine, d);
    const auto executor = co_await net::this_coro::executor;
    lives::stranger other(path);
    other.run("begin immediate");  // the claim and the start wait for it, in this order
    const auto before = db.stats().queries;
    const auto worker = spawn(executor, [&engine] { return engine.run(); });
    while (db.stats().queries == before) co_await net::post(net::use_awaitable);
    for (int i = 0; i < 100; ++i) co_await net::post(net::use_awaitable);
    std::string result;
    const auto start = [&]() -> awaitable<void> {
      auto started = co_await engine.start("s-1", lives::two, std::string("b"));
      result = co_await started.result();
    };
    const auto starting = spawn(executor, start);
    while (engine.active() == 0) co_await net::post(net::use_awaitable);
    other.run("rollback");
    const auto join = [&] { return starting.join(); };
    (void)co_await test::error_of(with_timeout(10s, join));
    CHECK(result == "b!");
    co_await starting.stop();
    co_await worker.stop();
  };
  test::run_in_real_time(body);
}

TEST_CASE("a full disk stops sagas, and they go on when it has room again: nobody has to end this process") {
  const test::temporary_directory directory;
  const auto body = [&directory]() -> awaitable<void> {
    test::fault_vfs& disk = test::fault_vfs::instance();
    database db = co_await database::open("sqlite:" + directory.file("sagas.db") + "?vfs=faults");
    lives::diary d;
    d.hangs = true;
    saga::engine_options quick;
    quick.lease = 1s;
    quick.step_timeout = 100ms;
    saga::engine engine = co_await saga::engine::open(db, quick);
    define_all(engine, d);
    std::vector<saga::handle<std::string>> started;
    for (int i = 0; i < 3; ++i) {
      started.push_back(co_await engine.start("s-" + std::to_string(i), lives::two, std::string("b")));
    }
    disk.plan(test::fault_vfs::call::write, 1, true);
    while (engine.active() > 0) co_await sleep_for(5ms);  // their attempts are over, which cannot be written
    d.hangs = false;
    disk.heal();
    const auto executor = co_await net::this_coro::executor;
    const auto worker = spawn(executor, [&engine] { return engine.run(); });
    for (auto& each : started) {
      std::string result;
      const auto wait = [&]() -> awaitable<void> { result = co_await each.result(); };
      (void)co_await test::error_of(with_timeout(10s, wait));
      CHECK(result == "b!");
    }
    co_await worker.stop();
  };
  test::run_in_real_time(body);
}

ASYNC_TEST("a body that changed is noticed and the saga stops for an operator; patched() lets old ones pass") {
  database db = co_await database::open("sqlite::memory:");
  lives::diary d;
  {
    saga::engine engine = co_await saga::engine::open(db);
    define_all(engine, d);
    (void)co_await engine.start("s-1", lives::sleepy, std::string("x"));
    (void)co_await engine.start("s-2", lives::sleepy, std::string("x"));
    co_await sleep_for(1s);
  }
  co_await sleep_for(2h);
  {
    saga::engine changed = co_await saga::engine::open(db);
    changed.provide(d);
    changed.define("sleepy", lives::sleepy_patched, lives::a_step, lives::b_step);
    batch b;
    b.execute("update cofferdam_sagas set wake_at = 99999999999999999 where id = 's-2'");
    co_await db.commit(std::move(b));
    (void)co_await changed.run_due();
    const auto result = co_await changed.find<std::string>("s-1").result();
    CHECK(result == "x!");
    CHECK(d.lines == lives::events{"do x", "do x", "do x"});
    const auto fresh = co_await changed.start("s-3", lives::sleepy_patched, std::string("x"));
    co_await sleep_for(1s);
    CHECK(d.lines.size() == 5);
    CHECK(d.lines[3] == "do extra");
  }
  saga::engine changed = co_await saga::engine::open(db);
  changed.provide(d);
  changed.define("sleepy", lives::sleepy_renamed, lives::a_step, lives::b_step);
  batch b;
  b.execute("update cofferdam_sagas set wake_at = 0 where id = 's-2'");
  co_await db.commit(std::move(b));
  std::string stuck;
  const auto listening = changed.events().subscribe([&stuck](const saga::saga_event& e) {
    if (e.what == saga::saga_event::kind::stuck && e.id == "s-2") stuck = e.message;
  });
  (void)co_await changed.run_due();
  CHECK(stuck.find("the body has changed: it now does 'b#1', where the journal has 'a#1', 'sleep#1'") == 0);
}

ASYNC_TEST("a saga of a version goes on with it while newer ones start") {
  database db = co_await database::open("sqlite::memory:");
  lives::diary d;
  saga::engine old = co_await saga::engine::open(db);
  define_all(old, d);
  (void)co_await old.start("s-1", lives::sleepy, std::string("x"));
  co_await sleep_for(2h);
  saga::engine both = co_await saga::engine::open(db);
  both.provide(d);
  both.define({"sleepy", 1}, lives::sleepy, lives::a_step, lives::b_step);
  both.define({"sleepy", 2}, lives::sleepy_renamed, lives::a_step, lives::b_step);
  (void)co_await both.run_due();
  const auto result = co_await both.find<std::string>("s-1").result();
  CHECK(result == "x!");
}

ASYNC_TEST("a step that was not given to define() is named, and the saga goes on when it is") {
  database db = co_await database::open("sqlite::memory:");
  lives::diary d;
  saga::engine engine = co_await saga::engine::open(db);
  engine.provide(d);
  engine.define("two", lives::two, lives::a_step);
  std::string stuck;
  const auto listening = engine.events().subscribe([&stuck](const saga::saga_event& e) {
    if (e.what == saga::saga_event::kind::stuck) stuck = e.message;
  });
  (void)co_await engine.start("s-1", lives::two, std::string("b"));
  co_await sleep_for(1s);
  CHECK(stuck == "the step 'b' is not among those 'two' was defined with: add it to define()");
}

ASYNC_TEST("without a journal the caller's cancellation makes a saga go back, and undos are not cancelled") {
  saga::engine engine;
  lives::diary d;
  engine.provide(d);
  const auto executor = co_await net::this_coro::executor;
  std::string why;
  const auto run = [&]() -> awaitable<void> {
    why = co_await test::error_of(engine.execute("s-1", lives::sleepy, std::string("x")));
  };
  const auto job = spawn(executor, run);
  co_await sleep_for(1s);
  job.cancel();
  co_await sleep_for(1s);
  CHECK(why == "the saga 's-1' went back: cancelled by the caller");
  CHECK(d.lines == lives::events{"do x", "undo x!"});
}

ASYNC_TEST("a pivot whose attempts are used up, and nobody knows what came of them, stops the saga for an operator") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  lives::diary d;
  define_all(engine, d);
  d.fails["x"] = 3;
  auto started = co_await engine.start("s-1", lives::with_limited_pivot, std::string("x"));
  co_await sleep_for(1min);
  saga::admin desk(db);
  const auto shown = co_await desk.show("s-1");
  CHECK(shown.info.state == saga::saga_state::stuck);
  CHECK(shown.info.reason == "nobody knows whether the pivot 'limited#1' has happened: x is away");
  CHECK(d.lines == lives::events{"do a", "do x", "do x", "do x"});
  co_await desk.retry_now("s-1", {"ada", "the bank answers"});
  (void)co_await engine.run_due();
  const auto result = co_await started.result();
  CHECK(result == "x!");

  d = lives::diary();
  d.fails["x"] = 3;
  saga::engine here;
  here.provide(d);
  const auto why = co_await test::error_of(here.execute("s-2", lives::with_limited_pivot, std::string("x")));
  CHECK(why ==
        "the saga 's-2' waits for an operator: nobody knows whether the pivot 'limited#1' has happened: x is away");
  CHECK(d.lines == lives::events{"do a", "do x", "do x", "do x"});
}

ASYNC_TEST("an operator may say that a pivot nobody knows of has not happened, and make its saga go back") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  lives::diary d;
  define_all(engine, d);
  d.fails["x"] = 99;
  auto started = co_await engine.start("s-1", lives::with_limited_pivot, std::string("x"));
  co_await sleep_for(1min);
  saga::admin desk(db);
  co_await desk.compensate("s-1", {"ada", "the customer gave up"});
  (void)co_await engine.run_due();
  const auto still = co_await test::state_of(db, "s-1");
  CHECK(still == "stuck");
  co_await desk.mark_undone("s-1", "limited#1", {"ada", "refund 7731"});
  (void)co_await engine.run_due();
  const auto why = co_await test::error_of(started.result());
  CHECK(why == "the saga 's-1' went back: the customer gave up");
  CHECK(d.lines.back() == "undo a!");
}

ASYNC_TEST("a pivot that has begun goes on to its outcome when another branch fails, with and without a journal") {
  lives::diary d;
  saga::engine here;
  here.provide(d);
  d.fails["x"] = 2;
  const auto without = co_await test::error_of(here.execute("s-1", lives::pivot_beside_b, std::string("x")));
  CHECK(without == "the saga 's-1' waits for an operator: failed past its pivot: the step 'b' was refused: no");
  CHECK(d.lines == lives::events{"do a", "do x", "do nothing", "do x", "do x"});

  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  d = lives::diary();
  define_all(engine, d);
  d.fails["x"] = 2;
  (void)co_await engine.start("s-2", lives::pivot_beside_b, std::string("x"));
  co_await sleep_for(1min);
  const rows found = co_await db.query("select reason from cofferdam_sagas where id = 's-2'");
  CHECK(found.front().get<std::string>(0) == "failed past its pivot: the step 'b' was refused: no");
  CHECK(std::ranges::count(d.lines, "do x") == 3);
}

ASYNC_TEST("without a journal a pivot is not cancelled: what came of it decides where the saga goes") {
  saga::engine engine;
  lives::diary d;
  engine.provide(d);
  d.hangs_at = "pivot";
  const auto executor = co_await net::this_coro::executor;
  std::string result;
  const auto run = [&]() -> awaitable<void> {
    result = co_await engine.execute("s-1", lives::all_kinds, std::string("x"));
  };
  const auto job = spawn(executor, run);
  co_await sleep_for(1s);
  job.cancel();
  co_await sleep_for(2h);
  CHECK(result == "x!");
  CHECK(d.lines == lives::events{"do a", "do pivot", "do x"});

  d = lives::diary();
  d.hangs_at = "nothing";
  std::string why;
  const auto refuse = [&]() -> awaitable<void> {
    why = co_await test::error_of(engine.execute("s-2", lives::with_limited_pivot, std::string("nothing")));
  };
  const auto other = spawn(executor, refuse);
  co_await sleep_for(1s);
  other.cancel();
  co_await sleep_for(2h);
  CHECK(why == "the saga 's-2' went back: the step 'limited' was refused: no");
  CHECK(d.lines == lives::events{"do a", "do nothing", "undo a!"});
}

ASYNC_TEST("a saga that is cancelled during its pivot goes back once that is refused, with and without a journal") {
  lives::diary d;
  d.hangs_at = "nothing";
  saga::engine here;
  here.provide(d);
  const auto executor = co_await net::this_coro::executor;
  std::string why;
  const auto run = [&]() -> awaitable<void> {
    why = co_await test::error_of(here.execute("s-1", lives::without_its_pivot, std::string("nothing")));
  };
  const auto job = spawn(executor, run);
  co_await sleep_for(1s);
  job.cancel();
  co_await sleep_for(2h);
  CHECK(why == "the saga 's-1' went back: cancelled by the caller");
  CHECK(d.lines == lives::events{"do a", "do nothing", "undo a!"});

  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  d = lives::diary();
  define_all(engine, d);
  d.hangs_at = "nothing";
  auto started = co_await engine.start("s-2", lives::without_its_pivot, std::string("nothing"));
  co_await sleep_for(1s);
  co_await engine.cancel("s-2", "changed my mind");
  d.hangs_at.clear();
  co_await sleep_for(1s);
  (void)co_await engine.run_due();
  const auto cancelled = co_await test::error_of(started.result());
  CHECK(cancelled == "the saga 's-2' went back: changed my mind");
  CHECK(d.lines == lives::events{"do a", "do nothing", "do nothing", "undo a!"});
}

ASYNC_TEST("an engine that ends hands its sagas back between two steps") {
  database db = co_await database::open("sqlite::memory:");
  lives::diary d;
  const auto executor = co_await net::this_coro::executor;
  saga::engine first = co_await saga::engine::open(db);
  define_all(first, d);
  d.fails["b"] = 1;
  {
    const auto worker = spawn(executor, [&first] { return first.run(); });
    (void)co_await first.start("s-1", lives::two, std::string("b"));
    co_await worker.stop();
  }
  co_await sleep_for(1s);
  CHECK(first.active() == 0);
  saga::engine second = co_await saga::engine::open(db);
  define_all(second, d);
  const auto before = time.elapsed();
  (void)co_await second.run_due();
  const auto result = co_await second.find<std::string>("s-1").result();
  CHECK(result == "b!");
  CHECK(time.elapsed() - before < 5s);  // no lease had to run out
}
