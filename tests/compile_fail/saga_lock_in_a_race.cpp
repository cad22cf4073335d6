// A lock is held to the end of the saga, so no race is decided by it.
// EXPECT: the branches of a race are compensatable or read-only steps
#include <cofferdam/saga/chain.hpp>

#include <string>

using namespace cofferdam;

awaitable<int> act(saga::step_context&) { co_return 1; }

void chain() {
  const auto step = saga::step<"a">([](const auto& s) { return act(s.context()); });
  const auto lock = saga::lock([](const auto&) { return std::string("account"); });
#ifdef COFFERDAM_EXPECT_OK
  (void)(saga::start<int>("s") | lock | saga::any<"first">(step));
#else
  (void)(saga::start<int>("s") | saga::any<"first">(step, lock));
#endif
}
