// Writers and relays killed at any moment: what was committed arrives, once after its inbox, in order for every key.
#include "async_test.hpp"
#include "count_from.hpp"
#include "postgres_server.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/outbox/inbox.hpp>
#include <cofferdam/outbox/relay.hpp>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <map>
#include <string>
#include <thread>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace outbox_kill {

constexpr int keys = 5;

/// A broker that lives on: the effects of what it delivers are in a database of the receiver's own, behind an inbox.
class receiver final : public publisher {
 public:
  receiver(database& db, inbox& seen) noexcept : db_(&db), seen_(&seen) {}
  awaitable<void> publish(const message& m) override {
    batch b;
    b.execute("insert into deliveries(id) values($1)", m.id());  // every one, also those that come again
    co_await db_->commit(std::move(b));
    batch effect;
    effect.require("the one before it is there", "select coalesce(max(n), -1) = $2 - 1 from effects where key = $1",
                   m.key(), std::stoi(m.payload()));
    effect.execute("insert into effects(key, n) values($1, $2)", m.key(), std::stoi(m.payload()));
    try {
      (void)co_await seen_->commit(std::move(effect), "outbox", m.id());
    } catch (const storage_error& e) {
      std::fprintf(stderr, "%s\n", e.what());
      ::_exit(3);  // out of order
    }
  }

 private:
  database* db_;
  inbox* seen_;
};

awaitable<void> write_and_carry(std::string url, std::string receiver_url, std::array<int, keys> next, int told) {
  database db = co_await database::open(std::move(url));
  outbox messages = co_await outbox::open(db);
  database far = co_await database::open(std::move(receiver_url));
  inbox seen = co_await inbox::open(far, "test");
  receiver broker(far, seen);
  relay_options options;
  options.lease = 300ms;
  options.page = 16;
  relay carrier(messages, broker, "relay", options);
  const auto executor = co_await net::this_coro::executor;
  const auto run = [&carrier] { return carrier.run(); };
  const spawned job = spawn(executor, run);
  for (;;) {
    for (int k = 0; k < keys; ++k) {
      const int n = next[static_cast<std::size_t>(k)]++;
      const std::string key = "k" + std::to_string(k);
      batch b;
      b.execute("insert into states(key, n) values($1, $2) on conflict do nothing", key, n);
      messages.enqueue(b, message("t", "counted", std::to_string(n)).key(key).id(key + "-" + std::to_string(n)));
      const auto done = co_await db.try_commit(std::move(b));
      if (!done && done.code() != errc::constraint_violated) done.why().raise();  // it was there before the crash
      const int word[2] = {k, n};
      if (::write(told, word, sizeof word) != sizeof word) ::_exit(1);
    }
    co_await sleep_for(1ms);
  }
}

awaitable<void> finish(std::string url, std::string receiver_url, std::array<int, keys> acknowledged) {
  database db = co_await database::open(std::move(url));
  outbox messages = co_await outbox::open(db);
  database far = co_await database::open(std::move(receiver_url));
  inbox seen = co_await inbox::open(far, "test");
  receiver broker(far, seen);
  relay_options options;
  options.lease = 300ms;
  relay carrier(messages, broker, "relay", options);
  for (std::uint64_t left = 1; left > 0;) {
    (void)co_await carrier.run_due();
    const auto status = co_await carrier.status();
    left = status.backlog;
    CHECK(status.parked == 0);
    if (left > 0) co_await sleep_for(50ms);
  }
  const rows states = co_await db.query("select key, max(n), count(*) from states group by key order by key");
  const rows effects = co_await far.query("select key, max(n), count(*) from effects group by key order by key");
  REQUIRE(states.size() == keys);
  REQUIRE(effects.size() == keys);
  for (std::size_t k = 0; k < keys; ++k) {
    CHECK(states[k].get<int>(1) == effects[k].get<int>(1));
    CHECK(states[k].get<int>(2) == effects[k].get<int>(2));
    CHECK(effects[k].get<int>(1) == effects[k].get<int>(2) - 1);
    CHECK(effects[k].get<int>(1) >= acknowledged[k]);
  }
  co_await db.close();
  co_await far.close();
}

void prepare(const std::string& url, const std::string& receiver_url) {
  const auto make = [&]() -> awaitable<void> {
    database db = co_await database::open(url);
    batch b;
    b.execute("create table states(key text not null, n bigint not null, primary key(key, n))");
    co_await db.commit(std::move(b));
    co_await db.close();
    database far = co_await database::open(receiver_url);
    batch f;
    f.execute("create table effects(key text not null, n bigint not null, primary key(key, n))");
    f.execute("create table deliveries(nr integer primary key, id text not null)");
    co_await far.commit(std::move(f));
  };
  test::run_in_real_time(make);
}

