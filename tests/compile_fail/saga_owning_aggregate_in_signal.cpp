// GCC 12 destroys an aggregate written inside co_await twice: a signal refuses it.
// EXPECT: GCC 12 destroys this temporary twice inside co_await
// REQUIRES: gcc12
#include <cofferdam/saga/engine.hpp>

#include <string>

using namespace cofferdam;

struct approval {
  std::string by;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(approval, by)

awaitable<void> caller(saga::engine& engine, std::string by) {
#ifdef COFFERDAM_EXPECT_OK
  const approval given{by};
  co_await engine.signal("order-1", "approved", given);
#else
  co_await engine.signal("order-1", "approved", approval{by});
#endif
}
