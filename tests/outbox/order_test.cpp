// Many writers at once on PostgreSQL: a relay that reads beside them misses none of their messages, whatever order they
// commit in, and keeps the order of every key.
#include "async_test.hpp"
#include "count_from.hpp"
#include "postgres_server.hpp"
#include "real_time.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/workers.hpp>
#include <cofferdam/outbox/relay.hpp>

#include <map>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace torture {

constexpr int keys = 12, writers = 16;

class recorder final : public publisher {
 public:
  awaitable<void> publish(const message& m) override {
    published[m.key()].push_back(m.id());
    co_return;
  }
  std::map<std::string, std::vector<std::string>> published;
};

/// Draws the key's next number and tells of it; waits here and there with its transaction open; gives up now and then.
batch count_up(outbox& messages, random_source& random, const std::string& key, const std::string& id) {
  const auto pause = [&random](batch& b) {
    if (random() % 3 == 0) b.execute("select pg_sleep($1)", 0.004 * random.uniform());
  };
  batch b;
  pause(b);
  b.execute("update counters set n = n + 1 where key = $1", key);
  b.execute("insert into log(id, key, n) select $1, key, n from counters where key = $2", id, key);
  pause(b);
  messages.enqueue(b, message("t", "counted", "{}").key(key).id(id));
  pause(b);
  messages.enqueue(b, message("t", "aside", "{}").key("aside " + key).id(id + " aside"));
  if (random() % 7 == 0) b.require("it is to be", "select false");
  return b;
}

awaitable<void> run(std::string url, std::size_t batches) {
  database db = co_await database::open(url, {.readers = 3, .connections = 8});
  database other = co_await database::open(url, {.connections = 8});
  batch tables;
  tables.execute("create table counters(key text primary key, n bigint not null)");
  tables.execute("create table log(id text primary key, key text not null, n bigint not null)");
  for (int k = 0; k < keys; ++k) tables.execute("insert into counters values($1, 0)", "k" + std::to_string(k));
  co_await db.commit(std::move(tables));
  outbox here = co_await outbox::open(db), there = co_await outbox::open(other);
  recorder broker;
  relay carrier(here, broker);
  const auto executor = co_await net::this_coro::executor;
  const auto w = spawn(executor, [&carrier] { return carrier.run(); });
  random_source random(test::count_from("COFFERDAM_TEST_SEED", 1));
  std::size_t next = 0, committed = 0;
  const auto write = [&]() -> awaitable<void> {
    while (next < batches) {
      const std::size_t n = next++;
      outbox& messages = n % 2 == 0 ? here : there;
      const std::string key = "k" + std::to_string(random() % keys);
      batch b = count_up(messages, random, key, "m" + std::to_string(n));
      const auto done = co_await messages.storage().try_commit(std::move(b));
      if (done) ++committed;
    }
  };
  const auto make = [&write] { return write(); };  // the closure of the coroutines stays here
  co_await detail::run_workers(writers, make);
  for (;;) {
    const auto status = co_await carrier.status();
    if (status.backlog == 0) break;
    co_await sleep_for(10ms);
  }
  co_await w.stop();
  const rows log = co_await db.query("select key, id from log order by key, n");
  CHECK(log.size() == committed);
  CHECK(committed < batches);
  std::map<std::string, std::vector<std::string>> expected;
  for (const row r : log) expected[r.get<std::string>(0)].push_back(r.get<std::string>(1));
  std::size_t aside = 0;
  for (const auto& [key, ids] : broker.published) {
    if (!key.starts_with("aside")) continue;
    aside += ids.size();
  }
  CHECK(aside == committed);
  for (const auto& [key, ids] : expected) {
    INFO(key);
    CHECK(broker.published[key] == ids);
  }
  co_await db.close();
  co_await other.close();
}

}  // namespace torture

TEST_CASE("no message is missed and every key keeps its order however many write at once on PostgreSQL", "[torture]") {
  test::postgres_server* server = test::postgres_server::shared();
  if (server == nullptr) return;
  server->clear();
  test::run_in_real_time(torture::run, server->url(), test::count_from("COFFERDAM_TEST_TORTURE", 400));
}
