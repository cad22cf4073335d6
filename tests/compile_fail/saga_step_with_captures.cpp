// Another process must be able to run a step: it takes nothing along but its input.
// EXPECT: a step of a chain is a lambda without captures
#include <cofferdam/saga/chain.hpp>

using namespace cofferdam;

awaitable<int> act(saga::step_context&, int n) { co_return n; }

void chain(int n) {
#ifdef COFFERDAM_EXPECT_OK
  (void)(saga::start<int>("s") | saga::step<"a">([](const auto& s) { return act(s.context(), s.input()); }));
  (void)n;
#else
  (void)(saga::start<int>("s") | saga::step<"a">([n](const auto& s) { return act(s.context(), n); }));
#endif
}
