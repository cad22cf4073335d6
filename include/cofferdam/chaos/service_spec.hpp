// A simulated service as a scenario describes it.
#pragma once

#include <cofferdam/core/time.hpp>
#include <cofferdam/resilience/bulkhead.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

enum class distribution : std::uint8_t { constant, exponential, uniform, lognormal };

struct latency_spec {
  distribution kind = distribution::exponential;
  duration mean = std::chrono::milliseconds(10);
  double spread = 0.5;  // uniform: mean * (1 - spread .. 1 + spread); lognormal: sigma
};

struct service_spec {
  std::string name;
  std::size_t workers = 1;                 // requests worked on at once
  latency_spec latency;                    // of the work itself, queueing comes on top
  std::optional<std::size_t> queue_limit;  // requests that may wait; nothing = no limit
  queue_order order = queue_order::fifo;
  bool drop_expired = false;                                // does not start work whose client has given up
  duration refusal_latency = std::chrono::milliseconds(1);  // of an answer "overloaded"
  bool idempotent = false;                                  // to do a call's work again has no further effect
};

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
