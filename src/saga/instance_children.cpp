// Sagas that a saga runs: begun with its own journal, waited for, and undone with it.
#include "engine_state.hpp"

#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {
namespace {

struct child_state {
  std::optional<saga_state> state;  // none: there is no such saga
  std::string reason;
  std::optional<std::string> output;
  bool has_pivoted = false, is_cancelled = false;
  std::int64_t signals = 0;  // of the parent
};

/// One query: the parent's count must not tell of an end that is not seen, or it would park over it.
statement question_about(const std::string& parent, const std::string& child) {
  return statement(
      "select s.signals, c.state, c.reason, c.output, c.pivoted, c.cancel_reason from cofferdam_sagas s left join "
      "cofferdam_sagas c on c.id = $2 where s.id = $1",
      parent, child);
}

child_state child_in(const rows& found) {
  child_state seen;
  if (found.empty()) return seen;
  const row r = found.front();
  seen.signals = r.get<std::int64_t>(0);
  if (r[1].is_null()) return seen;
  seen.state = static_cast<saga_state>(r.get<int>(1));
  seen.reason = r.get<std::optional<std::string>>(2).value_or("");
  seen.output = r.get<std::optional<std::string>>(3);
  seen.has_pivoted = r.get<bool>(4);
  seen.is_cancelled = !r[5].is_null();
  return seen;
}

/// What a child that is past its pivot leaves in a saga without a journal.
class past_child final : public past_step {
 public:
  explicit past_child(std::string at) : past_step(std::move(at), {}, undo_kind::blind, true) {}
  awaitable<void> undo(step_context&) override {
    throw cannot_undo("the child saga is past its pivot");
    co_return;
  }
  awaitable<void> act(step_context&) override { co_return; }
};

step_failed failed_child(const std::string& name, const std::string& how) {
  return {name, step_failed::reason::refused, how, "child_failed"};
}

}  // namespace

bool instance::replay(child_work& child) {
  if (!has_journal() || leaving_ != leave_reason::none) return false;
  record* r = find(child.key());
  if (r == nullptr) return false;
  const nlohmann::json input = child.input();
  if (!r->is_child || !r->has_arguments(input)) {
    leave_changed(child.key(), r->shown(), "a saga with " + input.dump());
    return false;
  }
  visit(*r);
  if (r->ended == record::outcome::open) return false;
  if (r->ended == record::outcome::failed) {
    child.fail(*r->why);
  } else {
    child.settle(r->result);
  }
  return true;
}

awaitable<bool> instance::run_child(child_work& child) {
  if (leaving_ != leave_reason::none || must_go_back()) co_return false;
  if (child.by().is_stopped()) {
    child.fail(step_failed(child.key(), step_failed::reason::stopped, {}, {}));
    co_return true;
  }
  if (has_pivoted_) {
    leave(leave_reason::stuck,
          "'" + child.key() + "' calls a saga after the pivot: it may fail, so it must come before");
    co_return false;
  }
  if (!has_journal()) co_return co_await run_child_here(child);
  if (find(child.key()) == nullptr) {
    const bool has_begun = co_await begin_child(child);
    if (!has_begun) co_return false;
  }
  if (is_rehearsal_) {
    (void)diverges(child.key());
    co_return false;
  }
  const std::string name = find(child.key())->step;
  for (;;) {
    if (leaving_ != leave_reason::none) co_return false;
    if (child.by().is_stopped()) {
      child.fail(step_failed(child.key(), step_failed::reason::stopped, {}, {}));
      co_return true;
    }
    const statement question = question_about(id_, id_ + '/' + child.key());
    const rows found = co_await look_up(question);
    const child_state seen = child_in(found);
    if (leaving_ != leave_reason::none) co_return false;
    if (!seen.state) {
      leave(leave_reason::stuck, "the child saga '" + id_ + '/' + child.key() + "' is not there any more");
      co_return false;
    }
    if (*seen.state == saga_state::completed) {
      nlohmann::json output = parse_stored(id_, "the output of '" + child.key() + "'", seen.output.value_or("null"));
      child.settle(output);
      settle({entry_kind::succeeded, child.key(), {}, std::move(output)});
      publish(saga_event::kind::step_succeeded, child.key());
      co_return true;
    }
    if (is_final(*seen.state)) {
      const char* how = *seen.state == saga_state::abandoned ? "was given up" : "went back";
      const auto why = failed_child(name, std::string(how) + (seen.reason.empty() ? "" : ": ") + seen.reason);
      child.fail(why);
      settle({entry_kind::failed,
              child.key(),
              {},
              {{"reason", static_cast<int>(why.why())}, {"message", why.message()}, {"code", why.code()}}});
      publish(saga_event::kind::step_failed, child.key(), 0, why.message());
      co_return true;
    }
    const bool goes_on = co_await wait_until(for_ever, seen.signals);
    if (!goes_on) co_return false;
  }
}

