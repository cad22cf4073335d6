// A read-only step may follow the pivot, but opens no way back.
// EXPECT: after the pivot there is no way back
#include <cofferdam/saga/chain.hpp>

using namespace cofferdam;

awaitable<int> act(saga::step_context&) { co_return 1; }

void chain() {
  const auto how = [](const auto& s) { return act(s.context()); };
  const auto paid = saga::start<int>("s") | saga::pivot<"pay">(how) | saga::read_only<"look">(how);
#ifdef COFFERDAM_EXPECT_OK
  (void)(paid | saga::retriable<"ship">(how));
#else
  (void)(paid | saga::step<"ship">(how));
#endif
}
