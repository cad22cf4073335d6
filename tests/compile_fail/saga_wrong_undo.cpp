// An undo takes what its action took, and perhaps its result.
// EXPECT: or before those the action's result
#include <cofferdam/saga/step.hpp>

using namespace cofferdam;

awaitable<int> act(saga::step_context&, double) { co_return 1; }
#ifdef COFFERDAM_EXPECT_OK
awaitable<void> undo(saga::step_context&, const int&, double) { co_return; }
#else
awaitable<void> undo(saga::step_context&, const char&, double) { co_return; }
#endif

constexpr auto a = saga::step<"a", &act, &undo>;
