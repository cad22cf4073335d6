// A pivot happens once.
// EXPECT: a pivot happens once: it cannot be in a repeat
#include <cofferdam/saga/chain.hpp>

using namespace cofferdam;

awaitable<int> act(saga::step_context&) { co_return 1; }
constexpr auto at_once = [](const auto&) { return false; };

#ifdef COFFERDAM_EXPECT_OK
constexpr auto chain =
    saga::start<int>("s") | saga::repeat<"r">(at_once, saga::step<"a">([](const auto& s) { return act(s.context()); }));
#else
constexpr auto chain = saga::start<int>("s") |
                       saga::repeat<"r">(at_once, saga::pivot<"a">([](const auto& s) { return act(s.context()); }));
#endif
