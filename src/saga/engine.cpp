// Starting sagas, taking them up again, telling who waits for them.
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/saga/engine.hpp>

#include "engine_state.hpp"

#include <algorithm>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga {
namespace detail {

// ------------------------------------------------------------------------------------------------------ engine_state

bool engine_state::enter(const std::shared_ptr<instance>& saga) {
  const std::lock_guard lock(mutex_);
  return active_.emplace(saga->id(), saga).second;
}
const definition* engine_state::newest(plain_function body, std::string_view chain) const {
  const definition* found = nullptr;
  for (const auto& [key, what] : definitions) {
    const bool is_it = body != nullptr ? what.body == body : what.body == nullptr && key.first == chain;
    if (is_it && (found == nullptr || found->version < what.version)) found = &what;
  }
  return found;
}
void engine_state::exit(const instance& saga) {
  {
    const std::lock_guard lock(mutex_);
    const auto it = active_.find(saga.id());
    if (it != active_.end() && it->second.lock().get() == &saga) active_.erase(it);
  }
  if (!saga.is_let_go()) leave_behind();
}
std::shared_ptr<instance> engine_state::find(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto it = active_.find(id);
  return it == active_.end() ? nullptr : it->second.lock();
}
std::size_t engine_state::active() {
  const std::lock_guard lock(mutex_);
  return active_.size();
}
std::vector<std::shared_ptr<instance>> engine_state::all() {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<instance>> found;
  found.reserve(active_.size());
  for (const auto& [id, saga] : active_) {
    if (auto present = saga.lock()) found.push_back(std::move(present));
  }
  return found;
}

std::shared_ptr<completion> engine_state::completion_of(const std::string& id) {
  const std::lock_guard lock(mutex_);
  if (completions_.size() >= sweep_at_) {  // those that nobody waits for
    std::erase_if(completions_, [](const auto& each) { return each.second.expired(); });
    sweep_at_ = std::max<std::size_t>(64, 2 * completions_.size());
  }
  auto& kept = completions_[id];
  auto found = kept.lock();
  if (!found) kept = found = std::make_shared<completion>();
  return found;
}
void engine_state::complete(const std::string& id, ending how) {
  std::shared_ptr<completion> found;
  {
    const std::lock_guard lock(mutex_);
    const auto it = completions_.find(id);
    if (it == completions_.end()) return;
    found = it->second.lock();
    completions_.erase(it);
  }
  if (found) found->set(std::move(how));
}

void engine_state::leave_behind() {
  if (dead) return;
  const std::lock_guard lock(mutex_);
  if (!look_at_) look_at_ = time_after(to_microseconds(timers->date()), options.lease / 3);
}
std::optional<std::int64_t> engine_state::looks_at() {
  const std::lock_guard lock(mutex_);
  return look_at_;
}
bool engine_state::takes_look(std::int64_t now) {
  const std::lock_guard lock(mutex_);
  if (!look_at_ || *look_at_ > now) return false;
  look_at_.reset();
  return true;
}

bool engine_state::beat(batch& b) {
  {
    const std::lock_guard lock(mutex_);
    if (beat_at_ && timers->now() < saturating_add(*beat_at_, options.lease / 3)) return false;
  }
  b.execute("insert into cofferdam_saga_workers(id, beat_at) values($1, $2) on conflict(id) do update set beat_at = $2",
            worker, to_microseconds(timers->date()));
  return true;
}
void engine_state::beaten() {
  const std::lock_guard lock(mutex_);
  beat_at_ = timers->now();
}

// ----------------------------------------------------------------------------------------------------------- endings

namespace {
/// Without a hint that the database has changed: should one be lost, it is looked at all the same.
constexpr duration longest_sleep = std::chrono::minutes(1);
}  // namespace

void raise(const std::string& id, ending how) {
  const std::string reason = how.reason.empty() ? "" : ": " + how.reason;
  switch (how.state) {
    case saga_state::compensated:
      throw saga_error(errc::saga_compensated, "the saga '" + id + "' went back" + reason, how.cause);
    case saga_state::abandoned:
      throw saga_error(errc::saga_abandoned, "the saga '" + id + "' was given up" + reason, how.cause);
    default:
      throw saga_error(errc::saga_stuck, "the saga '" + id + "' waits for an operator" + reason, how.cause);
  }
}

awaitable<ending> wait_for_end(std::shared_ptr<engine_state> engine, std::string id, std::shared_ptr<completion> done) {
  if (engine->db == nullptr) throw std::logic_error("an engine without a journal keeps no saga to wait for");
  if (!done) done = engine->completion_of(id);
  constexpr duration longest = std::chrono::milliseconds(250);
  duration pause = std::chrono::milliseconds(5);  // a saga that is elsewhere: between two looks at a busy database
  for (bool is_first = true;; is_first = false) {
    if (auto known = done->get()) co_return *std::move(known);
    const std::uint64_t seen = engine->db->changes();
    const bool is_here = engine->find(id) != nullptr;
    if (!is_here || !is_first) {
      const rows found =
          co_await engine->db->query("select state, reason, output from cofferdam_sagas where id = $1", id);
      if (found.empty()) throw saga_error(errc::saga_not_found, "there is no saga '" + id + "'");
      const auto state = static_cast<saga_state>(found.front().get<int>(0));
      if (is_final(state)) {
        const auto output = found.front().get<std::optional<std::string>>(2);
        co_return ending{state, found.front().get<std::optional<std::string>>(1).value_or(""),
                         output ? parse_stored(id, "its output", *output) : nlohmann::json(), nullptr};
      }
    }
    // What ends here tells; what ends elsewhere changes the database.
    bool is_cancelled = false;
    if (is_here) {
      const auto woken = co_await done->wait(saturating_add(engine->timers->now(), std::chrono::seconds(1)));
      is_cancelled = woken == wake_reason::cancelled;
    } else {
      (void)co_await engine->db->wait_for_change(seen, longest_sleep);
      const auto woken = co_await done->wait(saturating_add(engine->timers->now(), pause));
      is_cancelled = woken == wake_reason::cancelled;
      pause = std::min(pause * 2, longest);
    }
    if (is_cancelled) failure::cancelled().raise();
  }
}

saga_here::saga_here(std::shared_ptr<engine_state> engine, std::string id, duration deadline)
    : saga_(std::make_shared<instance>(std::move(engine), std::move(id), deadline)) {}
saga_here::~saga_here() = default;
const std::string& saga_here::id() const noexcept { return saga_->id(); }
awaitable<ending> saga_here::run(branch_base& root) { return saga_->live_here(root); }

namespace {

/// That a saga `s` is of a definition that is known here, with the parameters after the first `count`.
std::string is_known_sql(const engine_state& engine, int count) {
  std::string definitions;
  for (std::size_t i = 0; i < engine.definitions.size(); ++i, count += 2) {
    definitions += definitions.empty() ? "" : " or ";
    definitions +=
        "(s.definition = $" + std::to_string(count + 1) + " and s.version = $" + std::to_string(count + 2) + ")";
  }
  return " and (" + (definitions.empty() ? "1 = 0" : definitions) + ")";
}
void bind_known(const engine_state& engine, statement& to) {
  for (const auto& [name, what] : engine.definitions) to.bind(name.first).bind(name.second);
}

/// Sagas that are due and nobody's, or whose worker gave no sign of life.
statement due_sagas(const engine_state& engine, std::int64_t now, std::size_t limit) {
  statement made(
      "select s.id, s.epoch, coalesce(s.owner, '') from cofferdam_sagas s where ((s.owner is null and s.wake_at is not "
      "null and s.wake_at <= $1) or (s.owner is not null and s.state in (0, 1, 2) and not exists(select 1 from "
      "cofferdam_saga_workers w where w.id = s.owner and w.beat_at >= $2)))" +
          is_known_sql(engine, 3) + " order by s.wake_at limit $3",
      now, now - std::chrono::floor<std::chrono::microseconds>(engine.options.lease).count(), limit);
  bind_known(engine, made);
  return made;
}
/// Those of this worker. In its memory or not, which the database does not know.
statement own_sagas(const engine_state& engine) {
  statement made("select s.id, s.epoch, s.owner from cofferdam_sagas s where s.owner = $1 and s.state in (0, 1, 2)" +
                     is_known_sql(engine, 1),
                 engine.worker);
  bind_known(engine, made);
  return made;
}
/// When the next one is due.
statement next_due(const engine_state& engine) {
  statement made("select s.wake_at from cofferdam_sagas s where s.owner is null and s.wake_at is not null" +
                 is_known_sql(engine, 0) + " order by s.wake_at limit 1");
  bind_known(engine, made);
  return made;
}
/// The oldest sign of life of another worker that has sagas.
statement oldest_beat(const engine_state& engine) {
  statement made(
      "select min(w.beat_at) from cofferdam_saga_workers w where w.id <> $1 and exists(select 1 from "
      "cofferdam_sagas s where s.owner = w.id and s.state in (0, 1, 2)" +
          is_known_sql(engine, 1) + ")",
      engine.worker);
  bind_known(engine, made);
  return made;
}

struct look_around {
  std::size_t taken = 0;
  std::optional<std::int64_t> next;  // when the next one is due, or another worker may be dead
};

/// A row that nobody can read must not keep others from being taken up.
awaitable<void> set_damaged_aside(engine_state& engine, std::string id, std::string why) {
  batch b;
  b.execute(
      "update cofferdam_sagas set state = 5, reason = $2, owner = null, wake_at = null, epoch = case when epoch >= 1 "
      "then epoch + 1 else 1 end where id = $1",
      id, "the saga '" + id + "': its row is damaged: " + why);
  (void)co_await engine.db->try_commit(std::move(b));
  engine.events.publish({saga_event::kind::stuck, id, {}, {}, 0, why});
}

/// Takes up a saga that is still as it was found. False: it is not, or cannot be read.
awaitable<bool> claim(std::shared_ptr<engine_state> engine, row found) {
  const auto id = found.get<std::string>(0);
  std::string damage;
  try {
    (void)found.get<std::uint64_t>(1);
  } catch (const storage_error& e) {
    damage = e.what();
  }
  if (!damage.empty()) {
    co_await set_damaged_aside(*engine, id, std::move(damage));
    co_return false;
  }
  if (engine->find(id) != nullptr) co_return false;  // it runs, or is on its way out
  batch b;
  const std::size_t claimed = b.execute(
      "update cofferdam_sagas set owner = $1, epoch = epoch + 1, claims = claims + 1, wake_at = null where id = $2 "
      "and epoch = $3 and coalesce(owner, '') = $4 returning id, definition, version, state, epoch, seq, claims, "
      "pivoted, reason, cancel_reason, parent, deadline, input",
      engine->worker, id, found.get<std::uint64_t>(1), found.get<std::string>(2));
  const bool has_beat = engine->beat(b);
  const auto done = co_await engine->db->try_commit(std::move(b));
  if (has_beat && done) engine->beaten();
  if (!done) engine->leave_behind();  // it may be ours all the same
  if (!done || (*done)[claimed].empty()) co_return false;
  const row ours = (*done)[claimed].front();
  const auto what = engine->definitions.find({ours.get<std::string>("definition"), ours.get<std::uint32_t>("version")});
  if (what == engine->definitions.end()) co_return false;
  std::shared_ptr<instance> saga;
  try {
    saga = std::make_shared<instance>(engine, what->second, ours);
  } catch (const storage_error& e) {
    damage = e.what();
  }
  if (!saga) {
    co_await set_damaged_aside(*engine, id, std::move(damage));
    co_return false;
  }
  if (!engine->enter(saga)) {  // somebody starts it meanwhile, who will find that it is there
    engine->leave_behind();
    co_return false;
  }
  engine->events.publish({saga_event::kind::claimed, id, what->first.first, {}, ours.get<std::uint32_t>("claims"), {}});
  saga->start(engine->executor);
  co_return true;
}

/// Takes up what is ours, but not in our memory. Returns how many those were.
awaitable<std::size_t> take_up_left(std::shared_ptr<engine_state> engine) {
  std::size_t taken = 0;
  try {
    const rows own = co_await engine->db->query(own_sagas(*engine));
    for (const row r : own) {
      if (!engine->has_room()) {
        engine->leave_behind();
        break;
      }
      const bool is_taken = co_await claim(engine, r);
      if (is_taken) ++taken;
    }
  } catch (...) {
    engine->leave_behind();
    throw;
  }
  co_return taken;
}

/// Takes up what is due.
awaitable<look_around> take_up(std::shared_ptr<engine_state> engine) {
  look_around result;
  const std::size_t active = engine->active();
  const std::size_t room = engine->options.max_active - std::min(active, engine->options.max_active);
  const std::int64_t now = to_microseconds(engine->timers->date());
  if (room == 0) co_return result;  // one that ends changes the database
  const rows due = co_await engine->db->query(due_sagas(*engine, now, std::min<std::size_t>(room, 256)));
  for (const row r : due) {
    const bool is_taken = co_await claim(engine, r);
    if (is_taken) ++result.taken;
  }
  if (engine->takes_look(now)) {
    const std::size_t left = co_await take_up_left(engine);
    result.taken += left;
  }
  const rows next = co_await engine->db->query(next_due(*engine));
  if (!next.empty()) result.next = next.front().get<std::int64_t>(0);
  const rows others = co_await engine->db->query(oldest_beat(*engine));
  if (const auto beat = others.front().get<std::optional<std::int64_t>>(0)) {
    result.next = std::min(result.next.value_or(for_ever), time_after(*beat, engine->options.lease) + 1);
  }
  if (const auto look = engine->looks_at()) result.next = std::min(result.next.value_or(for_ever), *look);
  if (due.size() == 256) result.next = now;
  co_return result;
}

/// The worker lives.
awaitable<void> give_sign_of_life(engine_state& engine) {
  batch b;
  if (!engine.beat(b)) co_return;
  const auto done = co_await engine.db->try_commit(std::move(b));
  if (done) engine.beaten();
}

}  // namespace
}  // namespace detail

