#include <cofferdam/core/units.hpp>
#include <cofferdam/resilience/detail/moving_percentile.hpp>
#include <cofferdam/resilience/detail/shards.hpp>
#include <cofferdam/resilience/detail/validation.hpp>
#include <cofferdam/resilience/hedging.hpp>

#include <algorithm>
#include <atomic>

namespace cofferdam::inline COFFERDAM_ABI {

std::vector<std::string> validate(const hedging_options& options) {
  std::vector<std::string> problems;
  const auto require = [&](bool fine, const char* problem) {
    if (!fine) problems.emplace_back(problem);
  };
  require(options.max_attempts >= 2 && options.max_attempts <= 100, "max_attempts: must be between 2 and 100");
  require(options.delay >= duration::zero(), "delay: must not be negative; 0 starts all at once");
  require(options.percentile >= 0.0 && options.percentile < 1.0, "percentile: must be at least 0 (off) and below 1");
  require(options.minimum_samples >= 1, "minimum_samples: must be at least 1");
  require(options.minimum_delay >= duration::zero(), "minimum_delay: must not be negative");
  require(options.sample_window > duration::zero(), "sample_window: must be positive");
  return problems;
}

struct hedging::state {
  explicit state(const hedging_options& options)
      : latencies(options.percentile, options.minimum_samples, options.sample_window) {}

  detail::sharded_counter calls;
  std::atomic<std::uint64_t> hedges{0}, won_by_hedge{0}, denied_by_budget{0};
  detail::moving_percentile latencies;
};

hedging::hedging(const hedging_options& options)
    : options_((detail::require_valid("hedging", validate(options)), options)),
      state_(std::make_unique<state>(options)) {}
hedging::hedging(hedging&& other) noexcept = default;
hedging::~hedging() = default;

admission hedging::admit(call& c, policy_slot& slot) noexcept {
  bool& keeps_books = slot.emplace<bool>() = budget_ != nullptr && c.open_books(budget_);
  if (keeps_books && c.attempts() == 0) budget_->on_first_attempt();
  return admission::go;
}

verdict hedging::settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept {
  state_->calls.add_one();
  if (!slot.get<bool>()) return verdict::deliver;
  c.close_books();
  const auto result = classifier_(outcome);
  if (result == outcome_class::success) budget_->on_success();
  if (result == outcome_class::failure) budget_->on_failure();
  return verdict::deliver;
}

duration hedging::current_delay(time_point now) const noexcept {
  if (options_.percentile == 0.0) return options_.delay;
  const duration known = state_->latencies.value(now);
  return known == duration::zero() ? options_.delay : std::max(known, options_.minimum_delay);
}

duration hedging::delay_before(std::uint32_t number, time_point now) noexcept {
  if (generator_) {
    try {
      return generator_(number);
    } catch (...) {
      // A generator that throws leaves the options in force.
    }
  }
  return current_delay(now);
}

bool hedging::may_start(const timer_service& timers) noexcept {
  if (budget_ != nullptr && !budget_->try_withdraw(timers.now())) {
    state_->denied_by_budget.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  state_->hedges.fetch_add(1, std::memory_order_relaxed);
  return true;
}

hedge_scope::judgement hedging::judge(const outcome_view& outcome) noexcept {
  try {
    if (abort_if_ && abort_if_(outcome)) return judgement::ends;
  } catch (...) {
    return judgement::ends;
  }
  switch (classifier_(outcome)) {
    case outcome_class::success:
      return judgement::wins;
    case outcome_class::ignored:
      return judgement::ends;
    case outcome_class::failure:
    case outcome_class::abandoned:
      break;
  }
  if (outcome.has_value()) return judgement::fails;
  if (outcome.why().is_bail()) return judgement::ends;
  return detail::is_final(outcome.why()) ? judgement::is_refused : judgement::fails;
}

void hedging::decided(std::uint32_t number, judgement why, time_point began, const timer_service& timers) noexcept {
  if (why != judgement::wins) return;
  if (number > 1) state_->won_by_hedge.fetch_add(1, std::memory_order_relaxed);
  if (options_.percentile == 0.0) return;
  const time_point present = timers.now();
  state_->latencies.record(present - began, present);
}

hedging_stats hedging::stats() const noexcept {
  const auto read = [](const std::atomic<std::uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
  hedging_stats s;
  s.calls = state_->calls.sum();
  s.hedges = read(state_->hedges);
  s.won_by_hedge = read(state_->won_by_hedge);
  s.denied_by_budget = read(state_->denied_by_budget);
  return s;
}

std::string hedging::describe() const {
  std::string text = "hedging, at most " + std::to_string(options_.max_attempts) + " attempts, ";
  if (generator_) return text + "each after a delay of its own";
  if (options_.percentile > 0.0) {
    return text + "each after the " + std::to_string(static_cast<int>(options_.percentile * 100 + 0.5)) +
           "th percentile";
  }
  if (options_.delay == only_on_failure) return text + "each after a failure";
  return options_.delay == duration::zero() ? text + "all at once" : text + "each after " + to_string(options_.delay);
}

}  // namespace cofferdam::inline COFFERDAM_ABI
