// An attempt that hangs is never retried.
// EXPECT: attempts that hang are never retried
#include <cofferdam/resilience/checked.hpp>

using namespace cofferdam;
using namespace std::chrono_literals;

auto make() {
#ifdef COFFERDAM_EXPECT_OK
  return checked(timeout(2s) | retry() | timeout(1s));
#else
  return checked(timeout(2s) | retry());
#endif
}
