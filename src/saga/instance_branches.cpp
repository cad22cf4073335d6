// What a saga does side by side, and parts that are undone alone.
#include <cofferdam/core/workers.hpp>

#include "engine_state.hpp"

#include <algorithm>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {

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
    if (is_rehearsal_) co_return false;
    if (has_journal()) {
      r = &add({entry_kind::nested_aborted, branch.path(), "", {{"why", reason}}});
      const bool is_ours = co_await flush();
      if (!is_ours) co_return false;
    }
  }
  if (is_rehearsal_) co_return false;
  const bool is_back = co_await unwind(branch.prefix());
  part_begins_ = outer_begins;
  if (!is_back) co_return false;
  if (has_journal()) settle({entry_kind::nested_failed, branch.path(), {}, nullptr});
  failed.emplace(reason);
  co_return true;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