void kill_in_a_loop(const std::string& url, std::size_t rounds) {
  const test::temporary_directory directory;
  const std::string receiver_url = "sqlite:" + directory.file("receiver.db");
  prepare(url, receiver_url);
  std::array<int, keys> acknowledged{};
  acknowledged.fill(-1);
  for (std::size_t round = 0; round < rounds; ++round) {
    int pipe[2];
    REQUIRE(::pipe(pipe) == 0);
    std::array<int, keys> next{};
    for (std::size_t k = 0; k < keys; ++k) next[k] = acknowledged[k] + 1;  // perhaps again what was not acknowledged
    const pid_t child = ::fork();
    if (child == 0) {
      ::close(pipe[0]);
      try {
        test::run_in_real_time(write_and_carry, url, receiver_url, next, pipe[1]);
      } catch (...) {
      }
      ::_exit(1);
    }
    ::close(pipe[1]);
    int word[2] = {0, 0}, heard = 0;
    const auto hear = [&] {
      if (::read(pipe[0], word, sizeof word) != sizeof word) return false;
      acknowledged[static_cast<std::size_t>(word[0])] = word[1];
      return true;
    };
    const int wanted = 5 + 11 * static_cast<int>(round % 9);
    while (heard < wanted && hear()) ++heard;
    CHECK(heard == wanted);
    ::kill(child, SIGKILL);
    while (hear()) {
    }
    ::close(pipe[0]);
    int status = 0;
    ::waitpid(child, &status, 0);
    CHECK(WIFSIGNALED(status));
  }
  test::run_in_real_time(finish, url, receiver_url, acknowledged);
}

/// Starts a process that runs `task` until it is killed.
template <class Task> pid_t start(Task task) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  try {
    task();
  } catch (...) {
  }
  ::_exit(1);
}

awaitable<void> carry_only(std::string url, std::string receiver_url) {
  database db = co_await database::open(std::move(url));
  outbox messages = co_await outbox::open(db);
  database far = co_await database::open(std::move(receiver_url));
  inbox seen = co_await inbox::open(far, "test");
  receiver broker(far, seen);
  relay_options options;
  options.lease = 300ms;
  options.page = 16;
  relay carrier(messages, broker, "relay", options);
  co_await carrier.run();
}

}  // namespace outbox_kill

TEST_CASE("a relay that stands still past its lease and then goes on publishes nothing out of order") {
  const test::temporary_directory directory;
  const std::string url = "sqlite:" + directory.file("outbox.db"), far = "sqlite:" + directory.file("receiver.db");
  outbox_kill::prepare(url, far);
  int pipe[2];
  REQUIRE(::pipe(pipe) == 0);
  ::fcntl(pipe[0], F_SETFL, O_NONBLOCK);
  const std::array<int, outbox_kill::keys> from_the_start{};
  const pid_t writer = outbox_kill::start(
      [&] { test::run_in_real_time(outbox_kill::write_and_carry, url, far, from_the_start, pipe[1]); });
  const pid_t other = outbox_kill::start([&] { test::run_in_real_time(outbox_kill::carry_only, url, far); });
  ::close(pipe[1]);
  std::array<int, outbox_kill::keys> acknowledged{};
  acknowledged.fill(-1);
  std::size_t heard = 0;
  const auto hear = [&] {
    for (int word[2] = {0, 0}; ::read(pipe[0], word, sizeof word) == sizeof word; ++heard) {
      acknowledged[static_cast<std::size_t>(word[0])] = word[1];
    }
  };
  const std::size_t rounds = test::count_from("COFFERDAM_TEST_STOPS", 4);
  for (std::size_t i = 0; i < rounds; ++i) {
    const pid_t stopped = i % 2 == 0 ? other : writer;
    std::this_thread::sleep_for(150ms);
    ::kill(stopped, SIGSTOP);
    std::this_thread::sleep_for(700ms);  // more than twice its lease
    ::kill(stopped, SIGCONT);
    hear();
  }
  CHECK(heard > 0);
  for (const pid_t each : {writer, other}) {
    ::kill(each, SIGKILL);
    int status = 0;
    ::waitpid(each, &status, 0);
    CHECK(WIFSIGNALED(status));  // had anything come out of order, it would have ended by itself
  }
  hear();
  ::close(pipe[0]);
  test::run_in_real_time(outbox_kill::finish, url, far, acknowledged);
}

TEST_CASE("messages on SQLite whose writer and relay are killed arrive all, once and in order", "[torture]") {
  const test::temporary_directory directory;
  outbox_kill::kill_in_a_loop("sqlite:" + directory.file("outbox.db"), test::count_from("COFFERDAM_TEST_KILLS", 60));
}

TEST_CASE("messages on PostgreSQL whose writer and relay are killed arrive all, once and in order", "[torture]") {
  test::postgres_server* server = test::postgres_server::shared();
  if (server == nullptr) return;
  server->clear();
  outbox_kill::kill_in_a_loop(server->url(), test::count_from("COFFERDAM_TEST_KILLS", 40));
}
