#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/random.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/core/workers.hpp>
#include <cofferdam/outbox/relay.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/storage/detail/part_leases.hpp>

#include "message_rows.hpp"

#include <algorithm>
#include <array>
#include <set>
#include <unordered_map>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

struct relay::state {
  state(outbox& o, publisher& p, std::string n, relay_options given)
      : from(&o), to(&p), name(std::move(n)), options(given), breaker("relay " + name, given.breaker) {}

  [[nodiscard]] database& db() const noexcept { return from->storage(); }

  outbox* from;
  publisher* to;
  const std::string name;
  const relay_options options;
  circuit_breaker breaker;  // one broker, one judgement
  event_channel<relay_event> events;
};

/// One relay at work: owns parts for a while.
class relay::worker {
 public:
  worker(state& s, const net::any_io_executor& executor, bool ends_when_done)
      : s_(&s),
        timers_(&timers_of(executor)),
        random_(&random_of(executor)),
        leases_(s.db(), {"cofferdam_relay_parts", "cofferdam_relay_members", "relay"}, s.name, random_id(*random_),
                s.options.lease, *timers_),
        ends_when_done_(ends_when_done) {}

  awaitable<std::size_t> work();

 private:
  /// What a part is to its owner.
  struct part : detail::leased_part {
    std::set<std::uint64_t> done;                            // behind `position`, not contiguous
    std::unordered_map<std::uint64_t, std::uint32_t> tries;  // of messages that failed
    backoff_state pauses;
    std::uint32_t troubles = 0;  // pages in a row in which the broker took nothing
  };
  struct flight {  // a message of a page
    enum class end : std::uint8_t { open, done, refused, failed, waiting };
    message content;
    end how = end::open;
    std::string why;
  };

  awaitable<void> serve(part& p);
  awaitable<void> take(part& p);
  awaitable<void> release(part& p);
  awaitable<void> renew(part& p);
  awaitable<bool> carry_page(part& p);
  awaitable<void> carry(part& p, std::vector<flight>& page);
  awaitable<void> carry_chain(part& p, std::vector<flight>& page, const std::vector<std::vector<std::size_t>>& chains,
                              std::size_t& next);
  awaitable<void> write(part& p, std::vector<flight>& page);
  awaitable<bool> move_due(part& p);
  awaitable<void> idle(part& p, std::uint64_t seen);
  void publish(relay_event::kind what, const part& p, std::size_t count = 0, std::string key = {},
               std::string why = {}) {
    if (s_->events.has_listeners()) s_->events.publish({what, p.number, count, std::move(key), std::move(why)});
  }
  [[nodiscard]] std::int64_t now() const { return leases_.now(); }
  [[nodiscard]] static bool is_ours(const part& p) noexcept { return p.is_ours(); }

  state* s_;
  const timer_service* timers_;
  random_source* random_;
  detail::part_leases leases_;
  bool ends_when_done_;
  bool is_stopping_ = false;
  std::array<part, outbox::parts> parts_;
  std::size_t published_ = 0, next_part_ = 0;
  std::exception_ptr error_;
};

awaitable<std::size_t> relay::worker::work() {
  co_await leases_.create(outbox::parts, 0);
  for (std::size_t i = 0; i < outbox::parts; ++i) parts_[i].number = i;
  const auto make = [this] { return serve(parts_[next_part_++]); };
  co_await detail::run_workers(outbox::parts, make);
  co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
  co_await leases_.leave();
  if (error_) std::rethrow_exception(error_);
  co_return published_;
}

/// One part: taken, carried, given back; again and again.
awaitable<void> relay::worker::serve(part& p) {
  failure why;
  for (;;) {
    const std::uint64_t seen = s_->db().changes();
    failure trouble;
    bool is_more = false;
    try {
      const std::size_t share = co_await leases_.fair_share(outbox::parts);
      if (!is_ours(p) && detail::parts_held(parts_) < share) co_await take(p);
      if (is_ours(p) && detail::parts_held(parts_) > share) co_await release(p);
      if (is_ours(p)) is_more = co_await carry_page(p);
      if (!is_more && ends_when_done_) break;
      if (!is_more) co_await idle(p, seen);
    } catch (const std::exception& e) {
      trouble = failure::current(e);
    }
    if (trouble.is_cancellation() || trouble.code() == errc::database_closed) why = trouble;
    if (why) break;
    if (!trouble) continue;
    if (ends_when_done_) {
      if (!error_) error_ = trouble.exception();
      break;
    }
    publish(relay_event::kind::troubled, p, 0, {}, trouble.message());
    p.held = part::hold::none;  // and taken again, with a new epoch, if it is still ours
    try {
      co_await sleep_for(std::chrono::seconds(1));
    } catch (const std::exception&) {
      break;
    }
  }
  is_stopping_ = is_stopping_ || static_cast<bool>(why);
  co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
  if (is_ours(p)) co_await release(p);
}

