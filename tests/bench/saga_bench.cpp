// Sagas of five steps that do nothing: without a journal beside bare calls, with one beside the same rows through
// SQLite's own C functions, on files, `synchronous=FULL`. Compare within one run.
#include "../support/real_time.hpp"
#include "../support/temporary_directory.hpp"
#include "support.hpp"

#include <cofferdam/core/workers.hpp>
#include <cofferdam/saga/chain.hpp>
#include <cofferdam/saga/engine.hpp>

#include <sqlite3.h>

#include <string>

using namespace cofferdam;
using namespace cofferdam::bench;
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
  sqlite3_stmt *insert = nullptr, *entry = nullptr, *update = nullptr;
  require_ok(
      sqlite3_prepare_v2(db,
                         "insert into cofferdam_sagas(id, definition, version, state, epoch, owner, seq, signals, "
                         "claims, pivoted, input, created_at, updated_at) values(?, 'five', 1, 0, 1, 'w', 1, 0, "
                         "0, 0, '1', 0, 0)",
                         -1, &insert, nullptr));
  require_ok(sqlite3_prepare_v2(db,
                                "insert into cofferdam_saga_journal(saga, seq, kind, key, step, payload, epoch, at) "
                                "values(?, ?, 1, 'three#1', 'three', '{\"arguments\":[3]}', 1, 0)",
                                -1, &entry, nullptr));
  require_ok(sqlite3_prepare_v2(db, "update cofferdam_sagas set seq = ?2, updated_at = 1 where id = ?1 and epoch = 1",
                                -1, &update, nullptr));
  const auto step = [](sqlite3_stmt* s) {
    require_ok(sqlite3_step(s));
    sqlite3_reset(s);
  };
  std::int64_t n = 0, sagas = 0;
  for (auto _ : state) {
    for (int commit = 0; commit < 6; ++commit) {
      run("begin immediate");
      for (int i = 0; i < together; ++i) {
        const std::string id = "s-" + std::to_string(n + i);
        if (commit == 0) {
          sqlite3_bind_text(insert, 1, id.c_str(), -1, SQLITE_STATIC);
          step(insert);
        } else {
          sqlite3_bind_text(update, 1, id.c_str(), -1, SQLITE_STATIC);
          sqlite3_bind_int(update, 2, 2 * commit + 1);
          step(update);
        }
        for (int row = 0; row < (commit == 0 || commit == 5 ? 1 : 2); ++row) {
          sqlite3_bind_text(entry, 1, id.c_str(), -1, SQLITE_STATIC);
          sqlite3_bind_int(entry, 2, 2 * commit + row);
          step(entry);
        }
      }
      run("commit");
    }
    n += together;
    sagas += together;
  }
  state.SetItemsProcessed(sagas);
  for (auto* s : {insert, entry, update}) sqlite3_finalize(s);
  sqlite3_close(db);
}
BENCHMARK(raw_rows_of_sagas)->Arg(1)->Arg(256)->UseRealTime();

void sagas_with_journal(benchmark::State& state) {
  const test::temporary_directory directory;
  const auto at_once = static_cast<std::size_t>(state.range(0));
  std::int64_t ended = 0;
  double per_commit = 0;
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
    per_commit = static_cast<double>(db.stats().batches) / static_cast<double>(db.stats().commits);
    co_await db.close();
  };
  test::run_in_real_time(live);
  state.SetItemsProcessed(ended);
  state.counters["per_commit"] = per_commit;
}
BENCHMARK(sagas_with_journal)->Arg(1)->Arg(1024)->UseRealTime();

}  // namespace
