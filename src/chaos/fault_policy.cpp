#include <cofferdam/chaos/fault_policy.hpp>
#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/units.hpp>
#include <cofferdam/resilience/detail/validation.hpp>

#include <algorithm>
#include <cmath>
#include <iterator>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

std::vector<std::string> validate(const fault_options& options) {
  std::vector<std::string> problems;
  if (!(options.rate >= 0 && options.rate <= 1)) problems.emplace_back("rate: must be between 0 and 1");
  if (options.add < duration::zero()) problems.emplace_back("add: must not be negative");
  if (options.jitter < duration::zero()) problems.emplace_back("jitter: must not be negative");
  return problems;
}

/// What the slot of one attempt holds. Without a fault the attempt was spared.
struct fault_policy::strike {
  fault_policy* by = nullptr;
  std::uint32_t runs = 0;
};

fault_policy::fault_policy(std::string_view who, const fault_options& options)
    : rate_((detail::require_valid(who, validate(options)), options.rate)) {}

fault_policy::fault_policy(fault_policy&& other) noexcept
    : rate_(other.rate()),
      enabled_(other.enabled()),
      injected_(other.injected()),
      switch_(other.switch_),
      keys_(std::move(other.keys_)),
      meant_(std::move(other.meant_)),
      listen_(std::move(other.listen_)) {}

void fault_policy::set_rate(double rate) noexcept {
  const double sane = std::isnan(rate) ? 0 : std::clamp(rate, 0.0, 1.0);
  rate_.store(sane, std::memory_order_relaxed);
}

void fault_policy::limit_to_keys(std::vector<std::string> keys) {
  keys_.emplace(std::move_iterator(keys.begin()), std::move_iterator(keys.end()));
}

// ------------------------------------------------------------------------------------------------ which calls it takes

bool fault_policy::is_active() const noexcept {
  return enabled() && all_faults().is_on() && (switch_ == nullptr || switch_->is_on());
}

bool fault_policy::is_meant_for(const call_info& info) const noexcept {
  if (keys_ && !keys_->contains(info.key)) return false;
  try {
    return !meant_ || meant_(info);
  } catch (...) {
    return false;
  }
}

fault_policy* fault_policy::struck_by(call& c) noexcept {
  const double share = rate();
  if (share <= 0 || !is_active() || !is_meant_for(c.info())) return nullptr;
  if (share < 1 && c.random().uniform() >= share) return nullptr;
  fault_policy* const chosen = choose(c);
  return chosen == this ? this : chosen->struck_by(c);
}

admission fault_policy::admit(call& c, policy_slot& slot) noexcept {
  auto& struck = slot.emplace<strike>();
  struck.by = struck_by(c);
  if (struck.by == nullptr) return admission::go;
  const admission said = struck.by->inject(c);
  if (said != admission::go) tell(*struck.by, c);
  return said;
}

awaitable<admission> fault_policy::wait(call& c, policy_slot& slot) { return slot.get<strike>().by->delay(c); }

verdict fault_policy::settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept {
  auto& struck = slot.get<strike>();
  if (struck.by == nullptr || !is_active() || !struck.by->is_active()) return verdict::deliver;
  const auto said = struck.by->spoil(c, ++struck.runs, outcome);
  if (!said) return verdict::deliver;
  tell(*struck.by, c);
  return *said;
}

void fault_policy::tell(fault_policy& chosen, const call& c) noexcept {
  const injection what{chosen.kind(), c.info().key};
  chosen.count_and_tell(what);
  if (&chosen != this) count_and_tell(what);
}

void fault_policy::count_and_tell(const injection& what) noexcept {
  injected_.fetch_add(1, std::memory_order_relaxed);
  try {
    if (listen_) listen_(what);
  } catch (...) {  // NOLINT(bugprone-empty-catch): a listener's trouble is not the call's
  }
}

// ------------------------------------------------------------------------------------------------ what it does to them

admission fault_policy::inject(call&) noexcept { return admission::go; }
awaitable<admission> fault_policy::delay(call&) { co_return admission::go; }
std::optional<verdict> fault_policy::spoil(call&, std::uint32_t, const outcome_view&) noexcept { return std::nullopt; }
fault_policy* fault_policy::choose(call&) noexcept { return this; }

latency_fault::latency_fault(const fault_options& options)
    : runnable_fault("latency_fault", options), add_(options.add), jitter_(options.jitter) {}

awaitable<admission> latency_fault::delay(call& c) {
  const auto extra = static_cast<std::int64_t>(c.random().uniform() * static_cast<double>(jitter_.count()));
  co_await sleep_until(saturating_add(saturating_add(c.now(), add_), duration(extra)));
  co_return admission::go;
}

std::string latency_fault::describe() const { return "latency fault, " + to_string(add_); }

error_fault::error_fault(double rate, std::exception_ptr error)
    : runnable_fault("error_fault", {.rate = rate}), why_(std::move(error)) {}

awaitable<admission> hang_fault::delay(call& c) {
  const auto nobody = [](const detail::parked_reference&) {};
  (void)co_await park(never, nobody);
  co_return c.refuse(failure::cancelled());
}

lost_answer_fault::lost_answer_fault(double rate, std::exception_ptr error)
    : runnable_fault("lost_answer_fault", {.rate = rate}), why_(std::move(error)) {}

std::optional<verdict> lost_answer_fault::spoil(call& c, std::uint32_t, const outcome_view& outcome) noexcept {
  if (!outcome.has_value()) return std::nullopt;
  c.fail(failure(why_.get()));
  return verdict::deliver;
}

std::optional<verdict> duplicate_fault::spoil(call& c, std::uint32_t runs, const outcome_view& outcome) noexcept {
  const bool cancelled = !outcome.has_value() && outcome.why().is_cancellation();
  if (runs > 1 || cancelled) return std::nullopt;
  return c.again(duration::zero());
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
