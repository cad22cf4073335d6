// When one of several side by side fails, the others are undone.
// EXPECT: the branches of an all are compensatable or read-only steps
#include <cofferdam/saga/chain.hpp>

using namespace cofferdam;

awaitable<int> act(saga::step_context&) { co_return 1; }
constexpr auto other = saga::step<"other">([](const auto& s) { return act(s.context()); });

#ifdef COFFERDAM_EXPECT_OK
constexpr auto chain =
    saga::start<int>("s") | saga::all<"b">(other, saga::step<"a">([](const auto& s) { return act(s.context()); }));
#else
constexpr auto chain =
    saga::start<int>("s") | saga::all<"b">(other, saga::pivot<"a">([](const auto& s) { return act(s.context()); }));
#endif
