// What a saga does side by side, and parts that are undone alone.
#include <cofferdam/core/workers.hpp>

#include "engine_state.hpp"

#include <algorithm>
#include <optional>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {

struct instance::running_branches {
  std::span<branch_base* const> branches;
  race_work* race;  // null: all of them are wanted
  std::vector<std::exception_ptr> errors{branches.size()};
  std::size_t next = 0, ended = 0, left = branches.size();
  std::optional<std::size_t> winner{};
};

/// While it lives its branches are known to run.
class instance::running_guard {
 public:
  running_guard(instance& of, const running_branches& all) : of_(of), all_(all) { of.side_by_side_.push_back(&all); }
  running_guard(const running_guard&) = delete;
  running_guard& operator=(const running_guard&) = delete;
  ~running_guard() { std::erase(of_.side_by_side_, &all_); }

 private:
  instance& of_;
  const running_branches& all_;
};

/// Whether what has these keys may come before or after each other: they are in branches that run side by side.
/// @param scope  what is before the name in one of them.
bool instance::is_beside(std::string_view scope, std::string_view key) const {
  return std::ranges::any_of(side_by_side_, [&](const running_branches* all) {
    const auto branch_of = [all](std::string_view what) {
      return std::ranges::find_if(all->branches,
                                  [what](const branch_base* each) { return what.starts_with(each->prefix()); });
    };
    const auto here = branch_of(key), there = branch_of(scope);
    return here != there && here != all->branches.end() && there != all->branches.end();
  });
}

/// Lets a branch begin nothing more. What it does at the moment goes on, but in a race, where it is cancelled.
void instance::stop(branch_base& branch) {
  branch.control().was_stopped = true;
  for (const racing_attempt* each : racing_) {
    if (each->by->is_within(branch.control()) && each->cancel) each->cancel();
  }
}

/// The last one hands on to the fiber that waits for them all.
void instance::branch_ends(std::size_t& left) {
  if (--left == 0) return;
  --busy_;
  park_if_idle();
}

/// True where something else had the name of a branch: a branch has no record of its own, a part when it goes back.
bool instance::is_changed(const branch_base& branch, bool is_part) {
  const record* r = has_journal() ? find(branch.path()) : nullptr;
  if (r == nullptr || (is_part && r->is_part)) return false;
  leave_changed(branch.path(), r->shown(), is_part ? "a part of its own" : "a branch");
  return true;
}

awaitable<bool> instance::run_side_by_side(const fiber& by, running_branches& all) {
  for (branch_base* each : all.branches) {
    if (is_changed(*each, false)) co_return false;
    each->control().outer = &by;
    each->control().races = all.race != nullptr;
  }
  busy_ += all.branches.size() - 1;
  const running_guard running(*this, all);
  const auto work = [this, &all]() { return run_branch(all, all.next++); };
  co_await cofferdam::detail::run_workers(all.branches.size(), work);
  co_return leaving_ == leave_reason::none&& all.ended == all.branches.size();
}

awaitable<void> instance::run_branch(running_branches& all, std::size_t i) {
  branch_base& branch = *all.branches[i];
  bool has_ended = false;
  failure why;
  try {
    has_ended = co_await drive(branch.control(), branch.start());
  } catch (...) {
    why = failure::current();
  }
  if (has_ended) {
    ++all.ended;
    all.errors[i] = branch.take();
    const bool decides = (all.race != nullptr) == (all.errors[i] == nullptr) && !branch.control().is_stopped();
    if (decides && all.race != nullptr) {
      all.winner = i;
      settle_race(*all.race, all.branches, i);
    }
    for (branch_base* each : all.branches) {
      if (decides && each != &branch) stop(*each);
    }
    if (decides) wake_waits();
  } else if (why.is_cancellation()) {
    leave(has_journal() ? leave_reason::handed_back : leave_reason::goes_back, "cancelled by the caller");
  } else if (why) {
    leave(leave_reason::stuck, why.message());
  }
  branch_ends(all.left);
}

namespace {

/// The first failure in the order of branches; those that were only stopped come after the one that stopped them.
std::exception_ptr first_of(const std::vector<std::exception_ptr>& errors) {
  for (const bool wants_stopped : {false, true}) {
    for (const auto& error : errors) {
      if (!error) continue;
      bool was_stopped = false;
      try {
        std::rethrow_exception(error);
      } catch (const step_failed& e) {
        was_stopped = e.why() == step_failed::reason::stopped;
      } catch (...) {
      }
      if (was_stopped == wants_stopped) return error;
    }
  }
  return nullptr;
}

}  // namespace

awaitable<bool> instance::run_all(const fiber& by, std::span<branch_base* const> branches, bool is_undone_in_parallel,
                                  std::exception_ptr& failed) {
  if (branches.empty()) co_return leaving_ == leave_reason::none;
  if (is_undone_in_parallel) {
    group prefixes;
    for (const branch_base* each : branches) prefixes.push_back(each->prefix());
    const bool is_known = std::ranges::find(together_, prefixes) != together_.end();
    entry branched(entry_kind::branched, {}, {}, {{"undone_together", prefixes}});
    if (!is_known && has_journal()) settle(std::move(branched));
    if (!is_known && !has_journal()) together_.push_back(std::move(prefixes));
  }
  running_branches all{branches, nullptr};
  const bool has_ended = co_await run_side_by_side(by, all);
  if (has_ended) failed = first_of(all.errors);
  co_return has_ended;
}

