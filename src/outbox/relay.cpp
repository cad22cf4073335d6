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
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

struct relay::state {
  state(message_source& s, publisher& p, std::string n, relay_options given)
      : from(&s), to(&p), name(std::move(n)), options(given), desk(s, name), breaker("relay " + name, given.breaker) {
    breaker.classify([](const failure& why) {  // a broker that refuses a message is well
      return why.code() == errc::message_refused ? outcome_class::success : outcome_class::failure;
    });
  }

  [[nodiscard]] database& db() const noexcept { return from->storage(); }
  awaitable<void> send(const message& m) {
    const auto call = [this, &m] { return to->publish(m); };
    co_await with_timeout(options.publish_timeout, call);
  }
  awaitable<failure> send_all(std::span<publication> wave);
  awaitable<void> send_guarded(std::span<publication> wave);
  awaitable<std::size_t> replay(std::string key);
  awaitable<std::size_t> republish(std::vector<message> page);

  message_source* from;
  publisher* to;
  const std::string name;
  const relay_options options;
  outbox_desk desk;
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
  struct flight {  // a message on its way
    enum class end : std::uint8_t { open, done, refused, failed };
    message content;
    end how = end::open;
    std::string why{};
    bool is_outage = false;   // it failed for what is surely not its own fault
    std::uint64_t heard = 0;  // what the broker had taken when it was last tried
    std::uint32_t tries = 0;  // those in which it failed while the broker took others
    time_point not_before{};
  };
  /// What a part is to its owner; `position` is the place that is written.
  struct part : detail::leased_part {
    std::uint64_t read_to = 0;
    duration look_again{};                 // what the source says
    std::map<std::uint64_t, flight> open;  // read, and neither published nor parked
    std::size_t ahead = 0;                 // published, and read again after a crash
    std::set<std::string> parked_keys;     // as far as we know
    bool knows_parked_keys = false;
    time_point written;
    std::uint32_t troubles = 0;  // rounds in a row in which the broker took nothing
    std::string shut;            // the circuit is open, says this round
    std::uint32_t refusals = 0;  // such rounds in a row
    backoff_state pauses;
    duration pause{};  // that follows from them
  };
  struct verdict {  // on a round
    std::size_t published = 0;
    std::string trouble;
  };
  struct chain {  // of one key
    std::vector<flight*> messages;
    std::size_t next = 0;
    [[nodiscard]] bool is_doubted() const noexcept { return messages.front()->not_before != time_point(); }
  };

  awaitable<void> serve(part& p);
  awaitable<void> keep_house();
  awaitable<void> look_after(time_point& measure_at, time_point& forget_at);
  awaitable<void> carry_out_requests();
  awaitable<std::size_t> republish(const relay_request& r);
  awaitable<void> take(part& p);
  awaitable<void> release(part& p);
  awaitable<void> renew(part& p);
  awaitable<bool> carry_page(part& p);
  awaitable<bool> read_page(part& p);
  [[nodiscard]] std::vector<chain> chains_of(part& p);
  awaitable<void> carry(part& p, std::vector<chain> chains);
  awaitable<bool> carry_guarded(part& p, std::deque<chain>& waiting);
  awaitable<void> carry_doubted(std::deque<chain>& doubted, std::deque<chain>& waiting);
  [[nodiscard]] static std::vector<chain> take_some(std::deque<chain>& from, std::size_t limit);
  [[nodiscard]] static std::vector<publication> wave_of(const std::vector<chain>& sent);
  void note(std::vector<publication>& wave, std::vector<chain>& sent, std::deque<chain>& waiting);
  awaitable<void> settle(part& p, bool is_more);
  [[nodiscard]] verdict judge(part& p);
  void judge_failed(part& p, flight& f);
  awaitable<bool> write(part& p);
  awaitable<void> idle(part& p, std::uint64_t seen);
  void publish(relay_event::kind what, const part& p, std::size_t count = 0, std::string key = {},
               std::string why = {}) {
    if (s_->events.has_listeners()) s_->events.publish({what, p.number, count, std::move(key), std::move(why)});
  }
  [[nodiscard]] std::int64_t now() const { return detail::to_microseconds(timers_->date()); }
  /// When the first of those that failed is tried again; `never` without any.
  [[nodiscard]] time_point next_try(const part& p) const;
  [[nodiscard]] static std::uint64_t place_of(const part& p) noexcept {
    return p.open.empty() ? p.read_to : p.open.begin()->first - 1;
  }

