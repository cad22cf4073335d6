// What a saga does: its steps.
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/core/workers.hpp>

#include "engine_state.hpp"

#include <algorithm>
#include <optional>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {

namespace {

constexpr duration never_ends = duration::max();

/// Once it may have been tried its outcome has to be known, whatever becomes of other branches.
bool leaves_doubt(const step_work& work) { return work.kind() == step_kind::pivot && !work.is_transactional(); }

entry intent_of(const step_work& work) {
  nlohmann::json payload;
  payload["arguments"] = work.arguments();
  if (work.kind() == step_kind::pivot) payload["pivot"] = true;  // for operators, who do not have the definition
  if (work.settings().undo_attempts != 0) payload["undo"]["attempts"] = work.settings().undo_attempts;
  if (work.settings().undo_timeout > duration()) payload["undo"]["timeout_ns"] = work.settings().undo_timeout.count();
  return {entry_kind::intent, work.key(), std::string(work.name()), std::move(payload)};
}

/// While it lives a pivot counts as one that may have happened.
class doubt_guard {
 public:
  doubt_guard(std::size_t& pivots, bool is_one) : pivots_(is_one ? &pivots : nullptr) {
    if (pivots_ != nullptr) ++*pivots_;
  }
  doubt_guard(const doubt_guard&) = delete;
  doubt_guard& operator=(const doubt_guard&) = delete;
  ~doubt_guard() {
    if (pivots_ != nullptr) --*pivots_;
  }
  explicit operator bool() const noexcept { return pivots_ != nullptr; }

 private:
  std::size_t* pivots_;
};

/// Keeps the caller's cancellation away until the saga asks what becomes of it.
class postponing {
 public:
  explicit postponing(std::string& reason) noexcept : reason_(&reason) {}
  net::cancellation_type operator()(net::cancellation_type type) const {
    if (type != net::cancellation_type::none) *reason_ = "cancelled by the caller";
    return net::cancellation_type::none;
  }

 private:
  std::string* reason_;
};

}  // namespace

entry failed_entry(const std::string& key, step_failed::reason why, const attempt_end& end) {
  return {
      entry_kind::failed, key, {}, {{"reason", static_cast<int>(why)}, {"message", end.message}, {"code", end.code}}};
}

awaitable<bool> drive(fiber& f, std::coroutine_handle<> body) {
  body.resume();
  while (f.pending != nullptr) {
    operation* const next = std::exchange(f.pending, nullptr);
    const bool goes_on = co_await next->perform();
    if (!goes_on) co_return false;
    f.resume.resume();
  }
  co_return true;
}

/// True when the journal has the outcome.
bool instance::replay(step_work& work) {
  if (!has_journal() || leaving_ != leave_reason::none) return false;
  record* r = find(work.key());
  if (r == nullptr) return false;
  const nlohmann::json arguments = work.arguments();
  if (!r->is_step || r->step != work.name() || !r->has_arguments(arguments)) {
    leave_changed(work.key(), r->shown(), "'" + std::string(work.name()) + "' with " + arguments.dump());
    return false;
  }
  visit(*r);
  if (r->ended == record::outcome::open) return false;
  if (r->ended == record::outcome::failed) {
    work.fail(*r->why);
    return true;
  }
  try {
    work.set_result(r->result);
  } catch (const nlohmann::json::exception& e) {
    leave(leave_reason::stuck, "the result of '" + work.key() + "' cannot be read: " + e.what());
    return false;
  }
  return true;
}

/// Of one attempt, where the step says `own`.
duration instance::limit_of(duration own) const {
  if (own > duration()) return own;
  return has_journal() ? engine_->options.step_timeout : duration();
}

duration instance::until_deadline() const {
  if (deadline_ == for_ever) return duration::max();
  return std::chrono::microseconds(std::max<std::int64_t>(deadline_ - now(), 0));
}

/// Tried until it succeeds.
bool instance::is_retriable(step_kind kind) const noexcept {
  return kind == step_kind::retriable || (kind == step_kind::read_only && has_pivoted_);
}

/// When it fails, or while it is tried.
bool instance::can_go_back(const step_work& work) const noexcept {
  return !leaves_doubt(work) && !is_retriable(work.kind());
}

/// How long a step may take, or rest: once the saga does not go back any more, its deadline ends nothing.
duration instance::until_turn(const step_work& work) const {
  if (deadline_ == for_ever || !can_go_back(work)) return duration::max();
  return has_aborted_ || has_pivoted_ || is_pivot_in_doubt() ? duration::max() : until_deadline();
}

