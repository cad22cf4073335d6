#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/random.hpp>
#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/core/workers.hpp>
#include <cofferdam/eventsourcing/consumer_group.hpp>
#include <cofferdam/storage/detail/part_leases.hpp>
#include <cofferdam/storage/detail/stored.hpp>

#include "follower.hpp"

#include <algorithm>
#include <atomic>
#include <limits>
#include <set>
#include <stdexcept>
#include <unordered_map>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

std::vector<migration> group_schema() {
  std::vector<migration> history;
  history.push_back(
      {1,
       "consumer groups",
       {"create table cofferdam_group_parts(consumer text not null, part bigint not null, position bigint not null, "
        "owner text, epoch bigint not null, expires_at bigint not null, primary key(consumer, part))",
        "create table cofferdam_group_members(consumer text not null, id text not null, beat_at bigint not null, "
        "primary key(consumer, id))",
        "create table cofferdam_group_parked(consumer text not null, position bigint not null, key text not null, "
        "reason text not null, primary key(consumer, position))",
        "create index cofferdam_group_parked_key on cofferdam_group_parked(consumer, key, position)"}});
  return history;
}

detail::part_tables group_tables() { return {"cofferdam_group_parts", "cofferdam_group_members", "consumer"}; }

}  // namespace

struct consumer_group::state {
  state(event_store& s, std::string n, consumer_group_options o) : store(&s), name(std::move(n)), options(o) {
    if (options.parts == 0) throw std::invalid_argument("the consumer group '" + name + "' needs at least one part");
  }

  [[nodiscard]] database& db() const noexcept { return store->storage(); }
  [[nodiscard]] std::string key_of(const recorded_event& e) const { return key ? key(e) : e.stream; }
  /// Batches that put events of a key aside, or take them back.
  void lock_key(batch& b, const std::string& k) const { b.lock("consumer group/" + name + "/" + k); }
  [[nodiscard]] std::size_t part_of(const std::string& k) const noexcept {
    return static_cast<std::size_t>(static_cast<std::uint64_t>(detail::hash_of(k)) % options.parts);
  }
  awaitable<void> prepare(detail::part_leases& leases);
  awaitable<void> make_tables();

  event_store* store;
  const std::string name;
  const consumer_group_options options;
  event_query query;
  key_function key;
  handler handle;
  event_channel<consumer_event> events;
  std::atomic<bool> has_tables{false};  // as far as this object knows
};

awaitable<void> consumer_group::state::make_tables() {
  if (has_tables.load(std::memory_order_relaxed)) co_return;
  auto schema = group_schema();
  co_await db().migrate("consumer groups", std::move(schema));
  has_tables.store(true, std::memory_order_relaxed);
}

/// Tables and parts, the same number that the group began with.
awaitable<void> consumer_group::state::prepare(detail::part_leases& leases) {
  if (!handle) throw std::logic_error("the consumer group '" + name + "' has no handler: call handle() first");
  co_await make_tables();
  const rows found = co_await db().query("select count(*) from cofferdam_group_parts where consumer = $1", name);
  const auto parts = found.front().get<std::size_t>(0);
  if (parts == options.parts) co_return;
  if (parts != 0) {
    throw storage_error(errc::schema_mismatch, "the consumer group '" + name + "' began with " + std::to_string(parts) +
                                                   " parts, not " + std::to_string(options.parts) +
                                                   "; keep it, or take a new name");
  }
  co_await leases.create(options.parts, options.start_after);
}

/// One member at work.
class consumer_group::member {
 public:
  member(state& s, const net::any_io_executor& executor, bool ends_when_done)
      : s_(&s),
        timers_(&timers_of(executor)),
        leases_(s.db(), group_tables(), s.name, random_id(random_of(executor)), s.options.lease, *timers_),
        ends_when_done_(ends_when_done) {
    for (std::size_t i = 0; i < s.options.parts; ++i) parts_.emplace_back().number = i;
  }

  awaitable<std::size_t> work();

 private:
  struct part : detail::leased_part {
    std::uint64_t failed_at = 0;  // a position
    std::uint32_t failures = 0;   // of the event there
    time_point pauses_until{};
    std::uint64_t careful_until = 0;  // to here one event in a commit: one of them cannot be committed

    [[nodiscard]] bool is_careful() const noexcept { return position < careful_until; }
  };
  struct flight {
    flight(recorded_event e, std::string k, std::size_t p) : event(std::move(e)), key(std::move(k)), part(p) {}
    enum class end : std::uint8_t { open, done, failed, waiting } how = end::open;
    recorded_event event;
    std::string key;
    std::size_t part;
    batch effects;
    std::string why;
  };
  using flights = std::vector<flight>;
  /// The chains of a page, one for each key, and who is at them.
  struct journey {
    std::vector<std::vector<std::size_t>> chains;
    std::size_t next = 0, running = 0;
    detail::parked_reference keeper;
  };

