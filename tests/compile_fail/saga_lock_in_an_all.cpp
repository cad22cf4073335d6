// A lock is held to the end of the saga: it is no branch, but comes before them.
// EXPECT: the branches of an all are compensatable or read-only steps
#include <cofferdam/saga/chain.hpp>

#include <string>

using namespace cofferdam;

awaitable<int> act(saga::step_context&) { co_return 1; }

void chain() {
  const auto step = saga::step<"a">([](const auto& s) { return act(s.context()); });
  const auto lock = saga::lock([](const auto&) { return std::string("account"); });
#ifdef COFFERDAM_EXPECT_OK
  (void)(saga::start<int>("s") | lock | saga::all<"both">(step));
#else
  (void)(saga::start<int>("s") | saga::all<"both">(step, lock));
#endif
}
