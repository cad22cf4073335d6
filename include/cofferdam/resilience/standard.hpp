// Pipelines for the usual cases, in one call each, with every policy in its place.
//
//     pipeline payments = client_pipeline("payments");
//     auto receipt = co_await payments.run(charge, order);
#pragma once

#include <cofferdam/resilience/adaptive_limiter.hpp>
#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/circuit_options.hpp>
#include <cofferdam/resilience/hedging.hpp>
#include <cofferdam/resilience/pipeline.hpp>
#include <cofferdam/resilience/retry.hpp>

#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

/// For calls to another service: bulkhead, total timeout, retry on a budget, circuit breaker, timeout of each attempt.
struct client_pipeline_options {
  bulkhead_options bulkhead = {.max_concurrent = 1000};
  duration total_timeout = std::chrono::seconds(30);  // of a call with all its attempts
  retry_options retry{};
  retry_budget_options budget{};  // one tenth of the successes
  circuit_breaker_options circuit{};
  duration attempt_timeout = std::chrono::seconds(10);  // less than total_timeout, at most half of circuit.window
};

/// For idempotent calls whose tail matters: bulkhead, total timeout, hedging on a budget, circuit breaker, timeout of
/// each attempt.
struct hedged_client_pipeline_options {
  bulkhead_options bulkhead = {.max_concurrent = 1000};
  duration total_timeout = std::chrono::seconds(30);
  hedging_options hedging = {.delay = std::chrono::seconds(1), .percentile = 0.95};
  retry_budget_options budget{};
  circuit_breaker_options circuit{};
  duration attempt_timeout = std::chrono::seconds(10);
};

/// For requests that come in: an adaptive limit with a short queue, newest first, and a time limit.
struct server_pipeline_options {
  adaptive_limiter_options limiter = {
      .max_queue = 100, .max_wait = std::chrono::milliseconds(500), .order = queue_order::lifo};
  duration timeout = std::chrono::seconds(10);
};

/// Every problem, also of options that contradict each other.
[[nodiscard]] std::vector<std::string> validate(const client_pipeline_options& options);
[[nodiscard]] std::vector<std::string> validate(const hedged_client_pipeline_options& options);
[[nodiscard]] std::vector<std::string> validate(const server_pipeline_options& options);

/// @param name  of the pipeline and its policies, for errors and events.
/// Errors: `invalid_options_error`.
[[nodiscard]] pipeline client_pipeline(const std::string& name, const client_pipeline_options& options = {});
[[nodiscard]] pipeline hedged_client_pipeline(const std::string& name,
                                              const hedged_client_pipeline_options& options = {});
[[nodiscard]] pipeline server_pipeline(const std::string& name, const server_pipeline_options& options = {});

}  // namespace cofferdam::inline COFFERDAM_ABI
