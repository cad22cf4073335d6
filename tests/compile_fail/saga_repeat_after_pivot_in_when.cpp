// What may have to be undone cannot follow the pivot, however deep in other links it is.
// EXPECT: after the pivot there is no way back
#include <cofferdam/saga/chain.hpp>

using namespace cofferdam;

awaitable<int> act(saga::step_context&) { co_return 1; }
constexpr auto always = [](const auto&) { return true; };
constexpr auto paid = saga::pivot<"pay">([](const auto& s) { return act(s.context()); });
constexpr auto both = saga::all<"both">(saga::step<"a">([](const auto& s) { return act(s.context()); }),
                                        saga::step<"b">([](const auto& s) { return act(s.context()); }));
constexpr auto again = saga::repeat<"again">(always, both);

#ifdef COFFERDAM_EXPECT_OK
constexpr auto chain = saga::start<int>("s") | saga::when(always, again, paid);
#else
constexpr auto chain = saga::start<int>("s") | saga::when(always, paid, again);
#endif
