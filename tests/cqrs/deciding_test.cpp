// Commands that decide on aggregates: with keys and tokens.
#include "database_test.hpp"
#include "error_of.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/workers.hpp>
#include <cofferdam/cqrs/command_bus.hpp>
#include <cofferdam/cqrs/query_bus.hpp>
#include <cofferdam/eventsourcing/projection.hpp>
#include <cofferdam/eventsourcing/repository.hpp>
#include <cofferdam/storage/testing.hpp>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace deciding {

struct deposited {
  std::int64_t amount = 0;
};
struct withdrawn {
  std::int64_t amount = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(deposited, amount)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(withdrawn, amount)

struct account {
  using event = std::variant<deposited, withdrawn>;
  std::int64_t balance = 0;
  void apply(const deposited& e) { balance += e.amount; }
  void apply(const withdrawn& e) { balance -= e.amount; }
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(account, balance)
using events = std::vector<account::event>;

struct withdraw {
  static constexpr const char* name = "withdraw";
  using result = std::int64_t;  // what is left
  std::string account;
  std::int64_t amount = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(withdraw, account, amount)

struct balance_of {
  using result = std::int64_t;
  std::string account;
};

event_codec codec() {
  event_codec c;
  c.add<deposited>("deposited").add<withdrawn>("withdrawn");
  return c;
}

/// Pays out.
struct bank {
  explicit bank(event_store& store, repository_options options = {})
      : events_codec(codec()), accounts(store, events_codec, "account-", options), at(&store.storage()) {}

  awaitable<std::int64_t> pay(const withdraw& c, command_context& context) {
    ++handled;
    const auto decide = [this, &c](const account& a) -> events {
      ++decisions;
      if (a.balance < c.amount) throw std::runtime_error("only " + std::to_string(a.balance) + " left");
      if (c.amount == 0) return {};
      return {withdrawn{c.amount}};
    };
    const auto commit = [&](batch b, const repository<account>::loaded& next) {
      return context.commit(*at, std::move(b), next.state.balance);
    };
    const auto done = co_await accounts.decide(c.account, decide, commit);
    context.reached(done.position);
    co_return done.state.balance;
  }
  awaitable<void> open(std::string id, std::int64_t amount) {
    const auto first = [amount](const account&) { return events{deposited{amount}}; };
    (void)co_await accounts.decide(std::move(id), first);
  }
  /// Withdrawals with a key happen once.
  awaitable<void> serve(command_bus& commands, database& db) {
    commands.handle<withdraw>([this](const withdraw& c, command_context& context) { return pay(c, context); });
    co_await commands.once(db);
    commands.build();
  }

