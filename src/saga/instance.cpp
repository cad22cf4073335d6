// The life of one saga: its way forward and back, and how it leaves.
#include "instance.hpp"

#include "engine_state.hpp"

#include <algorithm>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {

std::string reason_of(const std::exception_ptr& error) {
  const auto why = failure::thrown(error);
  return as_utf8(why.message());
}

instance::instance(std::shared_ptr<engine_state> engine, std::string id, duration limit)
    : engine_(std::move(engine)), id_(std::move(id)), limit_(limit) {}

instance::instance(std::shared_ptr<engine_state> engine, std::string id, const definition& what, nlohmann::json input,
                   std::int64_t deadline)
    : engine_(std::move(engine)),
      id_(std::move(id)),
      definition_(&what),
      input_(std::move(input)),
      deadline_(deadline) {}

instance::instance(std::shared_ptr<engine_state> engine, std::string id, const definition& what, nlohmann::json input,
                   std::int64_t deadline, std::string parent)
    : instance(std::move(engine), std::move(id), what, std::move(input), deadline) {
  parent_ = std::move(parent);
  is_inserted_ = true;
  report_birth(true);
}

instance::instance(std::shared_ptr<engine_state> engine, const definition& what, const row& found)
    : engine_(std::move(engine)),
      id_(found.get<std::string>("id")),
      definition_(&what),
      seq_(found.get<std::uint64_t>("seq")),
      epoch_(found.get<std::uint64_t>("epoch")),
      is_inserted_(true),
      is_to_load_(true),
      has_pivoted_(found.get<std::int64_t>("pivoted") != 0),
      claims_(found.get<std::uint32_t>("claims")),
      reason_(found.get<std::optional<std::string>>("reason").value_or("")),
      cancel_reason_(found.get<std::optional<std::string>>("cancel_reason").value_or("")),
      parent_(found.get<std::optional<std::string>>("parent").value_or("")),
      deadline_(found.get<std::optional<std::int64_t>>("deadline").value_or(for_ever)) {
  input_ = found.get<std::string>("input");  // parsed by load(), where an error can be reported
  report_birth(true);
}

std::int64_t instance::now() const { return to_microseconds(engine_->timers->date()); }

void instance::publish(saga_event::kind what, std::string_view key, std::uint32_t attempt, std::string_view message) {
  if (!engine_->events.has_listeners()) return;
  engine_->events.publish(
      {what, id_, definition_ ? definition_->name : std::string(), std::string(key), attempt, std::string(message)});
}

// ------------------------------------------------------------------------------------------------------------- birth

void instance::report_birth(std::optional<bool> is_new, failure why) {
  std::vector<cofferdam::detail::parked_reference> expecting;
  {
    const std::lock_guard lock(birth_mutex_);
    if (birth_) return;
    if (is_new == false) is_let_go_ = true;  // the row is that of another one
    if (is_new) {
      birth_.emplace(*is_new);
    } else {
      birth_.emplace(std::move(why));
    }
    expecting.swap(expecting_);
  }
  for (const auto& each : expecting) each->wake(wake_reason::woken);
}

awaitable<bool> instance::wait_until_born() {
  for (;;) {
    const auto is_over = [this] { return birth_.has_value(); };
    const auto woken = co_await park(never, cofferdam::detail::wait_among(expecting_, birth_mutex_, is_over));
    const std::lock_guard lock(birth_mutex_);
    if (birth_) co_return birth_->value();
    if (woken == wake_reason::cancelled) failure::cancelled().raise();
  }
}

// ----------------------------------------------------------------------------------------------------------- control

void instance::start(const net::any_io_executor& executor) {
  strand_ = cofferdam::detail::own_strand(executor);
  const auto run = [](std::shared_ptr<instance> self) { return self->live(); };
  running_.emplace(spawn(*strand_, run, shared_from_this()));
}

void instance::leave(leave_reason why, std::string text) {
  if (leaving_ != leave_reason::none) return;
  leaving_ = why;
  leaving_text_ = as_utf8(text);
  wake_waits();
}

void instance::wake_waits() {
  ++wakes_;
  woken_ = waits_;
  const auto waiting = std::exchange(waiting_, {});
  for (const auto& each : waiting) each->wake(wake_reason::woken);
}

