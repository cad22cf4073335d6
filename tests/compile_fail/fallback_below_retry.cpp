// What is replaced is not retried.
// EXPECT: a fallback below a retry
#include <cofferdam/resilience/checked.hpp>

using namespace cofferdam;
using namespace std::chrono_literals;

auto make() {
#ifdef COFFERDAM_EXPECT_OK
  return checked(fallback([] { return 1; }) | retry() | timeout(1s));
#else
  return checked(retry() | fallback([] { return 1; }) | timeout(1s));
#endif
}
