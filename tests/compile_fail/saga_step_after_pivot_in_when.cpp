// After the pivot there is no way back, also among the links of a condition.
// EXPECT: after the pivot there is no way back: make this step retriable
#include <cofferdam/saga/chain.hpp>

using namespace cofferdam;

awaitable<int> act(saga::step_context&) { co_return 1; }
constexpr auto always = [](const auto&) { return true; };
constexpr auto paid = saga::pivot<"pay">([](const auto& s) { return act(s.context()); });

#ifdef COFFERDAM_EXPECT_OK
constexpr auto late = saga::retriable<"late">([](const auto& s) { return act(s.context()); });
#else
constexpr auto late = saga::step<"late">([](const auto& s) { return act(s.context()); });
#endif
constexpr auto chain = saga::start<int>("s") | saga::when(always, paid, late);
