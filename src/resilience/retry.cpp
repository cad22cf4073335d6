#include <cofferdam/core/units.hpp>
#include <cofferdam/resilience/detail/shards.hpp>
#include <cofferdam/resilience/detail/validation.hpp>
#include <cofferdam/resilience/retry.hpp>

#include <algorithm>
#include <array>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

/// What a call keeps between its attempts.
struct progress {
  std::uint32_t attempt = 1;
  bool keeps_books = false;  // of the budget; else a policy outside of this one does
  backoff_state backoff;
};

}  // namespace

bool detail::is_final(const failure& why) noexcept {
  return why.is_refusal(errc::circuit_open) || why.is_refusal(errc::circuit_isolated) ||
         why.is_refusal(errc::bulkhead_full) || why.is_refusal(errc::queue_timed_out) ||
         why.is_refusal(errc::queue_cleared) || why.is_refusal(errc::weight_too_large) ||
         why.is_refusal(errc::deadline_exceeded) || why.is_refusal(errc::nested_use);
}

struct retry::hooks {
  std::function<bool(const outcome_view&)> abort_if;
  std::function<std::optional<duration>(const retry_attempt&)> delay;
  std::function<void(const retry_attempt&)> on_retry;
};

struct retry::counters {
  detail::sharded_counter at_once;  // every healthy call
  std::atomic<std::uint64_t> succeeded_after_retry{0}, failed_at_once{0}, failed_after_retry{0}, retries{0},
      denied_by_budget{0}, out_of_time{0};
};

std::vector<std::string> validate(const retry_options& options) {
  auto problems = validate(options.backoff);
  if (options.max_attempts < 1) problems.emplace_back("max_attempts: must be at least 1 (1 = no retry)");
  if (options.respect_retry_after_up_to < duration::zero()) {
    problems.emplace_back("respect_retry_after_up_to: must not be negative");
  }
  if (options.minimum_attempt < duration::zero()) problems.emplace_back("minimum_attempt: must not be negative");
  return problems;
}

retry::retry(const retry_options& options)
    : options_((detail::require_valid("retry", validate(options)), options)), counters_(std::make_unique<counters>()) {}
retry::retry(retry&& other) noexcept = default;
retry::~retry() = default;

retry::hooks& retry::make_hooks() {
  if (!hooks_) hooks_ = std::make_unique<hooks>();
  return *hooks_;
}
retry& retry::abort_if(std::function<bool(const outcome_view&)> predicate) & {
  make_hooks().abort_if = std::move(predicate);
  return *this;
}
retry& retry::delay(std::function<std::optional<duration>(const retry_attempt&)> hook) & {
  make_hooks().delay = std::move(hook);
  return *this;
}
retry& retry::on_retry(std::function<void(const retry_attempt&)> listen) & {
  make_hooks().on_retry = std::move(listen);
  return *this;
}

admission retry::admit(call& c, policy_slot& slot) noexcept {
  auto& mine = slot.emplace<progress>();
  if (budget_ == nullptr) return admission::go;
  mine.keeps_books = c.open_books(budget_);
  if (mine.keeps_books && c.attempts() == 0) budget_->on_first_attempt();
  return admission::go;
}

verdict retry::settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept {
  const outcome_class result = classifier_(outcome);
  if (result != outcome_class::success) [[unlikely]] {
    const verdict said = settle_failure(c, slot, outcome, result);
    if (said == verdict::deliver && slot.get<progress>().keeps_books) c.close_books();
    return said;
  }
  const auto& mine = slot.get<progress>();
  if (mine.keeps_books) {
    budget_->on_success();
    c.close_books();
  }
  if (mine.attempt == 1) [[likely]] {
    counters_->at_once.add_one();
  } else {
    counters_->succeeded_after_retry.fetch_add(1, std::memory_order_relaxed);
  }
  return verdict::deliver;
}

verdict retry::settle_failure(call& c, policy_slot& slot, const outcome_view& outcome, outcome_class result) noexcept {
  auto& [attempt, keeps_books, backoff] = slot.get<progress>();
  const auto give_up = [&](std::atomic<std::uint64_t>* reason) {
    if (reason != nullptr) reason->fetch_add(1, std::memory_order_relaxed);
    (attempt == 1 ? counters_->failed_at_once : counters_->failed_after_retry).fetch_add(1, std::memory_order_relaxed);
    return verdict::deliver;
  };
  // Nobody waits for another attempt of a call that was cancelled, whatever a rule makes of it.
  if (!outcome.has_value() && outcome.why().is_cancellation()) return verdict::deliver;
  if (result == outcome_class::ignored || result == outcome_class::abandoned) return verdict::deliver;
  if (!outcome.has_value() && outcome.why().is_bail()) {
    c.unwrap_bail();
    return give_up(nullptr);
  }
  if (keeps_books) budget_->on_failure();
  if (!outcome.has_value() && detail::is_final(outcome.why())) return give_up(nullptr);
  try {
    if (hooks_ && hooks_->abort_if && hooks_->abort_if(outcome)) return give_up(nullptr);
  } catch (...) {
    return give_up(nullptr);
  }
  if (options_.max_attempts != retry_forever && attempt >= options_.max_attempts) return give_up(nullptr);

  const duration delay = choose_delay(c, attempt, backoff, outcome);
  if (c.deadline() != never &&
      saturating_add(saturating_add(c.now(), delay), options_.minimum_attempt) >= c.deadline()) {
    return give_up(&counters_->out_of_time);
  }
  if (budget_ != nullptr) {
    if (!budget_->try_withdraw(c.now())) return give_up(&counters_->denied_by_budget);
    if (!keeps_books) budget_->on_failure();  // it does not reach the policy that does
  }
  if (hooks_ && hooks_->on_retry) {
    try {
      hooks_->on_retry({attempt, delay, &outcome});
    } catch (...) {
      // A listener does not decide.
    }
  }
  counters_->retries.fetch_add(1, std::memory_order_relaxed);
  ++attempt;
  return c.again(delay);
}

duration retry::choose_delay(call& c, std::uint32_t attempt, backoff_state& state,
                             const outcome_view& outcome) noexcept {
  const duration computed = backoff_delay(options_.backoff, attempt, state, c.random());
  if (hooks_ && hooks_->delay) {
    try {
      const auto said = hooks_->delay({attempt, duration::zero(), &outcome});
      if (said && *said >= duration::zero()) return std::min(*said, options_.respect_retry_after_up_to);
    } catch (...) {
      return computed;
    }
  }
  if (outcome.has_value()) return computed;
  const auto hint = outcome.why().retry_after();
  return hint ? std::max(computed, std::min(*hint, options_.respect_retry_after_up_to)) : computed;
}

retry_stats retry::stats() const noexcept {
  const auto read = [](const std::atomic<std::uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
  retry_stats s;
  s.succeeded_at_once = counters_->at_once.sum();
  s.succeeded_after_retry = read(counters_->succeeded_after_retry);
  s.failed_at_once = read(counters_->failed_at_once);
  s.failed_after_retry = read(counters_->failed_after_retry);
  s.retries = read(counters_->retries);
  s.denied_by_budget = read(counters_->denied_by_budget);
  s.out_of_time = read(counters_->out_of_time);
  return s;
}

std::string retry::describe() const {
  std::string text = "retry, ";
  text += options_.max_attempts == retry_forever ? "without end"
                                                 : "at most " + std::to_string(options_.max_attempts) + " attempts";
  text += ", from " + to_string(options_.backoff.base) + " up to " + to_string(options_.backoff.cap);
  return budget_ != nullptr ? text + ", on a budget" : text;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