time_point instance::attempt_ends_at(duration limit) const {
  return limit > duration() ? saturating_add(engine_->timers->now(), limit) : never;
}

attempt_end end_of_attempt() {
  failure why;
  try {
    throw;
  } catch (const refused& e) {
    return {attempt_end::kind::refused, as_utf8(e.what()), as_utf8(e.code()), {}};
  } catch (const ongoing& e) {
    return {attempt_end::kind::ongoing, {}, {}, e.after()};
  } catch (const cannot_undo& e) {
    return {attempt_end::kind::impossible, as_utf8(e.what()), {}, {}};
  } catch (const fatal& e) {
    return {attempt_end::kind::fatal, as_utf8(e.what()), {}, {}};
  } catch (const std::exception& e) {
    why = failure::current(e);
  } catch (...) {
    why = failure::current();
  }
  return {
      why.is_cancellation() ? attempt_end::kind::cancelled : attempt_end::kind::unsure, as_utf8(why.message()), {}, {}};
}

awaitable<void> instance::attempt_into(attempt_end& end, duration limit, std::function<awaitable<void>()> call) {
  try {
    if (limit > duration()) {
      co_await with_timeout(limit, call);
    } else {
      co_await call();
    }
  } catch (...) {
    end = end_of_attempt();
  }
}

/// Ends early when another branch wins the race.
awaitable<void> instance::attempt_in_race(attempt_end& end, const fiber& by, duration limit,
                                          std::function<awaitable<void>()> call) {
  racing_attempt racing{&by, {}};
  racing_.push_back(&racing);
  const auto work = [&] { return attempt_into(end, limit, call); };
  co_await cofferdam::detail::run_workers(1, work, &racing.cancel);
  std::erase(racing_, &racing);
}

/// Rests before the next attempt: a short while here, else in the journal. False: the saga leaves.
/// @param by  whose rest is over when it is stopped; null: an undo's, or a pivot's, which nothing stops.
awaitable<bool> instance::back_off(entry_kind what, const std::string& key, std::uint32_t attempt,
                                   const std::string& message, duration delay, const fiber* by) {
  if (has_journal()) {
    const std::int64_t next_at = time_after(now(), delay);
    settle({what, key, {}, {{"attempt", attempt}, {"message", message}, {"next_at", next_at}}});
    if (delay >= engine_->options.park_after) co_return co_await wait_for_turn_of(next_at, by);
    const written kept = co_await flush();
    if (kept != written::yes) co_return false;
  }
  co_await rest(delay);
  co_return leaving_ == leave_reason::none;
}

awaitable<bool> instance::wait_for_turn_of(std::int64_t next_at, const fiber* by) {
  while (now() < next_at && (by == nullptr || !by->is_stopped())) {
    const bool goes_on = co_await wait_until(next_at, for_ever);
    if (!goes_on) co_return false;
  }
  co_return true;
}

/// What is to be said before the first attempt. Notes the intent of a step that the journal does not know.
instance::begun instance::begin(step_work& work) {
  if (leaving_ != leave_reason::none || must_go_back()) return begun::leaves;
  const bool is_known = has_journal() && find(work.key()) != nullptr;
  const bool is_in_doubt = is_known && leaves_doubt(work);
  if (work.by().is_stopped() && !is_in_doubt) {
    work.fail(step_failed(work.key(), step_failed::reason::stopped, {}, {}));
    return begun::failed;
  }
  if (work.kind() == step_kind::pivot && work.by().is_racing()) {
    leave(leave_reason::stuck, "'" + work.key() +
                                   "' is a pivot, and cannot be undone when another branch of its race "
                                   "wins: let it follow the race");
    return begun::leaves;
  }
  std::optional<entry> intent;
  if (has_journal() && !is_known) intent = intent_of(work);
  if (intent && intent->text.size() > engine_->options.max_payload) {
    // It is not in the journal, so it fails again in every replay.
    work.fail(step_failed(work.key(), step_failed::reason::refused,
                          "its arguments have " + std::to_string(intent->text.size()) + " bytes; max_payload is " +
                              std::to_string(engine_->options.max_payload),
                          "payload_too_large"));
    return begun::failed;
  }
  if (has_pivoted_ && !is_known && !is_retriable(work.kind())) {  // what is known began before it, in another branch
    leave(leave_reason::stuck, "'" + work.key() + "' comes after the pivot, so it must be a retriable step");
    return begun::leaves;
  }
  if (!has_journal()) return begun::yes;
  if (is_known) {
    if (!is_rehearsal_) return begun::yes;
    (void)diverges(work.key());
    return begun::leaves;
  }
  if (diverges(work.key())) return begun::leaves;
  if (definition_->find(work.name()) == nullptr) {
    leave(leave_reason::stuck, "the step '" + std::string(work.name()) + "' is not among those '" + definition_->name +
                                   "' was defined with: add it to define()");
    return begun::leaves;
  }
  if (is_rehearsal_) return begun::leaves;
  add(*std::move(intent));
  return begun::noted;
}

