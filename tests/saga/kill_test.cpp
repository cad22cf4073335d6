// Two workers on one database, killed at any moment: every saga, with those it calls, ends, each effect counts once, no
// lock is left, money sums to zero. And one that was only stopped, so that it comes back from the dead.
// COFFERDAM_SAGA_KILLS: how many.
#include "catch.hpp"
#include "count_from.hpp"
#include "postgres_server.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/saga/admin.hpp>
#include <cofferdam/saga/barrier.hpp>
#include <cofferdam/saga/engine.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace killing {

struct job {
  int number = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(job, number)

/// What happened in the world: one row an effect, by idempotency key.
awaitable<int> take(saga::step_context& context, int amount) {
  batch b;
  b.execute("insert into effects(key, saga, amount) values($1, $2, $3) on conflict do nothing",
            context.idempotency_key(), context.saga_id(), amount);
  co_await context.get<database>().commit(std::move(b));
  if (amount == -13) throw std::runtime_error("the answer was lost");
  co_return amount;
}
/// Also where nothing was taken yet: what comes late finds its row.
awaitable<void> give_back(saga::step_context& context, std::optional<int>, int) {
  std::string key = context.idempotency_key();
  key.resize(key.size() - std::string("!undo").size());
  batch b;
  b.execute("insert into effects(key, saga, amount) values($1, $2, 0) on conflict(key) do update set amount = 0", key,
            context.saga_id());
  co_await context.get<database>().commit(std::move(b));
}
/// At a service with a barrier: here, too, a second time would violate the primary key.
awaitable<int> take_as_guest(saga::step_context& context, int amount) {
  const saga::participant_call call(context);
  batch b;
  b.execute("insert into effects(key, saga, amount) values($1, $2, $3)", context.idempotency_key(), context.saga_id(),
            amount);
  const auto answer = co_await context.get<saga::barrier>().act(call, std::move(b), amount);
  if (!answer.result) throw std::runtime_error("comes too late");
  co_return *answer.result;
}
awaitable<void> give_back_as_guest(saga::step_context& context, std::optional<int>, int) {
  const saga::participant_call call(context);
  batch b;
  b.execute("delete from effects where key = $1", context.saga_id() + '/' + context.key());
  (void)co_await context.get<saga::barrier>().undo(call, std::move(b));
}
/// Written together with its outcome: a second time would violate the primary key.
awaitable<int> give(saga::step_context& context, batch& b, int amount) {
  b.execute("insert into effects(key, saga, amount) values($1, $2, $3)", context.saga_id() + "/give", context.saga_id(),
            amount);
  co_return amount;
}
awaitable<void> refuse(saga::step_context&) { throw saga::refused("no"); }

constexpr auto take_step = saga::step<"take", &take, &give_back>.max_attempts(2);
constexpr auto take_as_guest_step = saga::step<"guest", &take_as_guest, &give_back_as_guest>;
constexpr auto give_step = saga::pivot<"give", &give>;
constexpr auto refuse_step = saga::step<"refuse", &refuse>;

saga::task<int> child(saga::scope& s, job j) {
  if (j.number % 2 == 0) co_await s.lock("the child's");
  const int a = co_await s.run(take_as_guest_step, -5);
  co_await s.sleep(10ms);
  co_return a + co_await s.run(take_step, -1);
}
saga::task<int> transfer(saga::scope& s, job j) {
  if (j.number % 6 == 5) co_await s.lock("the parent's");
  const int a = co_await s.run(take_step, -10);
  const int b = co_await s.run(take_step, j.number % 5 == 3 ? -13 : -20);
  int c = 0;
  if (j.number % 3 != 0) c = co_await s.call<"child">(child, j);
  if (j.number % 3 == 1) co_await s.sleep(20ms);
  if (j.number % 4 == 2) co_await s.run(refuse_step);
  co_return co_await s.run(give_step, -a - b - c);
}

saga::engine_options hurried() {
  saga::engine_options o;
  o.lease = 400ms;
  o.backoff.base = 1ms;
  o.undo_backoff.base = 1ms;
  return o;
}

awaitable<void> work(std::string url, int first, int told) {
  database db = co_await database::open(std::move(url));
  saga::engine engine = co_await saga::engine::open(db, hurried());
  saga::barrier gate = co_await saga::barrier::open(db);
  engine.provide(db);
  engine.provide(gate);
  engine.define("transfer", transfer, take_step, give_step, refuse_step);
  engine.define("child", child, take_step, take_as_guest_step);
  const auto executor = co_await net::this_coro::executor;
  const auto run = [&engine] { return engine.run(); };
  const spawned worker = spawn(executor, run);
  for (int n = first;; ++n) {
    const job j{n};
    (void)co_await engine.start("s-" + std::to_string(n), transfer, j);
    if (::write(told, &n, sizeof n) != sizeof n) ::_exit(1);
    while (engine.active() > 5) co_await sleep_for(1ms);
  }
}

awaitable<void> finish_all(std::string url, int* ended) {
  database db = co_await database::open(std::move(url));
  saga::engine engine = co_await saga::engine::open(db, hurried());
  saga::barrier gate = co_await saga::barrier::open(db);
  engine.provide(db);
  engine.provide(gate);
  engine.define("transfer", transfer, take_step, give_step, refuse_step);
  engine.define("child", child, take_step, take_as_guest_step);
  for (std::int64_t left = 1; left > 0;) {
    (void)co_await engine.run_due();
    const rows found = co_await db.query("select count(*) from cofferdam_sagas where state not in (3, 4)");
    left = found.front().get<std::int64_t>(0);
    if (left > 0) co_await sleep_for(50ms);
  }
  const rows sagas = co_await db.query(
      "select s.id, s.state, (select count(*) from effects e where e.saga = s.id and e.amount <> 0) as moved, case "
      "when "
      "s.parent is null then 0 else 1 end as is_child from cofferdam_sagas s");
  int children = 0;
  for (const row r : sagas) {
    const int n = std::stoi(r.get<std::string>(0).substr(2));
    const bool goes_back = n % 5 == 3 || n % 4 == 2;  // and its child with it
    const bool is_child = r.get<bool>("is_child");
    INFO(r.get<std::string>(0));
    CHECK(r.get<int>(1) == static_cast<int>(goes_back ? saga::saga_state::compensated : saga::saga_state::completed));
    CHECK(r.get<int>("moved") == (goes_back ? 0 : is_child ? 2 : 3));
    children += is_child ? 1 : 0;
  }
  const rows total = co_await db.query("select cast(sum(amount) as bigint) from effects");
  CHECK(total.front().get<int>(0) == 0);
  const rows locks = co_await db.query("select count(*) from cofferdam_saga_locks");
  CHECK(locks.front().get<int>(0) == 0);
  CHECK(children > 0);
  *ended = static_cast<int>(sagas.size()) - children;
  co_await db.close();
}

void kill_in_a_loop(const std::string& url, int rounds) {
  const auto prepare = [&]() -> awaitable<void> {
    database db = co_await database::open(url);
    batch b;
    b.execute("create table effects(key text primary key, saga text not null, amount bigint not null)");
    co_await db.commit(std::move(b));
    co_await db.close();
  };
  test::run_in_real_time(prepare);
  struct worker {
    pid_t process = 0;
    int heard_from = -1;
    int next = 0;
  };
  std::array<worker, 2> workers;
  workers[1].next = 1'000'000;
  const auto start = [&url](worker& w) {
    int pipe[2];
    REQUIRE(::pipe(pipe) == 0);
    w.process = ::fork();
    if (w.process == 0) {
      ::close(pipe[0]);
      try {
        test::run_in_real_time(work, url, w.next, pipe[1]);
      } catch (...) {
      }
      ::_exit(1);
    }
    ::close(pipe[1]);
    w.heard_from = pipe[0];
  };
  const auto hear = [](worker& w) {
    int n = 0;
    if (::read(w.heard_from, &n, sizeof n) != sizeof n) return false;
    w.next = n + 1;
    return true;
  };
  int acknowledged = 0;
  for (worker& w : workers) start(w);
  for (int round = 0; round < rounds; ++round) {
    worker& victim = workers[static_cast<std::size_t>(round % 2)];
    int heard = 0;
    while (heard < 3 + round % 7 && hear(victim)) ++heard;
    CHECK(heard == 3 + round % 7);
    ::kill(victim.process, SIGKILL);
    while (hear(victim)) ++heard;
    acknowledged += heard;
    ::close(victim.heard_from);
    int status = 0;
    ::waitpid(victim.process, &status, 0);
    CHECK(WIFSIGNALED(status));
    start(victim);
  }
  for (worker& w : workers) {
    ::kill(w.process, SIGKILL);
    while (hear(w)) ++acknowledged;
    ::close(w.heard_from);
    int status = 0;
    ::waitpid(w.process, &status, 0);
  }
  int ended = 0;
  test::run_in_real_time(finish_all, url, &ended);
  CHECK(ended >= acknowledged);  // no acknowledged start is lost
}

}  // namespace killing