  /// How far messages may be published, or read, beyond one that still fails.
  static constexpr std::size_t max_ahead = 10'000;
  /// A place is written when so many messages, or so much time, have passed since the last one.
  static constexpr std::size_t write_after_messages = 1'000;
  static constexpr duration write_after = std::chrono::milliseconds(50);
  static constexpr duration soon = std::chrono::milliseconds(1);
  static constexpr duration rest = std::chrono::milliseconds(250);

  state* s_;
  const timer_service* timers_;
  random_source* random_;
  detail::part_leases leases_;
  bool ends_when_done_;
  bool is_stopping_ = false;
  std::vector<part> parts_;
  std::size_t published_ = 0, next_part_ = 0, serving_ = 0;
  std::uint64_t taken_ = 0;  // by the broker, of all parts
  bool is_house_quiet_ = false;
  std::function<void()> end_;
  std::exception_ptr error_;
};

awaitable<std::size_t> relay::worker::work() {
  parts_.resize(s_->from->parts());
  for (std::size_t i = 0; i < parts_.size(); ++i) parts_[i].number = i;
  co_await leases_.create(parts_.size(), 0);
  serving_ = parts_.size();
  const auto make = [this] { return next_part_ < parts_.size() ? serve(parts_[next_part_++]) : keep_house(); };
  co_await detail::run_workers(parts_.size() + 1, make, &end_);
  co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
  co_await leases_.leave();
  if (error_) std::rethrow_exception(error_);
  co_return published_;
}

/// One part: taken, carried, given back; again and again.
awaitable<void> relay::worker::serve(part& p) {
  failure why;
  while (!why && !is_stopping_) {
    const std::uint64_t seen = s_->db().changes();
    failure trouble;
    bool is_more = false;
    try {
      const std::size_t share = co_await leases_.fair_share(parts_.size());
      if (!p.is_ours() && detail::parts_held(parts_) < share) co_await take(p);
      if (p.is_ours() && detail::parts_held(parts_) > share) co_await release(p);
      if (p.is_ours()) {
        // What is on its way is waited for, and written, whoever cancels.
        co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
        is_more = co_await carry_page(p);
        co_await net::this_coro::reset_cancellation_state(net::enable_terminal_cancellation());
      }
      if (is_stopping_) break;
      if (p.pause > duration()) co_await sleep_for(std::exchange(p.pause, duration()));
      if (!is_more && ends_when_done_) break;
      if (!is_more) co_await idle(p, seen);
    } catch (const std::exception& e) {
      trouble = failure::current(e);
    }
    if (trouble.is_cancellation() || trouble.code() == errc::database_closed) why = trouble;
    if (why || !trouble) continue;
    if (ends_when_done_) {
      if (!error_) error_ = trouble.exception();
      break;
    }
    publish(relay_event::kind::troubled, p, 0, {}, trouble.message());
    p.held = detail::leased_part::hold::none;  // and taken again, with a new epoch, if it is still ours
    try {
      co_await net::this_coro::reset_cancellation_state(net::enable_terminal_cancellation());
      co_await sleep_for(std::chrono::seconds(1));
    } catch (const std::exception&) {
      break;
    }
  }
  is_stopping_ = is_stopping_ || static_cast<bool>(why);
  co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
  if (p.is_ours()) co_await release(p);
  if (--serving_ == 0 && is_house_quiet_) end_();
}

