// Shadow mode: a policy that is asked and told, and decides nothing.
//
//     auto tried = std::make_shared<rate_limiter>("search", options);
//     shadow rehearsal{tried};
//     auto calls = rehearsal | pool;
//     rehearsal.stats().would_refuse  // what `tried` would have refused
#pragma once

#include <cofferdam/resilience/pipeline.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

struct shadow_stats {
  std::uint64_t would_admit = 0;
  std::uint64_t would_refuse = 0;     // or answer with a substitute
  std::uint64_t would_wait = 0;       // for a permit, with what end nobody knows
  std::uint64_t would_try_again = 0;  // or replace the outcome, at the end of a call it would have admitted
};

/// Lets every call pass and its outcome stay what it is, whatever the policy says, and counts that. What the policy
/// would admit it is told the outcome of, so that its counters, windows and permits are as if it were in force; calls
/// that it would refuse, or let wait, run without its knowledge. So it sees less load than it would have to bear: what
/// it would refuse is a lower bound.
///
/// A circuit breaker has a mode of its own for this, `circuit_mode::metrics_only`, which also goes on counting.
///
/// Thread safety: any thread, once set up.
class shadow final : public runnable_policy<shadow> {
 public:
  /// Errors: `invalid_options_error` for null, and for time limits, hedges, nesting guards and policies by key, which
  /// cannot be asked without effect; policies by key may each be in shadow.
  explicit shadow(std::shared_ptr<policy> rehearsed);

  /// Called with what the policy refuses a call with.
  shadow& on_refusal(std::function<void(const failure&)> listen) {
    listen_ = std::move(listen);
    return *this;
  }
  [[nodiscard]] const std::shared_ptr<policy>& rehearsed() const noexcept { return rehearsed_; }
  [[nodiscard]] shadow_stats stats() const noexcept;

  // --- the policy
  [[nodiscard]] admission admit(call& c, policy_slot& slot) noexcept override;
  [[nodiscard]] verdict settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept override;
  void abandon(policy_slot& slot) noexcept override;
  [[nodiscard]] bool is_idle(time_point now) const noexcept override { return rehearsed_->is_idle(now); }
  [[nodiscard]] std::string describe() const override { return "in shadow: " + rehearsed_->describe(); }

 private:
  [[nodiscard]] admission pass_by(call& c, policy_slot& slot, std::atomic<std::uint64_t>& count) noexcept;
  [[nodiscard]] bool was_passed_by(const policy_slot& slot) noexcept;

  std::shared_ptr<policy> rehearsed_;
  std::function<void(const failure&)> listen_;
  std::atomic<std::uint64_t> admitted_{0}, refused_{0}, waits_{0}, tries_again_{0};
  std::mutex mutex_;
  std::unordered_set<const policy_slot*> passed_by_;  // calls in flight that it does not know; guarded by the mutex
  std::atomic<std::size_t> unknown_{0};               // how many those are
};

}  // namespace cofferdam::inline COFFERDAM_ABI
