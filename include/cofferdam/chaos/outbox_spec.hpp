// What an outbox scenario is made of: a service that accepts orders and tells the world of them.
#pragma once

#include <cofferdam/chaos/service_spec.hpp>
#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/circuit_options.hpp>
#include <cofferdam/resilience/retry.hpp>

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

/// How the world hears of an order.
enum class publish_mode : std::uint8_t {
  outbox,         ///< order and message in one batch; relays publish
  after_commit,   ///< commits the order, then publishes once, and whatever comes of it
  before_commit,  ///< publishes, then commits the order
  only,           ///< publishes; there is no database
};

struct producer_spec {
  double rate = 1;  // orders per second
  bool poisson = true;
  duration from{}, to{};
  std::size_t keys = 100;  // customers
  publish_mode publish = publish_mode::outbox;
};

struct broker_spec {
  bool in_process = false;  // relays call the consumers
  service_spec work;        // it keeps what it has worked off
};

struct relay_spec {
  std::string name;
  bool naive = false;
  std::optional<duration> lease;
  std::optional<std::size_t> window, page;
  std::optional<retry_options> retry;
  std::optional<circuit_breaker_options> breaker;
  std::optional<duration> timeout;
};

struct consumer_spec {
  std::string name;
  std::size_t workers = 1;  // orders of a key go to the same one
  latency_spec latency;
  bool inbox = true;
  std::optional<std::size_t> max_unacknowledged;  // nothing: whatever comes is taken into memory
  std::optional<bulkhead_options> bulkhead;
};

struct outbox_spec {
  producer_spec producer;
  broker_spec broker;
  std::vector<relay_spec> relays;
  std::vector<consumer_spec> consumers;
};

/// What a person does while a scenario runs: publishes what a relay has put aside.
struct replay_spec {
  duration at{};
  std::string relay;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
