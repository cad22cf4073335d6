// The circuit breaker: refuses calls to a dependency that keeps failing, and tries it again after a while.
//
//     circuit_breaker breaker{"payments", {.failure_ratio = 0.5, .window = 30s}};
//     auto receipt = co_await breaker.fire(charge, order);
#pragma once

#include <cofferdam/resilience/circuit_options.hpp>
#include <cofferdam/resilience/detail/circuit_core.hpp>
#include <cofferdam/resilience/detail/substitutions.hpp>
#include <cofferdam/resilience/pipeline.hpp>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

template <class F> class guarded_function;

/// Isolates any number of circuit breakers together, for as long as anybody wants it: made once per dependency or
/// region, given to each of its breakers by `isolated_by`. A breaker may obey several.
/// Thread safety: every member from any thread. May end before its breakers, which are then free.
class isolation_switch {
 public:
  isolation_switch();
  ~isolation_switch();
  isolation_switch(const isolation_switch&) = delete;
  isolation_switch& operator=(const isolation_switch&) = delete;

  class hold;
  /// Refuses all calls of all its breakers with `circuit_isolated_error` until the last hold is gone.
  [[nodiscard]] hold isolate();
  [[nodiscard]] bool is_on() const;

 private:
  friend class circuit_breaker;
  struct state;
  std::shared_ptr<state> state_;
};

/// Ends its part of an isolation when destroyed.
class [[nodiscard]] isolation_switch::hold {
 public:
  hold(hold&& other) noexcept = default;
  hold& operator=(hold&& other) noexcept;
  ~hold();

 private:
  friend class isolation_switch;
  explicit hold(std::shared_ptr<state> held) noexcept : held_(std::move(held)) {}
  std::shared_ptr<state> held_;
};

/// Closed, it counts the outcomes of calls in a window (of time, or of the last N calls) and opens when the share of
/// failures or of slow calls reaches a threshold. Open, it refuses at once, with the time until the next trial. After
/// the break it is half-open: it lets `probes` calls through and closes or re-opens as soon as their outcome is
/// certain.
///
/// Every result is attributed to the epoch its call was admitted in: one that arrives after a transition moves nothing.
/// A cancelled probe gives its place back; one that hangs loses it after `probe_deadline`. With a `ramp` it lets calls
/// in gradually after a break; with a `probe_wait` calls wait for the probes' verdict in place of being refused.
///
/// Errors of calls: `circuit_open_error`, `circuit_isolated_error` with the last failure as cause.
/// Thread safety:   every member from any thread, set-up (classify, on, fallback, break_duration) before the first
/// call. Source:          Nygard, Release It! (2007); attribution after gobreaker and seatbelt; options of opossum,
/// resilience4j.
class circuit_breaker final : public runnable_policy<circuit_breaker> {
 public:
  /// Errors: `invalid_options_error` naming every bad option.
  explicit circuit_breaker(std::string name, const circuit_breaker_options& options = {});
  ~circuit_breaker() override;
  circuit_breaker(const circuit_breaker&) = delete;
  circuit_breaker& operator=(const circuit_breaker&) = delete;

  // --- calls
  /// Runs `task(args...)` if the circuit lets it; see `runnable::run`.
  template <class F, class... Args>
    requires task_with<F, Args...>
  [[nodiscard]] awaitable<run_value_t<F, Args...>> fire(F&& task, Args&&... args) {
    COFFERDAM_GUARD_TASK(F);
    return run(std::forward<F>(task), std::forward<Args>(args)...);
  }
  /// As `fire`; a refusal is a value.
  template <class F, class... Args>
    requires task_with<F, Args...>
  [[nodiscard]] awaitable<outcome<run_value_t<F, Args...>>> try_fire(F&& task, Args&&... args) {
    COFFERDAM_GUARD_TASK(F);
    return try_run(std::forward<F>(task), std::forward<Args>(args)...);
  }
  /// A breaker around one function, for `co_await guarded.fire(args...)`.
  template <class F> [[nodiscard]] guarded_function<F> guard(F function);

  // --- set-up
  /// Adds a rule that decides which outcomes are failures; see `classifier`.
  template <class Rule> circuit_breaker& classify(Rule rule) {
    classifier_.add(std::move(rule));
    return *this;
  }
  /// What to answer instead of a failure or refusal: a function of nothing, or of the `failure`, returning T or
  /// awaitable<T>. Used for calls that yield exactly T; one per type. Not used for cancelled calls.
  template <class F> circuit_breaker& fallback(F function) {
    substitutions_.set(std::move(function));
    return *this;
  }
  /// Calls `listen` for every event of this kind, for the breaker's life.
  circuit_breaker& on(circuit_event_kind kind, std::function<void(const circuit_event&)> listen);
  /// Calls `listen` for every event while the subscription lives.
  [[nodiscard]] subscription subscribe(std::function<void(const circuit_event&)> listen);
  /// The length of each break from a function, called without any lock; clamped to `max_break_duration`. One that
  /// throws leaves the growth formula in force.
  circuit_breaker& break_duration(std::function<duration(const break_context&)> generator);
  /// Isolates it whenever `together` does, at once if it does now. Listeners hear of it with the next call.
  circuit_breaker& isolated_by(isolation_switch& together);