// -------------------------------------------------------------------------------------------------------------- engine

engine::engine(engine_options options) : state_(std::make_shared<detail::engine_state>(options)) {}

awaitable<engine> engine::open(database& db, engine_options options) {
  const auto executor = co_await net::this_coro::executor;
  co_await db.migrate("sagas", detail::saga_schema());
  auto state = std::make_shared<detail::engine_state>(options);
  state->db = &db;
  state->executor = cofferdam::detail::base_executor(executor);
  state->timers = &timers_of(executor);
  state->worker = random_id(random_of(executor));
  co_return engine(std::move(state));
}

bool engine::has_journal() const noexcept { return state_->db != nullptr; }
services& engine::registry() noexcept { return state_->registry; }
event_channel<saga_event>& engine::events() noexcept { return state_->events; }
std::size_t engine::active() const { return state_->active(); }

void engine::add(detail::definition made) {
  const std::pair key(made.name, made.version);
  if (!state_->definitions.emplace(key, std::move(made)).second) {
    throw std::logic_error("the saga '" + key.first + "' is defined twice in version " + std::to_string(key.second));
  }
}

const detail::definition& engine::known(detail::plain_function body) const {
  const auto* found = state_->newest(body, {});
  if (found == nullptr) throw std::logic_error("this saga was not defined: call define() before starting it");
  return *found;
}
const detail::definition& engine::known(std::string_view chain) const {
  const auto* found = state_->newest(nullptr, chain);
  if (found == nullptr) {
    throw std::logic_error("the saga '" + std::string(chain) + "' was not defined: call define() before starting it");
  }
  return *found;
}

