// A pivot cannot be undone.
// EXPECT: a pivot or retriable step is never undone
#include <cofferdam/saga/step.hpp>

using namespace cofferdam;

awaitable<int> act(saga::step_context&) { co_return 1; }
awaitable<void> undo(saga::step_context&, const int&) { co_return; }

#ifdef COFFERDAM_EXPECT_OK
constexpr auto a = saga::step<"a", &act, &undo>;
#else
constexpr auto a = saga::pivot<"a", &act, &undo>;
#endif
