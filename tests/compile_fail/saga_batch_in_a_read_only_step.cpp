// What only looks has nothing to commit.
// EXPECT: a read-only step writes nothing, so it takes no batch
#include <cofferdam/saga/step.hpp>

using namespace cofferdam;

awaitable<int> note(saga::step_context&, batch&) { co_return 1; }

#ifdef COFFERDAM_EXPECT_OK
constexpr auto a = saga::step<"a", &note>;
#else
constexpr auto a = saga::read_only<"a", &note>;
#endif