/// Its row is there together with our entry that says so. It begins here, when there is room.
awaitable<bool> instance::begin_child(child_work& child) {
  if (diverges(child.key())) co_return false;
  const definition* what = engine_->newest(child.body(), child.chain());
  if (what == nullptr) {
    leave(leave_reason::stuck, "'" + child.key() + "' calls a saga that was not defined: call define() for it, too");
    co_return false;
  }
  if (is_rehearsal_) co_return false;
  const std::string input = child.input().dump();
  if (input.size() > engine_->options.max_payload) {
    leave(leave_reason::stuck, "the input of '" + child.key() + "' has more than max_payload bytes");
    co_return false;
  }
  const std::string id = id_ + '/' + child.key();
  const auto made = std::make_shared<instance>(engine_, id, *what, child.input(), deadline_, id_);
  const bool is_here = engine_->has_room() && engine_->enter(made);
  batch own;
  insert_saga(own, {id, *what, input, deadline_, id_}, is_here ? std::optional(engine_->worker) : std::nullopt, now());
  entry called(entry_kind::called, child.key(), what->name, {{"input", child.input()}});
  written how = written::lost;
  try {
    how = co_await flush_with(called, std::move(own));
  } catch (...) {  // cancelled while it waited for its turn to write
    if (is_here) engine_->exit(*made);
    throw;
  }
  if (how != written::yes) {
    if (is_here) engine_->exit(*made);
    if (how == written::refused) leave(leave_reason::stuck, "the id '" + id + "' belongs to a saga of somebody else");
    co_return false;
  }
  find(child.key())->is_visited = true;
  if (is_here) made->start(engine_->executor);
  co_return leaving_ == leave_reason::none;
}

/// Without a journal a child is a part of its parent.
awaitable<bool> instance::run_child_here(child_work& child) {
  const definition what = child.make();
  const auto branch = what.begin(*this, child.key(), child.input());
  branch->control().outer = &child.by();
  const bool has_ended = co_await drive(branch->control(), branch->start());
  if (!has_ended) co_return false;
  const auto error = branch->take();
  if (!error) {
    child.settle(what.output(*branch));
    // The pivot was the child's: its parent can go on, but not back.
    if (std::exchange(has_pivoted_, false)) past_.push_back(std::make_unique<past_child>(child.key()));
    co_return true;
  }
  const std::string why = reason_of(error);
  if (has_pivoted_) {
    leave(leave_reason::stuck, "failed past its pivot: " + why);
    co_return false;
  }
  const bool is_back = co_await unwind({1, branch->prefix()});
  if (is_back) child.fail(failed_child(child.key(), "went back: " + why));
  co_return is_back;
}

/// Cancels a child, or takes it up again where it has completed, and waits until it is undone.
awaitable<bool> instance::undo_child(const record& r) {
  const std::string id = id_ + '/' + r.key;
  for (;;) {
    if (!buffer_.empty()) {
      const written kept = co_await flush();
      if (kept != written::yes) co_return false;
    }
    if (engine_->is_dead("before an undo")) leave(leave_reason::lost);
    if (leaving_ != leave_reason::none) co_return false;
    const statement question = question_about(id_, id);
    const rows found = co_await look_up(question);
    const child_state seen = child_in(found);
    if (leaving_ != leave_reason::none) co_return false;
    if (!seen.state || *seen.state == saga_state::compensated) {
      publish(saga_event::kind::undone, r.key);
      settle({entry_kind::undone, r.key, {}, nullptr});
      co_return true;
    }
    if (seen.has_pivoted || *seen.state == saga_state::abandoned) {
      leave(leave_reason::stuck, "'" + r.key + "' cannot be undone: the child saga '" + id + "' " +
                                     (seen.has_pivoted ? "is past its pivot" : "was given up"));
      co_return false;
    }
    if (!seen.is_cancelled && *seen.state != saga_state::compensating) {
      batch b;
      b.execute(
          "update cofferdam_sagas set epoch = epoch + 1, owner = null, wake_at = 0, claims = 0, reason = null, output "
          "= null, state = 0, cancel_reason = $2 where id = $1 and state in (0, 1, 3, 5) and pivoted = 0 and "
          "cancel_reason is null",
          id, "the saga '" + id_ + "', which called it, goes back");
      const auto done = co_await engine_->db->try_commit(std::move(b));
      if (!done) {
        co_await rest(std::chrono::seconds(1));
        continue;
      }
      if (const auto present = engine_->find(id)) present->leave_soon(leave_reason::lost, true);
    }
    const bool goes_on = co_await wait_until(for_ever, seen.signals);
    if (!goes_on) co_return false;
  }
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
