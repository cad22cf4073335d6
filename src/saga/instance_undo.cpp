// How what a saga did is undone: last first, from the journal alone.
#include <cofferdam/core/timeout.hpp>

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

}  // namespace

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
    attempt_end end;
    try {
      if (limit > duration()) {
        co_await with_timeout(limit, call);
      } else {
        co_await call();
      }
    } catch (...) {
      end = end_of_attempt();
    }
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

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
