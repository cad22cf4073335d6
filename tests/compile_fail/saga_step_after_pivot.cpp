// After the pivot there is no way back.
// EXPECT: after the pivot there is no way back: make this step retriable
#include <cofferdam/saga/chain.hpp>

using namespace cofferdam;

awaitable<int> act(saga::step_context&) { co_return 1; }

constexpr auto started = saga::start<int>("s") | saga::pivot<"a">([](const auto& s) { return act(s.context()); });
#ifdef COFFERDAM_EXPECT_OK
constexpr auto chain = started | saga::retriable<"b">([](const auto& s) { return act(s.context()); });
#else
constexpr auto chain = started | saga::step<"b">([](const auto& s) { return act(s.context()); });
#endif
