// The adaptive limiter: a bulkhead that finds its own size, from how long calls take.
//
//     adaptive_limiter limiter{"search", {.max_limit = 500}};
//     auto page = co_await limiter.run(fetch, url);
#pragma once

#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/detail/limit_core.hpp>
#include <cofferdam/resilience/limit_options.hpp>
#include <cofferdam/resilience/outcome_class.hpp>
#include <cofferdam/resilience/pipeline.hpp>

#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

struct adaptive_limiter_stats {
  std::size_t limit = 0, active = 0, queued = 0;
  duration baseline{};  // what a call takes without a queue in front of it; zero while unknown
  duration recent{};    // the median of the last window
  std::uint64_t rejected = 0, dropped = 0, adjustments = 0, baselines = 0;
};

/// Once per window it looks at what calls took. `gradient` compares the median with that of calls that met no queue,
/// and shrinks the limit as they drift apart; where all is well and the limit is in use, it grows by its square root.
/// Now and then it lowers the limit for a window to measure the unloaded latency again, so that a service that has
/// become slower for good does not starve; what that finds is believed up to twice what was known. `aimd` grows by one
/// and looks at drops only. Both shrink by `backoff` after a window with drops.
///
/// By default a call that timed out or was refused further down as overloaded is a drop, other failures and cancelled
/// calls say nothing. Calls over the limit queue or are refused as by a bulkhead. Errors of calls: as `bulkhead`.
/// Thread safety:   any thread, once set up.
/// Source:          Netflix concurrency-limits (Gradient2, AIMD); re-measured baseline after Envoy.
class adaptive_limiter final : public runnable_policy<adaptive_limiter> {
 public:
  /// Errors: `invalid_options_error`.
  explicit adaptive_limiter(std::string name, const adaptive_limiter_options& options = {});

  /// Adds a rule; failures are drops, successes are measured; see `classifier`.
  template <class Rule> adaptive_limiter& classify(Rule rule) {
    classifier_.add(std::move(rule));
    return *this;
  }
  [[nodiscard]] std::string_view name() const noexcept { return pool_.name(); }
  [[nodiscard]] std::size_t limit() const noexcept { return pool_.limit(); }
  [[nodiscard]] adaptive_limiter_stats stats() const;

  // --- the policy
  [[nodiscard]] admission admit(call& c, policy_slot& slot) noexcept override;
  [[nodiscard]] awaitable<admission> wait(call& c, policy_slot& slot) override;
  [[nodiscard]] verdict settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept override;
  void abandon(policy_slot& slot) noexcept override;
  [[nodiscard]] bool is_idle(time_point now) const noexcept override;
  [[nodiscard]] std::string describe() const override;

 private:
  struct measured_permit;
  void start_measuring(call& c, policy_slot& slot) noexcept;

  bulkhead pool_;
  classifier classifier_;
  mutable std::mutex mutex_;
  detail::limit_core core_;  // guarded by the mutex
};

}  // namespace cofferdam::inline COFFERDAM_ABI
