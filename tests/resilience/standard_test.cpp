// The pipelines for the usual cases.
#include "async_test.hpp"
#include "tasks.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/resilience/standard.hpp>

#include <algorithm>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

ASYNC_TEST("a client's attempts are bounded, tried again, and counted by a breaker", "[standard]") {
  client_pipeline_options options;
  options.attempt_timeout = 1s;
  options.total_timeout = 10s;
  options.retry.backoff = {.kind = backoff_kind::constant, .base = 100ms, .jitter = jitter_kind::none};
  options.circuit.minimum_calls = 3;
  auto calls = client_pipeline("payments", options);
  CHECK(std::ranges::count(calls.describe(), '\n') == 4);
  const auto hung = co_await calls.try_run(lasting, 1h);
  CHECK(hung.why().is_refusal(errc::timed_out));
  CHECK(time.elapsed() == 3200ms);  // three attempts and two pauses
  const auto refused = co_await calls.try_run(fine);
  CHECK(refused.why().is_refusal(errc::circuit_open));
  CHECK(refused.why().policy() == "payments");
}

ASYNC_TEST("a hedged client asks again when an answer is late", "[standard]") {
  auto calls = hedged_client_pipeline("search");
  const auto slow_first = [](attempt a) -> awaitable<int> {
    co_await sleep_for(a.number == 1 ? 5s : 10ms);
    co_return static_cast<int>(a.number);
  };
  const int winner = co_await calls.run(slow_first);
  CHECK(winner == 2);
  CHECK(time.elapsed() == 1010ms);
  co_await sleep_for(1ms);
}

ASYNC_TEST("a server lets in what it can do and queues a little", "[standard]") {
  server_pipeline_options options;
  options.limiter.initial_limit = 1;
  options.limiter.max_queue = 1;
  auto requests = server_pipeline("orders", options);
  const auto executor = co_await net::this_coro::executor;
  std::vector<std::string> ends;
  for (int i = 0; i < 3; ++i) {
    spawn(executor, [&]() -> awaitable<void> {
      const auto result = co_await requests.try_run(lasting, 10ms);
      ends.push_back(result ? "served" : result.why().message());
    });
  }
  co_await sleep_for(1s);
  CHECK(std::ranges::count(ends, "served") == 2);
  const auto late = co_await requests.try_run(lasting, 1h);
  CHECK(late.why().is_refusal(errc::timed_out));
}

TEST_CASE("standard options that contradict each other are refused", "[standard]") {
  CHECK(validate(client_pipeline_options{}).empty());
  CHECK(validate(hedged_client_pipeline_options{}).empty());
  CHECK(validate(server_pipeline_options{}).empty());
  client_pipeline_options client;
  client.total_timeout = 10s;
  client.circuit.window = 19s;
  client.retry.max_attempts = 0;
  const auto problems = validate(client);
  CHECK(problems.size() == 3);
  CHECK(problems[0].starts_with("retry.max_attempts: "));
  hedged_client_pipeline_options hedged;
  hedged.hedging.delay = 10s;
  CHECK(validate(hedged).size() == 1);
  hedged.hedging.delay = only_on_failure;
  CHECK(validate(hedged).empty());
  server_pipeline_options server;
  server.timeout = 0s;
  CHECK_THROWS_AS(server_pipeline("orders", server), invalid_options_error);
}