/// Hears of the cancellation when everybody else is busy; looks for requests when something was committed, and measures
/// and forgets between whiles.
awaitable<void> relay::worker::keep_house() {
  const auto begin = timers_->now();
  time_point measure_at = saturating_add(begin, s_->options.measure_every);
  time_point forget_at = s_->options.retention > duration() ? begin : never;
  std::uint64_t seen = 0;
  while (!is_stopping_ && serving_ > 0) {
    failure trouble;
    try {
      is_house_quiet_ = true;
      co_await sleep_for(rest);  // however much is committed
      const time_point surely = saturating_add(timers_->now(), s_->options.look_at_least_every);
      const duration wait = std::min({measure_at, forget_at, surely}) - timers_->now();
      seen = co_await s_->db().wait_for_change(seen, std::max(wait, duration()));
      is_house_quiet_ = false;
      co_await look_after(measure_at, forget_at);
      if (parts_[0].is_ours()) co_await carry_out_requests();
    } catch (const std::exception& e) {
      trouble = failure::current(e);
    }
    if (serving_ == 0) break;
    if (trouble.is_cancellation() || trouble.code() == errc::database_closed) is_stopping_ = true;
    if (trouble && !is_stopping_) publish(relay_event::kind::troubled, parts_[0], 0, {}, trouble.message());
  }
}

awaitable<void> relay::worker::look_after(time_point& measure_at, time_point& forget_at) {
  const time_point present = timers_->now();
  if (present >= measure_at) {
    measure_at = saturating_add(present, s_->options.measure_every);
    if (parts_[0].is_ours() && s_->events.has_listeners()) {
      const relay_status found = co_await s_->desk.status();
      s_->events.publish({relay_event::kind::measured, 0, 0, {}, {}, found});
    }
  }
  if (present >= forget_at) {
    constexpr duration shortest = std::chrono::seconds(1), longest = std::chrono::minutes(10);
    forget_at = saturating_add(present, std::clamp<duration>(s_->options.retention / 20, shortest, longest));
    if (parts_[0].is_ours()) {
      const auto old = std::chrono::duration_cast<std::chrono::system_clock::duration>(s_->options.retention);
      const std::size_t gone = co_await s_->from->forget_before(timers_->date() - old);
      if (gone > 0) publish(relay_event::kind::forgotten, parts_[0], gone);
    }
  }
}

/// What operators asked for, at their desks. Whatever ends this, the rest is done the next time.
awaitable<void> relay::worker::carry_out_requests() {
  const auto asked = co_await s_->desk.requests();
  for (const relay_request& r : asked) {
    std::size_t count = 0;
    std::string refusal;
    if (r.what == relay_request::kind::replay) {
      try {
        count = co_await s_->replay(r.key);
      } catch (const message_refused_error& e) {  // it stays where it is
        refusal = e.what();
      }
    } else {
      count = co_await republish(r);
    }
    (void)co_await s_->desk.withdraw(r.number);
    publish(relay_event::kind::asked, parts_[0], count, r.key, refusal);
  }
}

awaitable<std::size_t> relay::worker::republish(const relay_request& r) {
  std::size_t count = 0;
  for (std::uint64_t reached = r.reached;;) {
    auto page = co_await s_->from->added(reached, r.from, r.to, 500);
    if (page.empty()) co_return count;
    reached = page.back().number();
    count += co_await s_->republish(std::move(page));
    const bool is_wanted = co_await s_->desk.note_progress(r.number, reached);
    if (!is_wanted) co_return count;
  }
}

// -------------------------------------------------------------------------------------------------------------- leases

awaitable<void> relay::worker::take(part& p) {
  const bool is_taken = co_await leases_.take(p);
  p.read_to = p.position;
  if (is_taken) publish(relay_event::kind::taken, p);
}

