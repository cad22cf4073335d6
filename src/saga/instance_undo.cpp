// How what a saga did is undone: last first, from the journal alone.
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/core/workers.hpp>

#include "engine_state.hpp"

#include <algorithm>
#include <optional>
#include <set>
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
        arguments_(r.arguments),
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

namespace {

/// The length of the prefix that `key` begins with.
std::optional<std::size_t> depth_of(const std::string& key, const std::vector<std::string>& prefixes) {
  for (const auto& each : prefixes) {
    if (key.starts_with(each)) return each.size();
  }
  return std::nullopt;
}

}  // namespace

/// The outermost branches, further in than `within`, that are undone side by side and have `key`.
const instance::group* instance::group_of(const std::string& key, const group& within) const {
  const std::size_t outer = depth_of(key, within).value_or(0);
  for (const group& each : together_) {
    const auto depth = depth_of(key, each);
    if (depth && *depth > outer) return &each;
  }
  return nullptr;
}

/// Undoes what began under `prefixes`, last first.
awaitable<bool> instance::unwind(group prefixes) {
  std::set<const group*> undone;
  auto before = records_.rbegin();  // what other branches add meanwhile comes after it
  for (std::size_t i = has_journal() ? records_.size() : past_.size(); i-- > 0;) {
    const record* r = has_journal() ? &*before++ : nullptr;
    if (r == nullptr && !past_[i]) continue;
    const std::string& key = r != nullptr ? r->key : past_[i]->key;
    if (!depth_of(key, prefixes)) continue;
    bool is_undone = true;
    if (const group* branches = group_of(key, prefixes)) {
      if (undone.insert(branches).second) is_undone = co_await unwind_together(*branches);
    } else if (r != nullptr) {
      is_undone = co_await undo_record(*r);
    } else {
      const auto step = std::move(past_[i]);
      is_undone = co_await undo(*step);
    }
    if (!is_undone) co_return false;
  }
  co_return true;
}

awaitable<bool> instance::unwind_together(const group& prefixes) {
  busy_ += prefixes.size() - 1;
  std::size_t next = 0, undone = 0, left = prefixes.size();
  const auto work = [&]() { return unwind_branch(prefixes[next++], undone, left); };
  co_await cofferdam::detail::run_workers(prefixes.size(), work);
  co_return undone == prefixes.size();
}

awaitable<void> instance::unwind_branch(const std::string& prefix, std::size_t& undone, std::size_t& left) {
  try {
    const bool is_undone = co_await unwind({1, prefix});
    if (is_undone) ++undone;
  } catch (const std::exception& e) {
    leave(leave_reason::stuck, e.what());
  }
  branch_ends(left);
}

awaitable<bool> instance::undo_record(const record& r) {
  if (r.is_undone) co_return true;
  if (r.is_child && r.ended != record::outcome::failed) co_return co_await undo_child(r);
  const bool is_refused = r.ended == record::outcome::failed && r.why && r.why->why() == step_failed::reason::refused;
  if (!r.is_step || is_refused) co_return true;
  const step_descriptor* what = definition_->find(r.step);
  if (what == nullptr) {
    leave(leave_reason::stuck, "'" + r.key + "' cannot be undone: the step '" + r.step + "' is not among those '" +
                                   definition_->name + "' is defined with");
    co_return false;
  }
  // What was not written together with its outcome has not happened.
  const bool is_void = !what->act && r.ended != record::outcome::succeeded;
  if (what->undo_wants == undo_kind::none || is_void) co_return true;
  journaled_step step(r, *what, *this);
  co_return co_await undo(step);
}

awaitable<bool> instance::undo(past_step& step) {
  const auto& options = engine_->options;
  const duration limit = limit_of(step.settings.undo_timeout);
  backoff_state delays;
  std::uint32_t n = 1;
  if (const record* known = has_journal() ? find(step.key) : nullptr) {
    n = known->undo_attempts.failed + 1;
    const bool goes_on = co_await wait_for_turn_of(known->undo_attempts.next_at, nullptr);
    if (!goes_on) co_return false;
  }
  for (;;) {
    if (has_journal() && !buffer_.empty()) {
      const written kept = co_await flush();
      if (kept != written::yes) co_return false;
    }
    if (engine_->is_dead("before an undo")) leave(leave_reason::lost);
    if (leaving_ != leave_reason::none) co_return false;
    // First what the undo needs to know: whether the action happened, and what came of it.
    const bool resolves = step.undo_wants == undo_kind::known && !step.is_known;
    step_context context(*this, engine_->registry, step.key, n, !resolves, attempt_ends_at(limit));
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
      const bool is_long = has_journal() && end.after >= options.park_after;
      const bool goes_on =
          is_long && co_await back_off(entry_kind::undo_attempted, step.key, n - 1, "ongoing", end.after, nullptr);
      if (is_long && !goes_on) co_return false;
      if (!is_long) co_await rest(end.after);
      continue;
    }
    publish(saga_event::kind::undo_failed, step.key, n, end.message);
    const bool is_last = step.settings.undo_attempts != 0 && n >= step.settings.undo_attempts;
    if (end.how == attempt_end::kind::impossible || end.how == attempt_end::kind::fatal || is_last) {
      leave(leave_reason::stuck, "'" + step.key + "' cannot be undone: " + end.message);
      co_return false;
    }
    if (n == options.attention_after) publish(saga_event::kind::attention, step.key, n, end.message);
    const duration delay = backoff_delay(options.undo_backoff, n, delays, random());
    const bool goes_on = co_await back_off(entry_kind::undo_attempted, step.key, n, end.message, delay, nullptr);
    if (!goes_on) co_return false;
    ++n;
  }
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
