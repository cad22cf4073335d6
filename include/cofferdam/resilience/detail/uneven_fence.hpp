// Two fences that order a store before a later load on either side, where one side is common and the other rare: the
// common one costs nothing, the rare one makes every running thread of the process pass a barrier (Linux: membarrier).
//
//     common:  x = 1; common_fence(); if (y) ...        rare:  y = 1; rare_fence(); if (x) ...
//
// At least one of the two sees what the other has stored.
#pragma once

#include <cofferdam/core/config.hpp>

#include <atomic>

namespace cofferdam::inline COFFERDAM_ABI::detail {

inline constinit std::atomic<bool> rare_fence_serves_both{false};

/// Before either is used. Where the kernel cannot help, both are plain fences.
void prepare_fences() noexcept;

inline void common_fence() noexcept {
  if (rare_fence_serves_both.load(std::memory_order_relaxed)) [[likely]] {
    std::atomic_signal_fence(std::memory_order_seq_cst);
  } else {
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
}
/// Microseconds.
void rare_fence() noexcept;

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
