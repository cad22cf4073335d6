// GCC 12 destroys an owning closure written inside co_await twice: refused.
// EXPECT: GCC 12 destroys this temporary twice inside co_await
// REQUIRES: gcc12
#include <cofferdam/core/timeout.hpp>

#include <string>

cofferdam::awaitable<void> caller(std::string owned) {
  using namespace std::chrono_literals;
#ifdef COFFERDAM_EXPECT_OK
  const auto task = [owned]() -> cofferdam::awaitable<void> { co_return; };
  co_await cofferdam::with_timeout(1s, task);
  co_await cofferdam::with_timeout(1s, [&]() -> cofferdam::awaitable<void> { co_return; });
#else
  co_await cofferdam::with_timeout(1s, [owned]() -> cofferdam::awaitable<void> { co_return; });
#endif
}
