// A unit test of user code in virtual time: a poller that asks every minute, gives up after an hour, and is tested in
// microseconds.
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/core/virtual_time.hpp>

#include <cstdio>
#include <functional>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

/// The code under test: polls until `ready`, at most an hour.
awaitable<bool> wait_until_ready(std::function<bool()> ready) {
  const auto poll = [&]() -> awaitable<void> {
    while (!ready()) co_await sleep_for(1min);
  };
  const auto ended = co_await try_with_timeout(1h, poll);
  co_return ended.has_value();
}

int failures = 0;
void expect(bool holds, const char* what) {
  std::printf("%s: %s\n", holds ? "ok" : "FAILED", what);
  if (!holds) ++failures;
}

}  // namespace

int main() {
  {
    net::io_context context;
    virtual_time time(context);
    int polls = 0;
    const bool ready = time.run(wait_until_ready, [&] { return ++polls == 30; });
    expect(ready, "a service that becomes ready is noticed");
    expect(time.elapsed() == 29min, "after 29 minutes");
  }
  {
    net::io_context context;
    virtual_time time(context);
    const bool ready = time.run(wait_until_ready, [] { return false; });
    expect(!ready, "a service that never becomes ready is given up");
    expect(time.elapsed() == 1h, "after exactly an hour");
  }
  return failures;
}
