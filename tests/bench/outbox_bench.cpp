// The outbox beside the same batches without it, and a relay beside a bare loop over the same messages.
// Compare items per second within one run.
#include "../support/real_time.hpp"
#include "../support/temporary_directory.hpp"

#include <cofferdam/core/workers.hpp>
#include <cofferdam/outbox/inbox.hpp>
#include <cofferdam/outbox/relay.hpp>

#include <benchmark/benchmark.h>

#include <string>

using namespace cofferdam;

namespace {

const std::string letter(256, 'x');

/// Takes everything at once.
class black_hole final : public publisher {
 public:
  awaitable<void> publish(const message& m) override {
    benchmark::DoNotOptimize(m.payload().data());
    co_return;
  }
};

/// So many coroutines that commit small batches; `enqueues`: with a message in each.
void commit_batches(benchmark::State& state, bool enqueues) {
  const test::temporary_directory directory;
  std::int64_t committed = 0;
  const auto live = [&]() -> awaitable<void> {
    database db = co_await database::open("sqlite:" + directory.file("bench.db"));
    outbox messages = co_await outbox::open(db);
    batch table;
    table.execute("create table orders(id integer primary key, customer text, total integer, note text)");
    table.execute("create index orders_customer on orders(customer)");
    co_await db.commit(std::move(table));
    const auto client = [&]() -> awaitable<void> {
      for (int i = 0; i < 16; ++i) {
        batch b;
        b.execute("insert into orders(customer, total, note) values($1, $2, $3)", "ada", i, letter);
        b.execute("update orders set total = total + 1 where id = last_insert_rowid()");
        if (enqueues) messages.enqueue(b, message("orders", "placed", letter).key("k" + std::to_string(i)));
        co_await db.commit(std::move(b));
        ++committed;
      }
    };
    const auto clients = static_cast<std::size_t>(state.range(0));
    for (auto _ : state) co_await cofferdam::detail::run_workers(clients, [&client] { return client(); });
    co_await db.close();
  };
  test::run_in_real_time(live);
  state.SetItemsProcessed(committed);
}
void batches_without_message(benchmark::State& state) { commit_batches(state, false); }
BENCHMARK(batches_without_message)->Arg(1)->Arg(64)->UseRealTime();
void batches_with_message(benchmark::State& state) { commit_batches(state, true); }
BENCHMARK(batches_with_message)->Arg(1)->Arg(64)->UseRealTime();

/// A relay that carries messages behind `old` others, which it carried before.
void relay_to_nowhere(benchmark::State& state) {
  const test::temporary_directory directory;
  std::int64_t carried = 0;
  const auto live = [&]() -> awaitable<void> {
    database db = co_await database::open("sqlite:" + directory.file("bench.db"));
    outbox messages = co_await outbox::open(db);
    black_hole nowhere;
    relay carrier(messages, nowhere);
    const auto fill = [&](std::int64_t n) -> awaitable<void> {
      for (std::int64_t i = 0; i < n; i += 1'000) {
        batch b;
        for (int k = 0; k < 1'000; ++k) {
          messages.enqueue(b, message("orders", "placed", letter).key("k" + std::to_string(k)));
        }
        co_await db.commit(std::move(b));
      }
    };
    co_await fill(state.range(0));
    (void)co_await carrier.run_due();
    for (auto _ : state) {
      state.PauseTiming();
      co_await fill(10'000);
      state.ResumeTiming();
      carried += static_cast<std::int64_t>(co_await carrier.run_due());
    }
    co_await db.close();
  };
  test::run_in_real_time(live);
  state.SetItemsProcessed(carried);
}
BENCHMARK(relay_to_nowhere)->Arg(0)->Arg(200'000)->Iterations(5)->UseRealTime();

/// Effects behind an inbox, and without one.
void commit_effects(benchmark::State& state, bool remembers) {
  const test::temporary_directory directory;
  std::int64_t committed = 0;
  const auto live = [&]() -> awaitable<void> {
    database db = co_await database::open("sqlite:" + directory.file("bench.db"));
    inbox seen = co_await inbox::open(db, "bench");
    batch table;
    table.execute("create table effects(n integer primary key, note text)");
    co_await db.commit(std::move(table));
    std::int64_t next = 0;
    const auto client = [&]() -> awaitable<void> {
      for (int i = 0; i < 16; ++i) {
        const std::int64_t n = next++;
        batch b;
        b.execute("insert into effects(n, note) values($1, $2)", n, letter);
        if (remembers) {
          (void)co_await seen.commit(std::move(b), "orders", std::to_string(n));
        } else {
          co_await db.commit(std::move(b));
        }
        ++committed;
      }
    };
    for (auto _ : state) co_await cofferdam::detail::run_workers(64, [&client] { return client(); });
    co_await db.close();
  };
  test::run_in_real_time(live);
  state.SetItemsProcessed(committed);
}
void effects_without_inbox(benchmark::State& state) { commit_effects(state, false); }
BENCHMARK(effects_without_inbox)->UseRealTime();
void effects_with_inbox(benchmark::State& state) { commit_effects(state, true); }
BENCHMARK(effects_with_inbox)->UseRealTime();

}  // namespace
