// A bank account as a sum of events: decisions on an aggregate, a table that follows, and reading what was just
// written. In memory and in virtual time; with the URL of a file or of a PostgreSQL database as its argument, there.
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/eventsourcing/projection.hpp>
#include <cofferdam/eventsourcing/repository.hpp>

#include <cstdio>
#include <stdexcept>

using namespace cofferdam;
using namespace std::chrono_literals;

// --- what can happen

struct opened {
  std::string owner;
};
struct deposited {
  std::int64_t amount = 0;
};
struct withdrawn {
  std::int64_t amount = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(opened, owner)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(deposited, amount)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(withdrawn, amount)

// --- what it adds up to

struct account {
  using event = std::variant<opened, deposited, withdrawn>;
  std::int64_t balance = 0;

  void apply(const opened& /*e*/) {}
  void apply(const deposited& e) { balance += e.amount; }
  void apply(const withdrawn& e) { balance -= e.amount; }
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(account, balance)  // for snapshots

namespace {

using events = std::vector<account::event>;

awaitable<void> bank(std::string url) {
  database db = co_await database::open(std::move(url));
  event_store store = co_await event_store::open(db);
  event_codec codec;
  codec.add<opened>("account.opened").add<deposited>("account.deposited").add<withdrawn>("account.withdrawn");
  repository<account> accounts(store, codec, "account-", {.snapshot_every = 3});

  // A table that follows the events.
  batch table;
  table.execute("create table balances(account text primary key, amount integer not null)");
  co_await db.commit(std::move(table));
  projection balances(store, "balances");
  balances.apply([&codec](batch& b, const recorded_event& e) {
    const auto what = codec.decode<account::event>(e);
    std::int64_t change = 0;
    if (const auto* in = std::get_if<deposited>(&*what)) change = in->amount;
    if (const auto* out = std::get_if<withdrawn>(&*what)) change = -out->amount;
    b.execute(
        "insert into balances(account, amount) values($1, $2) on conflict(account) do update set amount = "
        "balances.amount + $2",
        e.stream, change);
  });
  const auto follow = [&balances] { return balances.run(); };
  const auto following = spawn(co_await net::this_coro::executor, follow);

  const auto open = [](const account&) { return events{opened{"Ada"}, deposited{100}}; };
  co_await accounts.decide("ada", open);
  const auto withdraw = [](const account& a) -> events {
    if (a.balance < 60) throw std::runtime_error("only " + std::to_string(a.balance) + " left");
    return {withdrawn{60}};
  };
  const auto first = co_await accounts.decide("ada", withdraw);
  std::printf("version %ju, balance %jd\n", static_cast<std::uintmax_t>(first.version),
              static_cast<std::intmax_t>(first.state.balance));
  try {
    co_await accounts.decide("ada", withdraw);
  } catch (const std::runtime_error& e) {
    std::printf("refused: %s\n", e.what());
  }

  // Reads what was just written, from the table.
  const auto newest = co_await store.newest_position();
  const bool is_there = co_await balances.wait_for(newest, 1s);
  const rows found = co_await db.query("select amount from balances where account = $1", "account-ada");
  std::printf("the table %s: %jd\n", is_there ? "agrees" : "lags", found.front().get<std::intmax_t>("amount"));

  const slice history = co_await store.read_stream("account-ada");
  for (const auto& e : history.events) {
    std::printf("%ju %s %s\n", static_cast<std::uintmax_t>(e.version), e.type.c_str(), e.data.c_str());
  }
  co_await following.stop();  // it works on what ends with this function
}

}  // namespace

int main(int argc, char** argv) {
  net::io_context context(1);
  if (argc > 1) {
    spawn(context, bank, std::string(argv[1]));
    context.run();
    return 0;
  }
  virtual_time time(context);
  time.run(bank, std::string("sqlite::memory:"));
  time.run();
}