void instance::leave_soon(leave_reason why, bool at_once) {
  if (!strand_) return;
  net::dispatch(*strand_, [self = shared_from_this(), why, at_once] {
    if (self->has_aborted_ && why == leave_reason::goes_back) return;
    self->leave(why, why == leave_reason::goes_back ? self->cancel_reason_ : std::string());
    if (at_once && self->running_) self->running_->cancel();
  });
}

void instance::look_again() {
  if (!strand_) return;
  net::dispatch(*strand_, [self = shared_from_this()] { self->wake_waits(); });
}

awaitable<void> instance::rest(duration d) {
  const auto until = saturating_add(engine_->timers != nullptr ? engine_->timers->now() : time_point(), d);
  (void)co_await park(until, [this](const cofferdam::detail::parked_reference& self) { waiting_.push_back(self); });
}

// --------------------------------------------------------------------------------------------------------------- life

/// True where the saga was cancelled, or its deadline is over, and it can still go back: then it does.
bool instance::must_go_back() {
  if (is_rehearsal_) return false;  // also a recorded history, whose deadline is long over, is compared
  const bool is_wanted = !cancel_reason_.empty() || (deadline_ != for_ever && now() >= deadline_);
  if (!is_wanted || has_aborted_ || has_pivoted_ || is_pivot_in_doubt()) return false;
  leave(leave_reason::goes_back, cancel_reason_.empty() ? "its deadline is over" : cancel_reason_);
  return true;
}

bool instance::is_pivot(const record& r) const {
  const auto* step = r.is_step ? definition_->find(r.step) : nullptr;
  return step != nullptr && step->kind == step_kind::pivot;
}

bool instance::is_pivot_in_doubt() const {
  const auto may_have_happened = [this](const record& r) {
    // What is written together with its outcome has not happened without it.
    return r.ended == record::outcome::open && !r.is_undone && is_pivot(r) && definition_->find(r.step)->act;
  };
  return pivots_in_doubt_ > 0 || std::ranges::any_of(records_, may_have_happened);
}

/// True when the saga has ended, or left; false when it has to go back.
awaitable<bool> instance::go_forward() {
  std::unique_ptr<branch_base> root;
  std::string broken;
  try {
    root = definition_->begin(*this, {}, input_);
  } catch (const std::exception& e) {
    broken = "its input cannot be read: " + std::string(e.what());
  }
  if (!root) {
    co_await set_aside(saga_state::stuck, broken, std::nullopt);
    co_return true;
  }
  bool has_ended = false;
  try {
    const auto body = root->start();
    has_ended = co_await drive(root->control(), body);
  } catch (const std::exception& e) {
    if (!failure::current(e).is_cancellation()) leave(leave_reason::stuck, e.what());
  }
  co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
  if (has_ended) {
    std::exception_ptr error = root->take();
    nlohmann::json output;
    if (!error && !unvisited_.empty()) {
      leave_changed({}, unvisited_keys(), "nothing more");
    } else if (!error) {
      try {
        output = definition_->output(*root);
        (void)output.dump();
      } catch (const std::exception& e) {
        leave(leave_reason::stuck, "what the body returned cannot be stored: " + std::string(e.what()));
      }
    } else if (has_pivoted_) {
      leave(leave_reason::stuck, "failed past its pivot: " + reason_of(error));
    } else {
      cause_ = error;
      leave(leave_reason::goes_back, reason_of(error));
    }
    root.reset();
    if (leaving_ == leave_reason::none) {
      co_await finish(saga_state::completed, {}, std::move(output), nullptr);
      co_return true;
    }
  }
  root.reset();  // frames end before the saga is anybody else's
  switch (leaving_) {
    case leave_reason::goes_back:
      co_return false;
    case leave_reason::parked:
      co_await set_aside(saga_state::waiting, {}, next_wake_);
      break;
    case leave_reason::stuck:
      co_await set_aside(saga_state::stuck, leaving_text_, std::nullopt);
      break;
    case leave_reason::handed_back:
    case leave_reason::none:  // cancelled with its context
      co_await set_aside(state_, {}, 0);
      break;
    case leave_reason::lost:
      break;
  }
  co_return true;
}

