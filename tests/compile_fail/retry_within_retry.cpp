// Attempts multiply.
// EXPECT: a retry within a retry
#include <cofferdam/resilience/checked.hpp>

using namespace cofferdam;
using namespace std::chrono_literals;

auto make() {
#ifdef COFFERDAM_EXPECT_OK
  return checked(retry() | timeout(1s));
#else
  return checked(retry() | retry() | timeout(1s));
#endif
}
