#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/core/workers.hpp>
#include <cofferdam/outbox/publisher.hpp>
#include <cofferdam/outbox/receiver.hpp>

#include "message_rows.hpp"

#include <algorithm>
#include <deque>
#include <unordered_map>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

constexpr const char* parked_columns = "message_id, topic, key, type, payload, headers, nr, at, reason";

message parked_from(const row& r) {
  const auto bytes = r.get<blob>(4);
  message m(r.get<std::string>(1), r.get<std::string>(3),
            std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  m.id(r.get<std::string>(0)).key(r.get<std::string>(2));
  detail::headers_from_text(m, r.get<std::string>(5), "the parked message '" + m.id() + "'");
  return m;
}

/// Not the message's fault, whatever it is: what it needs is in trouble.
bool is_trouble(const failure& why) {
  if (!is_ours(why.code())) return why.is_cancellation();
  switch (static_cast<errc>(why.code().value())) {
    case errc::message_refused:
    case errc::timed_out:
    case errc::condition_failed:
    case errc::constraint_violated:
    case errc::invalid_statement:
    case errc::type_mismatch:
    case errc::message_undecodable:
    case errc::event_undecodable:
    case errc::command_invalid:
    case errc::command_forbidden:
      return false;
    default:
      return true;
  }
}

}  // namespace

struct receiver::state {
  state(std::unique_ptr<detail::any_consumer> f, inbox& i, std::string s, handler h, receiver_options o)
      : from(std::move(f)), seen(&i), source(std::move(s)), how(std::move(h)), options(o) {}

  [[nodiscard]] database& db() const noexcept { return seen->storage(); }
  /// Lets the handler say what follows.
  awaitable<batch> effect_of(const message& m);
  [[nodiscard]] statement is_parked(const std::string& key) const {
    return statement("select count(*) > 0 from cofferdam_inbox_parked where consumer = $1 and source = $2 and key = $3",
                     seen->consumer(), source, key);
  }

  const std::unique_ptr<detail::any_consumer> from;
  inbox* seen;
  const std::string source;
  const handler how;
  const receiver_options options;
  event_channel<receiver_event> events;
};

awaitable<batch> receiver::state::effect_of(const message& m) {
  batch effect;
  const auto call = [this, &m, &effect] { return how(m, effect); };
  co_await with_timeout(options.handler_timeout, call);
  co_return effect;
}

/// One run of a receiver. Messages lie in lines, one for each key; workers take one from the front of a line, and the
/// line then goes to the end of those that are ready.
class receiver::session {
 public:
  session(state& s, const net::any_io_executor& executor)
      : s_(&s), timers_(&timers_of(executor)), random_(&random_of(executor)) {}

  awaitable<void> work() {
    bool is_first = true;
    const auto make = [this, &is_first] { return std::exchange(is_first, false) ? take() : handle(); };
    co_await detail::run_workers(s_->options.max_concurrent + 1, make);
    for (const auto& [name, left] : lines_) {
      for (const auto& taken : left) s_->from->give_back(taken);
    }
  }

 private:
  using line = std::deque<detail::taken_message>;
  enum class end : std::uint8_t { dealt_with, left };

  awaitable<void> take();
  awaitable<void> handle();
  awaitable<end> deal_with(const detail::taken_message& taken);
  awaitable<outcome<bool>> attempt(const message& m);
  awaitable<bool> follows_parked(const message& m);
  awaitable<bool> put_aside(const message& m, std::string reason);
  /// Until the time is over, or the end.
  awaitable<void> rest(duration d);
  void wake_one_worker() {
    if (idle_.empty()) return;
    const auto one = std::move(idle_.back());
    idle_.pop_back();
    one->wake(wake_reason::woken);
  }
  static void wake(std::vector<detail::parked_reference>& all) {
    for (const auto& each : std::exchange(all, {})) each->wake(wake_reason::woken);
  }
  void tell(receiver_event::kind what, const message& m, std::string text = {}) {
    if (s_->events.has_listeners()) s_->events.publish({what, m.id(), m.key(), std::move(text)});
  }

  state* s_;
  const timer_service* timers_;
  random_source* random_;
  std::unordered_map<std::string, line> lines_;
  std::deque<std::string> ready_;
  std::vector<detail::parked_reference> idle_, resting_;  // workers
  detail::parked_reference taker_;                        // when there is no room
  std::size_t held_ = 0;
  bool is_stopping_ = false;
};

