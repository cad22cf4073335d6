// What only looks leaves nothing to undo.
// EXPECT: a read-only step has no effect that could be undone
#include <cofferdam/saga/step.hpp>

using namespace cofferdam;

awaitable<int> look(saga::step_context&) { co_return 1; }
awaitable<void> undo(saga::step_context&, const int&) { co_return; }

#ifdef COFFERDAM_EXPECT_OK
constexpr auto a = saga::step<"a", &look, &undo>;
#else
constexpr auto a = saga::read_only<"a", &look, &undo>;
#endif
