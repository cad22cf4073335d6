// Policies as data: what a configuration or a scenario file says about them. One table per policy (policy_spec.cpp)
// reads them from JSON, writes them back and describes them in the JSON Schema.
#pragma once

#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/circuit_options.hpp>
#include <cofferdam/resilience/client_throttle.hpp>
#include <cofferdam/resilience/hedging.hpp>
#include <cofferdam/resilience/limit_options.hpp>
#include <cofferdam/resilience/policy.hpp>
#include <cofferdam/resilience/priority_shedder.hpp>
#include <cofferdam/resilience/rate_options.hpp>
#include <cofferdam/resilience/retry.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include <nlohmann/json_fwd.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

namespace detail {
class json_reader;
}

/// A budget of its own, or one that pipelines share, by name.
struct budget_spec {
  std::string shared;  // empty: of its own
  retry_budget_options own;
  friend bool operator==(const budget_spec&, const budget_spec&) = default;
};

struct timeout_spec {
  duration limit = std::chrono::seconds(1);
  on_timeout mode = on_timeout::cancel;
  friend bool operator==(const timeout_spec&, const timeout_spec&) = default;
};
struct retry_spec {
  retry_options options;
  std::optional<budget_spec> budget;
  friend bool operator==(const retry_spec&, const retry_spec&) = default;
};
struct hedging_spec {
  hedging_options options;
  std::optional<budget_spec> budget;
  friend bool operator==(const hedging_spec&, const hedging_spec&) = default;
};

struct bulkhead_spec {
  bulkhead_options options;
  bulkhead_partitions partitions;
  friend bool operator==(const bulkhead_spec&, const bulkhead_spec&) = default;
};

/// Goes by the load of the bulkheads and adaptive limiters below it in its pipeline; the busiest counts.
struct priority_shedder_spec {
  std::vector<shed_level> levels{shed_level{}};
  priority_shedder_options options;
  friend bool operator==(const priority_shedder_spec&, const priority_shedder_spec&) = default;
};

/// One for the pipeline, which no call of it may enter twice.
struct nesting_guard_spec {
  friend bool operator==(const nesting_guard_spec&, const nesting_guard_spec&) = default;
};

/// Which of the alternatives is meant is the JSON object's only key: `{ "circuit_breaker": { "failure_ratio": 0.5 } }`.
using policy_spec =
    std::variant<timeout_spec, retry_spec, hedging_spec, circuit_breaker_options, bulkhead_spec, rate_limiter_options,
                 client_throttle_options, adaptive_limiter_options, priority_shedder_spec, nesting_guard_spec>;

/// "timeout", "retry", ...: the key of each alternative, in their order.
[[nodiscard]] const std::vector<std::string>& policy_kinds();
[[nodiscard]] const std::string& kind_of(const policy_spec& spec);

/// The budget that a retry or hedge draws on; null when there is none.
[[nodiscard]] const budget_spec* budget_of(const policy_spec& spec) noexcept;

/// Only what differs from the defaults.
[[nodiscard]] nlohmann::json to_json(const policy_spec& spec);
/// A JSON Schema (draft 7) for one policy; refers to `#/definitions/duration`.
[[nodiscard]] nlohmann::json policy_schema();
/// As above, for a budget.
[[nodiscard]] nlohmann::json budget_schema();

/// Whether a priority shedder outside of this policy can go by its load.
[[nodiscard]] bool tells_load(const policy_spec& spec) noexcept;
[[nodiscard]] bool tells_load(const policy& made) noexcept;

/// Finds the budget that a policy names; must not return null.
using budget_finder = std::function<std::shared_ptr<retry_budget>(const budget_spec&)>;
/// @param name   of the policy, for errors and events. The policy keeps its budget alive, and what it watches.
/// @param below  the policies below it, which a priority shedder watches.
/// Errors: `invalid_options_error` for a priority shedder with nothing below it that tells its load.
[[nodiscard]] std::shared_ptr<policy> make_policy(const std::string& name, const policy_spec& spec,
                                                  const budget_finder& find_budget,
                                                  std::span<const std::shared_ptr<policy>> below = {});

namespace detail {

/// Reads `{ "<kind>": <options> }`. Problems go to the reader's list.
/// @param other_kinds  keys that the caller has looked for itself, for hints.
[[nodiscard]] std::optional<policy_spec> read_policy(json_reader reader,
                                                     const std::vector<std::string>& other_kinds = {});
[[nodiscard]] retry_budget_options read_budget(json_reader reader);
[[nodiscard]] nlohmann::json write_budget(const retry_budget_options& options);

}  // namespace detail
}  // namespace cofferdam::inline COFFERDAM_ABI