// -------------------------------------------------------------------------------------------------------------- leases

awaitable<void> relay::worker::take(part& p) {
  const bool is_taken = co_await leases_.take(p);
  part fresh;  // what is in memory was another time's
  static_cast<detail::leased_part&>(fresh) = p;
  p = std::move(fresh);
  if (is_taken) publish(relay_event::kind::taken, p);
}

awaitable<void> relay::worker::release(part& p) {
  co_await leases_.release(p);
  publish(relay_event::kind::released, p);
}

awaitable<void> relay::worker::renew(part& p) {
  const bool was_ours = is_ours(p);
  const bool is_still_ours = co_await leases_.renew(p);
  if (was_ours && !is_still_ours) publish(relay_event::kind::lost, p);
}

awaitable<void> relay::worker::idle(part& p, std::uint64_t seen) {
  duration limit = std::min(s_->options.look_at_least_every, s_->options.lease / 3);
  if (is_ours(p) && leases_.is_due(p)) co_await renew(p);
  if (p.number == 0) {
    const rows next = co_await s_->db().query("select min(due) from cofferdam_outbox_delayed");
    const auto due = next.front().get<std::optional<std::int64_t>>(0);
    if (due) limit = std::clamp<duration>(std::chrono::microseconds(*due - now()), std::chrono::milliseconds(1), limit);
  }
  (void)co_await s_->db().wait_for_change(seen, limit);
}

// --------------------------------------------------------------------------------------------------------------- pages

/// Messages whose time has come get their place in the order.
awaitable<bool> relay::worker::move_due(part& p) {
  const rows due = co_await s_->db().query(
      "select id, part, topic, key, type, payload, headers from cofferdam_outbox_delayed where due <= $1 order by due, "
      "id limit 100",
      now());
  if (due.empty()) co_return false;
  batch b;
  b.require("part 0 is ours",
            "select count(*) > 0 from cofferdam_relay_parts where relay = $1 and part = 0 and epoch = $2", s_->name,
            p.epoch);
  const char* const append = detail::append_message_sql(s_->db().has_one_writer());
  for (const row r : due) {
    b.execute("delete from cofferdam_outbox_delayed where id = $1", r.get<std::string>(0));
    statement insert(append);
    for (std::size_t i = 0; i < 7; ++i) insert.bind(r[i]);
    insert.bind(now());
    b.execute(std::move(insert));
  }
  co_await s_->db().commit(std::move(b));
  co_return true;
}