  awaitable<void> tend_leases();
  awaitable<void> renew(part& p);
  awaitable<bool> carry_page();
  awaitable<flights> read_page(std::uint64_t from, std::uint64_t& to);
  awaitable<void> carry(flights& page);
  awaitable<void> carry_chains(flights& page, journey& j);
  awaitable<void> carry_one(flight& f);
  awaitable<void> keep_leases(journey& j);
  awaitable<bool> write(flights& page, std::uint64_t to);
  awaitable<bool> write_part(part& p, flights& page, std::uint64_t to);
  struct share {  // what a page is to one part
    batch work;
    std::uint64_t position = 0;
    std::size_t handled = 0;
    const flight *failed = nullptr, *parks = nullptr;
  };
  share share_of(part& p, flights& page, std::uint64_t to);
  void settle(part& p, const share& done);
  void fail(part& p, const flight& f);
  awaitable<void> pause(std::uint64_t seen);

  [[nodiscard]] bool can_go_on(const part& p) const { return p.is_ours() && timers_->now() >= p.pauses_until; }
  void publish(consumer_event::kind what, const part& p, std::size_t count = 0, std::uint64_t position = 0,
               std::string key = {}, std::string message = {}) {
    if (!s_->events.has_listeners()) return;
    s_->events.publish({what, p.number, count, position, std::move(key), std::move(message)});
  }

  state* s_;
  const timer_service* timers_;
  detail::part_leases leases_;
  bool ends_when_done_, is_stopping_ = false;
  std::vector<part> parts_;
  std::size_t handled_ = 0;
};

awaitable<std::size_t> consumer_group::member::work() {
  co_await s_->prepare(leases_);
  failure why;
  while (!why && !is_stopping_) {
    const std::uint64_t seen = s_->db().changes();
    failure trouble;
    bool is_more = false;
    try {
      co_await tend_leases();
      is_more = co_await carry_page();
      if (!is_more && !is_stopping_) {
        if (ends_when_done_) break;
        co_await pause(seen);
      }
    } catch (const std::exception& e) {
      trouble = failure::current(e);
    }
    if (!trouble) continue;
    if (trouble.is_cancellation() || trouble.code() == errc::database_closed || ends_when_done_) why = trouble;
    if (why) break;
    for (part& p : parts_) {
      if (p.is_ours()) publish(consumer_event::kind::troubled, p, 0, p.position, {}, trouble.message());
      p.held = detail::leased_part::hold::none;  // and taken again, with a new epoch, if it is still ours
    }
    try {
      (void)co_await s_->db().wait_for_change(seen, std::chrono::seconds(1));
    } catch (const std::exception& e) {
      why = failure::current(e);
    }
  }
  if (is_stopping_ && !why) why = failure::cancelled();
  co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
  for (part& p : parts_) {
    if (!p.is_ours()) continue;
    co_await leases_.release(p);
    publish(consumer_event::kind::released, p);
  }
  co_await leases_.leave();
  if (why) why.raise();
  co_return handled_;
}

// -------------------------------------------------------------------------------------------------------------- leases

awaitable<void> consumer_group::member::tend_leases() {
  const std::size_t fair = co_await leases_.fair_share(parts_.size());
  for (part& p : parts_) {
    if (!p.is_ours() && detail::parts_held(parts_) < fair) {
      const bool is_taken = co_await leases_.take(p);
      if (is_taken) publish(consumer_event::kind::taken, p, 0, p.position);
    } else if (p.is_ours() && detail::parts_held(parts_) > fair) {
      co_await leases_.release(p);
      publish(consumer_event::kind::released, p, 0, p.position);
    } else if (p.is_ours() && leases_.is_due(p)) {
      co_await renew(p);
    }
  }
}

awaitable<void> consumer_group::member::renew(part& p) {
  const bool is_still_ours = co_await leases_.renew(p);
  if (!is_still_ours) publish(consumer_event::kind::lost, p, 0, p.position);
}

/// While handlers take their time.
awaitable<void> consumer_group::member::keep_leases(journey& j) {
  while (j.running > 0) {
    for (part& p : parts_) {
      if (p.is_ours() && leases_.is_due(p)) co_await renew(p);
    }
    const auto enlist = [&j](const detail::parked_reference& self) {
      if (j.running == 0) {
        self->wake(wake_reason::woken);
      } else {
        j.keeper = self;
      }
    };
    const auto reason = co_await park(saturating_add(timers_->now(), s_->options.lease / 6), enlist);
    if (reason == wake_reason::cancelled) co_return;
  }
}

