// What names a lock must be there in every process.
// EXPECT: what names a lock is a lambda without captures
#include <cofferdam/saga/chain.hpp>

#include <string>

using namespace cofferdam;

void chain(int n) {
#ifdef COFFERDAM_EXPECT_OK
  (void)(saga::start<int>("s") | saga::lock([](const auto& s) { return "account:" + std::to_string(s.input()); }));
  (void)n;
#else
  (void)(saga::start<int>("s") | saga::lock([n](const auto&) { return "account:" + std::to_string(n); }));
#endif
}
