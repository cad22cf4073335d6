// Appending on a real PostgreSQL server beside pgbench, which does the same append over as many connections; and how
// soon a subscription in another pool hears of a commit. The server does not sync to disk, so that it is the work that
// is compared. Compare items per second within one run.
#include "../support/postgres_server.hpp"
#include "../support/real_time.hpp"
#include "../support/temporary_directory.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/workers.hpp>
#include <cofferdam/eventsourcing/event_subscription.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

constexpr int connections = 8;
constexpr int appends = 8'000;

test::postgres_server* fresh_server(benchmark::State& state) {
  auto* server = test::postgres_server::shared();
  if (server == nullptr) {
    state.SkipWithError("no PostgreSQL here");
    return nullptr;
  }
  server->clear();
  const auto make_tables = [server]() -> awaitable<void> {
    database db = co_await database::open(server->url());
    event_store store = co_await event_store::open(db);
    co_await db.close();
  };
  test::run_in_real_time(make_tables);
  return server;
}

/// Each client appends to a stream of its own, so that it needs no locks; ours take them.
void pgbench_append(benchmark::State& state) {
  auto* server = fresh_server(state);
  if (server == nullptr) return;
  const test::temporary_directory directory;
  std::ofstream(directory.file("append.sql"))
      << "select * from cofferdam_append('stream-' || :client_id, 'any', 0, null, 'f', array[gen_random_uuid()], "
         "'{7}', "
         "'{benchmarked}', '{1}', '{0}', '{1,257}', '"
      << std::string(256, 'x') << "', '{\"\"}', '{\"\"}', '{\"\"}', '{\"\"}', '{}', '{}');\n";
  const std::string count = std::to_string(connections);
  const std::string command = server->programs() + "/pgbench -n -M prepared -c " + count + " -j 1 -t " +
                              std::to_string(appends / connections) + " -f " + directory.file("append.sql") + " '" +
                              server->url() + "' 2>&1";
  double rate = 0;
  for (auto _ : state) {
    std::FILE* output = ::popen(command.c_str(), "r");
    char line[512];
    std::string said;
    while (std::fgets(line, sizeof line, output) != nullptr) {
      said += line;
      if (std::sscanf(line, "tps = %lf", &rate) == 1) continue;
    }
    if (::pclose(output) != 0 || rate <= 0) state.SkipWithError(said.c_str());
    state.SetIterationTime(appends / std::max(rate, 1.0));
  }
  state.SetItemsProcessed(state.iterations() * appends);
}
BENCHMARK(pgbench_append)->Iterations(1)->UseManualTime()->Unit(benchmark::kMillisecond);

/// 32 coroutines that append one event after another, on as many connections as pgbench has, and as many events. The
/// time to connect does not count, here and there.
void postgres_append(benchmark::State& state) {
  auto* server = fresh_server(state);
  if (server == nullptr) return;
  const auto body = [&]() -> awaitable<void> {
    database_options options;
    options.connections = connections;
    database db = co_await database::open(server->url(), options);
    event_store store = co_await event_store::open(db);
    int next = 0, left = 0;
    const auto write = [&]() -> awaitable<void> {
      const std::string stream = "stream-" + std::to_string(next++ % 32);
      while (left-- > 0) {
        event e("benchmarked", std::string(256, 'x'));
        co_await store.append(stream, expected::any(), std::move(e));
      }
    };
    left = 32;
    co_await detail::run_workers(32, [&] { return write(); });
    while (state.KeepRunning()) {
      left = appends;
      co_await detail::run_workers(32, [&] { return write(); });
    }
    state.SetItemsProcessed(state.iterations() * appends);
    co_await db.close();
  };
  test::run_in_real_time(body);
}
BENCHMARK(postgres_append)->Iterations(1)->UseRealTime()->Unit(benchmark::kMillisecond);

/// From the commit's answer to the event's arrival at a subscription that has a pool of its own.
void postgres_wake_up(benchmark::State& state) {
  auto* server = fresh_server(state);
  if (server == nullptr) return;
  std::vector<double> microseconds;
  const auto body = [&]() -> awaitable<void> {
    database writing = co_await database::open(server->url()), reading = co_await database::open(server->url());
    event_store store = co_await event_store::open(writing), other = co_await event_store::open(reading);
    event_subscription news(other, event_query());
    int role = 0;
    std::uint64_t seen = 0;
    std::chrono::steady_clock::time_point arrived;
    bool is_enough = false;
    const auto listen = [&]() -> awaitable<void> {
      for (;;) {
        const recorded_event e = co_await news.next();
        arrived = std::chrono::steady_clock::now();
        seen = e.position;
        if (is_enough) co_return;
      }
    };
    const auto write = [&]() -> awaitable<void> {
      while (!is_enough) {
        co_await sleep_for(5ms);
        is_enough = !state.KeepRunning();
        event e("benchmarked", std::string(256, 'x'));
        const appended done = co_await store.append("s", expected::any(), std::move(e));
        const auto committed = std::chrono::steady_clock::now();
        while (seen < done.position) co_await sleep_for(100us);
        const std::chrono::duration<double, std::micro> took = arrived - committed;
        microseconds.push_back(std::max(0.0, took.count()));
        if (!is_enough) state.SetIterationTime(microseconds.back() / 1e6);
      }
    };
    co_await detail::run_workers(2, [&] { return role++ == 0 ? listen() : write(); });
    co_await reading.close();
    co_await writing.close();
  };
  test::run_in_real_time(body);
  if (microseconds.empty()) return;
  std::ranges::sort(microseconds);
  state.counters["p50_us"] = microseconds[microseconds.size() / 2];
  state.counters["p99_us"] = microseconds[microseconds.size() * 99 / 100];
}
BENCHMARK(postgres_wake_up)->Iterations(200)->UseManualTime()->Unit(benchmark::kMicrosecond);

}  // namespace
