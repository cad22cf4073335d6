// Faults as policies: put one innermost in any pipeline and see what the others make of it. Which calls are struck is
// drawn from the context's seeded randomness, so that a run can be repeated.
//
//     auto calls = retry({.max_attempts = 3}) | chaos::lost_answer_fault(0.01).only_for({"canary"}) | timeout(200ms);
//     chaos::all_faults().turn_off();   // the emergency stop of the whole process
#pragma once

#include <cofferdam/chaos/fault_switch.hpp>
#include <cofferdam/chaos/injected.hpp>
#include <cofferdam/resilience/detail/substitutions.hpp>
#include <cofferdam/resilience/pipeline.hpp>

#include <atomic>
#include <concepts>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

struct fault_options {
  double rate = 0.001;  // share of calls to strike, 0 to 1
  duration add{};       // latency_fault: what a struck call waits for, 0 or more
  duration jitter{};    // latency_fault: and up to so much more, evenly spread, 0 or more
  friend bool operator==(const fault_options&, const fault_options&) = default;
};

/// Every problem, as "field: what"; empty when there is none.
[[nodiscard]] std::vector<std::string> validate(const fault_options& options);

/// A fault that has struck, as listeners see it. Valid only during the call.
struct injection {
  std::string_view kind;  // "latency", "error", "hang", "outcome", "lost_answer", "duplicate"
  std::string_view key;   // what the call said of itself, see call_info
};

/// The common part: which calls are struck, and who is told.
/// A call is struck if the fault is enabled, its switches are on, the call is one it is meant for, and the draw says
/// so. Nothing is drawn where there is nothing to decide: a fault that is off leaves the other draws of a run as they
/// are. Cancellation:  of a struck call works as if it were a real one; a cancelled call is neither made twice nor
/// spoilt. Thread safety: any thread, once set up; `set_rate` and `enable` at any time.
class fault_policy : public policy {
 public:
  /// Clamped to [0, 1]; not a number is 0.
  void set_rate(double rate) noexcept;
  [[nodiscard]] double rate() const noexcept { return rate_.load(std::memory_order_relaxed); }
  void enable(bool on) noexcept { enabled_.store(on, std::memory_order_relaxed); }
  /// What `enable` said; whatever the switches say.
  [[nodiscard]] bool enabled() const noexcept { return enabled_.load(std::memory_order_relaxed); }
  /// How often it struck.
  [[nodiscard]] std::uint64_t injected() const noexcept { return injected_.load(std::memory_order_relaxed); }
  /// The word for this fault in scenario files and for listeners.
  [[nodiscard]] virtual std::string_view kind() const noexcept = 0;

  [[nodiscard]] admission admit(call& c, policy_slot& slot) noexcept final;
  [[nodiscard]] awaitable<admission> wait(call& c, policy_slot& slot) final;
  [[nodiscard]] verdict settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept final;

 protected:
  /// @param who  for error texts. Errors: `invalid_options_error`.
  fault_policy(std::string_view who, const fault_options& options);
  fault_policy(fault_policy&& other) noexcept;

  /// What a struck call meets on its way down; go: nothing.
  [[nodiscard]] virtual admission inject(call& c) noexcept;
  /// After `inject` said wait.
  [[nodiscard]] virtual awaitable<admission> delay(call& c);
  /// What a struck call meets on its way up; nothing: its outcome is left as it is.
  /// @param runs  how often the task has been run, this time included.
  [[nodiscard]] virtual std::optional<verdict> spoil(call& c, std::uint32_t runs, const outcome_view& outcome) noexcept;
  /// Which fault a struck call gets: this one, or one of several.
  [[nodiscard]] virtual fault_policy* choose(call& c) noexcept;

  void limit_to_keys(std::vector<std::string> keys);
  void limit_to(std::function<bool(const call_info&)> predicate) { meant_ = std::move(predicate); }
  void set_switch(const fault_switch& group) noexcept { switch_ = &group; }
  void set_listener(std::function<void(const injection&)> listen) { listen_ = std::move(listen); }

 private:
  struct strike;

  [[nodiscard]] bool is_active() const noexcept;
  [[nodiscard]] bool is_meant_for(const call_info& info) const noexcept;
  [[nodiscard]] fault_policy* struck_by(call& c) noexcept;
  void tell(fault_policy& chosen, const call& c) noexcept;
  void count_and_tell(const injection& what) noexcept;

  std::atomic<double> rate_;
  std::atomic<bool> enabled_{true};
  std::atomic<std::uint64_t> injected_{0};
  const fault_switch* switch_ = nullptr;
  std::optional<std::set<std::string, std::less<>>> keys_;
  std::function<bool(const call_info&)> meant_;
  std::function<void(const injection&)> listen_;
};

