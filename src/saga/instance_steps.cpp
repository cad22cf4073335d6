// What a saga does: its steps.
#include <cofferdam/core/timeout.hpp>

#include "engine_state.hpp"

#include <algorithm>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {

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
  const std::string arguments = work.arguments().dump();
  if (!r->is_step || r->step != work.name() || r->arguments != arguments) {
    leave_changed(work.key(), "'" + r->step + "' with " + r->arguments,
                  "'" + std::string(work.name()) + "' with " + arguments);
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

attempt_end end_of_attempt() {
  failure why;
  try {
    throw;
  } catch (const refused& e) {
    return {attempt_end::kind::refused, e.what(), e.code(), {}};
  } catch (const ongoing& e) {
    return {attempt_end::kind::ongoing, {}, {}, e.after()};
  } catch (const cannot_undo& e) {
    return {attempt_end::kind::impossible, e.what(), {}, {}};
  } catch (const fatal& e) {
    return {attempt_end::kind::fatal, e.what(), {}, {}};
  } catch (const std::exception& e) {
    why = failure::current(e);
  } catch (...) {
    why = failure::current();
  }
  return {why.is_cancellation() ? attempt_end::kind::cancelled : attempt_end::kind::unsure, why.message(), {}, {}};
}

awaitable<bool> instance::run_step(step_work& work) {
  if (leaving_ != leave_reason::none) co_return false;
  if (work.is_stopped()) {
    work.fail(step_failed(work.key(), step_failed::reason::stopped, {}, {}));
    co_return true;
  }
  if (has_pivoted_ && work.kind() != step_kind::retriable) {
    leave(leave_reason::stuck, "'" + work.key() + "' comes after the pivot, so it must be a retriable step");
    co_return false;
  }
  if (has_journal()) {
    if (find(work.key()) == nullptr) {
      if (diverges(work.key())) co_return false;
      const step_descriptor* known = definition_->find(work.name());
      if (known == nullptr) {
        leave(leave_reason::stuck, "the step '" + std::string(work.name()) + "' is not among those '" +
                                       definition_->name + "' was defined with: add it to define()");
        co_return false;
      }
      if (is_rehearsal_) co_return false;
      nlohmann::json payload{{"arguments", work.arguments()}};
      if (work.settings().undo_attempts != 0) payload["undo"]["attempts"] = work.settings().undo_attempts;
      if (work.settings().undo_timeout > duration()) {
        payload["undo"]["timeout_ns"] = work.settings().undo_timeout.count();
      }
      const std::size_t bytes = payload.dump().size();
      if (bytes > engine_->options.max_payload) {
        work.fail(step_failed(work.key(), step_failed::reason::refused,
                              "its arguments have " + std::to_string(bytes) + " bytes; max_payload is " +
                                  std::to_string(engine_->options.max_payload),
                              "payload_too_large"));
        co_return true;
      }
      add({entry_kind::intent, work.key(), std::string(work.name()), std::move(payload)});
      const bool is_ours = co_await flush();
      if (!is_ours || leaving_ != leave_reason::none) co_return false;
    }
  }

  if (is_rehearsal_) co_return false;
  const auto& options = engine_->options;
  const std::uint32_t most = work.settings().max_attempts != 0         ? work.settings().max_attempts
                             : work.kind() == step_kind::compensatable ? options.max_attempts
                                                                       : 0;
  const duration limit = limit_of(work.settings().timeout);
  backoff_state delays;
  attempt_end end;
  for (std::uint32_t n = 1;;) {
    if (engine_->is_dead("before an action")) leave(leave_reason::lost);
    if (leaving_ != leave_reason::none) co_return false;
    step_context context(*this, engine_->registry, work.key(), n, false);
    batch own;
    batch* const transaction = work.is_transactional() ? &own : nullptr;
    const auto call = [&work, &context, transaction] { return work.attempt(context, transaction); };
    end = {};
    try {
      if (limit > duration()) {
        co_await with_timeout(limit, call);
      } else {
        co_await call();
      }
    } catch (...) {
      end = end_of_attempt();
    }
    if (engine_->is_dead("after an action")) leave(leave_reason::lost);
    if (leaving_ == leave_reason::lost) co_return false;
    if (end.how == attempt_end::kind::succeeded && work.is_transactional()) {
      end = co_await commit_together(work, std::move(own));
      if (leaving_ == leave_reason::lost) co_return false;
      if (end.how == attempt_end::kind::succeeded) break;
    }
    if (end.how == attempt_end::kind::cancelled) {
      // What was cancelled may have happened. Cancelled by its caller, a saga without a journal goes back.
      if (!has_journal()) leave(leave_reason::goes_back, "cancelled by the caller");
      if (!has_journal() && work.undo_wants() != undo_kind::none) past_.push_back(work.remember());
      leave(leave_reason::handed_back);
      co_return false;
    }
    if (end.how == attempt_end::kind::fatal) {
      leave(leave_reason::stuck, "'" + work.key() + "': " + end.message);
      co_return false;
    }
    if (end.how == attempt_end::kind::ongoing) {
      co_await rest(end.after);
      continue;
    }
    if (end.how != attempt_end::kind::unsure && end.how != attempt_end::kind::impossible) break;
    publish(saga_event::kind::attempt_failed, work.key(), n, end.message);
    if (most != 0 && n >= most) break;
    if (n == options.attention_after) publish(saga_event::kind::attention, work.key(), n, end.message);
    co_await rest(backoff_delay(options.backoff, n, delays, random()));
    ++n;
  }

  const bool has_succeeded = end.how == attempt_end::kind::succeeded;
  if (has_succeeded && work.kind() == step_kind::pivot) has_pivoted_ = true;
  if (has_succeeded) {
    publish(saga_event::kind::step_succeeded, work.key());
    if (has_journal() && !work.is_transactional()) {
      nlohmann::json result = work.result();
      if (result.dump().size() > options.max_payload) {
        end = {attempt_end::kind::unsure, "its result has more than max_payload bytes", "payload_too_large", {}};
      } else {
        settle({entry_kind::succeeded, work.key(), {}, std::move(result)});
      }
    }
    if (!has_journal() && work.undo_wants() != undo_kind::none) past_.push_back(work.remember());
    if (end.how == attempt_end::kind::succeeded) co_return true;
  }
  const auto why =
      end.how == attempt_end::kind::refused ? step_failed::reason::refused : step_failed::reason::exhausted;
  if (why == step_failed::reason::refused && work.kind() == step_kind::retriable) {
    leave(leave_reason::stuck, "the retriable step '" + work.key() + "' was refused: " + end.message);
    co_return false;
  }
  publish(saga_event::kind::step_failed, work.key(), 0, end.message);
  work.fail(step_failed(std::string(work.name()), why, end.message, end.code));
  if (has_journal()) {
    settle(failed_entry(work.key(), why, end));
  } else if (why == step_failed::reason::exhausted && work.undo_wants() != undo_kind::none) {
    past_.push_back(work.remember());
  }
  co_return true;
}

/// The outcome of a transactional step, and what it wrote, in one commit.
awaitable<attempt_end> instance::commit_together(step_work& work, batch own) {
  attempt_end end;
  if (!has_journal()) {
    end = {attempt_end::kind::fatal, "a transactional step needs an engine with a database", {}, {}};
    co_return end;
  }
  const bool is_pivot = work.kind() == step_kind::pivot;
  has_pivoted_ = has_pivoted_ || is_pivot;
  entry outcome(entry_kind::succeeded, work.key(), {}, work.result());
  const written how = co_await flush_with(std::move(outcome), std::move(own));
  if (how == written::refused) {
    if (is_pivot) has_pivoted_ = false;
    end = {attempt_end::kind::unsure, "the database refuses what it wrote", {}, {}};
  }
  co_return end;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