  // --- control
  /// Opens now; the break starts with the next call. No effect when open.
  void open();
  /// Closes now, with an empty window. No effect when closed.
  void close();
  /// Back to the state after construction, counters aside.
  void reset();
  /// Refuses everything with `circuit_isolated_error` until `set_mode(circuit_mode::normal)`.
  void isolate() { set_mode(circuit_mode::isolated); }
  void set_mode(circuit_mode mode);
  /// Puts other options in force. State, break in progress, counters and results in flight stay, and so does what the
  /// window holds, but for a window of time whose length, buckets or kinds of results have changed: it begins anew. The
  /// next result is judged by the new thresholds, the next break has the new length; another `mode` is set at once.
  /// Old options, and windows that have another shape, are kept until the breaker ends.
  /// Errors: `invalid_options_error`; nothing has changed then.
  void reconfigure(const circuit_breaker_options& options);
  /// Those in force.
  [[nodiscard]] const circuit_breaker_options& options() const noexcept { return core_.options(); }
  /// Ends the present break: the next call is a probe. No effect unless open.
  void end_break();

  // --- observation
  [[nodiscard]] std::string_view name() const noexcept { return *core_.name(); }
  /// The state as the last call left it: an open circuit whose break is over stays open until somebody calls.
  [[nodiscard]] circuit_state state() const noexcept { return core_.state(); }
  [[nodiscard]] circuit_mode mode() const { return core_.mode(); }
  /// As of the last call that failed or changed something.
  [[nodiscard]] circuit_stats stats() const { return core_.stats(std::nullopt); }
  /// As of `now` on the timeline of the callers' timer service.
  [[nodiscard]] circuit_stats stats(time_point now) const { return core_.stats(now); }
  [[nodiscard]] circuit_snapshot export_state(time_point now) const { return core_.snapshot(now); }
  void import_state(const circuit_snapshot& snapshot);

  // --- the policy
  [[nodiscard]] admission admit(call& c, policy_slot& slot) noexcept override;
  [[nodiscard]] verdict settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept override;
  void abandon(policy_slot& slot) noexcept override;
  /// For the probes' verdict, with `probe_wait`.
  [[nodiscard]] awaitable<admission> wait(call& c, policy_slot& slot) override;
  [[nodiscard]] const void* substitution(const std::type_info& type) const noexcept override {
    return substitutions_.find(type);
  }
  /// Closed, in the mode it was made with, and without a failure or slow call in its window.
  [[nodiscard]] bool is_idle(time_point now) const noexcept override;
  [[nodiscard]] bool is_tripped() const noexcept override { return core_.refuses_all(); }
  [[nodiscard]] std::string describe() const override;

 private:
  friend class configuration;  // puts many options in force at once, and only then tells of them
  struct extras;

  void put_in_force(const circuit_breaker_options& options);
  void tell_of_options() noexcept;
  admission admit_slowly(call& c, policy_slot& slot) noexcept;
  admission refuse(call& c, policy_slot& slot, failure&& why) noexcept;
  /// After anything that may have changed the state: tells listeners, and whoever waits.
  void tell() noexcept;
  void wake_waiting() noexcept;
  void wake_all() noexcept;
  [[nodiscard]] bool lets_wait() const noexcept { return core_.options().probe_wait > duration::zero(); }
  verdict settle_slowly(call& c, const detail::circuit_permit& permit, outcome_class result,
                        const outcome_view& outcome) noexcept;
  void use_fallback(call& c) noexcept;
  void publish(circuit_event_kind kind, call& c, duration latency = {}) noexcept;

  detail::circuit_core core_;
  classifier classifier_;
  detail::substitutions substitutions_;
  std::unique_ptr<extras> extras_;  // with `probe_wait` or an isolation switch
};

/// A function under a circuit breaker, which must outlive it.
template <class F> class guarded_function {
 public:
  guarded_function(circuit_breaker& breaker, F function) : breaker_(&breaker), function_(std::move(function)) {}

  template <class... Args>
    requires task_with<F&, Args...>
  [[nodiscard]] auto fire(Args&&... args) {
    return breaker_->fire(function_, std::forward<Args>(args)...);
  }
  template <class... Args>
    requires task_with<F&, Args...>
  [[nodiscard]] auto try_fire(Args&&... args) {
    return breaker_->try_fire(function_, std::forward<Args>(args)...);
  }
  [[nodiscard]] circuit_breaker& breaker() const noexcept { return *breaker_; }

 private:
  circuit_breaker* breaker_;
  F function_;
};

template <class F> guarded_function<F> circuit_breaker::guard(F function) {
  return guarded_function<F>(*this, std::move(function));
}

}  // namespace cofferdam::inline COFFERDAM_ABI
