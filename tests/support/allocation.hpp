// The allocation harness: runs an operation again and again, letting its n-th allocation by operator new fail, one
// later each time, until none fails. Coroutine frames and Asio's own operations are allocated otherwise and never fail
// here: Asio cannot survive a failure within the initiation of an operation.
#pragma once

#include <cstddef>
#include <new>
#include <stdexcept>

namespace cofferdam::test {

/// Lets this thread's n-th allocation from now on fail (0 = the next), until the scope ends.
class failing_allocation {
 public:
  explicit failing_allocation(std::size_t n) noexcept;
  ~failing_allocation();
  failing_allocation(const failing_allocation&) = delete;
  failing_allocation& operator=(const failing_allocation&) = delete;
  /// Whether it came to the failure.
  [[nodiscard]] bool struck() const noexcept;
};

/// @param operation  may throw std::bad_alloc, or swallow it.
/// @param check      called after each run; allocations work again.
/// @return how many allocations the undisturbed operation makes.
template <class Operation, class Check> std::size_t fail_at_every_allocation(Operation operation, Check check) {
  for (std::size_t n = 0; n < 10'000; ++n) {
    bool struck = false;
    {
      const failing_allocation scope(n);
      try {
        operation();
      } catch (const std::bad_alloc&) {
      }
      struck = scope.struck();
    }
    check();
    if (!struck) return n;
  }
  throw std::logic_error("the operation allocates without end");
}

}  // namespace cofferdam::test
