// What a saga waits for: times, signals, answers given once.
#include "engine_state.hpp"

#include <algorithm>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {

bool instance::replay(wait_operation& wait) {
  if (!has_journal() || leaving_ != leave_reason::none) return false;
  record* r = find(wait.key());
  if (r == nullptr) return false;
  if (!r->is_wait_for(wait.signal())) {
    leave_changed(wait.key(), r->shown(), wait.signal().empty() ? "a wait" : "a wait for '" + wait.signal() + "'");
    return false;
  }
  visit(*r);
  if (r->ended == record::outcome::open) return false;
  if (r->ended == record::outcome::succeeded) wait.settle(r->result.at("payload"));
  return true;
}

/// Everything waits: so does the saga.
void instance::park_if_idle() {
  if (busy_ == 0 && woken_ == 0 && waits_ > 0 && has_journal()) leave(leave_reason::parked);
}

/// Waits for a time, or to be woken: durably, when nothing else goes on here. False: the saga leaves.
/// @param signals_seen  how many there were when the caller looked: more make a saga that parks due at once.
awaitable<bool> instance::wait_until(std::int64_t wake_at, std::int64_t signals_seen) {
  if (leaving_ != leave_reason::none || must_go_back()) co_return false;
  const bool heeds_deadline = deadline_ != for_ever && !has_aborted_ && !has_pivoted_ && !is_pivot_in_doubt();
  const std::int64_t until = heeds_deadline ? std::min(wake_at, deadline_) : wake_at;
  const bool is_first = waits_++ == 0;
  next_wake_ = is_first ? until : std::min(next_wake_, until);
  signals_seen_ = is_first ? signals_seen : std::min(signals_seen_, signals_seen);
  --busy_;
  park_if_idle();
  if (leaving_ != leave_reason::none) co_return false;
  constexpr std::int64_t longest = std::chrono::floor<std::chrono::microseconds>(duration::max()).count();
  const std::int64_t left = until - now();
  // Outside of co_await, where GCC 12 evaluates both alternatives, and then takes for granted that neither overflows.
  time_point due = never;
  if (left < longest) due = saturating_add(engine_->timers->now(), std::chrono::microseconds(left));
  const std::uint64_t wakes = wakes_;
  const auto woken =
      co_await park(due, [this](const cofferdam::detail::parked_reference& self) { waiting_.push_back(self); });
  ++busy_;
  --waits_;
  if (wakes != wakes_) --woken_;
  if (woken == wake_reason::cancelled) {
    leave(has_journal() ? leave_reason::handed_back : leave_reason::goes_back, "cancelled by the caller");
  }
  co_return leaving_ == leave_reason::none && !must_go_back();
}

awaitable<std::optional<nlohmann::json>> instance::take_signal(const std::string& name, std::int64_t& seen) {
  // One query: the count must not tell of a signal that is not among the messages, or the saga would park over it.
  const statement question(
      "select i.message_id, i.payload, s.signals from cofferdam_sagas s left join cofferdam_saga_inbox i on i.saga = "
      "s.id and i.name = $2 where s.id = $1 order by i.nr",
      id_, name);
  const rows found = co_await look_up(question);
  if (!found.empty()) seen = found.front().get<std::int64_t>(2);
  for (const row r : found) {
    if (r[0].is_null()) continue;  // there are none
    const auto message_id = r.get<std::string>(0);
    const bool is_taken = std::ranges::any_of(records_, [&](const record& each) {
      return !each.is_step && !each.is_child && each.ended == record::outcome::succeeded && each.result.is_object() &&
             each.result.value("message_id", "") == message_id;
    });
    if (is_taken) continue;
    co_return nlohmann::json{{"message_id", message_id},
                             {"payload", parse_stored(id_, "the signal '" + message_id + "'", r.get<std::string>(1))}};
  }
  co_return std::nullopt;
}

awaitable<bool> instance::run_wait(wait_operation& wait) {
  if (leaving_ != leave_reason::none || must_go_back()) co_return false;
  if (wait.by().is_stopped()) {
    wait.stop();
    co_return true;
  }
  if (is_rehearsal_) {
    (void)diverges(wait.key());
    co_return false;
  }
  const bool is_limited = wait.limit() < duration::max();
  std::int64_t wake_at = is_limited ? time_after(now(), wait.limit()) : for_ever;
  if (has_journal()) {
    record* r = find(wait.key());
    if (r == nullptr) {
      if (diverges(wait.key())) co_return false;
      r = &add({entry_kind::waiting, wait.key(), wait.signal(), {{"wake_at", wake_at}}});
    }
    wake_at = r->wake_at;
  } else if (!wait.signal().empty() && !is_limited) {
    leave(leave_reason::stuck, "'" + wait.key() + "' waits for ever: an engine without a journal takes no signals");
    co_return false;
  }
  for (;;) {
    if (leaving_ != leave_reason::none) co_return false;
    if (wait.by().is_stopped()) {
      wait.stop();
      co_return true;
    }
    std::int64_t seen = for_ever;
    if (has_journal() && !wait.signal().empty()) {
      auto message = co_await take_signal(wait.signal(), seen);
      if (leaving_ != leave_reason::none) co_return false;
      if (message) {
        wait.settle(message->at("payload"));
        settle({entry_kind::signalled, wait.key(), {}, std::move(*message)});
        co_return true;
      }
    }
    if (now() >= wake_at) {
      if (has_journal()) settle({entry_kind::timed_out, wait.key(), {}, nullptr});
      co_return true;
    }
    const bool goes_on = co_await wait_until(wake_at, seen);
    if (!goes_on) co_return false;
  }
}

bool instance::replay_mark(const std::string& key, bool& answer) {
  if (!has_journal() || leaving_ != leave_reason::none) {
    answer = true;
    return leaving_ == leave_reason::none;
  }
  if (record* r = find(key)) {
    if (!r->is_mark()) {
      leave_changed(key, r->shown(), "a question to patched()");
      return false;
    }
    visit(*r);
    answer = true;
    return true;
  }
  answer = false;
  return has_more_than(key);
}

awaitable<bool> instance::run_mark(const std::string& key) {
  if (leaving_ != leave_reason::none) co_return false;
  add({entry_kind::waiting, key, std::string(mark_step), {{"wake_at", 0}}});
  settle({entry_kind::timed_out, key, {}, nullptr});
  co_return true;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
