// Fallback: another answer where there would be none.
#pragma once

#include <cofferdam/resilience/detail/substitutions.hpp>
#include <cofferdam/resilience/pipeline.hpp>

#include <atomic>
#include <functional>
#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// Replaces failures of everything below it. Cancelled calls are not replaced.
///
///     auto calls = fallback([](const failure&) { return price::unknown(); }) | breaker;
///
/// Errors:        a fallback that throws is the call's failure.
/// Thread safety: any thread, once set up.
class fallback final : public runnable_policy<fallback> {
 public:
  /// @param function  of nothing or of the `failure`, returning T or awaitable<T>, for calls that yield exactly T.
  template <class F> explicit fallback(F function) { substitutions_.set(std::move(function)); }
  fallback(fallback&& other) noexcept
      : substitutions_(std::move(other.substitutions_)), when_(std::move(other.when_)), used_(other.used()) {}

  /// A further function, for another type of value.
  template <class F> fallback& otherwise(F function) & {
    substitutions_.set(std::move(function));
    return *this;
  }
  /// Which failures are replaced. Default: all but cancellations. One that throws says yes.
  fallback& when(std::function<bool(const failure&)> predicate) & { return when_ = std::move(predicate), *this; }
  fallback when(std::function<bool(const failure&)> predicate) && { return std::move(when(std::move(predicate))); }

  /// How often it answered.
  [[nodiscard]] std::uint64_t used() const noexcept { return used_.load(std::memory_order_relaxed); }

  [[nodiscard]] admission admit(call&, policy_slot&) noexcept override { return admission::go; }
  [[nodiscard]] verdict settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept override;
  [[nodiscard]] const void* substitution(const std::type_info& type) const noexcept override {
    return substitutions_.find(type);
  }
  [[nodiscard]] std::string describe() const override { return "fallback"; }

 private:
  detail::substitutions substitutions_;
  std::function<bool(const failure&)> when_;
  std::atomic<std::uint64_t> used_{0};
};

}  // namespace cofferdam::inline COFFERDAM_ABI
