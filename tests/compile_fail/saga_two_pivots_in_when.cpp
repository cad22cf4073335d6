// There is one point of no return, also among the links of a condition in another one.
// EXPECT: a chain has one pivot
#include <cofferdam/saga/chain.hpp>

using namespace cofferdam;

awaitable<int> act(saga::step_context&) { co_return 1; }
constexpr auto always = [](const auto&) { return true; };
constexpr auto paid = saga::pivot<"pay">([](const auto& s) { return act(s.context()); });

#ifdef COFFERDAM_EXPECT_OK
constexpr auto next = saga::retriable<"next">([](const auto& s) { return act(s.context()); });
#else
constexpr auto next = saga::pivot<"next">([](const auto& s) { return act(s.context()); });
#endif
constexpr auto chain = saga::start<int>("s") | saga::when(always, paid, saga::when(always, next));