awaitable<std::shared_ptr<detail::completion>> engine::start_saga(std::shared_ptr<detail::engine_state> state,
                                                                  std::string id, const detail::definition& what,
                                                                  nlohmann::json input, start_options options) {
  if (state->db == nullptr) throw std::logic_error("an engine without a journal runs sagas with execute()");
  if (id.empty()) throw saga_error(errc::saga_conflict, "a saga needs an id");
  if (input.dump().size() > state->options.max_payload) {
    throw saga_error(errc::saga_conflict, "the input of the saga '" + id + "' has more than max_payload bytes");
  }
  auto done = state->completion_of(id);
  const std::int64_t now = detail::to_microseconds(state->timers->date());
  const std::int64_t deadline =
      options.deadline < duration::max() ? detail::time_after(now, options.deadline) : detail::for_ever;
  bool is_new = false;
  if (!state->has_room() && state->find(id) == nullptr) {  // it waits in the database until somebody has room
    batch b;
    detail::insert_saga(b, {id, what, input.dump(), deadline, {}}, std::nullopt, now);
    const auto written = co_await state->db->try_commit(std::move(b));
    if (!written && written.code() != errc::constraint_violated) written.why().raise();
    is_new = written.has_value();
  } else {
    const auto saga = std::make_shared<detail::instance>(state, id, what, input, deadline);
    if (state->enter(saga)) {
      saga->start(state->executor);
      is_new = co_await saga->wait_until_born();
    } else if (const auto present = state->find(id)) {
      (void)co_await present->wait_until_born();
    }
  }
  if (is_new) co_return done;
  const rows found =
      co_await state->db->query("select definition, version, input from cofferdam_sagas where id = $1", id);
  if (found.empty()) throw saga_error(errc::saga_not_found, "the saga '" + id + "' could not be started");
  const row r = found.front();
  const bool is_same = r.get<std::string>(0) == what.name && r.get<std::string>(2) == input.dump();
  if (!is_same) {
    throw saga_error(errc::saga_conflict, "the id '" + id + "' belongs to a saga '" + r.get<std::string>(0) +
                                              "' with " + (r.get<std::string>(0) == what.name ? "another" : "its own") +
                                              " input");
  }
  co_return done;
}

