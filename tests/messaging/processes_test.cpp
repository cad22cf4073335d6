// A shop, a carrier and a warehouse in processes of their own, between PostgreSQL and a NATS server, each of the five
// killed at random: what was committed has its effect, once, and in order for every key.
#include "async_test.hpp"
#include "count_from.hpp"
#include "nats_server.hpp"
#include "postgres_server.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/messaging/nats.hpp>
#include <cofferdam/outbox/inbox.hpp>
#include <cofferdam/outbox/receiver.hpp>
#include <cofferdam/outbox/relay.hpp>

#include <fcntl.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <thread>
#include <vector>

#if defined(COFFERDAM_TEST_NATS) && defined(COFFERDAM_TEST_POSTGRES)

using namespace cofferdam;
using namespace std::chrono_literals;

namespace processes {

constexpr int keys = 6;

std::string setting(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) throw std::runtime_error(std::string(name) + " is not set");
  return text;
}

/// What a role does until it is killed; whatever is away for a while, it tries again.
void play(awaitable<void> (*role)()) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (;;) {
    try {
      test::run_in_real_time(role);
    } catch (const std::exception&) {
      std::this_thread::sleep_for(50ms);
    }
  }
}

awaitable<void> sell() {
  database db = co_await database::open(setting("TEST_DATABASE"));
  outbox messages = co_await outbox::open(db);
  std::map<std::string, int> next;
  const rows found = co_await db.query("select key, max(n) from states group by key");
  for (const row r : found) next[r.get<std::string>(0)] = r.get<int>(1) + 1;
  for (;;) {
    for (int k = 0; k < keys; ++k) {
      const std::string key = "k" + std::to_string(k);
      const int n = next[key];
      batch b;
      b.execute("insert into states(key, n) values($1, $2)", key, n);
      messages.enqueue(b, message("orders.counted", "counted", std::to_string(n)).key(key));
      co_await db.commit(std::move(b));
      ++next[key];
    }
    co_await sleep_for(2ms);
  }
}

relay_options hasty() {
  relay_options options;
  options.lease = 1s;
  options.publish_timeout = 1s;
  options.breaker.break_duration = 100ms;
  options.backoff.cap = 200ms;
  return options;
}

awaitable<void> carry() {
  database db = co_await database::open(setting("TEST_DATABASE"));
  outbox messages = co_await outbox::open(db);
  const auto broker = co_await nats_publisher::connect(setting("TEST_BROKER"));
  relay carrier(messages, *broker, "relay", hasty());
  co_await carrier.run();
}

awaitable<void> store() {
  database far = co_await database::open(setting("TEST_FAR"));
  inbox seen = co_await inbox::open(far, "warehouse");
  const auto from = co_await nats_consumer::connect(setting("TEST_BROKER"), "ORDERS", "warehouse", 2s);
  receiver_options options;
  options.backoff.cap = 200ms;
  const auto handle = [](const message& m, batch& effect) -> awaitable<void> {
    effect.execute("insert into effects(key, n) values($1, $2)", m.key(), std::stoi(m.payload()));
    co_return;
  };
  receiver r(*from, seen, "ORDERS", handle, options);
  co_await r.run();
}

/// A role in a process of its own: this program again.
class player {
 public:
  explicit player(std::string role) : role_(std::move(role)) { start(); }
  player(const player&) = delete;
  player& operator=(const player&) = delete;
  ~player() { kill(); }

