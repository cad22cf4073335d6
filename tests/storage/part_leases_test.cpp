#include "database_test.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/storage/detail/part_leases.hpp>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace leases {

awaitable<void> make_tables(database& db) {
  batch b;
  b.execute(
      "create table parts(team text not null, part bigint not null, position bigint not null, owner text, epoch bigint "
      "not null, expires_at bigint not null, primary key(team, part))");
  b.execute(
      "create table members(team text not null, id text not null, beat_at bigint not null, primary key(team, id))");
  b.execute("create table written(by_whom text not null)");
  co_await db.commit(std::move(b));
}

const detail::part_tables tables{"parts", "members", "team"};

}  // namespace leases

DATABASE_TEST("who takes a part sees all that its former owner wrote, and what he writes later is refused") {
  co_await leases::make_tables(db);
  const auto executor = co_await net::this_coro::executor;
  const auto& timers = timers_of(executor);
  detail::part_leases former(db, leases::tables, "us", "former", 1ms, timers);
  detail::part_leases next(db, leases::tables, "us", "next", 1h, timers);
  co_await former.create(1, 0);
  detail::leased_part his, ours;
  bool is_taken = co_await former.take(his);
  REQUIRE(is_taken);
  co_await sleep_for(10ms);  // his lease is over

  bool has_written = false;
  const auto write_slowly = [&]() -> awaitable<void> {
    batch b;
    former.fence(b, his);
    if (!db.has_one_writer()) b.execute("select pg_sleep(0.5)");
    b.execute("insert into written(by_whom) values('former')");
    const auto done = co_await db.try_commit(std::move(b));
    has_written = done.has_value();
  };
  const auto writing = spawn(executor, write_slowly);
  co_await sleep_for(200ms);  // his batch has begun
  is_taken = co_await next.take(ours);
  CHECK(is_taken);
  const rows seen = co_await db.query("select count(*) from written");
  co_await writing.join();
  const rows at_last = co_await db.query("select count(*) from written");
  CHECK(seen.front().get<int>(0) == at_last.front().get<int>(0));
  CHECK(has_written == (at_last.front().get<int>(0) == 1));

  batch late;
  former.fence(late, his);
  late.execute("insert into written(by_whom) values('former')");
  const auto refused = co_await db.try_commit(std::move(late));
  CHECK(refused.code() == errc::condition_failed);
  batch own;
  next.fence(own, ours);
  const auto fine = co_await db.try_commit(std::move(own));
  CHECK(fine.has_value());
}
