// The circuit breaker's state machine: no Asio, no clock. Closed calls cost one acquire load on the way down and touch
// nothing shared on the way up while the window stays clean; transitions happen under a mutex, listeners and generators
// are called without it.
#pragma once

#include <cofferdam/core/event_channel.hpp>
#include <cofferdam/core/outcome.hpp>
#include <cofferdam/resilience/circuit_options.hpp>
#include <cofferdam/resilience/detail/call_window.hpp>
#include <cofferdam/resilience/detail/flight_watch.hpp>
#include <cofferdam/resilience/detail/latency_histogram.hpp>

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::detail {

/// The right to one call. Must be given to `record` or `abandon` exactly once.
struct circuit_permit {
  std::uint64_t word = 0;   // the state word at admission: its epoch attributes the result
  time_point started{};     // set by the caller if `wants_start`, by `admit` otherwise
  std::uint32_t probe = 0;  // id of a half-open trial, 0 for an ordinary call
  bool recorded = true;     // false for calls of a disabled circuit
  bool watched = false;     // counted among the calls in flight
};

/// Thread safety: every member from any thread.
class circuit_core {
 public:
  /// Errors: `invalid_options_error`.
  circuit_core(shared_name name, const circuit_breaker_options& options);
  ~circuit_core();
  circuit_core(const circuit_core&) = delete;
  circuit_core& operator=(const circuit_core&) = delete;

  // --- hot
  /// True when calls pass freely; the permit is then complete but for `started`.
  [[nodiscard]] bool try_admit(circuit_permit& permit) const noexcept {
    // Acquire pairs with the release of a transition: what it did to the windows is seen before a call is counted.
    const std::uint64_t word = state_.load(std::memory_order_acquire);
    if ((word & passes_flag) == 0) [[unlikely]]
      return false;
    permit = circuit_permit{};
    permit.word = word;
    permit.recorded = (word & disabled_flag) == 0;
    return true;
  }
  [[nodiscard]] bool wants_start() const noexcept { return wants_start_.load(std::memory_order_relaxed); }
  [[nodiscard]] bool wants_end() const noexcept { return wants_end_.load(std::memory_order_relaxed); }
  /// Counts a success of an ordinary call whose end needs no time. False when `record` must do it.
  [[nodiscard]] bool record_clean_success(const circuit_permit& permit) noexcept {
    // Read before the word: where that is still the one of the admission, the content is of its epoch.
    const auto content = content_.load(std::memory_order_acquire);
    if (content != window_content::some && (permit.word & plain_flag) != 0 &&
        state_.load(std::memory_order_acquire) == permit.word) [[likely]] {
      auto& memory = *memory_.load(std::memory_order_acquire);
      // A good call into a window full of good calls changes nothing, so nothing shared is written.
      if (content != window_content::clean && !memory.good->keep(generation_of(permit.word))) return false;
      memory.successes.add_one();
      return true;
    }
    return record_good(permit);
  }
  /// Counts a result. `ended` may equal `started` for a success of an ordinary call unless `wants_end`.
  /// True when `evaluate` must follow.
  [[nodiscard]] bool record(const circuit_permit& permit, outcome_class result, time_point ended) noexcept;

  /// Most refusals: those of an open circuit, far from the end of its break, where the cheap clock is good enough.
  /// Empty when it is not like that any more and `admit` must be asked.
  [[nodiscard]] failure refuse_while_open(time_point coarse) noexcept;

  // --- cold; these queue events, `drain_events` delivers them
  /// Empty when the call may go; otherwise why not.
  /// @param counts  whether a refusal is counted: not yet if the call may wait; see `count_rejection`.
  [[nodiscard]] failure admit(circuit_permit& permit, time_point now, bool counts = true);
  /// Calls in flight are watched: then `admit` must be asked for each call.
  [[nodiscard]] bool watches_flight() const noexcept { return watches_flight_.load(std::memory_order_relaxed); }
  /// Grows with every change that may let in a call that was refused.
  [[nodiscard]] std::uint64_t changes() const noexcept { return changes_.load(std::memory_order_acquire); }
  /// The trip test and what follows from it. `last_failure` becomes the cause of refusals.
  void evaluate(const circuit_permit& permit, time_point now, std::exception_ptr last_failure);
  /// The call was destroyed before it could tell.
  void abandon(const circuit_permit& permit) noexcept;
  void open();
  void close();
  void reset();
  void set_mode(circuit_mode mode);
  /// Isolates until released as often as held, whatever the mode.
  void hold_isolated();
  void release_isolated();
  /// What is left of a break is over: the next call is a probe.
  void end_break();
  [[nodiscard]] circuit_snapshot snapshot(time_point now) const;
  void restore(const circuit_snapshot& snapshot);
  void set_break_generator(std::function<duration(const break_context&)> generator);
  void drain_events() { events_.drain(); }

  [[nodiscard]] circuit_state state() const noexcept {
    return static_cast<circuit_state>(state_.load(std::memory_order_acquire) & state_mask);
  }
  /// Open or isolated.
  [[nodiscard]] bool refuses_all() const noexcept {
    const std::uint64_t word = state_.load(std::memory_order_acquire);
    const auto state = static_cast<circuit_state>(word & state_mask);
    return (word & (passes_flag | ramps_flag)) == 0 && state != circuit_state::half_open;
  }
  [[nodiscard]] circuit_mode mode() const;
  /// As of `now`, or of the newest event seen when it is not given.
  [[nodiscard]] circuit_stats stats(std::optional<time_point> now) const;
  [[nodiscard]] std::exception_ptr last_failure() const;
  [[nodiscard]] const shared_name& name() const noexcept { return name_; }
  /// Those in force. They stay where they are for the core's life.
  [[nodiscard]] const circuit_breaker_options& options() const noexcept {
    return *options_.load(std::memory_order_acquire);
  }
  /// Puts other options in force; see `circuit_breaker::reconfigure`.
  void reconfigure(const circuit_breaker_options& changed);
  [[nodiscard]] event_channel<circuit_event>& events() noexcept { return events_; }
  void count_rejection() noexcept {
    if (auto* memory = ensure_memory()) memory->rejected.add_one();
  }
  void count_timeout() noexcept { tally(&working_memory::timeouts); }
  void count_fallback() noexcept { tally(&working_memory::fallbacks); }

 private:
  static constexpr std::int64_t nothing_bad = INT64_MIN;
  // epoch : 56 | generation : 1 | - : 1 | plain : 1 | ramps : 1 | passes : 1 | disabled : 1 | state : 2
  // plain: calls count into a count window, and the time of their end does not matter.
  static constexpr std::uint64_t state_mask = 3, disabled_flag = 4, passes_flag = 8, ramps_flag = 16, plain_flag = 32,
                                 generation_flag = 128;
  static constexpr unsigned epoch_shift = 8;

  struct probe {
    std::uint32_t id;
    time_point started;
  };
  /// What a breaker needs only once it is used: an idle one stays small.
  struct working_memory {
    using counter = std::atomic<std::uint64_t>;
    /// @param before  the memory for the options before, whose counters count on.
    working_memory(const circuit_breaker_options& options, const working_memory* before);
    /// Of the time windows, abandoned calls included.
    [[nodiscard]] window_counts sum(unsigned generation, std::int64_t slice) const noexcept;

    std::unique_ptr<const working_memory> earlier;  // somebody may still be using it
    bool measures_slow;
    std::optional<time_window> by_time;
    std::optional<count_window> by_count;  // guarded by the mutex
    std::optional<good_calls> good;        // that go into it
    std::unique_ptr<latency_histogram> latency;
    sharded_counter successes, rejected;
    std::vector<probe> probes;  // in flight; guarded by the mutex
    counter in_a_row{0};        // failures; counted only if somebody wants to know
    std::atomic<std::int64_t> warm_until{INT64_MIN};
    counter failed{0}, slow{0}, ignored{0}, abandoned{0}, late{0}, timeouts{0}, fallbacks{0}, opens{0};
    std::optional<time_window> abandoned_by_time;  // for abandoned_policy::by_share
  };

  [[nodiscard]] std::uint64_t epoch_of(std::uint64_t word) const noexcept { return word >> epoch_shift; }
  [[nodiscard]] bool is_current(std::uint64_t word) const noexcept {
    return epoch_of(state_.load(std::memory_order_acquire)) == epoch_of(word);
  }
  [[nodiscard]] static unsigned generation_of(std::uint64_t word) noexcept {
    return (word & generation_flag) != 0 ? 1 : 0;
  }
  void put_in_force_locked(const circuit_breaker_options& changed);
  [[nodiscard]] bool counts_calls() const noexcept { return options().window_calls > 0; }
  [[nodiscard]] std::size_t effective_minimum() const noexcept;
  void collect_good_calls_locked(working_memory& memory) const noexcept;
  [[nodiscard]] window_counts window_at_locked(std::uint64_t word, time_point now) const noexcept;
  /// Decides whether abandoned calls are failures, or none at all.
  [[nodiscard]] window_counts weigh(window_counts seen) const noexcept;
  [[nodiscard]] bool has_abandoned_share(std::uint64_t abandoned, std::uint64_t calls) const noexcept;
  /// Of weighed counts.
  [[nodiscard]] circuit_cause judge(const window_counts& counts) const noexcept;
  [[nodiscard]] circuit_cause judge_probes_locked() const noexcept;
  [[nodiscard]] duration next_break_locked(time_point now, const window_counts& counts, std::exception_ptr failure,
                                           std::unique_lock<std::mutex>& lock);
  [[nodiscard]] bool record_good(const circuit_permit& permit) noexcept;
  void judge_again(working_memory& memory, const circuit_permit& permit) noexcept;
  void evaluate_quietly(const circuit_permit& permit) noexcept;
  /// How a result goes into the window.
  struct mark {
    bool failed, slow, abandoned;
    [[nodiscard]] bool is_bad() const noexcept { return failed || slow || abandoned; }
  };
  static void count(working_memory& memory, outcome_class result, bool slow) noexcept;
  [[nodiscard]] bool try_admit_at(circuit_permit& permit, time_point now) const noexcept;
  /// As `try_admit_at`, and watches the call if calls in flight are watched.
  [[nodiscard]] bool pass(circuit_permit& permit, time_point now);
  [[nodiscard]] failure ramp_up_locked(circuit_permit& permit, time_point now, working_memory& memory, bool counts);
  [[nodiscard]] failure refuse_locked(working_memory& memory, errc code, std::optional<duration> retry_after,
                                      bool counts) const;
  [[nodiscard]] circuit_mode effective_mode_locked() const noexcept {
    return isolation_holds_ > 0 ? circuit_mode::isolated : mode_;
  }
  void change_mode_locked(circuit_mode before);
  [[nodiscard]] bool is_spared() const noexcept { return spared_.load(std::memory_order_relaxed); }
  [[nodiscard]] bool record_probe(const circuit_permit& permit, outcome_class result, bool slow) noexcept;
  /// Null when there is no memory to be had; the result then goes uncounted, which beats failing a call that succeeded.
  working_memory* ensure_memory() noexcept;
  void tally(working_memory::counter working_memory::* counter) noexcept;
  /// True when there are too many failures in a row.
  bool count_in_a_row(working_memory& memory, const mark& how) noexcept;
  [[nodiscard]] bool has_too_many_in_a_row(const working_memory& memory) const noexcept;
  [[nodiscard]] bool judge_by_time(const working_memory& memory, unsigned generation, std::int64_t slice,
                                   const mark& how, time_point ended) noexcept;
  void record_latency(working_memory& memory, duration latency, time_point ended) noexcept;
  void record_latency_locked(working_memory& memory, duration latency, time_point ended) noexcept;
  void transition_locked(circuit_state to, circuit_cause cause, time_point now, bool clear_window);
  void open_locked(circuit_cause cause, time_point now, duration length, const window_counts& counts);
  void publish_word_locked(circuit_state state, bool new_epoch, bool switch_generation) noexcept;
  void announce_locked(circuit_event_kind kind, circuit_state from, circuit_state to, circuit_cause cause,
                       time_point now, const window_counts& counts = {}) noexcept;
  void note_late(working_memory& memory) noexcept;
  void forget_probes_locked() noexcept;
  [[nodiscard]] duration probe_deadline() const noexcept;
  /// The newest time that anybody told of.
  [[nodiscard]] time_point newest() const noexcept {
    return time_point(duration(newest_.load(std::memory_order_relaxed)));
  }
  void note_time(time_point now) noexcept {
    std::int64_t seen = newest_.load(std::memory_order_relaxed);
    const std::int64_t told = now.time_since_epoch().count();
    while (seen < told && !newest_.compare_exchange_weak(seen, told, std::memory_order_relaxed)) {
    }
  }

  // Read by every call, written by transitions.
  std::atomic<std::uint64_t> state_;
  std::atomic<working_memory*> memory_{nullptr};        // owned
  std::atomic<std::int64_t> refuses_until_{INT64_MIN};  // `coarse_lag` before the end of the break, while open
  std::atomic<bool> has_last_failure_{false};
  std::atomic<std::int64_t> newest_{0};
  enum class window_content : std::uint8_t {
    some,
    sound,  // full, and good calls cannot trip it
    clean,  // full of good calls
  };
  std::atomic<window_content> content_{window_content::some};  // of the count window
  // Time window: the newest slice with a failed or slow call in it. While there is one, a success may trip.
  std::atomic<std::int64_t> newest_bad_slice_{nothing_bad};
  std::atomic<std::int64_t> sound_slice_{nothing_bad};  // the newest slice at which good calls cannot trip it
  std::atomic<bool> spared_{false};  // closed with its old window, and nothing bad since: good calls do not trip it
  std::atomic<std::uint64_t> changes_{0};
  std::atomic<const circuit_breaker_options*> options_;
  std::atomic<bool> wants_start_{false}, wants_end_{false}, watches_flight_{false};
  std::unique_ptr<flight_watch> flight_;  // with slow_in_flight; guarded by the mutex
  event_channel<circuit_event> events_;

  // Written on unhealthy or rare paths only.
  mutable std::mutex mutex_;
  shared_name name_;
  std::vector<std::unique_ptr<const circuit_breaker_options>> all_options_;  // that ever were in force, the last one is
  std::shared_ptr<const std::function<duration(const break_context&)>> generator_;  // shared: called without the lock
  std::exception_ptr last_failure_;
  circuit_mode mode_;
  bool ramping_ = false;
  std::uint32_t isolation_holds_ = 0;
  double ramp_credit_ = 0;  // of calls that may go
  time_point ramp_from_{};
  bool break_starts_later_ = false;  // opened by hand: the break starts at the next call, which knows the time
  bool would_open_announced_ = false;
  std::uint32_t consecutive_opens_ = 0, next_probe_ = 1;
  struct {
    std::uint32_t successes = 0, failures = 0, slow = 0, abandoned = 0;  // a slow one is one of the first two as well
  } probed_;
  struct {
    circuit_cause cause = circuit_cause::none;
    window_counts counts;
  } due_;  // what a count window was found to be and nobody has acted on yet: later calls may push out the reason
  time_point opened_at_{};
  duration break_duration_{};
};

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