  event_codec events_codec;
  repository<account> accounts;
  database* at;
  int handled = 0, decisions = 0;
};

}  // namespace deciding

using deciding::withdraw;

DATABASE_TEST("a command with a key that decides on an aggregate happens once, and a query may wait for it") {
  event_store store = co_await event_store::open(db);
  deciding::bank bank(store);
  co_await bank.open("ada", 100);
  command_bus commands;
  co_await bank.serve(commands, db);

  batch made;
  made.execute("create table balances(account text primary key, amount bigint not null)");
  co_await db.commit(std::move(made));
  projection table(store, "balances");
  table.apply([&](batch& b, const recorded_event& e) {
    const auto what = bank.events_codec.decode<deciding::account::event>(e);
    const auto* in = std::get_if<deciding::deposited>(&*what);
    const auto* out = std::get_if<deciding::withdrawn>(&*what);
    b.execute(
        "insert into balances(account, amount) values($1, $2) on conflict(account) do update set amount = "
        "balances.amount + $2",
        e.stream, in != nullptr ? in->amount : -out->amount);
  });
  query_bus queries;
  queries.handle<deciding::balance_of>([&](const deciding::balance_of& q) -> awaitable<std::int64_t> {
    const rows found = co_await db.query("select amount from balances where account = $1", "account-" + q.account);
    co_return found.empty() ? 0 : found.front().get<std::int64_t>(0);
  });
  queries.reads<deciding::balance_of>(table);
  queries.build();

  const withdraw sixty{"ada", 60};
  for (int i = 0; i < 2; ++i) {
    command_context context;
    context.idempotency_key("k1");
    const auto left = co_await commands.send(sixty, context);
    CHECK(left == 40);
    CHECK(context.token().position == 2);
  }
  CHECK(bank.handled == 1);
  const auto present = co_await bank.accounts.load("ada");
  CHECK(present.state.balance == 40);
  CHECK(present.version == 2);
  CHECK(present.position == 2);

  command_context keyless;
  const withdraw ten{"ada", 10};
  const auto left = co_await commands.send(ten, keyless);
  CHECK(left == 30);
  CHECK(keyless.token().position == 3);
  const auto executor = co_await net::this_coro::executor;
  const auto follow_late = [&]() -> awaitable<void> {
    co_await sleep_for(time.shortened(1s));
    (void)co_await table.catch_up();
  };
  const auto following = spawn(executor, follow_late);
  const deciding::balance_of adas{"ada"};
  const auto at_once = co_await queries.ask(adas);
  CHECK(at_once == 0);
  const auto known = co_await queries.ask(adas, keyless, {.limit = 5s});
  CHECK(known == 30);
  co_await following.join();
}

DATABASE_TEST("a decision that fails, or decides nothing, is answered alike when its command comes again") {
  event_store store = co_await event_store::open(db);
  deciding::bank bank(store);
  co_await bank.open("ada", 100);
  command_bus commands;
  co_await bank.serve(commands, db);
  const withdraw too_much{"ada", 101}, nothing{"ada", 0}, all{"ada", 100};
  for (int i = 0; i < 2; ++i) {
    command_context context;
    context.idempotency_key("k1");
    const std::string refused = co_await test::error_of(commands.send(too_much, context));
    CHECK(refused == "only 100 left");
  }
  for (int i = 0; i < 2; ++i) {
    command_context context;
    context.idempotency_key("k2");
    const auto left = co_await commands.send(nothing, context);
    CHECK(left == 100);
    CHECK(context.token().position == 1);
    command_context between;
    if (i == 0) (void)co_await commands.send(all, between);
  }
  CHECK(bank.handled == 4);
  const auto version = co_await store.version_of("account-ada");
  CHECK(version == 2);
}

DATABASE_TEST("a process that dies about a decision's commit has made it once or not at all") {
  event_store store = co_await event_store::open(db);
  deciding::bank bank(store);
  co_await bank.open("ada", 100);
  bool dies_before = true, dies_after = true;
  database shaky = watched(db, [&](std::string_view call, bool is_over) {
    if (call != "commit") return;
    if (!is_over && std::exchange(dies_before, false)) throw storage_error(errc::database_unavailable, "gone");
    if (is_over && std::exchange(dies_after, false)) throw storage_error(errc::outcome_unknown, "gone");
  });
  bank.at = &shaky;
  command_bus commands;
  co_await bank.serve(commands, db);
  const withdraw sixty{"ada", 60};
  std::vector<std::string> answers;
  for (int i = 0; i < 3; ++i) {
    command_context context;
    context.idempotency_key("k1");
    const auto answer = co_await commands.try_send(sixty, context);
    answers.push_back(answer ? std::to_string(*answer) : answer.why().message());
  }
  CHECK(answers == std::vector<std::string>{"the database cannot be reached: gone", "40", "40"});
  const auto present = co_await bank.accounts.load("ada");
  CHECK(present.state.balance == 40);
  CHECK(present.version == 2);
}

DATABASE_TEST("commands that decide on one aggregate at once follow each other, and twins happen once") {
  event_store store = co_await event_store::open(db);
  deciding::bank bank(store, {.max_attempts = 50});
  co_await bank.open("ada", 100);
  command_bus commands;
  co_await bank.serve(commands, db);
  const withdraw ten{"ada", 10};
  int next = 0;
  std::vector<std::vector<std::int64_t>> answers(5);
  std::string problem;
  const auto send = [&]() -> awaitable<void> {
    const int me = next++ / 2;  // in pairs
    command_context context;
    context.idempotency_key("k" + std::to_string(me));
    const auto answer = co_await commands.try_send(ten, context);
    if (answer) answers[static_cast<std::size_t>(me)].push_back(*answer);
    if (!answer) problem = answer.why().message();
  };
  const auto make = [&] { return send(); };
  co_await detail::run_workers(10, make);
  CHECK(problem == "");
  const auto present = co_await bank.accounts.load("ada");
  CHECK(present.state.balance == 50);
  CHECK(present.version == 6);
  for (const auto& pair : answers) {
    REQUIRE(pair.size() == 2);
    CHECK(pair[0] == pair[1]);
  }
}

DATABASE_TEST("a decision that meets a conflict at its commit is made again, up to its limit, and keeps snapshots") {
  event_store store = co_await event_store::open(db);
  const event_codec codec = deciding::codec();
  repository<deciding::account> accounts(store, codec, "account-", {.max_attempts = 3, .snapshot_every = 2});
  int rivals = 2;
  std::vector<std::int64_t> seen, promised;
  const auto decide = [&](const deciding::account& a) {
    seen.push_back(a.balance);
    return deciding::events{deciding::deposited{100}};
  };
  const auto commit = [&](batch b, const repository<deciding::account>::loaded& next) -> awaitable<receipt> {
    promised.push_back(next.state.balance);
    if (rivals-- > 0) {
      const event rival = codec.encode(deciding::deposited{1});
      co_await store.append("account-ada", expected::any(), rival);
    }
    co_return co_await db.commit(std::move(b));
  };
  const auto done = co_await accounts.decide("ada", decide, commit);
  CHECK(seen == std::vector<std::int64_t>{0, 1, 2});
  CHECK(promised == std::vector<std::int64_t>{100, 101, 102});
  CHECK(done.state.balance == 102);
  CHECK(done.version == 3);
  auto newest = co_await store.newest_position();
  CHECK(done.position == newest);
  rivals = 3;
  const std::string late = co_await test::error_of(accounts.decide("ada", decide, commit));
  CHECK(late != "");

  const auto nothing = [](const deciding::account&) { return deciding::events(); };
  rivals = 0;
  const auto as_it_was = co_await accounts.decide("ada", nothing, commit);
  CHECK(as_it_was.version == 6);
  newest = co_await store.newest_position();
  CHECK(as_it_was.position == newest);
  const auto last = co_await accounts.decide("ada", decide, commit);
  CHECK(last.version == 7);
  const auto eighth = co_await accounts.decide("ada", decide, commit);
  CHECK(eighth.version == 8);
  const rows kept = co_await db.query("select version from cofferdam_snapshots");
  REQUIRE(kept.size() == 1);
  CHECK(kept.front().get<int>(0) == 8);
  const auto from_the_snapshot = co_await accounts.load("ada");
  CHECK(from_the_snapshot.state.balance == eighth.state.balance);
  CHECK(from_the_snapshot.position == eighth.position);
  newest = co_await store.newest_position();
  CHECK(eighth.position == newest);
}