awaitable<void> relay::worker::release(part& p) {
  co_await leases_.release(p);
  publish(relay_event::kind::released, p);
}

awaitable<void> relay::worker::renew(part& p) {
  const bool is_still_ours = co_await leases_.renew(p);
  if (!is_still_ours) publish(relay_event::kind::lost, p);
}

time_point relay::worker::next_try(const part& p) const {
  time_point first = never;
  for (const auto& [number, f] : p.open) {
    if (f.not_before != time_point()) first = std::min(first, f.not_before);
  }
  return first;
}

awaitable<void> relay::worker::idle(part& p, std::uint64_t seen) {
  duration limit = std::min(s_->options.look_at_least_every, s_->options.lease / 3);
  if (p.is_ours() && leases_.is_due(p)) co_await renew(p);
  if (p.number == 0) {
    const auto due = co_await s_->from->next_due();
    if (due) limit = std::clamp<duration>(*due - timers_->date(), soon, std::max(soon, limit));
  }
  if (p.look_again > duration()) limit = std::min(limit, p.look_again);
  const time_point again = next_try(p);
  if (again != never) limit = std::clamp<duration>(again - timers_->now(), soon, std::max(soon, limit));
  (void)co_await s_->db().wait_for_change(seen, limit);
}

// --------------------------------------------------------------------------------------------------------------- pages

/// True when there may be more.
awaitable<bool> relay::worker::carry_page(part& p) {
  if (p.number == 0) {
    batch fence;
    leases_.fence(fence, p);
    const bool has_moved = co_await s_->from->move_due(std::move(fence));
    if (has_moved) co_return true;  // they may be of any part
  }
  if (leases_.is_due(p)) co_await renew(p);
  if (!p.is_ours()) co_return true;
  if (!p.knows_parked_keys) {
    const rows keys =
        co_await s_->db().query("select distinct key from cofferdam_relay_parked where relay = $1", s_->name);
    p.parked_keys.clear();
    for (const row r : keys) p.parked_keys.insert(r.get<std::string>(0));
    p.parked_keys.erase("");  // those without a key follow nobody
    p.knows_parked_keys = true;
  }
  auto chains = chains_of(p);
  std::size_t ready = 0;
  for (const chain& c : chains) ready += c.messages.size();
  bool is_more = false;
  if (ready < s_->options.page && p.open.size() < max_ahead && p.ahead < max_ahead) {
    is_more = co_await read_page(p);
    chains = chains_of(p);
  }
  const bool has_work = !chains.empty();
  if (has_work) co_await carry(p, std::move(chains));
  if (!p.is_ours()) co_return true;
  co_await settle(p, is_more);
  const bool waits = ends_when_done_ && !is_more && !has_work && (!p.open.empty() || p.look_again > duration());
  if (waits) p.pause = std::clamp<duration>(next_try(p) - timers_->now(), soon, s_->options.lease / 3);
  co_return is_more || has_work || waits;
}

/// True when there may be more to read.
awaitable<bool> relay::worker::read_page(part& p) {
  auto found = co_await s_->from->read(p.number, p.read_to, s_->options.page);
  for (message& m : found.messages) {
    const std::uint64_t number = m.number();
    flight& f = p.open.try_emplace(number, flight{std::move(m)}).first->second;
    f.heard = taken_;
  }
  p.read_to = std::max(p.read_to, found.read_to);
  p.look_again = found.look_again;
  co_return !found.is_end;
}

/// What can be published now: of every key in its order.
std::vector<relay::worker::chain> relay::worker::chains_of(part& p) {
  constexpr std::size_t held_back = ~std::size_t{0};
  std::vector<chain> chains;
  std::unordered_map<std::string_view, std::size_t> chain_of;
  const time_point present = timers_->now();
  for (auto& [number, f] : p.open) {
    const std::string& key = f.content.key();
    if (p.parked_keys.contains(key)) continue;
    const bool is_early = f.not_before > present;
    if (key.empty()) {
      if (!is_early) chains.push_back({{&f}});
      continue;
    }
    const auto [it, is_new] = chain_of.try_emplace(key, is_early ? held_back : chains.size());
    if (it->second == held_back) continue;
    if (is_new) {
      chains.push_back({{&f}});
    } else {
      chains[it->second].messages.push_back(&f);
    }
  }
  return chains;
}

