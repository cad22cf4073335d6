// Hedging: when an answer is late, ask again and take the first good one.
//
//     auto calls = hedging({.max_attempts = 2, .delay = 300ms, .percentile = 0.95}) | timeout(1s);
//     auto page = co_await calls.run(fetch, url);
#pragma once

#include <cofferdam/resilience/outcome_class.hpp>
#include <cofferdam/resilience/pipeline.hpp>
#include <cofferdam/resilience/retry_budget.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

/// What happens to attempts that lost.
enum class losers : std::uint8_t {
  leave,  ///< they are cancelled and end in the background, still holding their permits; the call goes on at once
  await,  ///< they are cancelled and the call waits for their ends
};

/// As a delay: a further attempt starts when all others have failed, never because they are slow.
inline constexpr duration only_on_failure = duration::max();

struct hedging_options {
  std::uint32_t max_attempts = 2;            // the first one included; 2 to 100
  duration delay = std::chrono::seconds(2);  // without an answer until the next attempt; 0 = all at once
  double percentile = 0;                     // > 0: this share of recent answers came sooner, instead of `delay`
  std::size_t minimum_samples = 20;          // as many answers must be known; `delay` until then
  duration minimum_delay = std::chrono::milliseconds(1);  // of what the percentile says
  duration sample_window = std::chrono::seconds(30);      // how long answers are remembered, once to twice
  losers losing = losers::leave;
  friend bool operator==(const hedging_options&, const hedging_options&) = default;
};

[[nodiscard]] std::vector<std::string> validate(const hedging_options& options);

struct hedging_stats {
  std::uint64_t calls = 0;             // that ended
  std::uint64_t hedges = 0;            // attempts beyond the first
  std::uint64_t won_by_hedge = 0;      // calls answered by such an attempt
  std::uint64_t denied_by_budget = 0;  // attempts that were not started for that
};

/// Starts everything below it, and the task, again before the first attempt has ended: for idempotent operations only.
/// An attempt that fails starts the next at once. If all fail, the call fails as the first attempt did.
///
/// Each attempt has copies of the task and its arguments, and is told its number (see `attempt`). With `losers::leave`
/// they may outlive the call: the policies must outlive them, and tasks own what they touch. Tasks or arguments that
/// cannot be copied are shared by the attempts, and the call waits for all ends. Cancellation:  reaches all attempts;
/// the call ends when they have ended. Thread safety: any thread, once set up. Source:        Dean and Barroso, The
/// Tail at Scale (2013); rules of Polly and gRPC A6.
class hedging final : public runnable_policy<hedging>, public hedge_scope {
 public:
  static constexpr bool may_repeat = true;

  /// Errors: `invalid_options_error`.
  explicit hedging(const hedging_options& options = {});
  hedging(hedging&& other) noexcept;
  ~hedging() override;

  /// Adds a rule that decides what is a failure, so that the next attempt starts at once; see `classifier`.
  template <class Rule> hedging& when(Rule rule) & {
    classifier_.add(std::move(rule));
    return *this;
  }
  template <class Rule> hedging when(Rule rule) && { return std::move(when(std::move(rule))); }
  /// Outcomes that end the call, whatever else is under way: a "no" that every attempt would hear.
  hedging& abort_if(std::function<bool(const outcome_view&)> predicate) & {
    return abort_if_ = std::move(predicate), *this;
  }
  hedging abort_if(std::function<bool(const outcome_view&)> predicate) && {
    return std::move(abort_if(std::move(predicate)));
  }
  /// The delay before attempt `number` (2, 3, ...), instead of the options'. One that throws leaves them in force.
  hedging& delay(std::function<duration(std::uint32_t number)> generator) & {
    return generator_ = std::move(generator), *this;
  }
  hedging delay(std::function<duration(std::uint32_t number)> generator) && {
    return std::move(delay(std::move(generator)));
  }
  /// The budget that pays for further attempts; share it with retries. An empty one never fails a call. It must outlive
  /// the policy.
  hedging& budget(retry_budget& budget) & { return budget_ = &budget, *this; }
  hedging budget(retry_budget& budget) && { return std::move(this->budget(budget)); }

  [[nodiscard]] hedging_stats stats() const noexcept;
  /// What a call would wait now before its second attempt.
  [[nodiscard]] duration current_delay(time_point now) const noexcept;

  // --- the policy
  [[nodiscard]] admission admit(call& c, policy_slot& slot) noexcept override;
  [[nodiscard]] verdict settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept override;
  [[nodiscard]] scope* as_scope() noexcept override { return this; }
  [[nodiscard]] std::string describe() const override;

  [[nodiscard]] std::uint32_t max_attempts() const noexcept override { return options_.max_attempts; }
  [[nodiscard]] bool leaves_losers() const noexcept override { return options_.losing == losers::leave; }
  [[nodiscard]] duration delay_before(std::uint32_t number, time_point now) noexcept override;
  [[nodiscard]] bool may_start(const timer_service& timers) noexcept override;
  [[nodiscard]] judgement judge(const outcome_view& outcome) noexcept override;
  void decided(std::uint32_t number, judgement why, time_point began, const timer_service& timers) noexcept override;

 private:
  struct state;

  hedging_options options_;
  classifier classifier_;
  std::function<bool(const outcome_view&)> abort_if_;
  std::function<duration(std::uint32_t)> generator_;
  retry_budget* budget_ = nullptr;
  std::unique_ptr<state> state_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