  void start() {
    std::string program = "processes", pick = role_;
    char* arguments[] = {program.data(), pick.data(), nullptr};
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    ::posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    const int failed = ::posix_spawn(&process_, "/proc/self/exe", &actions, nullptr, arguments, environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (failed != 0) throw std::runtime_error("cannot start " + role_);
  }
  void kill() {
    if (process_ <= 0) return;
    ::kill(process_, SIGKILL);
    int status = 0;
    while (::waitpid(process_, &status, 0) < 0 && errno == EINTR) {
    }
    process_ = 0;
  }

 private:
  std::string role_;
  pid_t process_ = 0;
};

awaitable<void> prepare() {
  database db = co_await database::open(setting("TEST_DATABASE"));
  batch b;
  b.execute("create table states(key text not null, n bigint not null, primary key(key, n))");
  co_await db.commit(std::move(b));
  (void)co_await outbox::open(db);
  co_await db.close();
  database far = co_await database::open(setting("TEST_FAR"));
  batch f;
  f.execute("create table effects(nr integer primary key autoincrement, key text not null, n integer not null)");
  co_await far.commit(std::move(f));
  const auto broker = co_await nats_publisher::connect(setting("TEST_BROKER"));
  co_await broker->ensure_stream("ORDERS", "orders.>");
}

awaitable<std::int64_t> effects() {
  database far = co_await database::open(setting("TEST_FAR"));
  const rows found = co_await far.query("select count(*) from effects");
  const auto count = found.front().get<std::int64_t>(0);
  co_await far.close();
  co_return count;
}
awaitable<std::int64_t> states() {
  database db = co_await database::open(setting("TEST_DATABASE"));
  const rows found = co_await db.query("select count(*) from states");
  const auto count = found.front().get<std::int64_t>(0);
  co_await db.close();
  co_return count;
}

struct faults {
  std::size_t lost = 0, repeated = 0, out_of_order = 0, parked = 0;
};

/// Offline, from what was written.
awaitable<faults> check() {
  faults found;
  database db = co_await database::open(setting("TEST_DATABASE"));
  database far = co_await database::open(setting("TEST_FAR"));
  const rows written = co_await db.query("select key, n from states order by key, n");
  const rows happened = co_await far.query("select key, n from effects order by nr");
  std::map<std::string, std::vector<int>> of_key;
  for (const row r : happened) of_key[r.get<std::string>(0)].push_back(r.get<int>(1));
  std::map<std::string, std::map<int, int>> times;
  for (const auto& [key, numbers] : of_key) {
    int newest = -1;
    for (const int n : numbers) {
      if (times[key][n]++ > 0) ++found.repeated;
      if (n < newest) ++found.out_of_order;
      newest = std::max(newest, n);
    }
  }
  for (const row r : written) {
    if (times[r.get<std::string>(0)][r.get<int>(1)] == 0) ++found.lost;
  }
  const rows aside = co_await far.query("select count(*) from cofferdam_inbox_parked");
  const rows parked = co_await db.query("select count(*) from cofferdam_relay_parked");
  found.parked = aside.front().get<std::size_t>(0) + parked.front().get<std::size_t>(0);
  co_await db.close();
  co_await far.close();
  co_return found;
}

}  // namespace processes

TEST_CASE("role: shop", "[.role]") { processes::play(processes::sell); }
TEST_CASE("role: carrier", "[.role]") { processes::play(processes::carry); }
TEST_CASE("role: warehouse", "[.role]") { processes::play(processes::store); }

TEST_CASE("shop, carrier, warehouse, broker and database killed in any order lose, repeat and reorder nothing",
          "[torture]") {
  test::postgres_server* server = test::postgres_server::shared();
  if (server == nullptr || !test::nats_process::is_here()) return;
  server->clear();
  const test::temporary_directory directory;
  test::nats_process broker;
  ::setenv("TEST_DATABASE", server->url().c_str(), 1);
  ::setenv("TEST_FAR", ("sqlite:" + directory.file("far.db")).c_str(), 1);
  ::setenv("TEST_BROKER", broker.url().c_str(), 1);
  test::run_in_real_time(processes::prepare);
  random_source random(test::count_from("COFFERDAM_TEST_SEED", 1));
  const std::size_t kills = test::count_from("COFFERDAM_TEST_KILLS", 200);
  std::size_t killed[5] = {};
  {
    processes::player shop("role: shop"), carrier("role: carrier"), warehouse("role: warehouse");
    std::int64_t before = 0;
    for (std::size_t i = 0; i < kills; ++i) {
      const std::size_t victim = i < 5 ? i : static_cast<std::size_t>(random() % 5);
      // Now and then everybody gets somewhere.
      for (auto now = before; i % 5 == 0 && now == before; now = test::run_in_real_time(processes::effects)) {
        std::this_thread::sleep_for(10ms);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20 + random() % 200));
      ++killed[victim];
      if (victim == 0) shop.kill(), shop.start();
      if (victim == 1) carrier.kill(), carrier.start();
      if (victim == 2) warehouse.kill(), warehouse.start();
      if (victim == 3) broker.stop(SIGKILL), broker.start();
      if (victim == 4) server->stop(SIGQUIT), server->start();
      if (i % 5 == 4) before = test::run_in_real_time(processes::effects);
    }
    shop.kill();
    const auto wanted = test::run_in_real_time(processes::states);
    CHECK(wanted > 0);
    for (int patience = 0; patience < 600; ++patience) {
      if (test::run_in_real_time(processes::effects) >= wanted) break;
      std::this_thread::sleep_for(100ms);
    }
  }
  const auto found = test::run_in_real_time(processes::check);
  const auto happened = test::run_in_real_time(processes::effects);
  std::printf("%zu kills (shop %zu, carrier %zu, warehouse %zu, broker %zu, database %zu), %lld effects\n", kills,
              killed[0], killed[1], killed[2], killed[3], killed[4], static_cast<long long>(happened));
  CHECK(found.lost == 0);
  CHECK(found.repeated == 0);
  CHECK(found.out_of_order == 0);
  CHECK(found.parked == 0);
}

#endif