/// Publishes all of these. A failure when the broker took none and is in trouble with one.
awaitable<failure> relay::state::send_all(std::span<publication> wave) {
  const auto call = [this, wave] { return to->publish_all(wave); };
  const auto ended = co_await try_with_timeout(options.publish_timeout, call);
  const publication* troubled = nullptr;
  bool is_well = false;
  for (publication& each : wave) {
    if (!each.is_done && !each.why)
      each.why = ended ? failure::refused(errc::broker_unavailable) : failure(ended.why());
    const bool is_answered = each.is_done || each.why.code() == errc::message_refused;
    is_well = is_well || is_answered;
    if (!is_answered) troubled = &each;
  }
  if (troubled == nullptr || is_well) co_return failure();
  co_return troubled->why;
}
awaitable<void> relay::state::send_guarded(std::span<publication> wave) {
  const failure why = co_await send_all(wave);
  if (why) why.raise();
}

/// Every key in its order, many keys at once: in waves, each with the next message of every key. What has failed before
/// comes behind the others.
awaitable<void> relay::worker::carry(part& p, std::vector<chain> chains) {
  std::deque<chain> waiting, doubted;
  for (chain& c : chains) (c.is_doubted() ? doubted : waiting).push_back(std::move(c));
  while (!waiting.empty() || !doubted.empty()) {
    if (is_stopping_ || leases_.is_stale(p) || !p.is_ours()) co_return;
    if (!waiting.empty()) {
      const bool is_well = co_await carry_guarded(p, waiting);
      if (!is_well) waiting.clear();
    } else {
      co_await carry_doubted(doubted, waiting);
    }
  }
}

/// One wave. False when the broker took nothing.
awaitable<bool> relay::worker::carry_guarded(part& p, std::deque<chain>& waiting) {
  // One message is enough to find out whether a broker is back.
  const bool is_closed = s_->breaker.state() == circuit_state::closed;
  std::vector<chain> sent = take_some(waiting, is_closed ? s_->options.window : 1);
  std::vector<publication> wave = wave_of(sent);
  const auto call = [this, &wave] { return s_->send_guarded(wave); };
  const auto ended = co_await s_->breaker.try_fire(call);
  if (ended.code() == errc::circuit_open) {
    p.shut = ended.why().message();
    co_return false;
  }
  note(wave, sent, waiting);
  co_return static_cast<bool>(ended);
}

/// They have pauses of their own, and say nothing of the broker when they fail again: the circuit stays as it is.
awaitable<void> relay::worker::carry_doubted(std::deque<chain>& doubted, std::deque<chain>& waiting) {
  std::vector<chain> sent = take_some(doubted, s_->options.window);
  std::vector<publication> wave = wave_of(sent);
  (void)co_await s_->send_all(wave);
  note(wave, sent, waiting);
  if (std::ranges::any_of(wave, &publication::is_done)) s_->breaker.close();
}

std::vector<relay::worker::chain> relay::worker::take_some(std::deque<chain>& from, std::size_t limit) {
  std::vector<chain> some;
  while (some.size() < std::max<std::size_t>(limit, 1) && !from.empty()) {
    some.push_back(std::move(from.front()));
    from.pop_front();
  }
  return some;
}

std::vector<publication> relay::worker::wave_of(const std::vector<chain>& sent) {
  std::vector<publication> wave;
  wave.reserve(sent.size());
  for (const chain& c : sent) wave.push_back({&c.messages[c.next]->content});
  return wave;
}