awaitable<void> consumer_group::member::pause(std::uint64_t seen) {
  duration limit = std::min(s_->options.look_at_least_every, s_->options.lease / 3);
  for (const part& p : parts_) {
    if (p.is_ours() && p.pauses_until > timers_->now()) limit = std::min(limit, p.pauses_until - timers_->now());
  }
  (void)co_await s_->db().wait_for_change(seen, limit);
}

// --------------------------------------------------------------------------------------------------------------- pages

/// True when there may be more.
awaitable<bool> consumer_group::member::carry_page() {
  constexpr auto nowhere = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t from = nowhere;
  for (const part& p : parts_) {
    if (can_go_on(p)) from = std::min(from, p.position);
  }
  if (from == nowhere) co_return false;
  std::uint64_t to = from;
  flights page = co_await read_page(from, to);
  if (to == from) co_return false;
  co_await carry(page);
  const auto cancellation = co_await net::this_coro::cancellation_state;
  is_stopping_ = is_stopping_ || cancellation.cancelled() != net::cancellation_type::none;
  // What was handled by then is written all the same.
  if (is_stopping_) co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
  co_return co_await write(page, to);
}

/// The events of our parts after `from`, as far as a page goes: `to`.
awaitable<consumer_group::member::flights> consumer_group::member::read_page(std::uint64_t from, std::uint64_t& to) {
  read_options reading;
  reading.from = from + 1;
  reading.limit = s_->options.page;
  slice found = co_await s_->store->read_all(s_->query, reading);
  to = std::max(from, found.scanned_to);
  flights page;
  if (found.events.empty()) co_return page;
  std::set<std::string> parked;
  const rows keys =
      co_await s_->db().query("select distinct key from cofferdam_group_parked where consumer = $1", s_->name);
  for (const row r : keys) parked.insert(r.get<std::string>(0));
  std::vector<bool> is_full(parts_.size());  // careful parts take one event
  for (recorded_event& e : found.events) {
    std::string key = s_->key_of(e);
    const std::size_t number = s_->part_of(key);
    const part& p = parts_[number];
    if (!can_go_on(p) || e.position <= p.position || is_full[number]) continue;
    is_full[number] = p.is_careful();
    page.emplace_back(std::move(e), std::move(key), number);
    if (parked.contains(page.back().key)) page.back().how = flight::end::waiting;
  }
  for (const flight& f : page) {
    if (parts_[f.part].is_careful()) to = std::min(to, f.event.position);
  }
  std::erase_if(page, [to](const flight& f) { return f.event.position > to; });
  co_return page;
}

/// Handles what is open: every key in its order, many keys at once.
awaitable<void> consumer_group::member::carry(flights& page) {
  journey j;
  std::unordered_map<std::string, std::size_t> chain_of;
  for (std::size_t i = 0; i < page.size(); ++i) {
    if (page[i].how != flight::end::open) continue;
    const auto [it, is_new] = chain_of.try_emplace(page[i].key, j.chains.size());
    if (is_new) j.chains.emplace_back();
    j.chains[it->second].push_back(i);
  }
  if (j.chains.empty()) co_return;
  j.running = std::min(std::max<std::size_t>(s_->options.concurrency, 1), j.chains.size());
  bool has_keeper = false;
  const auto make = [&]() -> awaitable<void> {
    if (!std::exchange(has_keeper, true)) return keep_leases(j);
    return carry_chains(page, j);
  };
  co_await detail::run_workers(j.running + 1, make);
}

awaitable<void> consumer_group::member::carry_chains(flights& page, journey& j) {
  while (j.next < j.chains.size() && !is_stopping_) {
    for (const std::size_t i : j.chains[j.next++]) {
      const part& p = parts_[page[i].part];
      if (is_stopping_ || !p.is_ours() || leases_.is_stale(p)) break;
      co_await carry_one(page[i]);
      if (page[i].how != flight::end::done) break;  // what follows of this key waits
    }
  }
  if (--j.running == 0 && j.keeper) j.keeper->wake(wake_reason::woken);
}