awaitable<void> receiver::session::take() {
  constexpr duration look = std::chrono::seconds(1);
  std::uint32_t troubles = 0;
  backoff_state pauses;
  while (!is_stopping_) {
    failure why;
    try {
      if (held_ >= s_->options.max_waiting) {
        const auto enlist = [this](const detail::parked_reference& self) { taker_ = self; };
        const auto woken = co_await park(never, enlist);
        taker_ = {};
        if (woken == wake_reason::cancelled) break;
        continue;
      }
      auto taken = co_await s_->from->next(look);
      troubles = 0;
      if (!taken) continue;
      const message& m = taken->content;
      const std::string name = m.key().empty() ? "id " + m.id() : "key " + m.key();
      line& l = lines_[name];
      l.push_back(*std::move(taken));
      ++held_;
      if (l.size() > 1) continue;
      ready_.push_back(name);
      wake_one_worker();
    } catch (const std::exception& e) {
      why = failure::current(e);
    }
    if (why.is_cancellation()) break;
    if (!why) continue;
    if (s_->events.has_listeners()) s_->events.publish({receiver_event::kind::troubled, {}, {}, why.message()});
    try {
      co_await sleep_for(backoff_delay(s_->options.backoff, ++troubles, pauses, *random_));
    } catch (const std::exception&) {
      break;
    }
  }
  is_stopping_ = true;
  wake(idle_);
  wake(resting_);
}

awaitable<void> receiver::session::rest(duration d) {
  detail::parked_reference mine;
  const auto enlist = [this, &mine](const detail::parked_reference& self) {
    mine = self;
    resting_.push_back(self);
  };
  if (is_stopping_) co_return;
  (void)co_await park(saturating_add(timers_->now(), d), enlist);
  std::erase_if(resting_, [&mine](const auto& other) { return &*other == &*mine; });
}

awaitable<void> receiver::session::handle() {
  // Whoever cancels is heard by the one who takes.
  co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
  for (;;) {
    const auto enlist = [this](const detail::parked_reference& self) { idle_.push_back(self); };
    while (ready_.empty() && !is_stopping_) (void)co_await park(never, enlist);
    if (is_stopping_) co_return;
    const std::string name = std::move(ready_.front());
    ready_.pop_front();
    line& l = lines_[name];  // stays where it is, whatever comes meanwhile
    const end how = co_await deal_with(l.front());
    if (how == end::left) co_return;
    s_->from->acknowledge(l.front());
    l.pop_front();
    --held_;
    if (l.empty()) {
      lines_.erase(name);
    } else {
      ready_.push_back(name);
    }
    if (!ready_.empty()) wake_one_worker();
    if (taker_) taker_->wake(wake_reason::woken);
  }
}

awaitable<receiver::session::end> receiver::session::deal_with(const detail::taken_message& taken) {
  const message& m = taken.content;
  std::uint32_t attempts = 0, rounds = 0;
  backoff_state pauses;
  for (;;) {
    failure why;
    try {
      const auto done = co_await attempt(m);
      if (done) {
        tell(*done ? receiver_event::kind::handled : receiver_event::kind::repeated, m);
        co_return end::dealt_with;
      }
      why = done.why();
      if (why.code() == errc::condition_failed) {
        const bool is_parked = co_await follows_parked(m);
        if (is_parked) co_return end::dealt_with;
      }
      if (!is_trouble(why)) {
        const bool is_last = why.code() == errc::message_refused || ++attempts >= s_->options.max_attempts;
        tell(receiver_event::kind::failed, m, why.message());
        if (is_last) {
          const bool is_aside = co_await put_aside(m, why.message());
          if (is_aside) co_return end::dealt_with;
        }
      }
    } catch (const std::exception& e) {  // of the database, while something was put aside
      why = failure::current(e);
    }
    if (is_trouble(why)) tell(receiver_event::kind::troubled, m, why.message());
    const duration pause = backoff_delay(s_->options.backoff, ++rounds, pauses, *random_);
    co_await rest(pause);
    if (is_stopping_) co_return end::left;
  }
}