// --------------------------------------------------------------------------------------------------------------- races

/// Writes down who won, or that nobody did, before anything of the others is undone.
void instance::settle_race(race_work& race, std::span<branch_base* const> branches, std::optional<std::size_t> winner,
                           const std::string& why) {
  if (winner) race.settle(*winner);
  std::vector<std::string> losers;
  for (std::size_t i = 0; i < branches.size(); ++i) {
    if (winner != i) losers.push_back(branches[i]->path());
  }
  entry won(entry_kind::won, race.key(), "any",
            {{"winner", winner ? branches[*winner]->path() : std::string()}, {"losers", losers}, {"why", why}});
  if (has_journal()) add(std::move(won));
}

awaitable<bool> instance::run_race(race_work& race) {
  if (leaving_ != leave_reason::none) co_return false;
  const auto branches = race.branches();
  const record* r = has_journal() ? find(race.key()) : nullptr;
  if (r != nullptr && !r->is_race) {
    leave_changed(race.key(), r->shown(), "a race");
    co_return false;
  }
  std::optional<std::size_t> winner;
  std::string why;
  if (r != nullptr) {  // it is decided: the winner has its results in the journal, the others do not run again
    for (std::size_t i = 0; i < branches.size(); ++i) {
      if (branches[i]->path() == r->winner) winner = i;
    }
    if (!winner && !r->winner.empty()) {
      std::string paths;
      for (const branch_base* each : branches) paths += (paths.empty() ? "'" : ", '") + each->path() + "'";
      leave_changed(race.key(), "'" + r->winner + "', which won", "a race of " + paths);
      co_return false;
    }
    why = r->nested_reason;
    visit_race(*find(race.key()), branches, winner);
    if (winner) {
      branch_base& branch = *branches[*winner];
      branch.control().outer = &race.by();
      branch.control().races = true;
      const bool has_ended = co_await drive(branch.control(), branch.start());
      if (!has_ended) co_return false;
      if (branch.take() != nullptr) {
        leave(leave_reason::stuck, "the body has changed: '" + r->winner + "', which won its race, now fails");
        co_return false;
      }
      race.settle(*winner);
    }
  } else {
    running_branches all{branches, &race};
    const bool has_ended = co_await run_side_by_side(race.by(), all);
    if (!has_ended) co_return false;
    winner = all.winner;
    if (!winner) {
      const auto first = first_of(all.errors);
      why = first ? reason_of(first) : std::string("every branch was stopped");
      if (has_pivoted_) {
        leave(leave_reason::stuck, "failed past its pivot: " + why);
        co_return false;
      }
      settle_race(race, branches, std::nullopt, why);
    }
  }
  if (!winner) race.fail(why);
  if (r != nullptr && r->ended != record::outcome::open) co_return true;
  if (is_rehearsal_) co_return false;
  group losers;
  for (std::size_t i = 0; i < branches.size(); ++i) {
    if (winner != i) losers.push_back(branches[i]->prefix());
  }
  const bool is_back = co_await unwind(std::move(losers));
  if (!is_back) co_return false;
  if (has_journal()) settle({entry_kind::race_over, race.key(), {}, nullptr});
  co_return true;
}

void instance::visit_race(record& race, std::span<branch_base* const> branches, std::optional<std::size_t> winner) {
  visit(race);
  for (std::size_t i = 0; i < branches.size(); ++i) {
    if (winner == i) continue;
    for (record& each : records_) {
      if (each.key.starts_with(branches[i]->prefix())) visit(each);
    }
  }
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
  if (is_changed(branch, true)) return false;
  record* r = find(branch.path());
  if (r == nullptr || r->ended != record::outcome::failed) return false;
  visit_part(*r);
  failed.emplace(r->nested_reason);
  return true;
}

awaitable<bool> instance::run_nested(const fiber& by, branch_base& branch, std::optional<aborted>& failed) {
  if (leaving_ != leave_reason::none) co_return false;
  branch.control().outer = &by;
  record* r = has_journal() ? find(branch.path()) : nullptr;
  if (r != nullptr) visit_part(*r);
  std::string reason = r != nullptr ? r->nested_reason : std::string();
  if (r == nullptr) {
    const bool has_ended = co_await drive(branch.control(), branch.start());
    if (!has_ended) co_return false;
    const auto error = branch.take();
    if (!error) co_return true;
    reason = reason_of(error);
    if (has_pivoted_) {
      leave(leave_reason::stuck, "failed past its pivot: " + reason);
      co_return false;
    }
    if (is_rehearsal_) co_return false;
    if (has_journal()) {
      r = &add({entry_kind::nested_aborted, branch.path(), "", {{"why", reason}}});
      const written kept = co_await flush();
      if (kept != written::yes) co_return false;
    }
  }
  if (is_rehearsal_) co_return false;
  const bool is_back = co_await unwind({1, branch.prefix()});
  if (!is_back) co_return false;
  if (has_journal()) settle({entry_kind::nested_failed, branch.path(), {}, nullptr});
  failed.emplace(reason);
  co_return true;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
