// Sagas of five steps that do nothing: without a journal beside bare calls, with one beside the same rows through
// SQLite's own C functions, on files, `synchronous=FULL`. Compare within one run. Then what sagas cost that wait:
// memory, coming back, and an engine's start among very many of them.
#include "../support/real_time.hpp"
#include "../support/temporary_directory.hpp"
#include "support.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/workers.hpp>
#include <cofferdam/saga/chain.hpp>
#include <cofferdam/saga/engine.hpp>
#include <cofferdam/saga/testing.hpp>

#include <malloc.h>
#include <sqlite3.h>

#include <chrono>
#include <string>

using namespace cofferdam;
using namespace cofferdam::bench;
using namespace std::chrono_literals;
using saga::operator""_s;

namespace {

awaitable<int> step_of(saga::step_context& /*context*/, int n) { co_return n + 1; }
awaitable<void> undo_of(saga::step_context& /*context*/, std::optional<int>, int) { co_return; }
awaitable<int> bare_step(int n) { co_return n + 1; }

constexpr auto one = saga::step<"one", &step_of, &undo_of>;
constexpr auto two = saga::step<"two", &step_of, &undo_of>;
constexpr auto three = saga::step<"three", &step_of, &undo_of>;
constexpr auto four = saga::step<"four", &step_of, &undo_of>;
constexpr auto five = saga::step<"five", &step_of, &undo_of>;

saga::task<int> five_steps(saga::scope& s, int n) {
  n = co_await s.run(one, n);
  n = co_await s.run(two, n);
  n = co_await s.run(three, n);
  n = co_await s.run(four, n);
  co_return co_await s.run(five, n);
}
constexpr auto five_links = saga::start<int>("five") | one.with([](const auto& s) { return std::tuple(s.input()); }) |
                            two.with([](const auto& s) { return std::tuple(s["one"_s]); }) |
                            three.with([](const auto& s) { return std::tuple(s["two"_s]); }) |
                            four.with([](const auto& s) { return std::tuple(s["three"_s]); }) |
                            five.with([](const auto& s) { return std::tuple(s["four"_s]); });

awaitable<int> five_bare(int n) {
  n = co_await bare_step(n);
  n = co_await bare_step(n);
  n = co_await bare_step(n);
  n = co_await bare_step(n);
  co_return co_await bare_step(n);
}

void five_bare_calls(benchmark::State& state) {
  await_in_loop(state, [] { return five_bare(1); });
}
BENCHMARK(five_bare_calls);

void saga_without_journal(benchmark::State& state) {
  saga::engine engine;
  await_in_loop(state, [&] { return engine.execute("s", five_steps, 1); });
}
BENCHMARK(saga_without_journal);

void chain_without_journal(benchmark::State& state) {
  saga::engine engine;
  await_in_loop(state, [&] { return engine.execute("s", five_links, 1); });
}
BENCHMARK(chain_without_journal);

// --------------------------------------------------------------------------------------------------- with a journal

void require_ok(int result) {
  if (result != SQLITE_OK && result != SQLITE_DONE && result != SQLITE_ROW)
    throw std::runtime_error(sqlite3_errstr(result));
}

/// The rows of sagas, without the sagas: `together` commits of theirs in each commit to disk.
void raw_rows_of_sagas(benchmark::State& state) {
  const test::temporary_directory directory;
  const auto together = static_cast<int>(state.range(0));
  {
    const auto prepare = [&]() -> awaitable<void> {
      database db = co_await database::open("sqlite:" + directory.file("sagas.db"));
      (void)co_await saga::engine::open(db);
      co_await db.close();
    };
    test::run_in_real_time(prepare);
  }
  sqlite3* db = nullptr;
  require_ok(sqlite3_open(directory.file("sagas.db").c_str(), &db));
  const auto run = [db](const char* sql) { require_ok(sqlite3_exec(db, sql, nullptr, nullptr, nullptr)); };
  run("pragma journal_mode = wal");
  run("pragma synchronous = full");
  run("pragma wal_autocheckpoint = 10000");
  // Every row as the engine writes it, down to the length of a worker's id and the index entries that an end moves.
  sqlite3_stmt *insert = nullptr, *entry = nullptr, *update = nullptr, *end = nullptr;
  const auto prepare_statement = [db](sqlite3_stmt*& to, const char* sql) {
    require_ok(sqlite3_prepare_v2(db, sql, -1, &to, nullptr));
  };
  prepare_statement(insert,
                    "insert into cofferdam_sagas(id, definition, version, state, epoch, owner, seq, signals, claims, "
                    "pivoted, input, created_at, updated_at) values(?1, 'five', 1, 0, 1, "
                    "'0123456789abcdef0123456789abcdef', ?2, 0, 0, 0, '1', ?3, ?3)");
  prepare_statement(entry,
                    "insert into cofferdam_saga_journal(saga, seq, kind, key, step, payload, epoch, at) values(?1, ?2, "
                    "?4, 'three#1', ?5, ?6, 1, ?3)");
  prepare_statement(update,
                    "update cofferdam_sagas set seq = ?2, state = 0, pivoted = 0, updated_at = ?3, claims = 0 where id "
                    "= ?1 and epoch = 1 and seq = ?4");
  prepare_statement(end,
                    "update cofferdam_sagas set seq = ?2, state = 3, reason = '', output = '6', owner = null, wake_at "
                    "= null, updated_at = ?3, claims = 0, pivoted = 0 where id = ?1 and epoch = 1 and seq = ?4");
  const auto now = [] {
    return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  };
  const auto step = [&now](sqlite3_stmt* s, const std::string& id, int seq) {
    sqlite3_bind_text(s, 1, id.c_str(), -1, SQLITE_STATIC);
    sqlite3_bind_int(s, 2, seq);
    sqlite3_bind_int64(s, 3, now());
    require_ok(sqlite3_step(s));
    sqlite3_reset(s);
  };
  const auto outcome_at = [&](const std::string& id, int seq) {
    sqlite3_bind_int(entry, 4, 2);
    sqlite3_bind_text(entry, 5, "", -1, SQLITE_STATIC);
    sqlite3_bind_text(entry, 6, "4", -1, SQLITE_STATIC);
    step(entry, id, seq);
  };
  const auto intent_at = [&](const std::string& id, int seq) {
    sqlite3_bind_int(entry, 4, 1);
    sqlite3_bind_text(entry, 5, "three", -1, SQLITE_STATIC);
    sqlite3_bind_text(entry, 6, "{\"arguments\":[3]}", -1, SQLITE_STATIC);
    step(entry, id, seq);
  };
  const auto move_on = [&](sqlite3_stmt* how, const std::string& id, int from, int to) {
    sqlite3_bind_int(how, 4, from);
    step(how, id, to);
  };
  std::int64_t n = 0, sagas = 0;
  for (auto _ : state) {
    for (int commit = 0; commit < 6; ++commit) {
      run("begin immediate");
      const int seq = commit == 0 ? 0 : 2 * commit - 1;  // before it
      for (int i = 0; i < together; ++i) {
        const std::string id = "s-" + std::to_string(n + i);
        if (commit == 0) step(insert, id, 1);
        if (commit > 0) move_on(commit == 5 ? end : update, id, seq, commit == 5 ? seq + 1 : seq + 2);
        if (commit > 0) outcome_at(id, seq + 1);
        if (commit < 5) intent_at(id, commit == 0 ? 1 : seq + 2);
      }
      run("commit");
    }
    n += together;
    sagas += together;
  }
  state.SetItemsProcessed(sagas);
  for (auto* s : {insert, entry, update, end}) sqlite3_finalize(s);
  sqlite3_close(db);
}
BENCHMARK(raw_rows_of_sagas)->Arg(1)->Arg(256)->UseRealTime();

void sagas_with_journal(benchmark::State& state) {
  const test::temporary_directory directory;
  const auto at_once = static_cast<std::size_t>(state.range(0));
  std::int64_t ended = 0;
  double per_commit = 0, per_saga = 0;
  const auto live = [&]() -> awaitable<void> {
    database_options options;
    options.max_batches_per_commit = 256;
    database db = co_await database::open("sqlite:" + directory.file("sagas.db"), options);
    saga::engine engine = co_await saga::engine::open(db);
    engine.define("five", five_steps, one, two, three, four, five);
    std::int64_t next = 0, until = 0;
    const auto client = [&]() -> awaitable<void> {
      while (next < until) {
        const std::string id = "s-" + std::to_string(next++);
        auto started = co_await engine.start(id, five_steps, 1);
        (void)co_await started.result();
        ++ended;
      }
    };
    for (auto _ : state) {
      until += static_cast<std::int64_t>(at_once);
      co_await cofferdam::detail::run_workers(at_once, [&client] { return client(); });
    }
    const auto batches = static_cast<double>(db.stats().batches);
    per_commit = batches / static_cast<double>(db.stats().commits);
    per_saga = batches / static_cast<double>(ended);
    co_await db.close();
  };
  test::run_in_real_time(live);
  state.SetItemsProcessed(ended);
  state.counters["per_commit"] = per_commit;
  state.counters["batches_per_saga"] = per_saga;  // six, and now and then the worker's sign of life
}
BENCHMARK(sagas_with_journal)->Arg(1)->Arg(1024)->UseRealTime();

// ------------------------------------------------------------------------------------------------------------ waiting

saga::task<void> many_steps(saga::scope& s, int count) {
  for (int n = 0; n < count; ++n) (void)co_await s.run(one, n);
  (void)co_await s.wait_signal<int>("never");
}

/// A saga of very many steps comes back, is replayed, and parks again.
void replay_of_one_step(benchmark::State& state) {
  using clock = std::chrono::steady_clock;
  const int steps = static_cast<int>(state.range(0));
  const auto live = [&]() -> awaitable<void> {
    database db = co_await database::open("sqlite::memory:");
    saga::engine engine = co_await saga::engine::open(db);
    engine.define("many", many_steps, one);
    clock::time_point claimed, parked;
    const auto listening = engine.events().subscribe([&](const saga::saga_event& e) {
      if (e.what == saga::saga_event::kind::claimed) claimed = clock::now();
      if (e.what == saga::saga_event::kind::parked) parked = clock::now();
    });
    (void)co_await engine.start("s", many_steps, steps);
    while (engine.active() > 0) co_await sleep_for(1ms);
    for (auto _ : state) {
      batch b;
      b.execute("update cofferdam_sagas set wake_at = 0");
      co_await db.commit(std::move(b));
      (void)co_await engine.run_due();
      while (engine.active() > 0) co_await sleep_for(1ms);
      state.SetIterationTime(std::chrono::duration<double>(parked - claimed).count() / steps);
    }
  };
  test::run_in_real_time(live);
}
BENCHMARK(replay_of_one_step)->Arg(1000)->UseManualTime()->Iterations(50);

awaitable<void> hang(saga::step_context& /*context*/) { co_await sleep_for(1h); }
constexpr auto hang_step = saga::step<"hang", &hang>.timeout(2h);

/// Waits with two steps behind it: in the memory, in the middle of an action, or evicted.
saga::task<void> waits(saga::scope& s, bool is_evicted) {
  (void)co_await s.run(one, 1);
  (void)co_await s.run(two, 2);
  if (is_evicted) co_await s.sleep(1h);
  co_await s.run(hang_step);
}

void memory_of_a_saga(benchmark::State& state, bool is_evicted) {
  constexpr int count = 1'000;
  double bytes = 0;
  for (auto _ : state) {
    const test::temporary_directory directory;
    const auto live = [&]() -> awaitable<void> {
      database db = co_await database::open("sqlite:" + directory.file("sagas.db"));
      saga::engine_options options;
      options.max_active = 2 * count;
      saga::engine engine = co_await saga::engine::open(db, options);
      engine.define("waits", waits, one, two, hang_step);
      std::size_t before = 0;
      for (int n = 0; n < 2 * count; ++n) {  // the first half fills every cache there is
        if (n == count) {
          while (is_evicted && engine.active() > 0) co_await sleep_for(1ms);
          co_await sleep_for(100ms);
          before = ::mallinfo2().uordblks + ::mallinfo2().hblkhd;
        }
        (void)co_await engine.start("saga-" + std::to_string(n), waits, is_evicted);
      }
      while (is_evicted && engine.active() > 0) co_await sleep_for(1ms);
      co_await sleep_for(100ms);
      const std::size_t after = ::mallinfo2().uordblks + ::mallinfo2().hblkhd;
      bytes = (static_cast<double>(after) - static_cast<double>(before)) / count;
      saga::kill(engine);
      co_await db.close();
    };
    net::io_context context(1);
    net::co_spawn(context, live, [&context](const std::exception_ptr&) { context.stop(); });
    context.run();
  }
  state.counters["bytes"] = bytes;
}
BENCHMARK_CAPTURE(memory_of_a_saga, acting, false)->Iterations(1)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(memory_of_a_saga, evicted, true)->Iterations(1)->Unit(benchmark::kMillisecond);

/// From nothing to the first saga that runs, where a hundred thousand others wait for another day.
void engine_start_among_parked(benchmark::State& state) {
  const test::temporary_directory directory;
  const std::string url = "sqlite:" + directory.file("sagas.db");
  const auto prepare = [&]() -> awaitable<void> {
    database db = co_await database::open(url);
    saga::engine engine = co_await saga::engine::open(db);
    batch b;
    b.execute(
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < $1) insert into cofferdam_sagas(id, "
        "definition, version, state, epoch, seq, wake_at, signals, claims, pivoted, input, created_at, updated_at) "
        "select 'parked-' || i, 'five', 1, 1, 1, 3, 9000000000000000, 0, 0, 0, '1', i, i from n",
        state.range(0));
    b.execute(
        "insert into cofferdam_saga_journal(saga, seq, kind, key, step, payload, epoch, at) select id, n.i, 1, "
        "'one#' || n.i, 'one', '{\"arguments\":[1]}', 1, 1 from cofferdam_sagas, (select 1 as i union select 2 union "
        "select 3) n");
    co_await db.commit(std::move(b));
    co_await db.close();
  };
  test::run_in_real_time(prepare);
  std::int64_t runs = 0;
  const auto live = [&]() -> awaitable<void> {
    database db = co_await database::open(url);
    saga::engine engine = co_await saga::engine::open(db);
    engine.define("five", five_steps, one, two, three, four, five);
    (void)co_await engine.run_due();
    auto started = co_await engine.start("fresh-" + std::to_string(++runs), five_steps, 1);
    (void)co_await started.result();
    co_await db.close();
  };
  for (auto _ : state) test::run_in_real_time(live);
}
BENCHMARK(engine_start_among_parked)->Arg(100'000)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
