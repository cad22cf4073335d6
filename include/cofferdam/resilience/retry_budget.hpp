// One budget for all retries towards a dependency: what keeps a slowdown from becoming a retry storm.
#pragma once

#include <cofferdam/core/time.hpp>

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

enum class budget_kind : std::uint8_t {
  per_success,  ///< every success earns `ratio` of a retry, every retry costs one
  per_call,     ///< every first attempt earns `ratio` of a retry, every retry costs one (Finagle)
  throttle,     ///< every failure costs one, every success earns `ratio`; retries only above half of `max_tokens` (gRPC
                ///< A6)
};

struct retry_budget_options {
  budget_kind kind = budget_kind::per_success;
  double ratio = 0.1;                 // tokens earned, in [0, 1]
  double max_tokens = 100;            // upper bound of the balance, >= 1; the balance starts there
  double min_retries_per_second = 0;  // earned by time alone, so that a quiet caller may retry at all; >= 0
  friend bool operator==(const retry_budget_options&, const retry_budget_options&) = default;
};

[[nodiscard]] std::vector<std::string> validate(const retry_budget_options& options);

struct retry_budget_stats {
  double balance = 0;
  std::uint64_t withdrawals = 0;  // retries allowed
  std::uint64_t denials = 0;      // retries refused
};

/// Thread safety: any thread; lock-free. Share one object among all retries (and hedges) towards one dependency.
class retry_budget {
 public:
  /// Errors: `invalid_options_error`.
  explicit retry_budget(const retry_budget_options& options = {});

  void on_first_attempt() noexcept;
  void on_success() noexcept;
  void on_failure() noexcept;
  /// True when a retry may be made; it is then paid for.
  [[nodiscard]] bool try_withdraw(time_point now) noexcept;
  [[nodiscard]] retry_budget_stats stats() const noexcept;

 private:
  void add(std::int64_t millitokens) noexcept;
  void earn_by_time(time_point now) noexcept;

  retry_budget_options options_;
  std::int64_t max_, earning_;  // in thousandths of a token
  std::atomic<std::int64_t> balance_;
  std::atomic<std::int64_t> earned_until_{INT64_MIN};  // nanoseconds
  std::atomic<std::uint64_t> withdrawals_{0}, denials_{0};
};

}  // namespace cofferdam::inline COFFERDAM_ABI
