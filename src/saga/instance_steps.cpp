// What a saga does: steps and their undoing, waits, branches, parts.
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/core/workers.hpp>

#include "engine_state.hpp"

#include <algorithm>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {
namespace {

/// Undoes a step from what the journal says about it.
class journaled_step final : public past_step {
 public:
  journaled_step(const record& r, const step_descriptor& what, const journal_view& journal)
      : past_step(r.key, r.settings, what.undo_wants, r.ended == record::outcome::succeeded),
        what_(&what),
        journal_(&journal),
        arguments_(nlohmann::json::parse(r.arguments)),
        result_(r.result) {}

  awaitable<void> undo(step_context& context) override {
    co_await what_->undo(context, *journal_, arguments_, is_known ? &result_ : nullptr);
  }
  awaitable<void> act(step_context& context) override {
    result_ = co_await what_->act(context, *journal_, arguments_);
    is_known = true;
  }
  [[nodiscard]] const nlohmann::json& result() const noexcept { return result_; }

 private:
  const step_descriptor* what_;
  const journal_view* journal_;
  nlohmann::json arguments_, result_;
};

/// The entry of a step that failed.
entry failed_entry(const std::string& key, step_failed::reason why, const attempt_end& end) {
  return {
      entry_kind::failed, key, {}, {{"reason", static_cast<int>(why)}, {"message", end.message}, {"code", end.code}}};
}

}  // namespace

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

// --------------------------------------------------------------------------------------------------------------- steps