/// True when there may be more.
awaitable<bool> relay::worker::carry_page(part& p) {
  if (p.number == 0) {
    const bool has_moved = co_await move_due(p);
    if (has_moved) co_return true;  // they may be of any part
  }
  const rows found =
      co_await s_->db().query(std::string("select ") + detail::message_columns +
                                  " from cofferdam_outbox o where o.part = $1 and o.nr > $2 order by o.nr limit $3",
                              p.number, p.position, s_->options.page + std::min<std::size_t>(p.done.size(), 10'000));
  if (found.empty()) co_return false;
  std::vector<flight> page;
  page.reserve(found.size());
  std::set<std::string> keys;
  for (const row r : found) {
    page.push_back({detail::message_from(r), flight::end::open, {}});
    if (p.done.contains(page.back().content.number())) page.back().how = flight::end::done;
  }
  const rows parked_keys =
      co_await s_->db().query("select distinct key from cofferdam_relay_parked where relay = $1", s_->name);
  for (const row r : parked_keys) keys.insert(r.get<std::string>(0));
  for (flight& f : page) {
    if (f.how == flight::end::open && !f.content.key().empty() && keys.contains(f.content.key())) {
      f.how = flight::end::waiting;
    }
  }
  co_await carry(p, page);
  if (!is_ours(p)) co_return true;
  co_await write(p, page);
  co_return true;
}

/// Publishes what is open: every key in its order, many keys at once.
awaitable<void> relay::worker::carry(part& p, std::vector<flight>& page) {
  std::vector<std::vector<std::size_t>> chains;
  std::unordered_map<std::string, std::size_t> chain_of;
  for (std::size_t i = 0; i < page.size(); ++i) {
    if (page[i].how != flight::end::open) continue;
    const std::string& key = page[i].content.key();
    const auto [it, is_new] = key.empty() ? std::pair(chain_of.end(), true) : chain_of.try_emplace(key, chains.size());
    if (is_new) {
      chains.push_back({i});
    } else {
      chains[it->second].push_back(i);
    }
  }
  if (chains.empty()) co_return;
  std::size_t next = 0;
  const auto make = [&] { return carry_chain(p, page, chains, next); };
  co_await detail::run_workers(std::min(s_->options.window, chains.size()), make);
}

awaitable<void> relay::worker::carry_chain(part& p, std::vector<flight>& page,
                                           const std::vector<std::vector<std::size_t>>& chains, std::size_t& next) {
  while (next < chains.size()) {
    for (const std::size_t i : chains[next++]) {
      if (is_stopping_ || leases_.is_stale(p) || !is_ours(p)) co_return;
      flight& f = page[i];
      const auto send = [this, &f] { return s_->to->publish(f.content); };
      const auto call = [this, &send] { return with_timeout(s_->options.publish_timeout, send); };
      const auto sent = co_await s_->breaker.try_fire(call);
      if (sent) {
        f.how = flight::end::done;
        continue;
      }
      f.why = sent.why().message();
      f.how = sent.code() == errc::message_refused ? flight::end::refused : flight::end::failed;
      if (sent.why().is_cancellation()) {
        is_stopping_ = true;
        co_return;
      }
      break;  // what follows of this key waits
    }
  }
}

/// Writes how far the part is, and what is parked, if the part is still ours.
awaitable<void> relay::worker::write(part& p, std::vector<flight>& page) {
  const bool took_some = std::ranges::any_of(
      page, [&p](const flight& f) { return f.how == flight::end::done && !p.done.contains(f.content.number()); });
  std::set<std::string> parked_now;
  std::size_t published = 0;
  std::string trouble;
  batch b;
  const std::uint64_t before = p.position;
  std::uint64_t after = before;
  bool is_contiguous = true;
  std::set<std::uint64_t> done;
  std::vector<std::pair<std::string, std::string>> parked;
  batch parking;
  for (flight& f : page) {
    const std::string& key = f.content.key();
    const std::uint64_t nr = f.content.number();
    if (f.how == flight::end::failed) {
      trouble = f.why;
      // While the broker takes others, it is the message.
      if (took_some && ++p.tries[nr] >= s_->options.max_attempts) f.how = flight::end::refused;
    }
    if (f.how == flight::end::open && parked_now.contains(key)) f.how = flight::end::waiting;
    if (f.how == flight::end::waiting && !parked_now.contains(key)) {
      parking.require("the key '" + key + "' is parked",
                      "select count(*) > 0 from cofferdam_relay_parked where relay = $1 and key = $2", s_->name, key);
    }
    if (f.how == flight::end::refused || f.how == flight::end::waiting) {
      parking.execute("insert into cofferdam_relay_parked(relay, nr, key, reason, at) values($1, $2, $3, $4, $5)",
                      s_->name, nr, key, f.how == flight::end::refused ? f.why : std::string(), now());
      if (f.how == flight::end::refused) parked.emplace_back(key, f.why);
      if (f.how == flight::end::refused && !key.empty()) parked_now.insert(key);
      p.tries.erase(nr);
    }
    const bool is_settled = f.how != flight::end::open && f.how != flight::end::failed;
    if (f.how == flight::end::done && !p.done.contains(nr)) ++published;
    is_contiguous = is_contiguous && is_settled;
    if (is_contiguous) {
      after = nr;
    } else if (is_settled) {
      done.insert(nr);
    }
  }
  const auto began = timers_->now();
  if (after != before || !parking.empty()) {
    leases_.write(b, p, after);
    b.add(std::move(parking));
    const auto written = co_await s_->db().try_commit(std::move(b));
    if (!written && written.code() == errc::condition_failed) {
      co_await renew(p);  // tells whether the part is lost; if not, a key was opened meanwhile: read again
      co_return;
    }
    (void)written.value();
    p.position = after;
    p.renewed = began;
  } else if (leases_.is_due(p)) {
    co_await renew(p);
  }
  p.done = std::move(done);
  published_ += published;
  if (published > 0) publish(relay_event::kind::published, p, published);
  for (const auto& [key, why] : parked) publish(relay_event::kind::parked, p, 0, key, why);
  p.troubles = published > 0 || trouble.empty() ? 0 : p.troubles + 1;
  if (trouble.empty()) {
    p.pauses = {};
    co_return;
  }
  publish(relay_event::kind::troubled, p, 0, {}, trouble);
  if (ends_when_done_ && p.troubles > s_->options.max_attempts) {
    throw storage_error(errc::database_unavailable, "the broker takes nothing: " + trouble);
  }
  co_await sleep_for(backoff_delay(s_->options.backoff, std::max<std::uint32_t>(p.troubles, 1), p.pauses, *random_));
}

// --------------------------------------------------------------------------------------------------------------- relay

relay::relay(outbox& from, publisher& to, std::string name, relay_options options)
    : state_(std::make_unique<state>(from, to, std::move(name), options)) {}
relay::~relay() = default;
event_channel<relay_event>& relay::events() noexcept { return state_->events; }

awaitable<void> relay::run() {
  const auto executor = co_await net::this_coro::executor;
  worker w(*state_, executor, false);
  (void)co_await w.work();
}
awaitable<std::size_t> relay::run_due() {
  const auto executor = co_await net::this_coro::executor;
  worker w(*state_, executor, true);
  co_return co_await w.work();
}

awaitable<relay_status> relay::status() {
  relay_status found;
  const rows backlog = co_await state_->db().query(
      "select count(*), min(o.at) from cofferdam_outbox o left join cofferdam_relay_parts p on p.relay = $1 and p.part "
      "= o.part where o.nr > coalesce(p.position, 0)",
      state_->name);
  found.backlog = backlog.front().get<std::uint64_t>(0);
  const auto oldest = backlog.front().get<std::optional<std::int64_t>>(1);
  if (oldest) found.oldest = detail::date_from(*oldest);
  const rows counts = co_await state_->db().query(
      "select (select count(*) from cofferdam_relay_parked where relay = $1), (select count(*) from "
      "cofferdam_outbox_delayed), (select count(*) from cofferdam_relay_parts where relay = $1 and owner is not null)",
      state_->name);
  found.parked = counts.front().get<std::uint64_t>(0);
  found.delayed = counts.front().get<std::uint64_t>(1);
  found.owned_parts = counts.front().get<std::size_t>(2);
  co_return found;
}

awaitable<std::vector<parked_message>> relay::parked(std::size_t limit) {
  const rows found = co_await state_->db().query(std::string("select ") + detail::message_columns +
                                                     ", p.reason, p.at as since from cofferdam_relay_parked p join "
                                                     "cofferdam_outbox o on o.nr = p.nr where p.relay = "
                                                     "$1 order by p.nr limit $2",
                                                 state_->name, limit);
  std::vector<parked_message> all;
  for (const row r : found) {
    all.push_back(
        {detail::message_from(r), r.get<std::string>("reason"), detail::date_from(r.get<std::int64_t>("since"))});
  }
  co_return all;
}

awaitable<std::size_t> relay::replay(std::string key) {
  for (std::size_t published = 0;; ++published) {
    const rows found = co_await state_->db().query(
        std::string("select ") + detail::message_columns +
            " from cofferdam_relay_parked p join cofferdam_outbox o on o.nr = p.nr where p.relay = $1 and p.key = $2 "
            "order by p.nr limit 1",
        state_->name, key);
    if (found.empty()) co_return published;
    const message first = detail::message_from(found.front());
    co_await state_->to->publish(first);
    (void)co_await skip(first.number());
  }
}
awaitable<bool> relay::skip(std::uint64_t number) {
  batch b;
  b.execute("delete from cofferdam_relay_parked where relay = $1 and nr = $2", state_->name, number);
  const receipt done = co_await state_->db().commit(std::move(b));
  co_return done[0].affected() > 0;
}

awaitable<std::size_t> relay::republish(std::chrono::system_clock::time_point from,
                                        std::chrono::system_clock::time_point to) {
  std::size_t published = 0;
  for (std::uint64_t after = 0;;) {
    const rows found = co_await state_->db().query(
        std::string("select ") + detail::message_columns +
            " from cofferdam_outbox o where o.nr > $1 and o.at >= $2 and o.at < $3 order by o.nr limit 500",
        after, detail::to_microseconds(from), detail::to_microseconds(to));
    if (found.empty()) co_return published;
    for (const row r : found) {
      const message m = detail::message_from(r);
      after = m.number();
      try {
        co_await state_->to->publish(m);
        ++published;
      } catch (const message_refused_error&) {  // as it was before
      }
    }
  }
}

awaitable<std::size_t> relay::forget_before(std::chrono::system_clock::time_point t) {
  batch b;
  b.execute(
      "delete from cofferdam_outbox where at < $1 and nr <= coalesce((select min(p.position) from "
      "cofferdam_relay_parts "
      "p where p.part = cofferdam_outbox.part), 0) and not exists(select 1 from cofferdam_relay_parked k where k.nr = "
      "cofferdam_outbox.nr)",
      detail::to_microseconds(t));
  const receipt done = co_await state_->db().commit(std::move(b));
  co_return done[0].affected();
}

}  // namespace cofferdam::inline COFFERDAM_ABI