awaitable<void> consumer_group::member::carry_one(flight& f) {
  failure why;
  try {
    f.event.require_opened();
    co_await s_->handle(f.event, f.effects);
  } catch (const std::exception& e) {
    why = failure::current(e);
  } catch (...) {
    why = failure::current();
  }
  if (why.is_cancellation()) {
    const auto cancellation = co_await net::this_coro::cancellation_state;
    if (cancellation.cancelled() != net::cancellation_type::none) is_stopping_ = true;
    if (is_stopping_) co_return;
  }
  f.how = why ? flight::end::failed : flight::end::done;
  if (why) f.why = why.message();
}

// ------------------------------------------------------------------------------------------------------------- writing

/// How far the page brings a part, and what goes with it: everything before the first event that was not settled.
consumer_group::member::share consumer_group::member::share_of(part& p, flights& page, std::uint64_t to) {
  share made;
  made.position = std::max(p.position, to);
  for (flight& f : page) {
    if (f.part != p.number) continue;
    const std::uint32_t failures = p.failed_at == f.event.position ? p.failures : 0;
    const bool parks = f.how == flight::end::failed && failures + 1 >= s_->options.max_attempts;
    if (f.how == flight::end::done) {
      made.work.add(f.effects);  // a copy: it may have to be written again, alone
      ++made.handled;
      continue;
    }
    if (f.how == flight::end::open || (f.how == flight::end::failed && !parks)) {
      made.position = f.event.position - 1;
      if (f.how == flight::end::failed) made.failed = &f;
      break;
    }
    s_->lock_key(made.work, f.key);
    if (parks) {
      made.work.require(
          "'" + s_->name + "' has put aside less than max_parked = " + std::to_string(s_->options.max_parked),
          "select count(*) < $2 from cofferdam_group_parked where consumer = $1", s_->name, s_->options.max_parked);
    } else {
      made.work.require("the key '" + f.key + "' is put aside",
                        "select count(*) > 0 from cofferdam_group_parked where consumer = $1 and key = $2", s_->name,
                        f.key);
    }
    made.work.execute("insert into cofferdam_group_parked(consumer, position, key, reason) values($1, $2, $3, $4)",
                      s_->name, f.event.position, f.key, f.why);
    if (!parks) continue;
    // What follows of its key waits behind it: read again, when it is known to be put aside.
    made.parks = &f;
    made.position = f.event.position;
    break;
  }
  return made;
}

void consumer_group::member::settle(part& p, const share& done) {
  const bool has_moved = done.position > p.position;
  p.position = std::max(p.position, done.position);
  handled_ += done.handled;
  if (has_moved) publish(consumer_event::kind::moved, p, done.handled, p.position);
  if (done.parks != nullptr) {
    publish(consumer_event::kind::parked, p, 0, done.parks->event.position, done.parks->key, done.parks->why);
  }
  if (done.failed != nullptr) fail(p, *done.failed);
}

void consumer_group::member::fail(part& p, const flight& f) {
  if (p.failed_at != f.event.position) p.failures = 0;
  p.failed_at = f.event.position;
  ++p.failures;
  p.pauses_until =
      saturating_add(timers_->now(), s_->options.retry_after * (std::int64_t{1} << std::min(p.failures - 1, 6U)));
  publish(consumer_event::kind::failed, p, p.failures, f.event.position, f.key, f.why);
}

/// All parts in one commit; where that fails each alone. True when one of them has moved.
awaitable<bool> consumer_group::member::write(flights& page, std::uint64_t to) {
  batch all;
  std::vector<std::pair<part*, share>> shares;
  for (part& p : parts_) {
    if (!can_go_on(p)) continue;
    share mine = share_of(p, page, to);
    if (mine.position > p.position) leases_.write(all, p, mine.position);
    if (mine.position > p.position) all.add(mine.work);
    shares.emplace_back(&p, std::move(mine));
  }
  const auto began = timers_->now();
  const auto written = co_await s_->db().try_commit(std::move(all));
  bool has_moved = false;
  if (written) {
    for (auto& [p, mine] : shares) {
      const bool moves = mine.position > p->position;
      if (moves) p->renewed = began;
      has_moved |= moves;
      settle(*p, mine);
    }
    co_return has_moved;
  }
  if (detail::is_trouble(written.code())) written.why().raise();
  for (const auto& entry : shares) has_moved |= co_await write_part(*entry.first, page, to);
  co_return has_moved;
}

