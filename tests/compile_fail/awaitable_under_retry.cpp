// An awaitable is one run, already made: it cannot be retried.
// EXPECT: an awaitable is one run, already made
#include <cofferdam/resilience/retry.hpp>

cofferdam::awaitable<int> task() { co_return 1; }

cofferdam::awaitable<void> caller() {
  cofferdam::retry again;
#ifdef COFFERDAM_EXPECT_OK
  co_await again.run(task);
#else
  co_await again.run(task());
#endif
}
