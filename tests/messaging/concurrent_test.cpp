// Publishers under many strands on several threads, beside the threads of their client libraries.
#include "async_test.hpp"
#include "nats_server.hpp"
#include "real_time.hpp"
#if defined(COFFERDAM_TEST_KAFKA)
#include "kafka_cluster.hpp"
#endif

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/messaging/kafka.hpp>
#include <cofferdam/messaging/nats.hpp>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace crowds {

constexpr int clients = 6, waves = 12, size = 40;

/// One wave; how many of it have ended when the time is over. A NATS publisher that takes its connection for lost,
/// since most of what is on its way was left, gives up the rest, too: then the end is a failure.
awaitable<int> publish_wave(publisher& to, int client, int number, duration limit) {
  std::vector<message> messages;
  for (int i = 0; i < size; ++i) {
    const std::string id = std::to_string(client) + "-" + std::to_string(number) + "-" + std::to_string(i);
    messages.push_back(message("orders", "t", id).id(id).key("k" + std::to_string(i)));
  }
  std::vector<publication> wave;
  for (const message& m : messages) wave.push_back({&m});
  const auto call = [&] { return to.publish_all(wave); };
  (void)co_await try_with_timeout(limit, call);
  const auto has_ended = [](const publication& p) { return p.is_done || p.why; };
  co_return static_cast<int>(std::ranges::count_if(wave, has_ended));
}

/// Every third wave is left soon: its answers come when nobody waits for them.
awaitable<void> publish_waves(publisher& to, int client, std::atomic<int>& missing) {
  for (int w = 0; w < waves; ++w) {
    const bool is_left = w % 3 == 2;
    const int ended = co_await publish_wave(to, client, w, is_left ? 1ms : 20s);
    if (!is_left) missing += size - ended;
  }
}

awaitable<void> publish_in_crowd(publisher& to, std::atomic<int>& missing) {
  const auto executor = co_await net::this_coro::executor;
  std::vector<spawned> working;
  for (int c = 0; c < clients; ++c)
    working.push_back(spawn(executor, publish_waves, std::ref(to), c, std::ref(missing)));
  for (const spawned& each : working) co_await each.join();
}

/// The publisher goes while answers are on their way.
awaitable<void> publish_and_go(std::unique_ptr<publisher> to, int number, duration after) {
  const auto executor = co_await net::this_coro::executor;
  std::vector<spawned> working;
  for (int c = 0; c < clients; ++c) working.push_back(spawn(executor, publish_wave, std::ref(*to), c, number, 20s));
  co_await sleep_for(after);
  for (const spawned& each : working) co_await each.stop();
}

/// @param open  makes a publisher, on one of the threads.
template <class Open> void run(Open open) {
  net::thread_pool pool(4);
  std::atomic<int> missing{0};
  const auto live = [&]() -> awaitable<void> {
    const std::unique_ptr<publisher> first = co_await open();
    co_await publish_in_crowd(*first, missing);
    for (int i = 0; i < 20; ++i) {
      auto next = co_await open();
      co_await publish_and_go(std::move(next), waves + i, i * 200us);
    }
  };
  spawn(pool, live);
  pool.join();
  CHECK(missing == 0);
}

}  // namespace crowds

#if defined(COFFERDAM_TEST_NATS)
TEST_CASE("waves from many strands reach NATS, whoever leaves them, and the publisher goes at once", "[concurrent]") {
  if (!test::nats_process::is_here()) return;
  const test::nats_process server;
  const auto open = [&]() -> awaitable<std::unique_ptr<publisher>> {
    nats_publisher_options options;
    options.max_pending = 100;
    auto made = co_await nats_publisher::connect(server.url(), options);
    co_await made->ensure_stream("ORDERS", "orders");
    co_return made;
  };
  crowds::run(open);
}
#endif

#if defined(COFFERDAM_TEST_KAFKA)
TEST_CASE("waves from many strands reach Kafka, whoever leaves them, and the publisher goes at once", "[concurrent]") {
  test::kafka_brokers brokers;
  brokers.add_topic("orders", 4);
  const auto open = [&]() -> awaitable<std::unique_ptr<publisher>> {
    kafka_publisher_options options;
    options.max_queued = 100;
    auto made = co_await kafka_publisher::connect(brokers.addresses(), options);
    co_return made;
  };
  crowds::run(open);
}
#endif
