// Hours in small: an outbox, a relay, a bus, a receiver and retention at work, while memory, descriptors and the
// write-ahead log stay what they are.
#include "async_test.hpp"
#include "count_from.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/messaging/in_process.hpp>
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

awaitable<void> run(std::string url, std::size_t seconds) {
  database db = co_await database::open(std::move(url));
  batch table;
  table.execute("create table totals(key text primary key, n integer not null)");
  co_await db.commit(std::move(table));
  outbox messages = co_await outbox::open(db);
  inbox seen = co_await inbox::open(db, "soak");
  in_process_bus bus;
  in_process_consumer from(bus, "orders");
  relay_options options;
  options.retention = 1s;
  relay carrier(messages, bus, "relay", options);
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
  std::int64_t sent = 0;
  footprint warm;
  for (bool is_warm = false; timers.now() - begin < length; ++sent) {
    batch b;
    messages.enqueue(b, message("orders", "t", std::string(200, 'x')).key("k" + std::to_string(sent % 97)));
    co_await db.commit(std::move(b));
    if (sent % 1'000 == 999) (void)co_await seen.forget_before(timers.date() - 1s);
    if (sent % 20 == 19) co_await sleep_for(10ms);
    if (!is_warm && timers.now() - begin > warm_up) {
      is_warm = true;
      warm = look(db);
    }
  }
  for (;;) {
    const auto status = co_await carrier.status();
    if (status.backlog == 0) break;
    co_await sleep_for(10ms);
  }
  const footprint end = look(db);
  std::printf("soak of %zu s: %lld messages, memory %zu to %zu KiB, descriptors %zu to %zu, log %zu to %zu KiB\n",
              seconds, static_cast<long long>(sent), warm.memory / 1024, end.memory / 1024, warm.descriptors,
              end.descriptors, warm.log / 1024, end.log / 1024);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // these keep what was freed
  CHECK(end.memory <= warm.memory + warm.memory / 10 + std::size_t{4} * 1024 * 1024);
#endif
  CHECK(end.descriptors == warm.descriptors);
  CHECK(end.log < std::size_t{64} * 1024 * 1024);
  const rows total = co_await db.query("select sum(n) from totals");
  CHECK(total.front().get<std::int64_t>(0) == sent);
  co_await receiving.stop();
  co_await carrying.stop();
  co_await db.close();
}

}  // namespace soak

TEST_CASE("an outbox and its receiver at work for long grow nowhere") {
  const test::temporary_directory directory;
  test::run_in_real_time(soak::run, "sqlite:" + directory.file("soak.db"),
                         test::count_from("COFFERDAM_TEST_SOAK_SECONDS", 3));
}
