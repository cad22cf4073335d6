// The client throttle: holds calls back before a server that refuses most of them has to.
//
//     client_throttle throttle{"search"};
//     auto calls = throttle | timeout(200ms);
#pragma once

#include <cofferdam/resilience/detail/call_window.hpp>
#include <cofferdam/resilience/outcome_class.hpp>
#include <cofferdam/resilience/pipeline.hpp>

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

struct client_throttle_options {
  double multiplier = 2.0;                    // calls tolerated for each accepted one; > 1; lower holds back earlier
  duration window = std::chrono::minutes(2);  // how far back calls count
  double max_rejection = 0.9;                 // of calls, in (0, 1]: some must pass, or a recovery is never noticed
  std::size_t minimum_calls = 10;             // never holds back on fewer calls in the window
  friend bool operator==(const client_throttle_options&, const client_throttle_options&) = default;
};

[[nodiscard]] std::vector<std::string> validate(const client_throttle_options& options);

struct client_throttle_stats {
  std::uint64_t requests = 0, accepted = 0;  // in the window, those held back included
  double rejection = 0;                      // share of calls that are held back now
  std::uint64_t throttled = 0;               // since construction
};

/// Refuses each call with probability max(0, (requests - multiplier * accepted) / (requests + 1)), where requests are
/// all calls of the window, also those it refused itself. By default a call that succeeds was accepted and one that
/// fails was not; classify so that only overload counts as failure if other errors are common. Cancelled calls do not
/// count.
///
/// Errors of calls: `overload_error` (`throttled`).
/// Thread safety:   any thread, once set up.
/// Source:          Beyer et al., Site Reliability Engineering (2016), chapter 21, Client-Side Throttling.
class client_throttle final : public runnable_policy<client_throttle> {
 public:
  /// Errors: `invalid_options_error`.
  explicit client_throttle(std::string name, const client_throttle_options& options = {});

  /// Adds a rule that decides which outcomes count as not accepted; see `classifier`.
  template <class Rule> client_throttle& classify(Rule rule) {
    classifier_.add(std::move(rule));
    return *this;
  }
  [[nodiscard]] std::string_view name() const noexcept { return *name_; }
  /// As of `now` on the timeline of the callers' timer service.
  [[nodiscard]] client_throttle_stats stats(time_point now) const noexcept;

  // --- the policy
  [[nodiscard]] admission admit(call& c, policy_slot& slot) noexcept override;
  [[nodiscard]] verdict settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept override;
  [[nodiscard]] bool is_idle(time_point now) const noexcept override { return stats(now).rejection == 0.0; }
  [[nodiscard]] std::string describe() const override;

 private:
  [[nodiscard]] double rejection_of(const detail::window_counts& counts) const noexcept;
  [[nodiscard]] double rejection_at(time_point now) noexcept;
  void count(bool accepted, time_point now) noexcept;

  shared_name name_;
  client_throttle_options options_;
  classifier classifier_;
  detail::time_window calls_;                              // a call that was not accepted is its "failed" one
  std::atomic<std::int64_t> last_refusal_{INT64_MIN / 2};  // slice; without one in the window nothing is held back
  std::atomic<double> rejection_{0};
  std::atomic<std::int64_t> good_until_{INT64_MIN};
  std::atomic<std::uint64_t> throttled_{0};
};

}  // namespace cofferdam::inline COFFERDAM_ABI
