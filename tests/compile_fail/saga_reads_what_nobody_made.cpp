// A result can be read after the step that made it.
// EXPECT: no earlier step of this chain has this name
#include <cofferdam/saga/chain.hpp>

using namespace cofferdam;
using saga::operator""_s;

awaitable<int> act(saga::step_context&, int n) { co_return n; }

constexpr auto started = saga::start<int>("s") | saga::step<"a">([](const auto& s) { return act(s.context(), 1); });
#ifdef COFFERDAM_EXPECT_OK
constexpr auto chain = started | saga::step<"b">([](const auto& s) { return act(s.context(), s["a"_s]); });
#else
constexpr auto chain = started | saga::step<"b">([](const auto& s) { return act(s.context(), s["c"_s]); });
#endif
