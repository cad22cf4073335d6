// Steps are found in the journal by their names.
// EXPECT: two steps of this chain have the same name
#include <cofferdam/saga/chain.hpp>

using namespace cofferdam;

awaitable<int> act(saga::step_context&) { co_return 1; }

constexpr auto started = saga::start<int>("s") | saga::step<"a">([](const auto& s) { return act(s.context()); });
#ifdef COFFERDAM_EXPECT_OK
constexpr auto chain = started | saga::step<"b">([](const auto& s) { return act(s.context()); });
#else
constexpr auto chain = started | saga::step<"a">([](const auto& s) { return act(s.context()); });
#endif