/// Gives a fault its verbs and its chained setters.
template <class Derived> class runnable_fault : public fault_policy, public runnable<Derived> {
 public:
  [[nodiscard]] auto stages() noexcept { return detail::single_stage<Derived>(&self()); }

  /// Strikes only calls with one of these keys: `calls.run({.key = tenant}, task)`. Default: every call.
  Derived& only_for(std::vector<std::string> keys) & { return limit_to_keys(std::move(keys)), self(); }
  Derived only_for(std::vector<std::string> keys) && { return std::move(only_for(std::move(keys))); }
  /// Strikes only calls that the predicate takes, besides `only_for`. One that throws says no.
  Derived& only_if(std::function<bool(const call_info&)> predicate) & { return limit_to(std::move(predicate)), self(); }
  Derived only_if(std::function<bool(const call_info&)> predicate) && {
    return std::move(only_if(std::move(predicate)));
  }
  /// Strikes only while this switch is on, besides `all_faults()`. It must outlive the policy.
  Derived& obey(const fault_switch& group) & { return set_switch(group), self(); }
  Derived obey(const fault_switch& group) && { return std::move(obey(group)); }
  /// Called each time it strikes, on the struck call's thread. One that throws is ignored.
  Derived& on_injected(std::function<void(const injection&)> listen) & {
    return set_listener(std::move(listen)), self();
  }
  Derived on_injected(std::function<void(const injection&)> listen) && {
    return std::move(on_injected(std::move(listen)));
  }

 protected:
  using fault_policy::fault_policy;

 private:
  Derived& self() noexcept { return static_cast<Derived&>(*this); }
};

// Every constructor below throws `invalid_options_error` for what `validate` finds.

/// Delays calls by `add` plus an even share of `jitter`.
class latency_fault final : public runnable_fault<latency_fault> {
 public:
  explicit latency_fault(const fault_options& options);
  latency_fault(double rate, duration add, duration jitter = duration::zero())
      : latency_fault(fault_options{rate, add, jitter}) {}
  [[nodiscard]] std::string_view kind() const noexcept override { return "latency"; }
  [[nodiscard]] std::string describe() const override;

 private:
  [[nodiscard]] admission inject(call&) noexcept override { return admission::wait; }
  [[nodiscard]] awaitable<admission> delay(call& c) override;

  duration add_, jitter_;
};

/// Fails calls instead of making them: with `injected_error`, or with an exception of yours. Of an exception that is
/// given by its type, `is_injected` knows the injected ones.
class error_fault final : public runnable_fault<error_fault> {
 public:
  explicit error_fault(double rate, std::exception_ptr error = nullptr);
  template <std::derived_from<std::exception> E>
  error_fault(double rate, E error)
      : runnable_fault("error_fault", {.rate = rate}), why_(injected_failure(std::move(error))) {}
  [[nodiscard]] std::string_view kind() const noexcept override { return "error"; }
  [[nodiscard]] std::string describe() const override { return "error fault"; }

 private:
  [[nodiscard]] admission inject(call& c) noexcept override { return c.refuse(failure(why_.get())); }

  injected_failure why_;
};

/// Never answers: the call waits until it is cancelled.
class hang_fault final : public runnable_fault<hang_fault> {
 public:
  explicit hang_fault(double rate) : runnable_fault("hang_fault", {.rate = rate}) {}
  [[nodiscard]] std::string_view kind() const noexcept override { return "hang"; }
  [[nodiscard]] std::string describe() const override { return "hang fault"; }

 private:
  [[nodiscard]] admission inject(call&) noexcept override { return admission::wait; }
  [[nodiscard]] awaitable<admission> delay(call& c) override;
};

/// Answers instead of the task: with the value of a function returning T or awaitable<T>, for calls that yield T.
class outcome_fault final : public runnable_fault<outcome_fault> {
 public:
  template <class F> outcome_fault(double rate, F function) : runnable_fault("outcome_fault", {.rate = rate}) {
    substitutions_.set(std::move(function));
  }
  [[nodiscard]] const void* substitution(const std::type_info& type) const noexcept override {
    return substitutions_.find(type);
  }
  [[nodiscard]] std::string_view kind() const noexcept override { return "outcome"; }
  [[nodiscard]] std::string describe() const override { return "outcome fault"; }

 private:
  [[nodiscard]] admission inject(call&) noexcept override { return admission::substitute; }

  detail::substitutions substitutions_;
};

/// Makes the call and loses its answer: whatever the task did is done, and the caller sees a failure, as when a
/// connection breaks between a request and its answer. What fails by itself or is cancelled is left as it is.
/// A retry outside of it does the work again: see examples/chaos/lost_answers.json.
class lost_answer_fault final : public runnable_fault<lost_answer_fault> {
 public:
  /// @param error  as of `error_fault`.
  explicit lost_answer_fault(double rate, std::exception_ptr error = nullptr);
  template <std::derived_from<std::exception> E>
  lost_answer_fault(double rate, E error)
      : runnable_fault("lost_answer_fault", {.rate = rate}), why_(injected_failure(std::move(error))) {}
  [[nodiscard]] std::string_view kind() const noexcept override { return "lost_answer"; }
  [[nodiscard]] std::string describe() const override { return "lost answer fault"; }

 private:
  [[nodiscard]] std::optional<verdict> spoil(call& c, std::uint32_t runs,
                                             const outcome_view& outcome) noexcept override;

  injected_failure why_;
};

/// Makes the call twice, one after the other, as when a request was delivered twice. The second outcome is the call's,
/// whatever it is; the first is dropped. What is cancelled is not made again.
class duplicate_fault final : public runnable_fault<duplicate_fault> {
 public:
  static constexpr bool may_repeat = true;

  explicit duplicate_fault(double rate) : runnable_fault("duplicate_fault", {.rate = rate}) {}
  [[nodiscard]] std::string_view kind() const noexcept override { return "duplicate"; }
  [[nodiscard]] std::string describe() const override { return "duplicate fault"; }

 private:
  [[nodiscard]] std::optional<verdict> spoil(call& c, std::uint32_t runs,
                                             const outcome_view& outcome) noexcept override;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