awaitable<void> engine::send(std::string id, std::string name, nlohmann::json payload, std::string message_id) {
  const auto state = state_;
  if (state->db == nullptr) throw std::logic_error("an engine without a journal takes no signals");
  const std::string text = payload.dump();
  if (text.size() > state->options.max_payload) {
    throw saga_error(errc::saga_wrong_state, "the signal '" + name + "' has more than max_payload bytes");
  }
  const std::int64_t now = detail::to_microseconds(state->timers->date());
  batch b;
  // The count tells a saga that is about to park that it has to look again; wake_at brings back one that has parked.
  b.execute(
      "update cofferdam_sagas set signals = signals + 1, wake_at = case when owner is null and state = 1 then 0 else "
      "wake_at end where id = $1 and state in (0, 1, 2, 5, 6)",
      id);
  b.execute(
      "insert into cofferdam_saga_inbox(saga, message_id, name, payload, nr, at) select id, case when cast($2 as text) "
      "= '' then "
      "'#' || signals else cast($2 as text) end, $3, $4, signals, cast($5 as bigint) from cofferdam_sagas where id = "
      "$1 and state in (0, 1, 2, 5, 6) "
      "on conflict do nothing",
      id, std::move(message_id), std::move(name), text, now);
  const receipt done = co_await state->db->commit(std::move(b));
  if (done[0].affected() == 0) {
    const rows found = co_await state->db->query("select state from cofferdam_sagas where id = $1", id);
    if (found.empty()) throw saga_error(errc::saga_not_found, "there is no saga '" + id + "'");
    throw saga_error(errc::saga_wrong_state,
                     "the saga '" + id + "' has ended: it is " +
                         std::string(to_string(static_cast<saga_state>(found.front().get<int>(0)))));
  }
  if (const auto present = state->find(id)) present->look_again();
}

