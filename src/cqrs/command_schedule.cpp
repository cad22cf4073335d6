#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/random.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/workers.hpp>
#include <cofferdam/cqrs/command_schedule.hpp>
#include <cofferdam/storage/detail/stored.hpp>

#include <algorithm>
#include <list>
#include <map>
#include <mutex>
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
  std::int64_t claimed_until = 0;  // by somebody silent, when it was found
  command_context context;
  bool is_claimed = false;  // by us
};

/// Those who send, on one strand, and what they have in hand.
struct command_schedule::crew {
  explicit crew(bool waits) noexcept : goes_on(waits) {}

  bool goes_on;                                   // when nothing is due any more
  std::list<due_command> due;                     // found, and not taken by anybody
  std::list<due_command> sending;                 // taken
  bool is_looking = false;                        // one looks for all
  std::vector<detail::parked_reference> waiting;  // for their turn to look
  std::mutex mutex;                               // as `wait_among` wants it
  std::size_t working = 0, sent = 0;
  std::exception_ptr error;
  std::function<void()> end;
};

/// While it lives, nobody else looks.
class command_schedule::turn {
 public:
  explicit turn(crew& all) noexcept : all_(all) { all_.is_looking = true; }
  turn(const turn&) = delete;
  turn& operator=(const turn&) = delete;
  ~turn() {
    all_.is_looking = false;
    while (!all_.waiting.empty()) {
      const auto next = std::move(all_.waiting.back());
      all_.waiting.pop_back();
      if (next->wake(wake_reason::woken)) break;  // else it has left
    }
  }

 private:
  crew& all_;
};

/// While it lives, the command is being sent.
class command_schedule::in_hand {
 public:
  in_hand(crew& all, due_command& one) noexcept : all_(all), one_(one) {}
  in_hand(const in_hand&) = delete;
  in_hand& operator=(const in_hand&) = delete;
  ~in_hand() {
    all_.sending.remove_if([this](const due_command& other) { return &other == &one_; });
  }

