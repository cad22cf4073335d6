// What makes a child's input must be there in every process.
// EXPECT: what makes the input of a child saga is a lambda without captures
#include <cofferdam/saga/chain.hpp>

using namespace cofferdam;

saga::task<int> child(saga::scope&, int n) { co_return n; }

void build(int n) {
#ifdef COFFERDAM_EXPECT_OK
  const auto chain = saga::start<int>("s") | saga::call<"child">(&child, [](const auto& s) { return s.input(); });
#else
  const auto chain = saga::start<int>("s") | saga::call<"child">(&child, [n](const auto&) { return n; });
#endif
  (void)chain;
  (void)n;
}
