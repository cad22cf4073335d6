// GCC 12 destroys an aggregate written inside co_await twice: the barrier refuses it.
// EXPECT: GCC 12 destroys this temporary twice inside co_await
// REQUIRES: gcc12
#include <cofferdam/saga/barrier.hpp>

#include <string>

using namespace cofferdam;

struct reservation {
  std::string id;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(reservation, id)

awaitable<void> caller(saga::barrier& gate, saga::participant_call call, std::string id) {
  batch work;
#ifdef COFFERDAM_EXPECT_OK
  const reservation made{id};
  (void)co_await gate.act(call, std::move(work), made);
#else
  (void)co_await gate.act(call, std::move(work), reservation{id});
#endif
}