/// Most sagas are in the middle of an action, so what this frame need not keep is in functions and frames of their own:
/// Asio keeps no frame of more than 1,020 bytes for the next one.
awaitable<bool> instance::run_step(step_work& work) {
  const begun how = begin(work);
  if (how == begun::failed) co_return true;
  if (how == begun::leaves) co_return false;
  // What only looks is repeated when nobody knows of it; but a saga is to be known when it was started.
  if (how == begun::noted && (work.kind() != step_kind::read_only || !is_inserted_)) {
    const written kept = co_await flush();
    if (kept != written::yes || leaving_ != leave_reason::none) co_return false;
  }
  attempts_of_step tries;
  tries.stops = leaves_doubt(work) ? nullptr : &work.by();
  tries.is_in_doubt = tries.stops == nullptr && has_journal() && how == begun::yes;
  if (const record* known = has_journal() ? find(work.key()) : nullptr) {
    tries.n = known->attempts.failed + 1;
    if (const std::int64_t next_at = known->attempts.next_at; next_at > 0) {
      const bool goes_on = co_await wait_for_turn_of(next_at, tries.stops);
      if (!goes_on) co_return false;
    }
  }
  // With a journal, a worker that takes the saga over would go on with a pivot that was cancelled.
  const doubt_guard shielded(pivots_in_doubt_, work.kind() == step_kind::pivot && !has_journal());
  if (shielded) co_await net::this_coro::reset_cancellation_state(postponing(cancel_reason_));
  for (;;) {
    if (engine_->is_dead("before an action")) leave(leave_reason::lost);
    if (leaving_ != leave_reason::none || (can_go_back(work) && must_go_back())) co_return false;
    if (work.by().is_stopped() && !tries.is_in_doubt) {  // what was begun is undone, if it is to be
      work.fail(step_failed(work.key(), step_failed::reason::stopped, {}, {}));
      remember(work);
      co_return true;
    }
    duration limit = limit_of(work.settings().timeout);
    const duration left = until_turn(work);
    if (left < never_ends) limit = std::max(std::min(limit > duration() ? limit : never_ends, left), duration(1));
    step_context context(*this, engine_->registry, work.key(), tries.n, false, attempt_ends_at(limit));
    const auto own = work.is_transactional() ? std::make_unique<batch>() : nullptr;
    const auto call = [&work, &context, transaction = own.get()] { return work.attempt(context, transaction); };
    attempt_end end;
    tries.is_in_doubt = tries.stops == nullptr;
    if (work.by().is_racing()) {
      co_await attempt_in_race(end, work.by(), limit, call);
    } else {
      try {
        if (limit > duration()) {
          co_await with_timeout(limit, call);
        } else {
          co_await call();
        }
      } catch (...) {
        end = end_of_attempt();
      }
    }
    if (engine_->is_dead("after an action")) leave(leave_reason::lost);
    if (leaving_ == leave_reason::lost) co_return false;
    if (end.how == attempt_end::kind::succeeded && own) {
      co_await commit_together(end, work, std::move(*own));
      if (leaving_ == leave_reason::lost) co_return false;
    }
    ended what_now = ended::succeeded;
    if (end.how != attempt_end::kind::succeeded) what_now = co_await end_attempt(work, end, tries);
    if (what_now == ended::leaves) co_return false;
    if (what_now == ended::again) continue;
    if (shielded) co_await net::this_coro::reset_cancellation_state();
    co_return what_now == ended::succeeded ? succeed(work) : fail(work, end);
  }
}

