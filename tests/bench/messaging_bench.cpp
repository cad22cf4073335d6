// A relay from SQLite to a NATS server of its own, beside the bare library with the same messages. Compare items per
// second within one run. The server writes to a temporary directory.
#include "../support/nats_server.hpp"
#include "../support/real_time.hpp"
#include "../support/temporary_directory.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/messaging/nats.hpp>
#include <cofferdam/outbox/relay.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>
#include <vector>

#if defined(COFFERDAM_TEST_NATS)
#include <nats/nats.h>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

constexpr std::int64_t count = 20'000;

message numbered(std::int64_t n) {
  static const std::string letter(256, 'x');
  return message("orders.placed", "placed", letter).key("k" + std::to_string(n % 1'000));
}

bool has_server(benchmark::State& state) {
  const bool is_here = test::nats_process::is_here();
  if (!is_here) state.SkipWithError("no NATS server");
  return is_here;
}

awaitable<std::unique_ptr<nats_publisher>> connect(const test::nats_process& server) {
  auto broker = co_await nats_publisher::connect(server.url());
  co_await broker->ensure_stream("ORDERS", "orders.>");
  co_return broker;
}

void bare_libnats(benchmark::State& state) {
  if (!has_server(state)) return;
  const test::nats_process server;
  const auto make_stream = [&]() -> awaitable<void> { (void)co_await connect(server); };
  test::run_in_real_time(make_stream);
  natsConnection* connection = nullptr;
  jsCtx* context = nullptr;
  natsOptions* how = nullptr;
  natsOptions_Create(&how);
  natsOptions_SetURL(how, server.url().c_str());
  natsOptions_SetSendAsap(how, true);
  natsConnection_Connect(&connection, how);
  jsOptions options;
  jsOptions_Init(&options);
  options.PublishAsync.MaxPending = 4'000;
  options.PublishAsync.StallWait = 10'000;
  natsConnection_JetStream(&context, connection, &options);
  std::int64_t n = 0;
  bool is_well = true;
  for (auto _ : state) {
    for (std::int64_t i = 0; i < count; ++i) {
      const message m = numbered(i);
      natsMsg* made = nullptr;
      natsMsg_Create(&made, m.topic().c_str(), nullptr, m.payload().data(), static_cast<int>(m.payload().size()));
      const std::string number = std::to_string(n++);
      const std::string id = std::string(36 - number.size(), '0') + number;  // as long as the outbox makes them
      natsMsgHeader_Set(made, "Nats-Msg-Id", id.c_str());
      natsMsgHeader_Set(made, "ce-specversion", "1.0");
      natsMsgHeader_Set(made, "ce-id", id.c_str());
      natsMsgHeader_Set(made, "ce-type", m.type().c_str());
      natsMsgHeader_Set(made, "ce-time", "2026-03-01T12:00:00.000000Z");
      natsMsgHeader_Set(made, "ce-partitionkey", m.key().c_str());
      is_well = js_PublishMsgAsync(context, &made, nullptr) == NATS_OK && is_well;
    }
    is_well = js_PublishAsyncComplete(context, nullptr) == NATS_OK && is_well;
  }
  if (!is_well) state.SkipWithError("the server did not take everything");
  jsCtx_Destroy(context);
  natsConnection_Destroy(connection);
  natsOptions_Destroy(how);
  state.SetItemsProcessed(n);
}
BENCHMARK(bare_libnats)->MeasureProcessCPUTime()->Iterations(5)->UseRealTime()->Unit(benchmark::kMillisecond);

void relay_to_nats(benchmark::State& state) {
  if (!has_server(state)) return;
  const test::nats_process server;
  const test::temporary_directory directory;
  std::int64_t carried = 0;
  const auto live = [&]() -> awaitable<void> {
    database db = co_await database::open("sqlite:" + directory.file("bench.db"));
    outbox messages = co_await outbox::open(db);
    const auto broker = co_await connect(server);
    relay carrier(messages, *broker);
    for (auto _ : state) {
      state.PauseTiming();
      batch b;
      for (std::int64_t i = 0; i < count; ++i) messages.enqueue(b, numbered(i));
      co_await db.commit(std::move(b));
      state.ResumeTiming();
      carried += static_cast<std::int64_t>(co_await carrier.run_due());
    }
    co_await db.close();
  };
  test::run_in_real_time(live);
  state.SetItemsProcessed(carried);
}
BENCHMARK(relay_to_nats)->MeasureProcessCPUTime()->Iterations(5)->UseRealTime()->Unit(benchmark::kMillisecond);

/// Tells when a message was acknowledged.
class watched final : public publisher {
 public:
  watched(publisher& to, const timer_service& timers) : to_(&to), timers_(&timers) {}
  awaitable<void> publish(const message& m) override {
    co_await to_->publish(m);
    acknowledged = timers_->now();
  }
  time_point acknowledged;

 private:
  publisher* to_;
  const timer_service* timers_;
};

/// From the call of commit to the broker's acknowledgement, one message at a time.
void commit_to_acknowledgement(benchmark::State& state) {
  if (!has_server(state)) return;
  const test::nats_process server;
  const test::temporary_directory directory;
  std::vector<double> milliseconds;
  const auto live = [&]() -> awaitable<void> {
    const auto executor = co_await net::this_coro::executor;
    const auto& timers = timers_of(executor);
    database db = co_await database::open("sqlite:" + directory.file("bench.db"));
    outbox messages = co_await outbox::open(db);
    const auto broker = co_await connect(server);
    watched seen(*broker, timers);
    relay carrier(messages, seen);
    bool has_ended = false;
    const auto job = [&]() -> awaitable<void> {
      co_await carrier.run();
      has_ended = true;
    };
    const spawned running = spawn(executor, job);
    std::int64_t n = 0;
    for (auto _ : state) {
      const time_point before = timers.now();
      batch b;
      messages.enqueue(b, numbered(n++));
      co_await db.commit(std::move(b));
      while (seen.acknowledged < before) co_await sleep_for(100us);
      milliseconds.push_back(std::chrono::duration<double, std::milli>(seen.acknowledged - before).count());
      co_await sleep_for(5ms);
    }
    running.cancel();
    while (!has_ended) co_await sleep_for(1ms);
    co_await db.close();
  };
  test::run_in_real_time(live);
  std::ranges::sort(milliseconds);
  if (milliseconds.empty()) return;
  state.counters["p50_ms"] = milliseconds[milliseconds.size() / 2];
  state.counters["p99_ms"] = milliseconds[milliseconds.size() * 99 / 100];
}
BENCHMARK(commit_to_acknowledgement)->Iterations(500)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace

#endif
