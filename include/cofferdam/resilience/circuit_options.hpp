// The vocabulary of circuit breakers: options, states, events, statistics.
#pragma once

#include <cofferdam/core/error.hpp>
#include <cofferdam/core/time.hpp>
#include <cofferdam/resilience/outcome_class.hpp>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

enum class circuit_state : std::uint8_t { closed, open, half_open };

enum class circuit_mode : std::uint8_t {
  normal,
  isolated,      ///< refuses everything until told otherwise
  disabled,      ///< lets everything pass and records nothing
  metrics_only,  ///< records and says when it would open, but refuses nothing
};

enum class abandoned_policy : std::uint8_t {
  ignore,      ///< a call that was cancelled says nothing about health
  as_failure,  ///< it counts as a failure
  by_share,    ///< all of them as failures while their share of the window (or of the probes) reaches `abandoned_ratio`
};

struct circuit_breaker_options {
  double failure_ratio = 0.5;                  // opens when at least this share failed; in (0, 1]
  duration slow_call_duration{};               // longer calls are slow; 0 = off; less than `window`
  double slow_call_ratio = 1.0;                // opens when at least this share is slow, of probes too; in (0, 1]
  std::size_t minimum_calls = 20;              // no judgement on fewer finished calls; >= 1
  std::size_t consecutive_failures = 0;        // > 0: opens after so many in a row, too, whatever the ratio
  std::size_t failures_in_window = 0;          // > 0: opens after so many in the window, too, whatever the ratio
  std::size_t slow_in_flight = 0;              // > 0: opens when so many calls in flight are slow already
  duration warm_up{};                          // from the first call on: counts, but does not open
  duration window = std::chrono::seconds(30);  // how far back calls count
  std::size_t buckets = 10;                    // resolution of that window; 1 to 100
  std::size_t window_calls = 0;                // > 0: the last N calls count instead, however old
  std::size_t probes = 5;                      // trial calls while half-open; 1 to 1000
  double probe_failure_ratio = 0;              // re-opens when at least this share of them fails; 0 = failure_ratio
  duration probe_deadline{};                   // a probe older than this gives up its place; 0 = break_duration
  duration break_duration = std::chrono::seconds(5);  // how long the first break lasts
  double break_growth = 2.0;                          // factor for every further break without a closed time between
  duration max_break_duration = std::chrono::minutes(1);  // limit of that growth
  duration ramp{};        // > 0: after a break, how long until all calls are let in again; from a tenth upwards
  duration probe_wait{};  // > 0: how long a call may wait for a probe's place or the probes' verdict
  abandoned_policy abandoned = abandoned_policy::ignore;
  double abandoned_ratio = 1.0;  // of by_share, in (0, 1]
  circuit_mode mode = circuit_mode::normal;
  bool record_latency = false;        // percentiles in stats(); implied by slow_call_duration
  bool keep_window_on_close = false;  // a closed circuit remembers failures from before the break; the next one counts
  bool one_strand = false;  // all calls come from one thread or strand, which saves memory; statistics from anywhere
  friend bool operator==(const circuit_breaker_options&, const circuit_breaker_options&) = default;
};

/// Every problem of `options`, each naming its field; empty when they can work.
[[nodiscard]] std::vector<std::string> validate(const circuit_breaker_options& options);

enum class circuit_cause : std::uint8_t {
  none,
  failure_rate,
  slow_rate,
  failure_count,
  consecutive_failures,
  slow_in_flight,
  probe_failed,
  probes_succeeded,
  break_elapsed,
  manual,
  imported,
};

enum class circuit_event_kind : std::uint8_t {
  fire,      ///< a call arrived
  success,   ///< a call was a success
  failure,   ///< a call was a failure
  timeout,   ///< a failure that was a timeout; followed by `failure`
  reject,    ///< a call was refused
  fallback,  ///< the fallback was used
  opened,
  closed,
  half_opened,
  would_open,  ///< metrics_only: would have opened
  mode_changed,
  reset,
  late_result,      ///< a result of an earlier epoch arrived and was dropped
  probe_abandoned,  ///< a probe passed its deadline and lost its place
};

struct circuit_event {
  circuit_event_kind kind{};
  shared_name circuit;
  circuit_state from{}, to{};
  circuit_cause cause{};
  std::uint64_t epoch = 0;
  time_point at{};                                  // steady time; zero when unknown (manual changes)
  duration break_duration{};                        // of `opened`
  std::uint64_t calls = 0, failures = 0, slow = 0;  // in the window when it happened
  duration latency{};                               // of success and failure, if measured
};

struct latency_stats {
  std::uint64_t count = 0;
  duration mean{}, p50{}, p75{}, p90{}, p95{}, p99{}, p995{}, max{};
};

struct circuit_stats {
  circuit_state state{};
  circuit_mode mode{};
  std::uint64_t epoch = 0;
  std::uint32_t consecutive_opens = 0;
  duration remaining_break{};
  // In the window:
  std::uint64_t calls = 0, failures = 0, slow = 0;
  double failure_ratio = 0, slow_ratio = 0;
  bool enough_calls = false;  // whether the ratios are judged
  bool ramping = false;       // closed, but not all calls are let in yet
  // Since construction:
  std::uint64_t fires = 0, successes = 0, failed = 0, slow_calls = 0, ignored = 0, abandoned = 0, rejected = 0,
                late = 0, timeouts = 0, fallbacks = 0, opens = 0;
  latency_stats latency;  // of the last window or two; empty unless recorded
};

/// What another process needs to go on. Half-open travels as open with nothing left of its break: it probes at once.
struct circuit_snapshot {
  circuit_state state = circuit_state::closed;
  circuit_mode mode = circuit_mode::normal;
  std::uint32_t consecutive_opens = 0;
  duration remaining_break{};
};

[[nodiscard]] std::string_view to_string(circuit_state state) noexcept;
[[nodiscard]] std::string_view to_string(circuit_mode mode) noexcept;
[[nodiscard]] std::string_view to_string(circuit_cause cause) noexcept;
[[nodiscard]] std::string_view to_string(circuit_event_kind kind) noexcept;

/// What a break-duration generator knows.
struct break_context {
  std::uint32_t consecutive_opens = 1;  // this one included
  std::uint64_t calls = 0, failures = 0;
  std::exception_ptr last_failure;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
