// There is one point of no return.
// EXPECT: a chain has one pivot
#include <cofferdam/saga/chain.hpp>

using namespace cofferdam;

awaitable<int> act(saga::step_context&) { co_return 1; }

constexpr auto started = saga::start<int>("s") | saga::pivot<"a">([](const auto& s) { return act(s.context()); });
#ifdef COFFERDAM_EXPECT_OK
constexpr auto chain = started | saga::retriable<"b">([](const auto& s) { return act(s.context()); });
#else
constexpr auto chain = started | saga::pivot<"b">([](const auto& s) { return act(s.context()); });
#endif
