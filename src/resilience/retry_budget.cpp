#include <cofferdam/core/error.hpp>
#include <cofferdam/resilience/detail/validation.hpp>
#include <cofferdam/resilience/retry_budget.hpp>

#include <algorithm>
#include <cmath>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

constexpr std::int64_t token = 1000;

std::int64_t to_millitokens(double tokens) noexcept { return std::llround(tokens * token); }

}  // namespace

std::vector<std::string> validate(const retry_budget_options& options) {
  std::vector<std::string> problems;
  if (!(options.ratio >= 0.0 && options.ratio <= 1.0)) problems.emplace_back("ratio: must be between 0 and 1");
  if (!(options.max_tokens >= 1.0 && options.max_tokens <= 1e9)) {
    problems.emplace_back("max_tokens: must be between 1 and 1e9");
  }
  if (!(options.min_retries_per_second >= 0.0 && options.min_retries_per_second <= 1e6)) {
    problems.emplace_back("min_retries_per_second: must be between 0 and 1e6");
  }
  return problems;
}

retry_budget::retry_budget(const retry_budget_options& options)
    : options_((detail::require_valid("retry_budget", validate(options)), options)),
      max_(to_millitokens(options.max_tokens)),
      earning_(to_millitokens(options.ratio)),
      balance_(max_) {}

void retry_budget::add(std::int64_t millitokens) noexcept {
  std::int64_t balance = balance_.load(std::memory_order_relaxed);
  std::int64_t next = 0;
  do {
    next = std::clamp<std::int64_t>(balance + millitokens, 0, max_);
    if (next == balance) return;  // full, as it is for a healthy dependency: no shared write
  } while (!balance_.compare_exchange_weak(balance, next, std::memory_order_relaxed));
}

void retry_budget::on_first_attempt() noexcept {
  if (options_.kind == budget_kind::per_call) add(earning_);
}

void retry_budget::on_success() noexcept {
  if (options_.kind != budget_kind::per_call) add(earning_);
}

void retry_budget::on_failure() noexcept {
  if (options_.kind == budget_kind::throttle) add(-token);
}

void retry_budget::earn_by_time(time_point now) noexcept {
  if (options_.min_retries_per_second <= 0) return;
  const std::int64_t present = now.time_since_epoch().count();
  std::int64_t since = earned_until_.load(std::memory_order_relaxed);
  if (since == INT64_MIN) {
    earned_until_.compare_exchange_strong(since, present, std::memory_order_relaxed);
    return;
  }
  // Whole thousandths only, and the time that was not paid for stays for the next one to ask: what is earned must not
  // depend on how often somebody asks.
  const double earned = static_cast<double>(present - since) * 1e-9 * options_.min_retries_per_second * token;
  if (earned >= static_cast<double>(max_)) {
    if (earned_until_.compare_exchange_strong(since, present, std::memory_order_relaxed)) add(max_);
    return;
  }
  const auto whole = static_cast<std::int64_t>(earned);
  if (whole <= 0) return;
  const auto paid = static_cast<double>(whole) * 1e9 / (options_.min_retries_per_second * token);
  const std::int64_t until = std::min(present, since + static_cast<std::int64_t>(paid));
  if (earned_until_.compare_exchange_strong(since, until, std::memory_order_relaxed)) add(whole);
}

bool retry_budget::try_withdraw(time_point now) noexcept {
  earn_by_time(now);
  std::int64_t balance = balance_.load(std::memory_order_relaxed);
  if (options_.kind == budget_kind::throttle) {
    // The failure has already paid.
    const bool allowed = balance > max_ / 2;
    (allowed ? withdrawals_ : denials_).fetch_add(1, std::memory_order_relaxed);
    return allowed;
  }
  do {
    if (balance < token) {
      denials_.fetch_add(1, std::memory_order_relaxed);
      return false;
    }
  } while (!balance_.compare_exchange_weak(balance, balance - token, std::memory_order_relaxed));
  withdrawals_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

retry_budget_stats retry_budget::stats() const noexcept {
  return {static_cast<double>(balance_.load(std::memory_order_relaxed)) / token,
          withdrawals_.load(std::memory_order_relaxed), denials_.load(std::memory_order_relaxed)};
}

}  // namespace cofferdam::inline COFFERDAM_ABI
