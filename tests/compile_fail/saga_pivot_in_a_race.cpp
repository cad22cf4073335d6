// What loses a race is undone.
// EXPECT: the branches of a race are compensatable or read-only steps
#include <cofferdam/saga/chain.hpp>

using namespace cofferdam;

awaitable<int> act(saga::step_context&) { co_return 1; }
constexpr auto slow = saga::step<"slow">([](const auto& s) { return act(s.context()); });

#ifdef COFFERDAM_EXPECT_OK
constexpr auto chain =
    saga::start<int>("s") | saga::any<"r">(slow, saga::step<"a">([](const auto& s) { return act(s.context()); }));
#else
constexpr auto chain =
    saga::start<int>("s") | saga::any<"r">(slow, saga::pivot<"a">([](const auto& s) { return act(s.context()); }));
#endif
