#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/units.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>

#include <algorithm>
#include <atomic>
#include <mutex>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

/// What a call keeps between admit and settle.
struct ticket {
  detail::circuit_permit permit;
  bool refused = false;  // the fallback answers; nothing to record
};

}  // namespace

// ------------------------------------------------------------------------------------------------------- isolation

/// Shared by the switch, its holds and its breakers. The lock is taken before that of a core, and no listener is called
/// under it: the cores deliver with their next call.
struct isolation_switch::state {
  std::mutex mutex;
  std::size_t holds = 0;
  std::vector<detail::circuit_core*> cores;

  void join(detail::circuit_core& core) {
    const std::lock_guard lock(mutex);
    cores.push_back(&core);
    if (holds > 0) core.hold_isolated();
  }
  void leave(detail::circuit_core& core) noexcept {
    const std::lock_guard lock(mutex);
    std::erase(cores, &core);
  }
  void hold() {
    const std::lock_guard lock(mutex);
    if (holds++ > 0) return;
    for (auto* core : cores) core->hold_isolated();
  }
  void release() noexcept {
    const std::lock_guard lock(mutex);
    if (--holds > 0) return;
    for (auto* core : cores) core->release_isolated();
  }
};

isolation_switch::isolation_switch() : state_(std::make_shared<state>()) {}
isolation_switch::~isolation_switch() = default;

isolation_switch::hold isolation_switch::isolate() {
  state_->hold();
  return hold(state_);
}
bool isolation_switch::is_on() const {
  const std::lock_guard lock(state_->mutex);
  return state_->holds > 0;
}

isolation_switch::hold& isolation_switch::hold::operator=(hold&& other) noexcept {
  const hold ended(std::move(*this));
  held_ = std::move(other.held_);
  return *this;
}
isolation_switch::hold::~hold() {
  if (held_) held_->release();
}

// ------------------------------------------------------------------------------------------------ circuit_breaker

/// What few breakers need.
struct circuit_breaker::extras {
  std::mutex mutex;
  std::vector<detail::parked_reference> waiting;  // for a probe's place, or the verdict
  std::atomic<std::uint64_t> told{0};             // the change of which those who waited have been told
  std::vector<std::shared_ptr<isolation_switch::state>> switches;
};

circuit_breaker::circuit_breaker(std::string name, const circuit_breaker_options& options)
    : core_(std::make_shared<const std::string>(std::move(name)), options) {
  if (lets_wait()) extras_ = std::make_unique<extras>();
}

circuit_breaker::~circuit_breaker() {
  if (!extras_) return;
  for (const auto& together : extras_->switches) together->leave(core_);
}

admission circuit_breaker::admit(call& c, policy_slot& slot) noexcept {
  auto& permit = slot.emplace<ticket>().permit;
  if (core_.events().has_listeners()) [[unlikely]]
    publish(circuit_event_kind::fire, c);
  if (core_.watches_flight() || !core_.try_admit(permit)) [[unlikely]]
    return admit_slowly(c, slot);
  if (core_.wants_start()) permit.started = core_.wants_end() ? c.now() : c.coarse_now();
  return admission::go;
}

admission circuit_breaker::admit_slowly(call& c, policy_slot& slot) noexcept {
  auto& mine = slot.get<ticket>();
  try {
    const time_point coarse = c.coarse_now();
    if (auto why = core_.refuse_while_open(coarse)) return refuse(c, slot, std::move(why));
    const bool may_wait = lets_wait();
    auto why = core_.admit(mine.permit, c.now(), !may_wait);
    tell();
    if (!why) return admission::go;
    return may_wait ? admission::wait : refuse(c, slot, std::move(why));
  } catch (...) {
    return refuse(c, slot, failure::current());
  }
}

admission circuit_breaker::refuse(call& c, policy_slot& slot, failure&& why) noexcept {
  publish(circuit_event_kind::reject, c);
  c.refuse(std::move(why));
  if (substitutions_.empty()) return admission::reject;
  slot.get<ticket>().refused = true;
  return admission::substitute;
}