/// An attempt that did not succeed: what now, after a rest where that is due.
awaitable<instance::ended> instance::end_attempt(step_work& work, attempt_end& end, attempts_of_step& tries) {
  const auto& options = engine_->options;
  if (end.how == attempt_end::kind::cancelled && work.by().is_stopped()) co_return ended::again;
  if (end.how == attempt_end::kind::cancelled) {
    // What was cancelled may have happened. Cancelled by its caller, a saga without a journal goes back.
    if (!has_journal()) leave(leave_reason::goes_back, "cancelled by the caller");
    remember(work);
    leave(leave_reason::handed_back);
    co_return ended::leaves;
  }
  if (end.how == attempt_end::kind::fatal) {
    leave(leave_reason::stuck, "'" + work.key() + "': " + end.message);
    co_return ended::leaves;
  }
  if (end.how == attempt_end::kind::ongoing) {
    if (!has_journal() || end.after < options.park_after) {
      co_await rest(std::min(end.after, until_turn(work)));
      co_return ended::again;
    }
    const bool goes_on =
        co_await back_off(entry_kind::attempted, work.key(), tries.n - 1, "ongoing", end.after, tries.stops);
    if (!goes_on) co_return ended::leaves;
    co_return ended::again;
  }
  if (end.how != attempt_end::kind::unsure && end.how != attempt_end::kind::impossible) co_return ended::failed;
  publish(saga_event::kind::attempt_failed, work.key(), tries.n, end.message);
  std::uint32_t most = work.settings().max_attempts;
  if (most == 0 && work.kind() != step_kind::pivot && can_go_back(work)) most = options.max_attempts;
  if (most != 0 && tries.n >= most) co_return ended::failed;
  if (tries.n == options.attention_after) publish(saga_event::kind::attention, work.key(), tries.n, end.message);
  const duration delay = std::min(backoff_delay(options.backoff, tries.n, tries.delays, random()), until_turn(work));
  const bool goes_on = co_await back_off(entry_kind::attempted, work.key(), tries.n, end.message, delay, tries.stops);
  if (!goes_on) co_return ended::leaves;
  ++tries.n;
  co_return ended::again;
}

/// For its undo, where the journal does not do that.
void instance::remember(step_work& work) {
  if (has_journal() || work.undo_wants() == undo_kind::none) return;
  if (past_.empty()) past_.reserve(8);
  past_.push_back(work.remember());
}

/// As `fail`, where its result is too long to be written.
bool instance::succeed(step_work& work) {
  if (work.kind() == step_kind::pivot) has_pivoted_ = true;
  publish(saga_event::kind::step_succeeded, work.key());
  remember(work);
  if (!has_journal() || work.is_transactional()) return true;  // else it is written
  entry outcome(entry_kind::succeeded, work.key(), {}, work.result());
  if (outcome.text.size() <= engine_->options.max_payload) {
    settle(std::move(outcome));
    return true;
  }
  return fail(work, {attempt_end::kind::unsure, "its result has more than max_payload bytes", "payload_too_large", {}});
}

/// False where it must not fail: then the saga waits for an operator.
bool instance::fail(step_work& work, const attempt_end& end) {
  const auto why =
      end.how == attempt_end::kind::refused ? step_failed::reason::refused : step_failed::reason::exhausted;
  if (why == step_failed::reason::refused && is_retriable(work.kind())) {
    leave(leave_reason::stuck, "the retriable step '" + work.key() + "' was refused: " + end.message);
    return false;
  }
  if (why == step_failed::reason::exhausted && leaves_doubt(work)) {
    leave(leave_reason::stuck, "nobody knows whether the pivot '" + work.key() + "' has happened: " + end.message);
    return false;
  }
  publish(saga_event::kind::step_failed, work.key(), 0, end.message);
  work.fail(step_failed(std::string(work.name()), why, end.message, end.code));
  if (has_journal()) settle(failed_entry(work.key(), why, end));
  if (why == step_failed::reason::exhausted) remember(work);
  return true;
}

/// The outcome of a transactional step, and what it wrote, in one commit.
awaitable<void> instance::commit_together(attempt_end& end, step_work& work, batch own) {
  if (!has_journal()) {
    end = {attempt_end::kind::fatal, "a transactional step needs an engine with a database", {}, {}};
    co_return;
  }
  const doubt_guard in_doubt(pivots_in_doubt_, work.kind() == step_kind::pivot);
  entry outcome(entry_kind::succeeded, work.key(), {}, work.result());
  const written how = co_await flush_with(outcome, std::move(own));
  if (how == written::refused) {
    end = {attempt_end::kind::unsure, "the database refuses what it wrote: " + refusal_, {}, {}};
  }
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
