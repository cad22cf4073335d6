// The nesting guard: tells a call that would wait for itself from one that waits for others.
//
//     nesting_guard guard{"reports"};
//     auto reports = guard | pool;
//     co_await reports.run(render, id);  // fails with nested_use_error if `render` awaits `reports` again
#pragma once

#include <cofferdam/resilience/pipeline.hpp>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace cofferdam::inline COFFERDAM_ABI {

/// Refuses a call made from within another call through the same guard: one that the other awaits, however far down,
/// through time limits, hedges and `spawn_on`. In front of a bulkhead that is the call which may wait for its own
/// permit for ever; it is refused also when permits are free, so that the first test shows it rather than the first
/// load. Calls of different guards are not compared.
///
/// A coroutine started by `spawn` is awaited by nobody and so within nothing, as is one that outlives the call. What a
/// bare `net::co_spawn` starts looks awaited while the call lasts.
///
/// Errors of calls: `nested_use_error`.
/// Thread safety:   any thread. One guard in several pipelines guards them together.
/// Cost:            what is below runs in a child coroutine, as below a time limit.
class nesting_guard final : public runnable_policy<nesting_guard>, public timeout_scope {
 public:
  explicit nesting_guard(std::string name) : name_(std::make_shared<const std::string>(std::move(name))) {}

  /// Calls that were refused.
  [[nodiscard]] std::uint64_t refused() const noexcept { return refused_.load(std::memory_order_relaxed); }

  // --- the policy
  [[nodiscard]] admission admit(call& c, policy_slot&) noexcept override {
    if (!detail::is_within(c.executor(), this)) [[likely]]
      return admission::go;
    refused_.fetch_add(1, std::memory_order_relaxed);
    return c.refuse(errc::nested_use, name_);
  }
  [[nodiscard]] verdict settle(call&, policy_slot&, const outcome_view&) noexcept override { return verdict::deliver; }
  [[nodiscard]] scope* as_scope() noexcept override { return this; }
  [[nodiscard]] std::string describe() const override { return *name_ + ": nesting guard"; }

  [[nodiscard]] duration limit(call&) const override { return duration::max(); }
  [[nodiscard]] on_timeout mode() const noexcept override { return on_timeout::cancel; }
  [[nodiscard]] const shared_name& name() const noexcept override { return name_; }
  [[nodiscard]] detail::passage enter(const net::any_io_executor& caller) const override { return {this, caller}; }

 private:
  shared_name name_;
  std::atomic<std::uint64_t> refused_{0};
};

}  // namespace cofferdam::inline COFFERDAM_ABI