awaitable<admission> circuit_breaker::wait(call& c, policy_slot& slot) {
  auto& permit = slot.get<ticket>().permit;
  const time_point until = saturating_add(c.now(), core_.options().probe_wait);
  for (;;) {
    const std::uint64_t seen = core_.changes();
    const bool last = c.now() >= until;
    auto why = core_.admit(permit, c.now(), false);
    const bool may_wait =
        lets_wait() && core_.state() == circuit_state::half_open && why.is_refusal(errc::circuit_open);
    tell();
    if (!why) co_return admission::go;
    if (last || !may_wait) {
      core_.count_rejection();
      co_return refuse(c, slot, std::move(why));
    }

    detail::parked_reference parked;
    const auto enlist = [&](const detail::parked_reference& self) {
      const std::lock_guard lock(extras_->mutex);
      if (core_.changes() != seen) {  // in the meantime, and nobody saw us wait
        self->wake(wake_reason::woken);
        return;
      }
      extras_->waiting.push_back(self);
      parked = self;
    };
    // A probe that hangs gives up its place by time alone.
    const auto next_place = why.retry_after().value_or(duration::max());
    const wake_reason reason = co_await park(std::min(until, saturating_add(c.now(), next_place)), enlist);
    if (reason != wake_reason::woken) {
      const std::lock_guard lock(extras_->mutex);
      std::erase_if(extras_->waiting, [&](const auto& other) { return &*other == &*parked; });
    }
    if (reason == wake_reason::cancelled) co_return c.refuse(failure::cancelled());
    c.forget_time();
  }
}

void circuit_breaker::tell() noexcept {
  core_.drain_events();
  wake_waiting();
}

void circuit_breaker::wake_waiting() noexcept {
  if (lets_wait() && extras_->told.load(std::memory_order_relaxed) != core_.changes()) wake_all();
}

void circuit_breaker::wake_all() noexcept {
  std::vector<detail::parked_reference> told;
  {
    const std::lock_guard lock(extras_->mutex);
    extras_->told.store(core_.changes(), std::memory_order_relaxed);
    told.swap(extras_->waiting);
  }
  for (const auto& waiting : told) waiting->wake(wake_reason::woken);
}

verdict circuit_breaker::settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept {
  const auto& mine = slot.get<ticket>();
  if (mine.refused) [[unlikely]] {
    if (outcome.has_value()) use_fallback(c);
    return verdict::deliver;
  }
  const auto& permit = mine.permit;
  const outcome_class result = classifier_(outcome);
  if (result == outcome_class::success && !core_.events().has_listeners()) [[likely]] {
    if (core_.record_clean_success(permit)) [[likely]]
      return verdict::deliver;
  }
  return settle_slowly(c, permit, result, outcome);
}

verdict circuit_breaker::settle_slowly(call& c, const detail::circuit_permit& permit, outcome_class result,
                                       const outcome_view& outcome) noexcept {
  const bool failed = result == outcome_class::failure;
  const bool timed_out = failed && outcome.why().is_refusal(errc::timed_out);
  if (timed_out) core_.count_timeout();
  const time_point ended =
      result != outcome_class::success || permit.probe != 0 || core_.wants_end() ? c.now() : permit.started;
  const bool decide = core_.record(permit, result, ended);
  const duration latency = core_.wants_end() ? ended - permit.started : duration::zero();
  // The order of opossum: a trial's `closed` before its `success`, a failure before the `opened` it causes.
  if (timed_out) publish(circuit_event_kind::timeout, c, latency);
  if (failed) publish(circuit_event_kind::failure, c, latency);
  if (decide) {
    try {
      core_.evaluate(permit, c.now(), outcome.has_value() ? nullptr : outcome.why().exception());
    } catch (...) {
      core_.evaluate(permit, c.now(), nullptr);  // no memory for the cause; the verdict stands
    }
  }
  tell();
  if (result == outcome_class::success) publish(circuit_event_kind::success, c, latency);
  if (!failed || outcome.has_value() || substitution(outcome.type()) == nullptr) return verdict::deliver;
  use_fallback(c);
  return verdict::substitute;
}

