// A program of somebody else, built against the installed library.
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include <cstdio>

using namespace std::chrono_literals;

cofferdam::awaitable<int> answer() {
  co_await cofferdam::sleep_for(1h);
  co_return 42;
}

int main() {
  cofferdam::net::io_context context;
  cofferdam::virtual_time time(context);
  auto calls = cofferdam::timeout(3h) | cofferdam::timeout(2h);
  const auto body = [&]() -> cofferdam::awaitable<int> { co_return co_await calls.run(answer); };
  const int value = time.run(body);
  std::printf("%d\n", value);
  return value == 42 ? 0 : 1;
}
