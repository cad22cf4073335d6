// Another process must decide in the same way: a condition takes nothing along.
// EXPECT: a condition is a lambda without captures
#include <cofferdam/saga/chain.hpp>

using namespace cofferdam;

awaitable<int> act(saga::step_context&) { co_return 1; }
constexpr auto one = saga::step<"a">([](const auto& s) { return act(s.context()); });

void build(int n) {
#ifdef COFFERDAM_EXPECT_OK
  (void)(saga::start<int>("s") | saga::when([](const auto& s) { return s.input() > 1; }, one));
  (void)n;
#else
  (void)(saga::start<int>("s") | saga::when([n](const auto&) { return n > 1; }, one));
#endif
}