void circuit_breaker::use_fallback(call& c) noexcept {
  core_.count_fallback();
  publish(circuit_event_kind::fallback, c);
}

void circuit_breaker::abandon(policy_slot& slot) noexcept {
  const auto& mine = slot.get<ticket>();
  if (mine.refused) return;
  core_.abandon(mine.permit);
  wake_waiting();
}

void circuit_breaker::publish(circuit_event_kind kind, call& c, duration latency) noexcept {
  auto& events = core_.events();
  if (!events.has_listeners()) return;
  try {
    circuit_event event;
    event.kind = kind;
    event.circuit = core_.name();
    event.from = event.to = core_.state();
    event.at = c.now();
    event.latency = latency;
    events.publish(std::move(event));
  } catch (...) {
    // An event without memory is lost, the call is not.
  }
}

circuit_breaker& circuit_breaker::on(circuit_event_kind kind, std::function<void(const circuit_event&)> listen) {
  core_.events()
      .subscribe([kind, listen = std::move(listen)](const circuit_event& event) {
        if (event.kind == kind) listen(event);
      })
      .detach();
  return *this;
}

subscription circuit_breaker::subscribe(std::function<void(const circuit_event&)> listen) {
  return core_.events().subscribe(std::move(listen));
}

circuit_breaker& circuit_breaker::break_duration(std::function<duration(const break_context&)> generator) {
  core_.set_break_generator(std::move(generator));
  return *this;
}

circuit_breaker& circuit_breaker::isolated_by(isolation_switch& together) {
  if (!extras_) extras_ = std::make_unique<extras>();
  extras_->switches.push_back(together.state_);
  together.state_->join(core_);
  return *this;
}

void circuit_breaker::open() {
  core_.open();
  tell();
}
void circuit_breaker::close() {
  core_.close();
  tell();
}
void circuit_breaker::reset() {
  core_.reset();
  tell();
}
void circuit_breaker::set_mode(circuit_mode mode) {
  core_.set_mode(mode);
  tell();
}
void circuit_breaker::reconfigure(const circuit_breaker_options& options) {
  put_in_force(options);
  tell_of_options();
}
void circuit_breaker::put_in_force(const circuit_breaker_options& options) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  if (!extras_) extras_ = std::make_unique<extras>();  // before options that make use of it
  core_.reconfigure(options);
}
void circuit_breaker::tell_of_options() noexcept {
  core_.drain_events();
  wake_all();
}
void circuit_breaker::end_break() {
  core_.end_break();
  tell();
}
void circuit_breaker::import_state(const circuit_snapshot& snapshot) {
  core_.restore(snapshot);
  tell();
}

bool circuit_breaker::is_idle(time_point now) const noexcept {
  try {
    const auto s = core_.stats(now);
    return s.state == circuit_state::closed && s.mode == core_.options().mode && !s.ramping && s.failures == 0 &&
           s.slow == 0;
  } catch (...) {
    return false;
  }
}

std::string circuit_breaker::describe() const {
  const auto& o = core_.options();
  const auto percent = [](double ratio) { return std::to_string(static_cast<int>(ratio * 100 + 0.5)) + " %"; };
  std::string text = *core_.name() + ": circuit breaker, opens at " + percent(o.failure_ratio) + " failures";
  if (o.slow_call_duration > duration::zero()) {
    text += " or " + percent(o.slow_call_ratio) + " slower than " + to_string(o.slow_call_duration);
  }
  text +=
      o.window_calls > 0 ? " of the last " + std::to_string(o.window_calls) + " calls" : " in " + to_string(o.window);
  if (o.failures_in_window > 0) text += " or at " + std::to_string(o.failures_in_window) + " failures";
  text += ", breaks for " + to_string(o.break_duration);
  return o.ramp > duration::zero() ? text + " and ramps up in " + to_string(o.ramp) : text;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
