#include <cofferdam/core/units.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

/// What a call keeps between admit and settle.
struct ticket {
  detail::circuit_permit permit;
  bool refused = false;  // the fallback answers; nothing to record
};

}  // namespace

circuit_breaker::circuit_breaker(std::string name, const circuit_breaker_options& options)
    : core_(std::make_shared<const std::string>(std::move(name)), options) {}

circuit_breaker::~circuit_breaker() = default;

admission circuit_breaker::admit(call& c, policy_slot& slot) noexcept {
  auto& permit = slot.emplace<ticket>().permit;
  if (core_.events().has_listeners()) [[unlikely]]
    publish(circuit_event_kind::fire, c);
  if (!core_.try_admit(permit)) [[unlikely]]
    return admit_slowly(c, slot);
  if (core_.wants_start()) permit.started = core_.wants_end() ? c.now() : c.coarse_now();
  return admission::go;
}

admission circuit_breaker::admit_slowly(call& c, policy_slot& slot) noexcept {
  auto& mine = slot.get<ticket>();
  try {
    // Most refusals happen far from the end of the break, where the cheap clock is good enough.
    const time_point coarse = c.coarse_now();
    auto why = core_.admit(mine.permit, core_.surely_open(coarse) ? coarse : c.now());
    core_.drain_events();
    if (!why) return admission::go;
    publish(circuit_event_kind::reject, c);
    c.refuse(std::move(why));
  } catch (...) {
    c.refuse(failure::current());
  }
  if (substitutions_.empty()) return admission::reject;
  mine.refused = true;
  return admission::substitute;
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
  core_.drain_events();
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

void circuit_breaker::open() {
  core_.open();
  core_.drain_events();
}
void circuit_breaker::close() {
  core_.close();
  core_.drain_events();
}
void circuit_breaker::reset() {
  core_.reset();
  core_.drain_events();
}
void circuit_breaker::set_mode(circuit_mode mode) {
  core_.set_mode(mode);
  core_.drain_events();
}
void circuit_breaker::import_state(const circuit_snapshot& snapshot) {
  core_.restore(snapshot);
  core_.drain_events();
}

bool circuit_breaker::is_idle(time_point now) const noexcept {
  try {
    const auto s = core_.stats(now);
    return s.state == circuit_state::closed && s.mode == core_.options().mode && s.failures == 0 && s.slow == 0;
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
  return text + ", breaks for " + to_string(o.break_duration);
}

}  // namespace cofferdam::inline COFFERDAM_ABI