/// What became of a wave. Chains whose message is done go on; of others, what follows waits.
void relay::worker::note(std::vector<publication>& wave, std::vector<chain>& sent, std::deque<chain>& waiting) {
  for (std::size_t i = 0; i < sent.size(); ++i) {
    flight& f = *sent[i].messages[sent[i].next++];
    if (wave[i].is_done) {
      ++taken_;
      f.how = flight::end::done;
      if (sent[i].next < sent[i].messages.size()) waiting.push_back(std::move(sent[i]));
      continue;
    }
    const failure& why = wave[i].why;
    f.why = why.message();
    f.how = why.code() == errc::message_refused ? flight::end::refused : flight::end::failed;
    f.is_outage = why.code() == errc::broker_unavailable || why.code() == errc::broker_refuses_login;
    if (why.is_cancellation()) is_stopping_ = true;
  }
}

/// Takes out what is done, and decides what becomes of what failed.
relay::worker::verdict relay::worker::judge(part& p) {
  verdict v;
  v.published = std::erase_if(p.open, [](const auto& each) { return each.second.how == flight::end::done; });
  v.trouble = std::exchange(p.shut, {});
  p.refusals = v.trouble.empty() ? 0 : p.refusals + 1;
  if (v.published > 0) p.troubles = 0;
  for (auto& [number, f] : p.open) {
    if (v.published > 0 && f.tries == 0) f.not_before = {};  // it may have been the broker, which is well
    if (f.how != flight::end::failed) continue;
    v.trouble = f.why;
    judge_failed(p, f);
  }
  if (v.published == 0 && !v.trouble.empty()) ++p.troubles;
  return v;
}

/// It is the message if the broker has taken others since the last time; else it may be the broker.
void relay::worker::judge_failed(part& p, flight& f) {
  const bool is_its_own = !f.is_outage && taken_ > f.heard;
  f.heard = taken_;
  f.how = flight::end::open;
  if (is_its_own && ++f.tries >= s_->options.max_attempts) f.how = flight::end::refused;
  backoff_state fresh;
  const auto wait = backoff_delay(s_->options.backoff, is_its_own ? f.tries : p.troubles + 1, fresh, *random_);
  f.not_before = saturating_add(timers_->now(), wait);
}

/// After a round: parks what must be parked, writes the place, and tells.
awaitable<void> relay::worker::settle(part& p, bool is_more) {
  const verdict v = judge(p);
  p.ahead += v.published;
  published_ += v.published;
  const bool must_park = std::ranges::any_of(p.open, [&p](const auto& each) {
    return each.second.how == flight::end::refused || p.parked_keys.contains(each.second.content.key());
  });
  const bool has_moved = place_of(p) != p.position;
  const bool is_time = !is_more || is_stopping_ || p.ahead >= write_after_messages ||
                       timers_->now() >= saturating_add(p.written, write_after);
  if (must_park || (has_moved && is_time)) {
    const bool is_written = co_await write(p);
    if (!is_written) co_return;
  }
  if (v.published > 0) publish(relay_event::kind::published, p, v.published);
  if (!v.trouble.empty()) publish(relay_event::kind::troubled, p, 0, {}, v.trouble);
  if (ends_when_done_ && p.troubles > s_->options.max_attempts) {
    throw storage_error(errc::database_unavailable, "the broker takes nothing: " + v.trouble);
  }
  if (p.refusals == 0) {
    p.pauses = {};
  } else {
    p.pause =
        std::min<duration>(backoff_delay(s_->options.backoff, p.refusals, p.pauses, *random_), s_->options.lease / 3);
  }
}