TEST_CASE("sagas on SQLite whose workers are killed all end, and money sums to zero", "[torture]") {
  const test::temporary_directory directory;
  killing::kill_in_a_loop("sqlite:" + directory.file("sagas.db"),
                          static_cast<int>(test::count_from("COFFERDAM_SAGA_KILLS", 30)));
}

TEST_CASE("sagas on PostgreSQL whose workers are killed all end, and money sums to zero", "[torture]") {
  test::postgres_server* server = test::postgres_server::shared();
  if (server == nullptr) return;
  server->clear();
  killing::kill_in_a_loop(server->url(), static_cast<int>(test::count_from("COFFERDAM_SAGA_KILLS", 30)));
}

namespace rising {

struct process {
  std::string name;
  bool stops = false;  // in the middle of its action
  int lost = 0;        // how often it was told that a saga is no longer its own
};

/// Written with its outcome, under a key of the process's own: nothing but the epoch keeps a second one out.
awaitable<std::string> sign(saga::step_context& context, batch& b) {
  auto& me = context.get<process>();
  b.execute("insert into signatures(name) values($1)", me.name);
  co_await sleep_for(20ms);
  if (me.stops) std::raise(SIGSTOP);
  co_return me.name;
}
constexpr auto sign_step = saga::pivot<"sign", &sign>;
saga::task<std::string> contract(saga::scope& s, int) { co_return co_await s.run(sign_step); }

awaitable<saga::engine> open_engine(database& db, process& me, duration lease) {
  saga::engine_options options;
  options.lease = lease;
  saga::engine engine = co_await saga::engine::open(db, options);
  engine.provide(me);
  engine.define("contract", contract, sign_step);
  co_return engine;
}

/// Signs, and is stopped over it. Ends well only when it is then told that the saga is not its own any more.
awaitable<void> stopped(std::string url) {
  process me{"first", true};
  database db = co_await database::open(std::move(url));
  saga::engine engine = co_await open_engine(db, me, 15s);
  const auto listening = engine.events().subscribe([&me](const saga::saga_event& e) {
    if (e.what == saga::saga_event::kind::lost) ++me.lost;
  });
  (void)co_await engine.start("c-1", contract, 1);
  for (int i = 0; i < 5'000 && me.lost == 0; ++i) co_await sleep_for(1ms);
  while (engine.active() > 0) co_await sleep_for(1ms);
  ::_exit(me.lost == 1 ? 0 : 3);
}

awaitable<void> takes_over(std::string url, nlohmann::json* history) {
  process me{"second"};
  database db = co_await database::open(std::move(url));
  saga::engine engine = co_await open_engine(db, me, 200ms);
  const auto executor = co_await net::this_coro::executor;
  const auto run = [&engine] { return engine.run(); };
  const spawned worker = spawn(executor, run);
  const auto signed_by = co_await engine.find<std::string>("c-1").result();
  CHECK(signed_by == "second");
  worker.cancel();
  while (engine.active() > 0) co_await sleep_for(1ms);
  saga::admin desk(db);
  *history = co_await desk.export_history("c-1");
  co_await sleep_for(100ms);
  co_await db.close();
}

awaitable<void> look(std::string url, nlohmann::json* history, std::string* names) {
  database db = co_await database::open(std::move(url));
  saga::admin desk(db);
  *history = co_await desk.export_history("c-1");
  const rows found = co_await db.query("select name from signatures order by name");
  for (const row r : found) *names += r.get<std::string>(0) + " ";
  co_await db.close();
}

void stop_and_let_go(const std::string& url) {
  const auto prepare = [&]() -> awaitable<void> {
    database db = co_await database::open(url);
    batch b;
    b.execute("create table signatures(name text primary key)");
    co_await db.commit(std::move(b));
    co_await db.close();
  };
  test::run_in_real_time(prepare);
  const pid_t zombie = ::fork();
  if (zombie == 0) {
    try {
      test::run_in_real_time(stopped, url);
    } catch (...) {
    }
    ::_exit(1);
  }
  int status = 0;
  REQUIRE(::waitpid(zombie, &status, WUNTRACED) == zombie);
  REQUIRE(WIFSTOPPED(status));
  nlohmann::json before, after;
  test::run_in_real_time(takes_over, url, &before);
  ::kill(zombie, SIGCONT);
  ::waitpid(zombie, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  std::string names;
  test::run_in_real_time(look, url, &after, &names);
  CHECK(after == before);
  CHECK(names == "second ");
}

}  // namespace rising

TEST_CASE("a worker that was stopped past its lease and goes on cannot write, on SQLite") {
  const test::temporary_directory directory;
  rising::stop_and_let_go("sqlite:" + directory.file("sagas.db"));
}

TEST_CASE("a worker that was stopped past its lease and goes on cannot write, on PostgreSQL") {
  test::postgres_server* server = test::postgres_server::shared();
  if (server == nullptr) return;
  server->clear();
  rising::stop_and_let_go(server->url());
}
