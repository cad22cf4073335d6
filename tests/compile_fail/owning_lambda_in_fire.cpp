// GCC 12 destroys an owning closure written inside co_await twice: breaker.fire refuses it.
// EXPECT: GCC 12 destroys this temporary twice inside co_await
// REQUIRES: gcc12
#include <cofferdam/resilience/circuit_breaker.hpp>

#include <string>

cofferdam::awaitable<void> caller(cofferdam::circuit_breaker& breaker, std::string owned) {
#ifdef COFFERDAM_EXPECT_OK
  const auto task = [owned] { return owned.size(); };
  co_await breaker.fire(task);
  co_await breaker.fire([&] { return owned.size(); });
#else
  co_await breaker.fire([owned] { return owned.size(); });
#endif
}
