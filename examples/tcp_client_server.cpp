// A real client and server on loopback. The server drops its first two connections and sleeps through the third; the
// client gets its answer all the same: a time limit for each attempt, retries, and a circuit breaker around them.
#include <cofferdam/core/net_sockets.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/retry.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include <cstdio>
#include <optional>
#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;
using net::ip::tcp;

namespace {

awaitable<void> serve(tcp::acceptor& acceptor) {
  std::optional<tcp::socket> sleepy;  // accepted and never answered
  for (int connection = 1;; ++connection) {
    tcp::socket peer = co_await acceptor.async_accept(net::use_awaitable);
    if (connection <= 2) continue;  // closed at once
    if (connection == 3) {
      sleepy.emplace(std::move(peer));
      continue;
    }
    std::string line;
    co_await net::async_read_until(peer, net::dynamic_buffer(line), '\n', net::use_awaitable);
    line.insert(0, "you said: ");
    co_await net::async_write(peer, net::buffer(line), net::use_awaitable);
  }
}

awaitable<std::string> ask(tcp::endpoint server, std::string question) {
  tcp::socket socket(co_await net::this_coro::executor);
  co_await socket.async_connect(server, net::use_awaitable);
  question += '\n';
  co_await net::async_write(socket, net::buffer(question), net::use_awaitable);
  std::string answer;
  co_await net::async_read_until(socket, net::dynamic_buffer(answer), '\n', net::use_awaitable);
  answer.pop_back();
  co_return answer;
}

awaitable<void> converse(tcp::endpoint server, spawned serving) {
  circuit_breaker breaker{"echo", {.minimum_calls = 20}};
  retry again({.max_attempts = 5, .backoff = {.base = 5ms, .cap = 50ms}});
  again.on_retry([](const retry_attempt& a) {
    const bool timed_out = a.outcome->why().is_refusal(errc::timed_out);
    std::printf("attempt %u: %s\n", a.attempt, timed_out ? "timed out" : "connection lost");
  });
  auto calls = again | breaker | timeout(100ms);
  const std::string answer = co_await calls.run(ask, server, std::string("hello"));
  std::printf("%s\n", answer.c_str());
  serving.cancel();
}

}  // namespace

int main() {
  net::io_context context;
  tcp::acceptor acceptor(context, {net::ip::address_v4::loopback(), 0});
  const auto serving = spawn(context, [&] { return serve(acceptor); });
  spawn(context, converse, acceptor.local_endpoint(), serving);
  context.run_for(5s);
}
