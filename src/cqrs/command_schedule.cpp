#include <cofferdam/core/random.hpp>
#include <cofferdam/core/workers.hpp>
#include <cofferdam/cqrs/command_schedule.hpp>
#include <cofferdam/storage/detail/stored.hpp>

#include <algorithm>
#include <map>
#include <optional>
#include <stdexcept>

namespace cofferdam::inline COFFERDAM_ABI {

struct command_schedule::state {
  state(database& d, command_bus& b, command_schedule_options o, const timer_service& t, std::uint64_t seed) noexcept
      : db(&d), bus(&b), options(o), timers(&t), random(seed) {}
  [[nodiscard]] std::int64_t now() const { return detail::to_microseconds(timers->date()); }

  database* db;
  command_bus* bus;
  command_schedule_options options;
  const timer_service* timers;
  random_source random;
  std::map<std::string, sender> senders;
};

struct command_schedule::due_command {
  std::string id, key, command, payload;
  std::uint32_t attempts = 0;
  std::int64_t claimed_until = 0;
  command_context context;
};

awaitable<command_schedule> command_schedule::open(database& db, command_bus& bus, command_schedule_options options) {
  if (bus.keys() == nullptr) {
    throw std::logic_error("scheduled commands are sent with keys, which this bus does not heed: call once(db) first");
  }
  const auto executor = co_await net::this_coro::executor;
  std::vector<migration> history;
  history.push_back(
      {1,
       "scheduled commands",
       {"create table cofferdam_scheduled(id text not null primary key, key text not null, command text not null, "
        "payload text not null, due bigint not null, tenant text not null, principal text not null, correlation text "
        "not null, causation text not null, attempts bigint not null, claimed_until bigint not null, failed bigint not "
        "null, reason text not null)",
        "create index cofferdam_scheduled_due on cofferdam_scheduled(failed, due, id)"}});
  co_await db.migrate("scheduled commands", std::move(history));
  co_return command_schedule(std::make_shared<state>(db, bus, options, timers_of(executor), random_of(executor)()));
}

void command_schedule::add(std::string name, sender s) {
  state_->senders.insert_or_assign(std::move(name), std::move(s));
}

std::string command_schedule::store(batch& b, const std::string& name, std::string payload,
                                    std::chrono::system_clock::time_point due, std::string id,
                                    const command_context& context) {
  if (!state_->senders.contains(name)) {
    throw std::logic_error("'" + name + "' cannot be scheduled: call add<" + name + ">() first");
  }
  if (id.empty()) id = random_id(state_->random);
  // A key of its own each time: what replaces another command under one id is not that command again.
  b.execute(
      "insert into cofferdam_scheduled(id, key, command, payload, due, tenant, principal, correlation, causation, "
      "attempts, claimed_until, failed, reason) values($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, 0, 0, '') on "
      "conflict(id) "
      "do update set key = $2, command = $3, payload = $4, due = $5, tenant = $6, principal = $7, correlation = $8, "
      "causation = $9, attempts = 0, claimed_until = 0, failed = 0, reason = ''",
      id, random_id(state_->random), name, std::move(payload), detail::to_microseconds(due), context.tenant(),
      context.principal(), context.correlation(), context.causation());
  return id;
}

void command_schedule::cancel(batch& b, std::string id) {
  b.execute("delete from cofferdam_scheduled where id = $1", std::move(id));
}

// ------------------------------------------------------------------------------------------------------------- sending

awaitable<void> command_schedule::run() {
  for (;;) {
    const std::uint64_t seen = state_->db->changes();
    duration limit = state_->options.look_at_least_every;
    failure trouble;
    try {
      (void)co_await run_due();
      const rows next = co_await state_->db->query("select min(due) from cofferdam_scheduled where failed = 0");
      const auto due = next.front().get<std::optional<std::int64_t>>(0);
      if (due) {
        const std::int64_t left = std::max<std::int64_t>(*due - state_->now(), 0);
        limit = std::clamp<duration>(std::chrono::microseconds(left), std::chrono::milliseconds(1), limit);
      }
    } catch (const storage_error& e) {
      trouble = failure::current(e);
    }
    if (trouble.code() == errc::database_closed) trouble.raise();
    (void)co_await state_->db->wait_for_change(seen, trouble ? std::chrono::seconds(1) : limit);
  }
}

awaitable<std::size_t> command_schedule::run_due() {
  for (std::size_t sent = 0;;) {
    std::vector<due_command> due = co_await find_due();
    if (due.empty()) co_return sent;
    std::size_t next = 0;
    std::exception_ptr error;
    const auto work = [&]() -> awaitable<void> {
      while (next < due.size() && !error) {
        try {
          const bool has_succeeded = co_await send_one(due[next++]);
          if (has_succeeded) ++sent;
        } catch (...) {
          error = std::current_exception();
        }
      }
    };
    const auto make = [&work] { return work(); };
    co_await detail::run_workers(std::min(std::max<std::size_t>(state_->options.concurrency, 1), due.size()), make);
    if (error) std::rethrow_exception(error);
  }
}

awaitable<std::vector<command_schedule::due_command>> command_schedule::find_due() {
  const rows found = co_await state_->db->query(
      "select id, key, command, payload, attempts, claimed_until, tenant, principal, correlation, causation from "
      "cofferdam_scheduled where failed = 0 and due <= $1 and claimed_until <= $1 order by due, id limit 100",
      state_->now());
  std::vector<due_command> due;
  for (const row r : found) {
    due_command& one = due.emplace_back();
    one.id = r.get<std::string>(0);
    one.key = r.get<std::string>(1);
    one.command = r.get<std::string>(2);
    one.payload = r.get<std::string>(3);
    one.attempts = r.get<std::uint32_t>(4);
    one.claimed_until = r.get<std::int64_t>(5);
    one.context.tenant(r.get<std::string>(6)).principal(r.get<std::string>(7));
    one.context.correlation(r.get<std::string>(8)).causation(r.get<std::string>(9));
    one.context.idempotency_key("scheduled " + one.key);
  }
  co_return due;
}

/// Claims it, sends it, and removes it or says when to try again. False when it failed, or somebody else has it.
awaitable<bool> command_schedule::send_one(due_command& one) {
  const auto& options = state_->options;
  batch claim;
  const std::int64_t until = state_->now() + std::chrono::ceil<std::chrono::microseconds>(options.claim).count();
  const std::size_t claimed = claim.execute(
      "update cofferdam_scheduled set claimed_until = $4, attempts = attempts + 1 where id = $1 and key = $2 and "
      "claimed_until = $3",
      one.id, one.key, one.claimed_until, until);
  const receipt claims = co_await state_->db->commit(std::move(claim));
  if (claims[claimed].affected() == 0) co_return false;
  failure why;
  const auto known = state_->senders.find(one.command);
  try {
    if (known == state_->senders.end()) {
      throw std::logic_error("nobody can send '" + one.command + "': call add<" + one.command + ">()");
    }
    co_await known->second(*state_->bus, one.payload, one.context);
  } catch (const std::exception& e) {
    why = failure::current(e);
  } catch (...) {
    why = failure::current();
  }
  const auto cancellation = co_await net::this_coro::cancellation_state;
  const bool is_stopped = why && cancellation.cancelled() != net::cancellation_type::none;
  co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
  batch b;
  if (!why) {
    b.execute("delete from cofferdam_scheduled where id = $1 and key = $2", one.id, one.key);
  } else if (is_stopped) {  // no fault of its own
    b.execute("update cofferdam_scheduled set claimed_until = 0, attempts = $3 where id = $1 and key = $2", one.id,
              one.key, one.attempts);
  } else {
    const bool is_last = one.attempts + 1 >= options.max_attempts;
    const duration pause = options.retry_after * (std::int64_t{1} << std::min(one.attempts, 6U));
    b.execute(
        "update cofferdam_scheduled set claimed_until = 0, due = $3, failed = $4, reason = $5 where id = $1 and key = "
        "$2",
        one.id, one.key, state_->now() + std::chrono::ceil<std::chrono::microseconds>(pause).count(), is_last ? 1 : 0,
        why.message());
  }
  co_await state_->db->commit(std::move(b));
  if (is_stopped) why.raise();
  co_return !why;
}

// ------------------------------------------------------------------------------------------------------------- looking

awaitable<std::vector<scheduled_command>> command_schedule::list(bool has_failed, std::size_t limit) {
  const rows found = co_await state_->db->query(
      "select id, command, payload, due, attempts, reason from cofferdam_scheduled where failed = $1 order by due, id "
      "limit $2",
      has_failed ? 1 : 0, limit);
  std::vector<scheduled_command> all;
  for (const row r : found) {
    scheduled_command& one = all.emplace_back();
    one.id = r.get<std::string>(0);
    one.command = r.get<std::string>(1);
    one.payload = r.get<std::string>(2);
    one.due = detail::date_from(r.get<std::int64_t>(3));
    one.attempts = r.get<std::uint32_t>(4);
    one.reason = r.get<std::string>(5);
  }
  co_return all;
}
awaitable<std::vector<scheduled_command>> command_schedule::waiting(std::size_t limit) { return list(false, limit); }
awaitable<std::vector<scheduled_command>> command_schedule::failed(std::size_t limit) { return list(true, limit); }

awaitable<bool> command_schedule::retry(std::string id) {
  batch b;
  b.execute("update cofferdam_scheduled set failed = 0, attempts = 0, due = $2 where id = $1 and failed = 1",
            std::move(id), state_->now());
  const receipt done = co_await state_->db->commit(std::move(b));
  co_return done[0].affected() > 0;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
