// A breaker outside of a retry sees one failure where there were three.
// EXPECT: a circuit breaker outside of a retry
#include <cofferdam/resilience/checked.hpp>

using namespace cofferdam;
using namespace std::chrono_literals;

auto make() {
#ifdef COFFERDAM_EXPECT_OK
  return checked(retry() | std::make_shared<circuit_breaker>("b") | timeout(1s));
#else
  return checked(std::make_shared<circuit_breaker>("b") | retry() | timeout(1s));
#endif
}
