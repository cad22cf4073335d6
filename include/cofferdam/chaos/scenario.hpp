// A chaos scenario: what is at work, load, faults, variants, and what is expected of each.
// Read from JSON (docs/scenario.schema.json); all mistakes of a file are reported at once, each with its path.
#pragma once

#include <cofferdam/chaos/outbox_spec.hpp>
#include <cofferdam/chaos/saga_spec.hpp>
#include <cofferdam/chaos/service_spec.hpp>
#include <cofferdam/core/time.hpp>
#include <cofferdam/resilience/policy_spec.hpp>

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

/// What is at work.
enum class scenario_kind : std::uint8_t {
  calls,   ///< clients, policies, services
  outbox,  ///< producer, relays, broker, consumers
  saga,    ///< a coordinator that is killed
};

/// Slots of the calling process that several loads share, as threads would be.
struct pool_spec {
  std::string name;
  std::size_t limit = 1;
};

struct load_spec {
  std::string name, target, pool;
  bool poisson = true;
  double rate = 1;  // calls per second
  duration from{}, to{};
};

/// Answers "degraded".
struct fallback_spec {};
/// A fault among the policies; see fault_policy.hpp.
struct fault_policy_spec {
  std::string kind;  // one of `known_fault_policies()`
  double rate = 1;   // share of calls, 0 to 1
  duration add{}, jitter{};
  std::vector<std::string> keys;           // loads whose calls may be struck; empty: all of them
  std::vector<fault_policy_spec> choices;  // of a weighted one
  double weight = 1;                       // of a choice
};
using any_policy_spec = std::variant<policy_spec, fallback_spec, fault_policy_spec>;

/// What a variant changes about a service.
struct service_override {
  std::optional<std::size_t> workers, queue_limit;
  std::optional<queue_order> order;
  std::optional<bool> drop_expired, idempotent;
};

struct variant_spec {
  std::map<std::string, std::vector<any_policy_spec>> policies;  // by service, from the outside in
  std::map<std::string, service_override> overrides;
  outbox_spec outbox;  // of an outbox scenario
  saga_spec saga;      // of a saga scenario
};

/// What happens for a time. docs/scenarios.md says what of whom.
enum class fault_kind : std::uint8_t {
  slow,
  latency,
  error,
  hang,
  capacity,
  load,
  kill_switch,  ///< stops the faults among the policies of a service
  outage,
  lost_ack,
  duplicate,
  pause,
  crash,
  poison,
};

struct fault_spec {
  std::string name, target;
  fault_kind kind{};
  duration at{}, length{};
  double factor = 1, rate = 0;
  duration add{}, jitter{};
  std::size_t workers = 0, every = 0;
};

struct expectation {
  enum class kind : std::uint8_t { always, sometimes, slo, compare };
  kind what{};
  std::string subject;  // invariant, event or metric
  std::string variant;  // empty: every one
  std::string load;     // or consumer; empty: all together
  std::optional<std::size_t> after_fault;
  duration from{}, to{};                    // by the start of the calls
  std::optional<double> at_least, at_most;  // seconds for times
  std::string better, worse;                // compare
  double by = 1;                            // factor
  std::string note;
};

struct scenario {
  scenario_kind kind = scenario_kind::calls;
  bool real = false;  // in real time, against real servers
  std::string title, description;
  std::vector<std::string> tags, references;
  duration length{}, warmup{}, timeline = std::chrono::seconds(1);
  std::vector<std::uint64_t> seeds{1};
  std::vector<service_spec> services;
  std::vector<pool_spec> pools;
  std::vector<load_spec> loads;
  std::vector<std::pair<std::string, variant_spec>> variants;
  std::vector<fault_spec> faults;
  std::vector<replay_spec> replays;
  std::vector<expectation> expectations;
};

/// Every mistake of a scenario file, one a line.
class scenario_error : public std::runtime_error {
 public:
  scenario_error(const std::string& source, std::vector<std::string> problems);
  [[nodiscard]] const std::vector<std::string>& problems() const noexcept { return problems_; }

 private:
  std::vector<std::string> problems_;
};

/// Errors: `scenario_error`.
[[nodiscard]] scenario parse_scenario(const nlohmann::json& document, const std::string& source = "scenario");
/// Errors: `scenario_error`, also for a file that cannot be read and for malformed JSON (with line and column).
[[nodiscard]] scenario load_scenario(const std::string& path);

/// "latency", "lost_answer", ...: the kinds of faults among the policies.
[[nodiscard]] const std::vector<std::string>& known_fault_policies();
/// Of one kind of scenario.
[[nodiscard]] const std::vector<std::string>& known_metrics(scenario_kind kind = scenario_kind::calls);
[[nodiscard]] const std::vector<std::string>& known_events(scenario_kind kind = scenario_kind::calls);
[[nodiscard]] const std::vector<std::string>& known_invariants(scenario_kind kind = scenario_kind::calls);

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