 private:
  crew& all_;
  due_command& one_;
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

awaitable<void> command_schedule::run() { (void)co_await work(true); }
awaitable<std::size_t> command_schedule::run_due() { return work(false); }

awaitable<std::size_t> command_schedule::work(bool goes_on) {
  crew all(goes_on);
  all.working = std::max<std::size_t>(state_->options.concurrency, 1);
  std::size_t started = 0;
  const auto make = [&] { return started++ < all.working ? serve(all) : renew_claims(all); };
  co_await detail::run_workers(all.working + 1, make, &all.end);
  if (all.error) std::rethrow_exception(all.error);
  co_return all.sent;
}

/// One command after the other.
awaitable<void> command_schedule::serve(crew& all) {
  bool is_troubled = false;
  while (!all.error) {
    try {
      // After a command; what came while nothing could be cancelled, `renew_claims` hears.
      co_await net::this_coro::reset_cancellation_state(net::enable_terminal_cancellation());
      if (std::exchange(is_troubled, false)) co_await sleep_for(std::chrono::seconds(1));
      due_command* one = co_await take(all);
      if (one == nullptr) break;
      const in_hand held(all, *one);
      const bool has_succeeded = co_await send_one(*one);
      if (has_succeeded) ++all.sent;
    } catch (const storage_error& e) {
      is_troubled = all.goes_on && e.code() != errc::database_closed;
      if (!is_troubled && !all.error) all.error = std::current_exception();
    } catch (...) {
      if (!all.error) all.error = std::current_exception();
    }
  }
  if (--all.working == 0) all.end();
}

/// The next that is due; null when there is none, or somebody has failed.
awaitable<command_schedule::due_command*> command_schedule::take(crew& all) {
  while (all.is_looking) {
    const auto enlist = detail::wait_among(all.waiting, all.mutex, [&all] { return !all.is_looking; });
    const wake_reason reason = co_await park(never, enlist);
    if (reason == wake_reason::cancelled) failure::cancelled().raise();
  }
  const turn ours(all);
  for (;;) {
    if (all.error) co_return nullptr;
    if (!all.due.empty()) break;
    const std::uint64_t seen = state_->db->changes();
    co_await find_due(all);
    if (!all.due.empty()) continue;
    if (!all.goes_on) co_return nullptr;
    const duration limit = co_await until_next();
    (void)co_await state_->db->wait_for_change(seen, limit);
  }
  all.sending.splice(all.sending.end(), all.due, all.due.begin());
  co_return &all.sending.back();
}

awaitable<void> command_schedule::find_due(crew& all) {
  const rows found = co_await state_->db->query(
      "select id, key, command, payload, attempts, claimed_until, tenant, principal, correlation, causation from "
      "cofferdam_scheduled where failed = 0 and due <= $1 and claimed_until <= $1 order by due, id limit 100",
      state_->now());
  for (const row r : found) {
    const auto key = r.get<std::string>(1);
    // Its claim is on the way to the database.
    if (std::ranges::any_of(all.sending, [&key](const due_command& taken) { return taken.key == key; })) continue;
    due_command& one = all.due.emplace_back();
    one.id = r.get<std::string>(0);
    one.key = key;
    one.command = r.get<std::string>(2);
    one.payload = r.get<std::string>(3);
    one.attempts = r.get<std::uint32_t>(4);
    one.claimed_until = r.get<std::int64_t>(5);
    one.context.tenant(r.get<std::string>(6)).principal(r.get<std::string>(7));
    one.context.correlation(r.get<std::string>(8)).causation(r.get<std::string>(9));
    one.context.idempotency_key("scheduled " + key);
  }
}

/// Until the next one is due, or the claim of one that is due ends.
awaitable<duration> command_schedule::until_next() {
  const std::int64_t now = state_->now();
  const rows found = co_await state_->db->query(
      "select min(ready) from (select min(claimed_until) as ready from cofferdam_scheduled where failed = 0 and due <= "
      "$1 union all select min(due) from cofferdam_scheduled where failed = 0 and due > $1) as of_each",
      now);
  const auto ready = found.front().get<std::optional<std::int64_t>>(0);
  const duration longest = state_->options.look_at_least_every;
  if (!ready) co_return longest;
  const std::chrono::microseconds left(std::max<std::int64_t>(*ready - now, 0));
  co_return std::clamp<duration>(left, std::chrono::milliseconds(1), longest);
}

/// For as long as somebody sends, also after a cancellation. Hears of that, whatever the others do.
awaitable<void> command_schedule::renew_claims(crew& all) {
  while (all.working > 0) {
    try {
      co_await sleep_for(state_->options.claim / 3);
      batch b;
      for (const due_command& one : all.sending) {
        if (!one.is_claimed) continue;
        // Not what is given back meanwhile, or another's by now: attempts count claims.
        b.execute(
            "update cofferdam_scheduled set claimed_until = $4 where id = $1 and key = $2 and attempts = $3 and "
            "claimed_until > 0",
            one.id, one.key, one.attempts + 1, claim_end());
      }
      if (!b.empty()) (void)co_await state_->db->try_commit(std::move(b));
    } catch (...) {  // NOLINT(bugprone-empty-catch): the next round renews as well
    }
    const auto cancellation = co_await net::this_coro::cancellation_state;
    if (all.working == 0 || cancellation.cancelled() == net::cancellation_type::none) continue;
    co_await net::this_coro::reset_cancellation_state(net::enable_terminal_cancellation());
    if (all.error) continue;
    all.error = failure::cancelled().exception();
    all.end();  // once more, for those who did not hear
  }
}

std::int64_t command_schedule::claim_end() const {
  return state_->now() + std::chrono::ceil<std::chrono::microseconds>(state_->options.claim).count();
}

/// Claims it, sends it, and removes it or says when to try again. False when it failed, or somebody else has it.
awaitable<bool> command_schedule::send_one(due_command& one) {
  const auto& options = state_->options;
  batch claim;
  // What somebody else has tried since it was found has other attempts, and may be due later.
  const std::size_t claimed = claim.execute(
      "update cofferdam_scheduled set claimed_until = $5, attempts = attempts + 1 where id = $1 and key = $2 and "
      "attempts = $3 and claimed_until = $4",
      one.id, one.key, one.attempts, one.claimed_until, claim_end());
  const receipt claims = co_await state_->db->commit(std::move(claim));
  one.is_claimed = claims[claimed].affected() > 0;
  if (!one.is_claimed) co_return false;
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
    b.execute(
        "update cofferdam_scheduled set claimed_until = 0, attempts = $3 where id = $1 and key = $2 and attempts = $4",
        one.id, one.key, one.attempts, one.attempts + 1);
  } else {
    const bool is_last = one.attempts + 1 >= options.max_attempts;
    const duration pause = options.retry_after * (std::int64_t{1} << std::min(one.attempts, 6U));
    b.execute(
        "update cofferdam_scheduled set claimed_until = 0, due = $3, failed = $4, reason = $5 where id = $1 and key = "
        "$2 and attempts = $6",
        one.id, one.key, state_->now() + std::chrono::ceil<std::chrono::microseconds>(pause).count(), is_last ? 1 : 0,
        why.message(), one.attempts + 1);
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