/// True when the journal has the outcome.
bool instance::replay(step_work& work) {
  if (!has_journal() || leaving_ != leave_reason::none) return false;
  record* r = find(work.key());
  if (r == nullptr) return false;
  const std::string arguments = work.arguments().dump();
  if (!r->is_step || r->step != work.name() || r->arguments != arguments) {
    leave(leave_reason::stuck, "the body has changed: at '" + work.key() + "' it now does '" +
                                   std::string(work.name()) + "' with " + arguments + ", where the journal has '" +
                                   r->step + "' with " + r->arguments);
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

awaitable<attempt_end> instance::attempt(duration limit, std::function<awaitable<void>()> call) {
  attempt_end end;
  failure why;
  try {
    if (limit > duration()) {
      co_await with_timeout(limit, call);
    } else {
      co_await call();
    }
    co_return end;
  } catch (const refused& e) {
    end = {attempt_end::kind::refused, e.what(), e.code(), {}};
  } catch (const ongoing& e) {
    end = {attempt_end::kind::ongoing, {}, {}, e.after()};
  } catch (const cannot_undo& e) {
    end = {attempt_end::kind::impossible, e.what(), {}, {}};
  } catch (const fatal& e) {
    end = {attempt_end::kind::fatal, e.what(), {}, {}};
  } catch (const std::exception& e) {
    why = failure::current(e);
  } catch (...) {
    why = failure::current();
  }
  if (why)
    end = {why.is_cancellation() ? attempt_end::kind::cancelled : attempt_end::kind::unsure, why.message(), {}, {}};
  co_return end;
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
    end = co_await attempt(limit, call);
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

// ------------------------------------------------------------------------------------------------------------- undoing

/// Undoes what began under `prefix`, last first.
awaitable<bool> instance::unwind(const std::string& prefix) {
  if (!has_journal()) {
    while (past_.size() > part_begins_) {
      const auto step = std::move(past_.back());
      past_.pop_back();
      const bool is_undone = co_await undo(*step);
      if (!is_undone) co_return false;
    }
    co_return true;
  }
  for (std::size_t i = records_.size(); i-- > 0;) {
    const record& r = records_[i];
    const bool is_refused = r.ended == record::outcome::failed && r.why && r.why->why() == step_failed::reason::refused;
    if (!r.is_step || r.is_undone || is_refused || !r.key.starts_with(prefix)) continue;
    const step_descriptor* what = definition_->find(r.step);
    if (what == nullptr) {
      leave(leave_reason::stuck, "'" + r.key + "' cannot be undone: the step '" + r.step + "' is not among those '" +
                                     definition_->name + "' is defined with");
      co_return false;
    }
    // What was not written together with its outcome has not happened.
    const bool is_void = !what->act && r.ended != record::outcome::succeeded;
    if (what->undo_wants == undo_kind::none || is_void) continue;
    journaled_step step(r, *what, *this);
    const bool is_undone = co_await undo(step);
    if (!is_undone) co_return false;
  }
  co_return true;
}

awaitable<bool> instance::undo(past_step& step) {
  const auto& options = engine_->options;
  const duration limit = limit_of(step.settings.undo_timeout);
  backoff_state delays;
  for (std::uint32_t n = 1;;) {
    if (has_journal() && !buffer_.empty()) {
      const bool is_ours = co_await flush();
      if (!is_ours) co_return false;
    }
    if (engine_->is_dead("before an undo")) leave(leave_reason::lost);
    if (leaving_ != leave_reason::none) co_return false;
    // First what the undo needs to know: whether the action happened, and what came of it.
    const bool resolves = step.undo_wants == undo_kind::known && !step.is_known;
    step_context context(*this, engine_->registry, step.key, n, !resolves);
    const auto call = [&step, &context, resolves] { return resolves ? step.act(context) : step.undo(context); };
    const attempt_end end = co_await attempt(limit, call);
    if (engine_->is_dead("after an undo")) leave(leave_reason::lost);
    if (leaving_ == leave_reason::lost) co_return false;
    if (end.how == attempt_end::kind::succeeded && resolves) {
      if (has_journal()) {
        settle({entry_kind::succeeded, step.key, {}, static_cast<journaled_step&>(step).result()});
      }
      n = 1;
      continue;
    }
    if (end.how == attempt_end::kind::refused && resolves) {  // it never happened
      if (has_journal()) settle(failed_entry(step.key, step_failed::reason::refused, end));
      co_return true;
    }
    if (end.how == attempt_end::kind::succeeded) {
      publish(saga_event::kind::undone, step.key);
      if (has_journal()) settle({entry_kind::undone, step.key, {}, nullptr});
      co_return true;
    }
    if (end.how == attempt_end::kind::ongoing) {
      co_await rest(end.after);
      continue;
    }
    publish(saga_event::kind::undo_failed, step.key, n, end.message);
    const bool is_last = step.settings.undo_attempts != 0 && n >= step.settings.undo_attempts;
    if (end.how == attempt_end::kind::impossible || end.how == attempt_end::kind::fatal || is_last) {
      leave(leave_reason::stuck, "'" + step.key + "' cannot be undone: " + end.message);
      co_return false;
    }
    if (n == options.attention_after) publish(saga_event::kind::attention, step.key, n, end.message);
    co_await rest(backoff_delay(options.undo_backoff, n, delays, random()));
    ++n;
  }
}

// --------------------------------------------------------------------------------------------------------------- waits

bool instance::replay(wait_operation& wait) {
  if (!has_journal() || leaving_ != leave_reason::none) return false;
  record* r = find(wait.key());
  if (r == nullptr) return false;
  visit(*r);
  if (r->ended == record::outcome::open) return false;
  if (r->ended == record::outcome::succeeded) wait.settle(r->result.at("payload"));
  return true;
}

awaitable<std::optional<nlohmann::json>> instance::take_signal(const std::string& name) {
  // One query: the count must not tell of a signal that is not among the messages, or the saga would park over it.
  const rows found = co_await engine_->db->query(
      "select i.message_id, i.payload, s.signals from cofferdam_sagas s left join cofferdam_saga_inbox i on i.saga = "
      "s.id and i.name = $2 where s.id = $1 order by i.nr",
      id_, name);
  if (!found.empty()) signals_ = found.front().get<std::int64_t>(2);
  for (const row r : found) {
    if (r[0].is_null()) continue;  // there are none
    const auto message_id = r.get<std::string>(0);
    const bool is_taken = std::ranges::any_of(records_, [&](const record& each) {
      return !each.is_step && each.ended == record::outcome::succeeded &&
             each.result.value("message_id", "") == message_id;
    });
    if (is_taken) continue;
    co_return nlohmann::json{{"message_id", message_id},
                             {"payload", parse_stored(id_, "the signal '" + message_id + "'", r.get<std::string>(1))}};
  }
  co_return std::nullopt;
}

awaitable<bool> instance::run_wait(wait_operation& wait) {
  if (leaving_ != leave_reason::none) co_return false;
  if (wait.is_stopped()) {
    wait.stop();
    co_return true;
  }
  constexpr std::int64_t for_ever = std::numeric_limits<std::int64_t>::max();
  const bool is_limited = wait.limit() < duration::max();
  std::int64_t wake_at = for_ever;
  if (is_limited) wake_at = now() + std::chrono::ceil<std::chrono::microseconds>(wait.limit()).count();
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
    if (wait.is_stopped()) {
      wait.stop();
      co_return true;
    }
    if (has_journal() && !wait.signal().empty()) {
      auto message = co_await take_signal(wait.signal());
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
    --busy_;
    next_wake_ = waits_++ == 0 ? wake_at : std::min(next_wake_, wake_at);
    if (busy_ == 0 && has_journal()) leave(leave_reason::parked);
    if (leaving_ != leave_reason::none) co_return false;
    const auto woken = co_await park(
        wake_at == for_ever ? never
                            : saturating_add(engine_->timers->now(), std::chrono::microseconds(wake_at - now())),
        [this](const cofferdam::detail::parked_reference& self) { waiting_.push_back(self); });
    ++busy_;
    --waits_;
    if (woken == wake_reason::cancelled) {
      leave(has_journal() ? leave_reason::handed_back : leave_reason::goes_back, "cancelled by the caller");
      co_return false;
    }
  }
}

bool instance::replay_mark(const std::string& key, bool& answer) {
  if (!has_journal() || leaving_ != leave_reason::none) {
    answer = true;
    return leaving_ == leave_reason::none;
  }
  if (record* r = find(key)) {
    visit(*r);
    answer = true;
    return true;
  }
  answer = false;
  return unvisited_.contains(scope_of(key));
}

awaitable<bool> instance::run_mark(const std::string& key) {
  if (leaving_ != leave_reason::none) co_return false;
  add({entry_kind::waiting, key, "patched", {{"wake_at", 0}}});
  settle({entry_kind::timed_out, key, {}, nullptr});
  co_return true;
}

// ------------------------------------------------------------------------------------------------------------ branches

awaitable<bool> instance::run_all(std::span<branch_base* const> branches, std::exception_ptr& failed) {
  if (branches.empty()) co_return leaving_ == leave_reason::none;
  busy_ += branches.size() - 1;
  std::size_t next = 0, ended = 0;
  std::vector<std::exception_ptr> errors(branches.size());
  const auto work = [&]() { return run_branch(branches, next++, errors, ended); };
  co_await cofferdam::detail::run_workers(branches.size(), work);
  ++busy_;
  if (leaving_ != leave_reason::none || ended < branches.size()) co_return false;
  // The first failure in the order of branches; those that were only stopped come after the one that stopped them.
  for (const bool wants_stopped : {false, true}) {
    for (const auto& error : errors) {
      if (!error || failed) continue;
      bool was_stopped = false;
      try {
        std::rethrow_exception(error);
      } catch (const step_failed& e) {
        was_stopped = e.why() == step_failed::reason::stopped;
      } catch (...) {
      }
      if (was_stopped == wants_stopped) failed = error;
    }
  }
  co_return true;
}

awaitable<void> instance::run_branch(std::span<branch_base* const> branches, std::size_t i,
                                     std::vector<std::exception_ptr>& errors, std::size_t& ended) {
  branch_base& branch = *branches[i];
  bool has_ended = false;
  failure why;
  try {
    has_ended = co_await drive(branch.control(), branch.start());
  } catch (...) {
    why = failure::current();
  }
  if (has_ended) {
    ++ended;
    errors[i] = branch.take();
    if (errors[i]) {
      for (branch_base* each : branches) each->control().is_stopped = true;
      wake_waits();
    }
  } else if (why.is_cancellation()) {
    leave(has_journal() ? leave_reason::handed_back : leave_reason::goes_back, "cancelled by the caller");
  } else if (why) {
    leave(leave_reason::stuck, why.message());
  }
  --busy_;
  // Every other branch waits: so does the saga.
  if (busy_ == 0 && waits_ > 0 && has_journal()) leave(leave_reason::parked);
}

// --------------------------------------------------------------------------------------------------------------- parts

/// A part that goes back, with all that is in it: its body does not run again.
void instance::visit_part(record& part) {
  visit(part);
  for (record& each : records_) {
    if (each.key.starts_with(part.key + '/')) visit(each);
  }
}

bool instance::replay_nested(const branch_base& branch, std::optional<aborted>& failed) {
  if (!has_journal() || leaving_ != leave_reason::none) return false;
  record* r = find(branch.path());
  if (r == nullptr || r->ended != record::outcome::failed) return false;
  visit_part(*r);
  failed.emplace(r->nested_reason);
  return true;
}

awaitable<bool> instance::run_nested(branch_base& branch, std::optional<aborted>& failed) {
  if (leaving_ != leave_reason::none) co_return false;
  record* r = has_journal() ? find(branch.path()) : nullptr;
  if (r != nullptr) visit_part(*r);
  const std::size_t outer_begins = std::exchange(part_begins_, past_.size());
  std::string reason = r != nullptr ? r->nested_reason : std::string();
  if (r == nullptr) {
    const bool has_ended = co_await drive(branch.control(), branch.start());
    if (!has_ended) co_return false;
    const auto error = branch.take();
    if (!error) {
      part_begins_ = outer_begins;
      co_return true;
    }
    reason = failure::thrown(error).message();
    if (has_pivoted_) {
      leave(leave_reason::stuck, "failed past its pivot: " + reason);
      co_return false;
    }
    if (has_journal()) {
      r = &add({entry_kind::nested_aborted, branch.path(), "", {{"why", reason}}});
      const bool is_ours = co_await flush();
      if (!is_ours) co_return false;
    }
  }
  const bool is_back = co_await unwind(branch.prefix());
  part_begins_ = outer_begins;
  if (!is_back) co_return false;
  if (has_journal()) settle({entry_kind::nested_failed, branch.path(), {}, nullptr});
  failed.emplace(reason);
  co_return true;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
