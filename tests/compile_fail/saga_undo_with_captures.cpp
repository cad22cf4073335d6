// Another process must be able to undo a step: it takes nothing along.
// EXPECT: an undo of a chain is a lambda without captures
#include <cofferdam/saga/chain.hpp>

using namespace cofferdam;

awaitable<int> act(saga::step_context&) { co_return 1; }
awaitable<void> undo(saga::step_context&, int) { co_return; }
constexpr auto one = saga::step<"a">([](const auto& s) { return act(s.context()); });

void build(int n) {
#ifdef COFFERDAM_EXPECT_OK
  (void)(saga::start<int>("s") | one.undo([](const auto& s) { return undo(s.context(), s.input()); }));
  (void)n;
#else
  (void)(saga::start<int>("s") | one.undo([n](const auto& s) { return undo(s.context(), n); }));
#endif
}