awaitable<void> engine::cancel(std::string id, std::string reason) {
  const auto state = state_;
  if (state->db == nullptr) throw std::logic_error("without a journal, cancel the coroutine that runs the saga");
  if (reason.empty()) reason = "cancelled";
  batch b;
  // The new epoch takes the saga from whoever runs it, who finds out with its next commit.
  const std::size_t taken = b.execute(
      "update cofferdam_sagas set epoch = epoch + 1, owner = null, wake_at = 0, cancel_reason = $2 where id = $1 and "
      "state in (0, 1) and pivoted = 0",
      id, reason);
  const receipt done = co_await state->db->commit(std::move(b));
  if (done[taken].affected() > 0) {
    if (const auto present = state->find(id)) present->leave_soon(detail::leave_reason::lost, true);
    co_return;
  }
  const rows found = co_await state->db->query("select state, pivoted from cofferdam_sagas where id = $1", id);
  if (found.empty()) throw saga_error(errc::saga_not_found, "there is no saga '" + id + "'");
  const auto present = static_cast<saga_state>(found.front().get<int>(0));
  if (present == saga_state::compensating || present == saga_state::compensated) co_return;  // it goes back already
  if (found.front().get<bool>(1) && !is_final(present)) {
    throw saga_error(errc::saga_past_pivot, "the saga '" + id + "' is past its pivot: it cannot be cancelled");
  }
  throw saga_error(errc::saga_wrong_state,
                   "the saga '" + id + "' cannot be cancelled: it is " + std::string(to_string(present)));
}

