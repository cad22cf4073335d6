// A child saga may fail, and then there is no way back.
// EXPECT: after the pivot there is no way back
#include <cofferdam/saga/chain.hpp>

using namespace cofferdam;

awaitable<int> act(saga::step_context&) { co_return 1; }
saga::task<int> child(saga::scope&, int n) { co_return n; }

constexpr auto paid = saga::pivot<"pay">([](const auto& s) { return act(s.context()); });
constexpr auto called = saga::call<"child">(&child, [](const auto& s) { return s.input(); });
#ifdef COFFERDAM_EXPECT_OK
constexpr auto chain = saga::start<int>("s") | called | paid;
#else
constexpr auto chain = saga::start<int>("s") | paid | called;
#endif
