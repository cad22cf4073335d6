#include "naive_relay.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/timer_service.hpp>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

awaitable<void> naive_relay::prepare(database& db) {
  batch b;
  b.execute(
      "create table naive_outbox(nr integer primary key autoincrement, id text not null, key text not null, payload "
      "text not null)");
  b.execute("create table naive_relay(position bigint not null, owner text, expires_at bigint not null)");
  b.execute("insert into naive_relay(position, expires_at) values(0, 0)");
  co_await db.commit(std::move(b));
}

void naive_relay::enqueue(batch& b, const message& m) {
  b.execute("insert into naive_outbox(id, key, payload) values($1, $2, $3)", m.id(), m.key(), m.payload());
}

awaitable<bool> naive_relay::has_lease() {
  const auto executor = co_await net::this_coro::executor;
  const auto now = std::chrono::duration_cast<std::chrono::microseconds>(timers_of(executor).date().time_since_epoch());
  const auto end = now + std::chrono::ceil<std::chrono::microseconds>(lease_);
  batch b;
  b.execute("update naive_relay set owner = $1, expires_at = $2 where owner is null or owner = $1 or expires_at < $3",
            name_, end.count(), now.count());
  const receipt done = co_await db_->commit(std::move(b));
  co_return done[0].affected() > 0;
}

awaitable<void> naive_relay::publish_until_it_works(const message& m) {
  for (;;) {
    bool is_done = true;
    try {
      co_await to_->publish(m);
    } catch (const std::exception&) {
      is_done = false;
    }
    if (is_done) co_return;
    co_await sleep_for(std::chrono::milliseconds(100));
  }
}

awaitable<void> naive_relay::run() {
  for (;;) {
    const bool is_owner = co_await has_lease();
    const rows page = co_await db_->query(
        "select nr, id, key, payload from naive_outbox where nr > (select position from naive_relay) order by nr limit "
        "100");
    if (!is_owner || page.empty()) {
      co_await sleep_for(std::chrono::milliseconds(50));
      continue;
    }
    for (const row r : page) {
      message m("orders", "order.placed", r.get<std::string>(3));
      m.id(r.get<std::string>(1)).key(r.get<std::string>(2));
      co_await publish_until_it_works(m);
    }
    batch b;
    b.execute("update naive_relay set position = $1", page[page.size() - 1].get<std::int64_t>(0));
    co_await db_->commit(std::move(b));
  }
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