/// False for a repetition.
awaitable<outcome<bool>> receiver::session::attempt(const message& m) {
  failure why;
  try {
    batch all;
    if (!m.key().empty()) {
      all.require("the key '" + m.key() + "' is not put aside",
                  "select count(*) = 0 from cofferdam_inbox_parked where consumer = $1 and source = $2 and key = $3",
                  s_->seen->consumer(), s_->source, m.key());
    }
    batch effect = co_await s_->effect_of(m);
    all.add(std::move(effect));
    co_return co_await s_->seen->commit(std::move(all), s_->source, m.id());
  } catch (const std::exception& e) {
    why = failure::current(e);
  }
  co_return why;
}

/// Puts the message behind those of its key that were put aside; false when there is none any more.
awaitable<bool> receiver::session::follows_parked(const message& m) {
  if (m.key().empty()) co_return false;
  statement query = s_->is_parked(m.key());
  const rows found = co_await s_->db().query(std::move(query));
  if (found.front().get<std::int64_t>(0) == 0) co_return false;
  co_return co_await put_aside(m, {});
}

/// @param reason  empty for one that only follows: not put aside, and false, when its key was opened meanwhile.
awaitable<bool> receiver::session::put_aside(const message& m, std::string reason) {
  batch b;
  if (reason.empty()) b.require("the key '" + m.key() + "' is put aside", s_->is_parked(m.key()));
  const auto* bytes = reinterpret_cast<const std::byte*>(m.payload().data());
  statement insert(
      "insert into cofferdam_inbox_parked(consumer, source, message_id, topic, key, type, payload, headers, reason, "
      "at, "
      "nr) values($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, (select coalesce(max(nr), 0) + 1 from "
      "cofferdam_inbox_parked "
      "where consumer = $1 and source = $2)) on conflict do nothing");
  insert.bind(s_->seen->consumer()).bind(s_->source).bind(m.id()).bind(m.topic()).bind(m.key()).bind(m.type());
  insert.bind(blob(bytes, bytes + m.payload().size())).bind(detail::headers_to_text(m)).bind(reason);
  insert.bind(detail::to_microseconds(timers_->date()));
  b.execute(std::move(insert));
  const auto done = co_await s_->db().try_commit(std::move(b));
  if (!done && done.code() == errc::condition_failed) co_return false;
  (void)done.value();
  tell(receiver_event::kind::parked, m, std::move(reason));
  co_return true;
}

// ------------------------------------------------------------------------------------------------------------ receiver

receiver::receiver(std::unique_ptr<detail::any_consumer> from, inbox& seen, std::string source, handler how,
                   receiver_options options)
    : state_(std::make_unique<state>(std::move(from), seen, std::move(source), std::move(how), options)) {}
receiver::~receiver() = default;
event_channel<receiver_event>& receiver::events() noexcept { return state_->events; }

awaitable<void> receiver::run() {
  const auto executor = co_await net::this_coro::executor;
  session s(*state_, executor);
  co_await s.work();
}

awaitable<std::vector<parked_message>> receiver::parked(std::size_t limit) {
  const rows found = co_await state_->db().query(
      std::string("select ") + parked_columns +
          " from cofferdam_inbox_parked where consumer = $1 and source = $2 order by nr limit $3",
      state_->seen->consumer(), state_->source, limit);
  std::vector<parked_message> all;
  for (const row r : found) {
    all.push_back({parked_from(r), r.get<std::string>("reason"), detail::date_from(r.get<std::int64_t>("at"))});
  }
  co_return all;
}

awaitable<std::size_t> receiver::replay(std::string key) {
  for (std::size_t handled = 0;; ++handled) {
    const rows found = co_await state_->db().query(
        std::string("select ") + parked_columns +
            " from cofferdam_inbox_parked where consumer = $1 and source = $2 and key = $3 order by nr limit 1",
        state_->seen->consumer(), state_->source, key);
    if (found.empty()) co_return handled;
    const message first = parked_from(found.front());
    batch effect = co_await state_->effect_of(first);
    effect.execute("delete from cofferdam_inbox_parked where consumer = $1 and source = $2 and message_id = $3",
                   state_->seen->consumer(), state_->source, first.id());
    const bool is_new = co_await state_->seen->commit(std::move(effect), state_->source, first.id());
    if (!is_new) (void)co_await skip(first.id());
  }
}

awaitable<bool> receiver::skip(std::string message_id) {
  batch b;
  b.execute("delete from cofferdam_inbox_parked where consumer = $1 and source = $2 and message_id = $3",
            state_->seen->consumer(), state_->source, std::move(message_id));
  const receipt done = co_await state_->db().commit(std::move(b));
  co_return done[0].affected() > 0;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
