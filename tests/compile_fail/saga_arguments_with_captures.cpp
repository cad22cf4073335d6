// What makes a step's arguments must be there in every process.
// EXPECT: what makes the arguments of a step is a lambda without captures
#include <cofferdam/saga/chain.hpp>

#include <tuple>

using namespace cofferdam;

awaitable<int> act(saga::step_context&, int n) { co_return n; }
constexpr auto a = saga::step<"a", &act>;

void chain(int n) {
#ifdef COFFERDAM_EXPECT_OK
  (void)(saga::start<int>("s") | a.with([](const auto& s) { return std::tuple(s.input()); }));
  (void)n;
#else
  (void)(saga::start<int>("s") | a.with([n](const auto&) { return std::tuple(n); }));
#endif
}