awaitable<bool> consumer_group::member::write_part(part& p, flights& page, std::uint64_t to) {
  const share mine = share_of(p, page, to);
  if (mine.position <= p.position) {
    settle(p, mine);
    co_return false;
  }
  batch alone;
  leases_.write(alone, p, mine.position);
  alone.add(mine.work);
  const auto began = timers_->now();
  const auto written = co_await s_->db().try_commit(std::move(alone));
  if (written) {
    p.renewed = began;
    settle(p, mine);
    co_return true;
  }
  if (detail::is_trouble(written.code())) written.why().raise();
  co_await renew(p);
  if (!p.is_ours()) co_return false;
  // Some handler's batch cannot be committed: find out whose.
  std::size_t own = 0;
  flight* last = nullptr;
  for (flight& f : page) {
    if (f.part != p.number || f.how == flight::end::open) continue;
    ++own;
    last = &f;
  }
  if (own > 1) {
    p.careful_until = last->event.position;
    co_return true;
  }
  if (own == 1 && last->how == flight::end::done) {
    last->how = flight::end::failed;
    last->why = written.why().message();
    co_return co_await write_part(p, page, to);
  }
  publish(consumer_event::kind::troubled, p, 0, p.position, {}, written.why().message());
  p.pauses_until = saturating_add(timers_->now(), s_->options.retry_after);
  co_return false;
}

// --------------------------------------------------------------------------------------------------------------- group

consumer_group::consumer_group(event_store& store, std::string name, consumer_group_options options)
    : state_(std::make_unique<state>(store, std::move(name), options)) {}
consumer_group::~consumer_group() = default;
event_channel<consumer_event>& consumer_group::events() noexcept { return state_->events; }

consumer_group& consumer_group::filter(event_query query) {
  state_->query = std::move(query);
  return *this;
}
consumer_group& consumer_group::key(key_function k) {
  state_->key = std::move(k);
  return *this;
}
consumer_group& consumer_group::handle(handler h) {
  state_->handle = std::move(h);
  return *this;
}

awaitable<void> consumer_group::run() {
  const auto executor = co_await net::this_coro::executor;
  member m(*state_, executor, false);
  (void)co_await m.work();
}
awaitable<std::size_t> consumer_group::run_due() {
  const auto executor = co_await net::this_coro::executor;
  member m(*state_, executor, true);
  co_return co_await m.work();
}

awaitable<consumer_status> consumer_group::status() {
  consumer_status found;
  co_await state_->make_tables();
  const rows parts = co_await state_->db().query(
      "select coalesce(min(position), 0), count(owner) from cofferdam_group_parts where consumer = $1", state_->name);
  found.position = parts.front().get<std::uint64_t>(0);
  found.owned_parts = parts.front().get<std::size_t>(1);
  const rows parked =
      co_await state_->db().query("select count(*) from cofferdam_group_parked where consumer = $1", state_->name);
  found.parked = parked.front().get<std::uint64_t>(0);
  const std::uint64_t newest = co_await state_->store->newest_position();
  found.behind = newest > found.position ? newest - found.position : 0;
  co_return found;
}

awaitable<std::vector<parked_consumer_event>> consumer_group::parked(std::size_t limit) {
  co_await state_->make_tables();
  const rows found = co_await state_->db().query(
      "select position, key, reason from cofferdam_group_parked where consumer = $1 order by position limit $2",
      state_->name, limit);
  std::vector<parked_consumer_event> all;
  for (const row r : found) {
    recorded_event e;
    e.position = r.get<std::uint64_t>(0);
    auto there = co_await detail::find_event(*state_->store, e.position);
    if (there) e = *std::move(there);
    all.push_back({std::move(e), r.get<std::string>(1), r.get<std::string>(2)});
  }
  co_return all;
}

awaitable<std::size_t> consumer_group::replay(std::string key) {
  co_await state_->make_tables();
  for (std::size_t handled = 0;; ++handled) {
    const rows found = co_await state_->db().query(
        "select min(position) from cofferdam_group_parked where consumer = $1 and key = $2", state_->name, key);
    const auto position = found.front().get<std::optional<std::uint64_t>>(0);
    if (!position) co_return handled;
    batch b;
    state_->lock_key(b, key);
    b.require_change("the event at position " + std::to_string(*position) + " is still put aside",
                     "delete from cofferdam_group_parked where consumer = $1 and position = $2", state_->name,
                     *position);
    const recorded_event e = co_await detail::require_parked(*state_->store, *position, state_->name);
    e.require_opened();
    co_await state_->handle(e, b);
    co_await state_->db().commit(std::move(b));
  }
}

awaitable<std::size_t> consumer_group::discard(std::string key) {
  co_await state_->make_tables();
  batch b;
  state_->lock_key(b, key);
  b.execute("delete from cofferdam_group_parked where consumer = $1 and key = $2", state_->name, std::move(key));
  const receipt done = co_await state_->db().commit(std::move(b));
  co_return done[0].affected();
}

}  // namespace cofferdam::inline COFFERDAM_ABI
