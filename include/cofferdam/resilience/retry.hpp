// Retry: starts the task again when trying again may help, and stops when it would only add load.
#pragma once

#include <cofferdam/core/backoff.hpp>
#include <cofferdam/core/event_channel.hpp>
#include <cofferdam/resilience/outcome_class.hpp>
#include <cofferdam/resilience/pipeline.hpp>
#include <cofferdam/resilience/retry_budget.hpp>

#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

struct retry_options {
  std::uint32_t max_attempts = 3;  // the first one included; 1 = no retry; `retry_forever`
  backoff_options backoff{};
  duration respect_retry_after_up_to =
      std::chrono::seconds(30);  // a hint of the outcome lengthens the wait, up to this
  duration minimum_attempt{};    // no retry whose attempt would have less than this before the deadline
  friend bool operator==(const retry_options&, const retry_options&) = default;
};

inline constexpr std::uint32_t retry_forever = std::numeric_limits<std::uint32_t>::max();

[[nodiscard]] std::vector<std::string> validate(const retry_options& options);

/// What on_retry and the delay hook see.
struct retry_attempt {
  std::uint32_t attempt = 1;  // the one that failed, counted from 1
  duration delay{};           // until the next one; zero in the delay hook
  const outcome_view* outcome = nullptr;
};

struct retry_stats {
  std::uint64_t succeeded_at_once = 0, succeeded_after_retry = 0, failed_at_once = 0, failed_after_retry = 0;
  std::uint64_t retries = 0, denied_by_budget = 0, out_of_time = 0;
};

/// By default every failure is retried but cancellations and refusals that a retry cannot change: an open or isolated
/// circuit, a full bulkhead, a passed deadline. The last outcome is the call's, unwrapped.
/// Order at a failure: bail, predicate, attempts, budget, delay (hook, then Retry-After hint, then backoff), deadline,
/// on_retry, wait. Hooks that throw are ignored.
/// Cancellation:  ends the wait; the outcome is then the cancellation.
/// Thread safety: any thread, once set up.
class retry final : public runnable_policy<retry> {
 public:
  static constexpr bool may_repeat = true;

  /// Errors: `invalid_options_error`.
  explicit retry(const retry_options& options = {});
  retry(retry&& other) noexcept;
  ~retry() override;

  /// Adds a rule that decides what is a failure; see `classifier`. Values can be retried too.
  template <class Rule> retry& when(Rule rule) & {
    classifier_.add(std::move(rule));
    return *this;
  }
  template <class Rule> retry when(Rule rule) && { return std::move(when(std::move(rule))); }
  /// Outcomes that end the retries, whatever `when` says.
  retry& abort_if(std::function<bool(const outcome_view&)> predicate) &;
  retry abort_if(std::function<bool(const outcome_view&)> predicate) && {
    return std::move(abort_if(std::move(predicate)));
  }
  /// The delay from the outcome (a Retry-After header, say); nothing or a negative one leaves it to the backoff.
  retry& delay(std::function<std::optional<duration>(const retry_attempt&)> hook) &;
  retry delay(std::function<std::optional<duration>(const retry_attempt&)> hook) && {
    return std::move(delay(std::move(hook)));
  }
  /// Called before each wait.
  retry& on_retry(std::function<void(const retry_attempt&)> listen) &;
  retry on_retry(std::function<void(const retry_attempt&)> listen) && { return std::move(on_retry(std::move(listen))); }
  /// The budget that pays for retries. It must outlive the policy.
  retry& budget(retry_budget& budget) & { return budget_ = &budget, *this; }
  retry budget(retry_budget& budget) && { return std::move(this->budget(budget)); }

  [[nodiscard]] retry_stats stats() const noexcept;

  [[nodiscard]] admission admit(call& c, policy_slot& slot) noexcept override;
  [[nodiscard]] verdict settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept override;
  [[nodiscard]] std::string describe() const override;

 private:
  struct hooks;
  struct counters;

  [[nodiscard]] verdict settle_failure(call& c, policy_slot& slot, const outcome_view& outcome,
                                       outcome_class result) noexcept;
  [[nodiscard]] duration choose_delay(call& c, std::uint32_t attempt, backoff_state& state,
                                      const outcome_view& outcome) noexcept;
  hooks& make_hooks();

  retry_options options_;
  classifier classifier_;
  retry_budget* budget_ = nullptr;
  std::unique_ptr<hooks> hooks_;
  std::unique_ptr<counters> counters_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
