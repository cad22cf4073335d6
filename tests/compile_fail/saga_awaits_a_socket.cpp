// The body of a saga is replayed: it may await only what is written down.
// EXPECT: a body may await only durable operations
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/saga/scope.hpp>

using namespace cofferdam;

saga::task<void> body(saga::scope& s, int) {
#ifdef COFFERDAM_EXPECT_OK
  co_await s.sleep(std::chrono::seconds(1));
#else
  co_await sleep_for(std::chrono::seconds(1));
#endif
  (void)s;
}
