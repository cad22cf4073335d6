// The emergency stop of injected faults: one switch for a group of fault policies, and one that all of them obey.
#pragma once

#include <cofferdam/core/config.hpp>

#include <atomic>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

/// Turns faults off and on again. Which ones: those that were told to `obey` it. On at the start.
/// What has been injected stays: a call that hangs does so until it is cancelled, a latency is waited for to its end.
/// An answer that was to be lost and a call that was to be made twice are spared. Thread safety: any thread. A call
/// that begins after `turn_off` returned, as seen by its thread, is not struck.
class fault_switch {
 public:
  fault_switch() = default;
  fault_switch(const fault_switch&) = delete;
  fault_switch& operator=(const fault_switch&) = delete;

  void turn_on() noexcept { on_.store(true, std::memory_order_relaxed); }
  void turn_off() noexcept { on_.store(false, std::memory_order_relaxed); }
  // Relaxed: the switch guards no data, and a flag of its own orders nothing.
  [[nodiscard]] bool is_on() const noexcept { return on_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> on_{true};
};

/// The process's: every fault policy obeys it, told or not, so that an operator can stop faults that nobody else holds.
[[nodiscard]] fault_switch& all_faults() noexcept;

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
