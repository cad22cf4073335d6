// Hours in small: an outbox, a relay, a broker, a receiver and retention at work, while memory, descriptors and the
// write-ahead log stay what they are. COFFERDAM_TEST_SOAK_SECONDS makes it longer.
#include "async_test.hpp"
#include "count_from.hpp"
#include "nats_server.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/messaging/in_process.hpp>
#include <cofferdam/messaging/nats.hpp>
#include <cofferdam/outbox/receiver.hpp>
#include <cofferdam/outbox/relay.hpp>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <unistd.h>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace soak {

struct footprint {
  std::size_t memory = 0, descriptors = 0, log = 0;  // bytes, count, bytes
};

footprint look(const database& db) {
  footprint found;
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> pages;
  found.memory = pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  found.descriptors = static_cast<std::size_t>(
      std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator()));
  found.log = db.stats().log_bytes;
  return found;
}

template <class Consumer> awaitable<void> run(std::string url, publisher& to, Consumer& from) {
  const std::size_t seconds = test::count_from("COFFERDAM_TEST_SOAK_SECONDS", 3);
  database db = co_await database::open(std::move(url));
  batch table;
  table.execute("create table totals(key text primary key, n integer not null)");
  co_await db.commit(std::move(table));
  outbox messages = co_await outbox::open(db);
  inbox seen = co_await inbox::open(db, "soak");
  relay_options options;
  options.retention = 1s;
  relay carrier(messages, to, "relay", options);
  const auto handle = [](const message& m, batch& effect) -> awaitable<void> {
    effect.execute("insert into totals(key, n) values($1, 1) on conflict(key) do update set n = n + 1", m.key());
    co_return;
  };
  receiver r(from, seen, "orders", handle);
  const auto executor = co_await net::this_coro::executor;
  const auto& timers = timers_of(executor);
  const auto carrying = spawn(executor, [&carrier] { return carrier.run(); });
  const auto receiving = spawn(executor, [&r] { return r.run(); });
  const auto begin = timers.now();
  const duration length = std::chrono::seconds(seconds), warm_up = length / 3;
  std::int64_t sent = 0, received = 0;
  const auto let_catch_up = [&](std::int64_t distance) -> awaitable<void> {
    for (;;) {
      const rows total = co_await db.query("select coalesce(sum(n), 0) from totals");
      received = total.front().get<std::int64_t>(0);
      if (received >= sent - distance) co_return;
      co_await sleep_for(5ms);
    }
  };
  footprint warm;
  for (bool is_warm = false; timers.now() - begin < length;) {
    batch b;
    for (int i = 0; i < 20; ++i, ++sent) {
      messages.enqueue(b, message("orders.soaked", "t", std::string(200, 'x')).key("k" + std::to_string(sent % 97)));
    }
    co_await db.commit(std::move(b));
    if (sent % 1'000 == 0) (void)co_await seen.forget_before(timers.date() - 1s);
    co_await let_catch_up(200);
    if (!is_warm && timers.now() - begin > warm_up) {
      is_warm = true;
      warm = look(db);
    }
  }
  co_await let_catch_up(0);
  const footprint end = look(db);
  std::printf("soak of %zu s: %lld messages, memory %zu to %zu KiB, descriptors %zu to %zu, log %zu to %zu KiB\n",
              seconds, static_cast<long long>(sent), warm.memory / 1024, end.memory / 1024, warm.descriptors,
              end.descriptors, warm.log / 1024, end.log / 1024);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // these keep what was freed
  CHECK(end.memory <= warm.memory + warm.memory / 10 + std::size_t{4} * 1024 * 1024);
#endif
  CHECK(end.descriptors == warm.descriptors);
  CHECK(end.log < std::size_t{64} * 1024 * 1024);
  CHECK(received == sent);
  co_await receiving.stop();
  co_await carrying.stop();
  co_await db.close();
}

awaitable<void> run_in_process(std::string url) {
  in_process_bus bus;
  in_process_consumer from(bus, "orders.soaked");
  co_await run(std::move(url), bus, from);
}

#if defined(COFFERDAM_TEST_NATS)
awaitable<void> run_on_nats(std::string url, std::string server) {
  const auto to = co_await nats_publisher::connect(server);
  co_await to->ensure_stream("ORDERS", "orders.>");
  const auto from = co_await nats_consumer::connect(server, "ORDERS", "soak");
  co_await run(std::move(url), *to, *from);
}
#endif

}  // namespace soak

TEST_CASE("an outbox and its receiver at work for long grow nowhere") {
  const test::temporary_directory directory;
  test::run_in_real_time(soak::run_in_process, "sqlite:" + directory.file("soak.db"));
}

#if defined(COFFERDAM_TEST_NATS)
TEST_CASE("an outbox whose relay publishes to NATS, and its receiver there, grow nowhere") {
  if (!test::nats_process::is_here()) return;
  const test::nats_process server;
  const test::temporary_directory directory;
  test::run_in_real_time(soak::run_on_nats, "sqlite:" + directory.file("soak.db"), server.url());
}
#endif
