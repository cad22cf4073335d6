#include <cofferdam/resilience/detail/uneven_fence.hpp>

#if defined(__linux__)
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace cofferdam::inline COFFERDAM_ABI::detail {
namespace {

#if defined(__linux__)
bool membarrier(int command) noexcept { return ::syscall(SYS_membarrier, command, 0, 0) == 0; }
bool begin() noexcept { return membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED); }
bool make_all_pass() noexcept { return membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED); }
#else
bool begin() noexcept { return false; }
bool make_all_pass() noexcept { return false; }
#endif

}  // namespace

void prepare_fences() noexcept {
  static const bool can = begin();
  rare_fence_serves_both.store(can, std::memory_order_relaxed);
}

void rare_fence() noexcept {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (rare_fence_serves_both.load(std::memory_order_relaxed)) (void)make_all_pass();
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
