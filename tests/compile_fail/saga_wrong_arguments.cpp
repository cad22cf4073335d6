// A step is run with its action's arguments.
// EXPECT: these are not the arguments of the step's action
#include <cofferdam/saga/scope.hpp>

using namespace cofferdam;

awaitable<int> act(saga::step_context&, int n) { co_return n; }
constexpr auto a = saga::step<"a", &act>;

saga::task<int> body(saga::scope& s, int n) {
#ifdef COFFERDAM_EXPECT_OK
  co_return co_await s.run(a, n);
#else
  co_return co_await s.run(a, n, n);
#endif
}