/// Parks, and writes how far the part is, if it is still ours. Returns whether that was done.
awaitable<bool> relay::worker::write(part& p) {
  std::set<std::string> keys = p.parked_keys, required;
  std::vector<std::uint64_t> parked;
  std::vector<std::pair<std::string, std::string>> reasons;
  batch parking;
  std::uint64_t place = p.read_to;
  bool is_contiguous = true;
  for (const auto& [number, f] : p.open) {
    const std::string& key = f.content.key();
    const bool follows = keys.contains(key);
    if (f.how != flight::end::refused && !follows) {
      if (is_contiguous) place = number - 1;
      is_contiguous = false;
      continue;
    }
    if (p.parked_keys.contains(key) && required.insert(key).second) {
      parking.require("the key '" + key + "' is parked",
                      "select count(*) > 0 from cofferdam_relay_parked where relay = $1 and key = $2", s_->name, key);
    }
    parking.execute("insert into cofferdam_relay_parked(relay, nr, key, reason, at) values($1, $2, $3, $4, $5)",
                    s_->name, number, key, follows ? std::string() : f.why, now());
    parked.push_back(number);
    if (!follows) reasons.emplace_back(key, f.why);
    if (!key.empty()) keys.insert(key);
  }
  const auto began = timers_->now();
  batch b;
  leases_.write(b, p, place);
  b.add(std::move(parking));
  const auto written = co_await s_->db().try_commit(std::move(b));
  if (!written && written.code() == errc::condition_failed) {
    co_await renew(p);  // tells whether the part is lost; if not, a key was opened meanwhile
    p.knows_parked_keys = false;
    co_return false;
  }
  (void)written.value();
  if (place != p.position) p.ahead = 0;
  p.position = place;
  p.renewed = p.written = began;
  p.parked_keys = std::move(keys);
  for (const std::uint64_t number : parked) p.open.erase(number);
  for (const auto& [key, why] : reasons) publish(relay_event::kind::parked, p, 0, key, why);
  co_return true;
}

// --------------------------------------------------------------------------------------------------------------- relay

relay::relay(message_source& from, publisher& to, std::string name, relay_options options)
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

awaitable<relay_status> relay::status() { return state_->desk.status(); }
awaitable<std::vector<parked_message>> relay::parked(std::size_t limit) { return state_->desk.parked(limit); }
awaitable<bool> relay::skip(std::uint64_t number) { return state_->desk.skip(number); }

awaitable<std::size_t> relay::replay(std::string key) { return state_->replay(std::move(key)); }
awaitable<std::size_t> relay::state::replay(std::string key) {
  for (std::size_t published = 0;; ++published) {
    const rows found = co_await db().query(
        "select nr from cofferdam_relay_parked where relay = $1 and key = $2 order by nr limit 1", name, key);
    if (found.empty()) co_return published;
    const auto number = found.front().get<std::uint64_t>(0);
    const auto first = co_await from->find(number);
    std::string refusal;
    std::exception_ptr refused;
    try {
      if (first) co_await send(*first);
    } catch (const message_refused_error& e) {
      refusal = e.what();
      refused = std::current_exception();
    }
    if (refused) {
      co_await desk.note_reason(number, std::move(refusal));
      std::rethrow_exception(refused);
    }
    (void)co_await desk.skip(number);
  }
}

awaitable<std::size_t> relay::republish(std::chrono::system_clock::time_point from,
                                        std::chrono::system_clock::time_point to) {
  std::size_t published = 0;
  for (std::uint64_t after = 0;;) {
    auto found = co_await state_->from->added(after, from, to, 500);
    if (found.empty()) co_return published;
    after = found.back().number();
    published += co_await state_->republish(std::move(found));
  }
}
awaitable<std::size_t> relay::state::republish(std::vector<message> page) {
  std::size_t published = 0;
  for (const message& m : page) {
    try {
      co_await send(m);
      ++published;
    } catch (const message_refused_error&) {  // as it was before
    }
  }
  co_return published;
}

awaitable<std::size_t> relay::forget_before(std::chrono::system_clock::time_point t) {
  return state_->from->forget_before(t);
}

}  // namespace cofferdam::inline COFFERDAM_ABI
