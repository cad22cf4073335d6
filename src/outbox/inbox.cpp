#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/outbox/inbox.hpp>

#include "message_rows.hpp"

namespace cofferdam::inline COFFERDAM_ABI {

awaitable<inbox> inbox::open(database& db, std::string consumer) {
  std::vector<migration> schema{
      {1,
       "inbox",
       {"create table cofferdam_inbox(consumer text not null, source text not null, message_id text not null, at "
        "bigint not null, primary key(consumer, source, message_id))",
        "create index cofferdam_inbox_at on cofferdam_inbox(at)",
        "create table cofferdam_inbox_marks(consumer text not null, source text not null, nr bigint not null, primary "
        "key(consumer, source))",
        // The payload is whatever a broker brought: no database lets every byte into a text.
        "create table cofferdam_inbox_parked(consumer text not null, source text not null, message_id text not null, "
        "nr bigint not null, key text not null, topic text not null, type text not null, payload " +
            std::string(db.has_one_writer() ? "blob" : "bytea") +
            " not null, headers text not null, reason text not null, at bigint not null, primary key(consumer, source, "
            "message_id))",
        "create index cofferdam_inbox_parked_key on cofferdam_inbox_parked(consumer, source, key, nr)"}}};
  co_await db.migrate("inbox", std::move(schema));
  co_return inbox(db, std::move(consumer));
}

/// The effect may have failed for a reason of its own: only what is known is a repetition.
awaitable<bool> inbox::finish(batch effect, statement is_known) {
  const auto done = co_await db_->try_commit(std::move(effect));
  if (done) co_return true;
  const bool may_be_known = done.code() == errc::condition_failed || done.code() == errc::constraint_violated;
  if (may_be_known) {
    const rows known = co_await db_->query(std::move(is_known));
    if (!known.empty()) co_return false;
  }
  done.why().raise();
}

awaitable<bool> inbox::commit(batch effect, std::string source, std::string message_id) {
  const auto executor = co_await net::this_coro::executor;
  const std::int64_t now = detail::to_microseconds(timers_of(executor).date());
  statement is_known("select 1 from cofferdam_inbox where consumer = $1 and source = $2 and message_id = $3", consumer_,
                     source, message_id);
  batch b;  // the memory first: a repetition fails before its effect is tried
  b.execute("insert into cofferdam_inbox(consumer, source, message_id, at) values($1, $2, $3, $4)", consumer_, source,
            message_id, now);
  b.add(std::move(effect));
  co_return co_await finish(std::move(b), std::move(is_known));
}

awaitable<bool> inbox::commit_up_to(batch effect, std::string source, std::uint64_t number) {
  statement is_known("select 1 from cofferdam_inbox_marks where consumer = $1 and source = $2 and nr >= $3", consumer_,
                     source, number);
  batch b;
  b.require("number " + std::to_string(number) + " of '" + source + "' is new",
            "select count(*) = 0 from cofferdam_inbox_marks where consumer = $1 and source = $2 and nr >= $3",
            consumer_, source, number);
  b.execute(
      "insert into cofferdam_inbox_marks(consumer, source, nr) values($1, $2, $3) on conflict(consumer, source) do "
      "update set nr = $3",
      consumer_, source, number);
  b.add(std::move(effect));
  co_return co_await finish(std::move(b), std::move(is_known));
}

awaitable<std::uint64_t> inbox::last(std::string source) {
  const rows found = co_await db_->query("select nr from cofferdam_inbox_marks where consumer = $1 and source = $2",
                                         consumer_, std::move(source));
  co_return found.empty() ? 0 : found.front().get<std::uint64_t>(0);
}
awaitable<bool> inbox::has(std::string source, std::string message_id) {
  const rows found =
      co_await db_->query("select 1 from cofferdam_inbox where consumer = $1 and source = $2 and message_id = $3",
                          consumer_, std::move(source), std::move(message_id));
  co_return !found.empty();
}
awaitable<std::size_t> inbox::forget_before(std::chrono::system_clock::time_point t) {
  batch b;
  b.execute("delete from cofferdam_inbox where consumer = $1 and at < $2", consumer_, detail::to_microseconds(t));
  const receipt done = co_await db_->commit(std::move(b));
  co_return done[0].affected();
}

}  // namespace cofferdam::inline COFFERDAM_ABI