awaitable<void> instance::live() {
  const auto engine = engine_;
  const auto self = shared_from_this();
  std::string broken;
  const bool has_died = claims_ > engine_->options.max_claims;
  if (has_died) {
    broken = "taken over " + std::to_string(claims_) + " times without getting on: its process seems to die of it";
  }
  try {
    if (is_to_load_ && !has_died) co_await load();
  } catch (const saga_error& e) {
    broken = e.what();
  } catch (const std::exception& e) {
    const failure why = failure::current(e);
    if (why.code() == errc::type_mismatch) {
      broken = "the saga '" + id_ + "': its journal: " + why.message();
    } else {
      leave(leave_reason::lost);  // it stays as it is, until somebody takes it up again
    }
  }
  if (broken.empty() && leaving_ == leave_reason::lost) {
    publish(saga_event::kind::lost);
    engine->exit(*this);
    co_return;
  }
  if (!broken.empty()) {
    co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
    co_await set_aside(saga_state::stuck, broken, std::nullopt);
  } else {
    bool goes_back = has_aborted_ || must_go_back();
    if (!goes_back) {
      const bool is_over = co_await go_forward();
      goes_back = !is_over;
    }
    if (goes_back) {
      co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
      std::optional<std::string> wrong;
      try {
        co_await go_back();
      } catch (const std::exception& e) {
        wrong = as_utf8(e.what());
        const bool is_away = dynamic_cast<const storage_error*>(&e) != nullptr || leaving_ == leave_reason::lost ||
                             leaving_ == leave_reason::handed_back;
        if (is_away) wrong.reset();
        if (is_away) publish(saga_event::kind::lost);  // it stays as it is, until somebody takes it up again
      }
      if (wrong) co_await set_aside(saga_state::stuck, "it cannot go back: " + *wrong, std::nullopt);
    }
  }
  report_birth(std::nullopt, failure::refused(errc::database_unavailable));
  if (beats_ > 0) {
    co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
    co_await end_beats();
  }
  engine->exit(*this);
}

/// From the decision, which is durable before the first undo, to the last one.
awaitable<void> instance::go_back() {
  if (!has_aborted_) {
    reason_ = leaving_text_;
    has_aborted_ = true;
    state_ = saga_state::compensating;
    note({entry_kind::aborted, "", "", {{"why", reason_}}});
    publish(saga_event::kind::aborted, {}, 0, reason_);
    leaving_ = leave_reason::none;
    busy_ = 1;  // the fibers of the body are gone
    waits_ = woken_ = 0;
    signals_seen_ = for_ever;
    const written kept = co_await flush();
    if (kept != written::yes) co_return;
  }
  state_ = saga_state::compensating;
  const bool is_back = co_await unwind(everything());
  if (is_back) {
    co_await finish(saga_state::compensated, reason_, nullptr, cause_);
    co_return;
  }
  if (leaving_ == leave_reason::parked) co_await set_aside(saga_state::compensating, reason_, next_wake_);
  if (leaving_ == leave_reason::stuck) co_await set_aside(saga_state::stuck, leaving_text_, std::nullopt);
  if (leaving_ == leave_reason::handed_back) co_await set_aside(saga_state::compensating, reason_, 0);
}

awaitable<ending> instance::live_here(branch_base& root) {
  const auto executor = co_await net::this_coro::executor;
  if (engine_->timers == nullptr) engine_->timers = &timers_of(executor);
  strand_ = executor;
  if (limit_ < duration::max()) deadline_ = time_after(now(), limit_);
  bool has_ended = false;
  std::exception_ptr error;
  try {
    const auto body = root.start();
    has_ended = co_await drive(root.control(), body);
  } catch (...) {
    error = std::current_exception();
  }
  if (has_ended) error = root.take();
  if (has_ended && !error) co_return ending{saga_state::completed, {}, {}, nullptr};
  if (leaving_ == leave_reason::stuck) {
    co_await net::this_coro::reset_cancellation_state();
    co_return ending{saga_state::stuck, leaving_text_, {}, error};
  }
  co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
  ending how{saga_state::compensated, error ? reason_of(error) : leaving_text_, {}, error};
  if (has_pivoted_ || pivots_in_doubt_ > 0) {
    how.state = saga_state::stuck;
    how.reason =
        (has_pivoted_ ? "failed past its pivot: " : "nobody knows whether its pivot has happened: ") + how.reason;
  } else {
    leaving_ = leave_reason::none;
    has_aborted_ = true;
    publish(saga_event::kind::aborted, {}, 0, how.reason);
    const bool is_back = co_await unwind(everything());
    if (!is_back) how.state = saga_state::stuck;
    if (!is_back) how.reason += "; and then: " + leaving_text_;
    if (is_back) publish(saga_event::kind::compensated, {}, 0, how.reason);
  }
  co_await net::this_coro::reset_cancellation_state();
  co_return how;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
