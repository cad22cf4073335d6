#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/outbox/desk.hpp>
#include <cofferdam/storage/detail/stored.hpp>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

std::int64_t present(const net::any_io_executor& executor) {
  return detail::to_microseconds(timers_of(executor).date());
}

// The number is the time, so that none is ever used again.
constexpr const char* insert_request =
    "insert into cofferdam_relay_requests(relay, nr, what, key, since, till, reached, at) values($1, $2, $3, $4, $5, "
    "$6, 0, $7)";

}  // namespace

awaitable<relay_status> outbox_desk::status() {
  relay_status found;
  const auto backlog = co_await from_->waiting(relay_);
  found.backlog = backlog.count;
  found.oldest = backlog.oldest;
  found.delayed = co_await from_->delayed();
  const rows counts = co_await db().query(
      "select (select count(*) from cofferdam_relay_parked where relay = $1), (select count(*) from "
      "cofferdam_relay_parts where relay = $1 and owner is not null)",
      relay_);
  found.parked = counts.front().get<std::uint64_t>(0);
  found.owned_parts = counts.front().get<std::size_t>(1);
  co_return found;
}

awaitable<std::vector<parked_message>> outbox_desk::parked(std::size_t limit) {
  const rows found = co_await db().query(
      "select nr, reason, at from cofferdam_relay_parked where relay = $1 order by nr limit $2", relay_, limit);
  std::vector<parked_message> all;
  for (const row r : found) {
    auto content = co_await from_->find(r.get<std::uint64_t>(0));
    if (!content) continue;
    all.push_back({*std::move(content), r.get<std::string>(1), detail::date_from(r.get<std::int64_t>(2))});
  }
  co_return all;
}

awaitable<bool> outbox_desk::skip(std::uint64_t number) {
  batch b;
  b.execute("delete from cofferdam_relay_parked where relay = $1 and nr = $2", relay_, number);
  const receipt done = co_await db().commit(std::move(b));
  co_return done[0].affected() > 0;
}

awaitable<std::size_t> outbox_desk::ask_replay(std::string key) {
  return ask_replay_of(" and key = $2", std::move(key));
}
awaitable<std::size_t> outbox_desk::ask_replay_all() { return ask_replay_of("", ""); }

awaitable<std::size_t> outbox_desk::ask_replay_of(std::string condition, std::string key) {
  const auto executor = co_await net::this_coro::executor;
  const std::int64_t now = present(executor);
  statement counting("select key, count(*) from cofferdam_relay_parked where relay = $1" + condition +
                         " group by key order by min(nr)",
                     relay_);
  if (!condition.empty()) counting.bind(key);
  const rows found = co_await db().query(std::move(counting));
  std::size_t messages = 0;
  batch b;
  for (const row r : found) {
    messages += r.get<std::size_t>(1);
    b.execute(insert_request, relay_, now + static_cast<std::int64_t>(b.size()), "replay", r.get<std::string>(0), 0, 0,
              now);
  }
  if (messages > 0) (void)co_await db().commit(std::move(b));
  co_return messages;
}

awaitable<bool> outbox_desk::ask_republish(std::chrono::system_clock::time_point from,
                                           std::chrono::system_clock::time_point to) {
  const auto executor = co_await net::this_coro::executor;
  const auto first = co_await from_->added(0, from, to, 1);
  if (first.empty()) co_return false;
  batch b;
  const std::int64_t now = present(executor);
  b.execute(insert_request, relay_, now, "republish", "", detail::to_microseconds(from), detail::to_microseconds(to),
            now);
  (void)co_await db().commit(std::move(b));
  co_return true;
}

awaitable<std::vector<relay_request>> outbox_desk::requests() {
  const rows found = co_await db().query(
      "select nr, what, key, since, till, reached, at from cofferdam_relay_requests where relay = $1 order by nr",
      relay_);
  std::vector<relay_request> all;
  for (const row r : found) {
    relay_request one;
    one.number = r.get<std::uint64_t>(0);
    one.what = r.get<std::string>(1) == "replay" ? relay_request::kind::replay : relay_request::kind::republish;
    one.key = r.get<std::string>(2);
    one.from = detail::date_from(r.get<std::int64_t>(3));
    one.to = detail::date_from(r.get<std::int64_t>(4));
    one.reached = r.get<std::uint64_t>(5);
    one.at = detail::date_from(r.get<std::int64_t>(6));
    all.push_back(std::move(one));
  }
  co_return all;
}

awaitable<bool> outbox_desk::withdraw(std::uint64_t request) {
  batch b;
  b.execute("delete from cofferdam_relay_requests where relay = $1 and nr = $2", relay_, request);
  const receipt done = co_await db().commit(std::move(b));
  co_return done[0].affected() > 0;
}

awaitable<bool> outbox_desk::note_progress(std::uint64_t request, std::uint64_t reached) {
  batch b;
  b.execute("update cofferdam_relay_requests set reached = $3 where relay = $1 and nr = $2", relay_, request, reached);
  const receipt done = co_await db().commit(std::move(b));
  co_return done[0].affected() > 0;
}
awaitable<void> outbox_desk::note_reason(std::uint64_t number, std::string reason) {
  batch b;
  b.execute("update cofferdam_relay_parked set reason = $3 where relay = $1 and nr = $2", relay_, number,
            std::move(reason));
  (void)co_await db().commit(std::move(b));
}

}  // namespace cofferdam::inline COFFERDAM_ABI