awaitable<std::size_t> engine::run_due() {
  const auto state = state_;
  if (state->db == nullptr) throw std::logic_error("an engine without a journal has nothing to take up");
  std::size_t taken = 0;
  for (;;) {
    const auto found = co_await detail::take_up(state);
    taken += found.taken;
    const bool is_due = found.next && *found.next <= detail::to_microseconds(state->timers->date());
    if (state->active() == 0 && !is_due && found.taken == 0) co_return taken;
    for (int i = 0; i < 10 && state->active() > 0; ++i) co_await sleep_for(std::chrono::milliseconds(1));
  }
}

awaitable<void> engine::run() {
  const auto state = state_;
  if (state->db == nullptr) throw std::logic_error("an engine without a journal has nothing to take up");
  constexpr auto rest = std::chrono::milliseconds(5);  // between two looks: commits of others come often
  for (;;) {
    const std::uint64_t seen = state->db->changes();
    failure why;
    duration next = detail::longest_sleep;
    try {
      const auto found = co_await detail::take_up(state);
      if (state->active() > 0) {
        next = state->options.lease / 3;
        co_await detail::give_sign_of_life(*state);
      }
      if (found.next) {
        const std::int64_t now = detail::to_microseconds(state->timers->date());
        // Compared as dates: one that waits for ever has a date that no duration reaches.
        const std::int64_t latest = now + std::chrono::ceil<std::chrono::microseconds>(next).count();
        next = std::chrono::microseconds(std::clamp(*found.next, now, latest) - now);
      }
      (void)co_await state->db->wait_for_change(seen, std::max<duration>(next, rest));
      co_await sleep_for(rest);
    } catch (const std::exception& e) {
      why = failure::current(e);
    }
    if (why.is_cancellation()) break;
    const bool is_over = why.code() == errc::database_closed;
    if (is_over) why.raise();
    // The database is away: its own errors say so, and it may come back.
    if (why) co_await sleep_for(std::chrono::seconds(1));
  }
  // Handed back after what they do at the moment, so that nothing is left in doubt.
  co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
  for (const auto& saga : state->all()) saga->leave_soon(detail::leave_reason::handed_back, false);
  while (state->active() > 0) co_await sleep_for(std::chrono::milliseconds(5));
  batch b;
  b.execute("delete from cofferdam_saga_workers where id = $1", state->worker);
  (void)co_await state->db->try_commit(std::move(b));
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
