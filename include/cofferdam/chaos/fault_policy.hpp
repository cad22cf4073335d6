// Faults as policies: put one innermost in any pipeline and see what the others make of it. Seeded by the context's
// randomness; switched on and off while running.
#pragma once

#include <cofferdam/resilience/detail/substitutions.hpp>
#include <cofferdam/resilience/pipeline.hpp>

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

/// The common part: injects into a share of calls while enabled.
/// Thread safety: any thread.
class fault_policy : public policy {
 public:
  explicit fault_policy(double rate) noexcept : rate_(rate) {}
  fault_policy(fault_policy&& other) noexcept
      : rate_(other.rate()), enabled_(other.enabled()), injected_(other.injected()) {}

  /// The share of calls to inject into, clamped to [0, 1].
  void set_rate(double rate) noexcept { rate_.store(rate, std::memory_order_relaxed); }
  [[nodiscard]] double rate() const noexcept { return rate_.load(std::memory_order_relaxed); }
  void enable(bool on) noexcept { enabled_.store(on, std::memory_order_relaxed); }
  [[nodiscard]] bool enabled() const noexcept { return enabled_.load(std::memory_order_relaxed); }
  /// How often it struck.
  [[nodiscard]] std::uint64_t injected() const noexcept { return injected_.load(std::memory_order_relaxed); }

  [[nodiscard]] verdict settle(call&, policy_slot&, const outcome_view&) noexcept override { return verdict::deliver; }

 protected:
  /// Draws whether this call is struck, and counts it.
  [[nodiscard]] bool strikes(call& c) noexcept;

 private:
  std::atomic<double> rate_;
  std::atomic<bool> enabled_{true};
  std::atomic<std::uint64_t> injected_{0};
};

/// Delays calls by `add` plus a uniform share of `jitter`.
class latency_fault final : public fault_policy, public runnable<latency_fault> {
 public:
  latency_fault(double rate, duration add, duration jitter = duration::zero()) noexcept
      : fault_policy(rate), add_(add), jitter_(jitter) {}
  [[nodiscard]] auto stages() noexcept { return detail::single_stage(this); }
  [[nodiscard]] admission admit(call& c, policy_slot&) noexcept override {
    return strikes(c) ? admission::wait : admission::go;
  }
  [[nodiscard]] awaitable<admission> wait(call& c, policy_slot& slot) override;
  [[nodiscard]] std::string describe() const override;

 private:
  duration add_, jitter_;
};

/// Fails calls instead of making them: with `injected_error`, or with an exception of yours.
class error_fault final : public fault_policy, public runnable<error_fault> {
 public:
  explicit error_fault(double rate, std::exception_ptr error = nullptr) noexcept
      : fault_policy(rate), error_(std::move(error)) {}
  [[nodiscard]] auto stages() noexcept { return detail::single_stage(this); }
  [[nodiscard]] admission admit(call& c, policy_slot&) noexcept override;
  [[nodiscard]] std::string describe() const override { return "error fault"; }

 private:
  std::exception_ptr error_;
};

/// Never answers: the call waits until it is cancelled.
class hang_fault final : public fault_policy, public runnable<hang_fault> {
 public:
  using fault_policy::fault_policy;
  [[nodiscard]] auto stages() noexcept { return detail::single_stage(this); }
  [[nodiscard]] admission admit(call& c, policy_slot&) noexcept override {
    return strikes(c) ? admission::wait : admission::go;
  }
  [[nodiscard]] awaitable<admission> wait(call& c, policy_slot& slot) override;
  [[nodiscard]] std::string describe() const override { return "hang fault"; }
};

/// Answers instead of the task: with the value of a function returning T or awaitable<T>, for calls that yield T.
class outcome_fault final : public fault_policy, public runnable<outcome_fault> {
 public:
  template <class F> outcome_fault(double rate, F function) : fault_policy(rate) {
    substitutions_.set(std::move(function));
  }
  [[nodiscard]] auto stages() noexcept { return detail::single_stage(this); }
  [[nodiscard]] admission admit(call& c, policy_slot&) noexcept override {
    return strikes(c) ? admission::substitute : admission::go;
  }
  [[nodiscard]] const void* substitution(const std::type_info& type) const noexcept override {
    return substitutions_.find(type);
  }
  [[nodiscard]] std::string describe() const override { return "outcome fault"; }

 private:
  detail::substitutions substitutions_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
