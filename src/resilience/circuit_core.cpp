#include <cofferdam/resilience/detail/circuit_core.hpp>
#include <cofferdam/resilience/detail/uneven_fence.hpp>
#include <cofferdam/resilience/detail/validation.hpp>

#include <algorithm>
#include <cmath>
#include <tuple>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

// How much a coarse clock may lag: 4 ms on common kernels; ten are safe.
constexpr duration coarse_lag = std::chrono::milliseconds(10);

bool is_ratio(double value) { return value > 0.0 && value <= 1.0; }

/// Whether `part` is at least `ratio` of `whole`; the epsilon forgives 0.7 * 10 > 7.
bool reaches(std::uint64_t part, std::uint64_t whole, double ratio) noexcept {
  return part > 0 && static_cast<double>(part) + 1e-9 >= ratio * static_cast<double>(whole);
}

detail::writers writers_of(const circuit_breaker_options& o) noexcept {
  return o.one_strand ? detail::writers::one_strand() : detail::writers::all();
}

}  // namespace

std::vector<std::string> validate(const circuit_breaker_options& o) {
  std::vector<std::string> problems;
  const auto require = [&](bool fine, const char* problem) {
    if (!fine) problems.emplace_back(problem);
  };
  require(is_ratio(o.failure_ratio), "failure_ratio: must be above 0 and at most 1");
  require(is_ratio(o.slow_call_ratio), "slow_call_ratio: must be above 0 and at most 1");
  require(o.slow_call_duration >= duration::zero(), "slow_call_duration: must not be negative; 0 turns it off");
  require(o.window_calls > 0 || o.window <= duration::zero() || o.slow_call_duration < o.window,
          "slow_call_duration: must be less than window, which forgets calls that began longer ago");
  require(o.minimum_calls >= 1, "minimum_calls: must be at least 1");
  require(o.window_calls == 0 || o.failures_in_window <= o.window_calls,
          "failures_in_window: must not be more than window_calls, which would never hold so many");
  require(o.slow_in_flight == 0 || o.slow_call_duration > duration::zero(),
          "slow_in_flight: needs a slow_call_duration");
  require(o.ramp >= duration::zero(), "ramp: must not be negative; 0 turns it off");
  require(o.probe_wait >= duration::zero(), "probe_wait: must not be negative; 0 turns it off");
  require(o.warm_up >= duration::zero(), "warm_up: must not be negative; 0 turns it off");
  require(o.window >= duration(static_cast<std::int64_t>(o.buckets)), "window: must be positive");
  require(o.buckets >= 1 && o.buckets <= 100, "buckets: must be between 1 and 100");
  require(o.window_calls <= 1'000'000, "window_calls: must be at most 1000000");
  require(o.probes >= 1 && o.probes <= 1000, "probes: must be between 1 and 1000");
  require(o.probe_failure_ratio >= 0.0 && o.probe_failure_ratio <= 1.0, "probe_failure_ratio: must be between 0 and 1");
  require(o.probe_deadline >= duration::zero(), "probe_deadline: must not be negative; 0 means break_duration");
  require(o.break_duration > duration::zero(), "break_duration: must be positive");
  require(o.break_growth >= 1.0, "break_growth: must be at least 1");
  require(o.max_break_duration >= o.break_duration, "max_break_duration: must not be less than break_duration");
  require(is_ratio(o.abandoned_ratio), "abandoned_ratio: must be above 0 and at most 1");
  return problems;
}

namespace detail {

circuit_core::circuit_core(shared_name name, const circuit_breaker_options& options)
    : state_(0), name_(std::move(name)), mode_(options.mode) {
  require_valid("circuit_breaker '" + *name_ + "'", validate(options));
  prepare_fences();
  put_in_force_locked(options);
  publish_word_locked(circuit_state::closed, true, false);
}

circuit_core::~circuit_core() { delete memory_.load(std::memory_order_acquire); }

circuit_core::working_memory::working_memory(const circuit_breaker_options& options, const working_memory* before)
    : measures_slow(options.slow_call_duration > duration::zero()),
      successes(writers_of(options)),
      rejected(writers_of(options)) {
  const bool by_share = options.abandoned == abandoned_policy::by_share;
  const writers calls = writers_of(options);
  if (options.window_calls > 0) {
    by_count.emplace();
    by_count->resize(options.window_calls);
    if (before != nullptr && before->by_count) by_count->add_all_of(*before->by_count);
    good.emplace(calls);
  } else {
    const duration width = options.window / static_cast<std::int64_t>(options.buckets);
    by_time.emplace(options.buckets, width, measures_slow, calls);
    if (by_share) abandoned_by_time.emplace(options.buckets, width, false, calls);
  }
  if (measures_slow || options.record_latency) latency = std::make_unique<latency_histogram>();
  probes.reserve(options.probes);
  if (before == nullptr) return;
  probes.insert(probes.end(), before->probes.begin(), before->probes.end());
  in_a_row = before->in_a_row.load();
  warm_until = before->warm_until.load();
}

void circuit_core::put_in_force_locked(const circuit_breaker_options& changed) {
  const auto* before = all_options_.empty() ? nullptr : all_options_.back().get();
  const auto& o = *all_options_.emplace_back(std::make_unique<const circuit_breaker_options>(changed));
  const bool measures_slow = o.slow_call_duration > duration::zero();
  options_.store(&o, std::memory_order_release);
  wants_start_ = o.window_calls == 0 || o.record_latency || measures_slow || o.warm_up > duration::zero();
  wants_end_ = o.record_latency || measures_slow;
  watches_flight_ = o.slow_in_flight > 0;
  if (o.slow_in_flight == 0) {
    flight_.reset();
  } else if (!flight_ || before->slow_call_duration != o.slow_call_duration) {
    flight_ = std::make_unique<flight_watch>(o.slow_call_duration);
  }
}

void circuit_core::reconfigure(const circuit_breaker_options& changed) {
  require_valid("circuit_breaker '" + *name_ + "'", validate(changed));
  const std::lock_guard lock(mutex_);
  const circuit_breaker_options before = options();
  if (changed == before) return;
  const auto shape = [](const circuit_breaker_options& o) {
    const bool measures_slow = o.slow_call_duration > duration::zero();
    const bool is_timed = o.window_calls == 0 || o.record_latency || measures_slow;
    return std::tuple(o.window_calls, is_timed ? o.window : duration(), o.buckets, measures_slow, o.record_latency,
                      o.one_strand, o.abandoned == abandoned_policy::by_share);
  };
  auto* memory = memory_.load(std::memory_order_acquire);
  std::unique_ptr<working_memory> made;
  if (memory != nullptr && (shape(changed) != shape(before) || changed.probes > before.probes)) {
    if (memory->by_count) collect_good_calls_locked(*memory);
    made = std::make_unique<working_memory>(changed, memory);
  }
  put_in_force_locked(changed);
  if (made) {
    made->earlier.reset(memory);
    memory_.store(made.release(), std::memory_order_release);
  }
  due_ = {};
  content_.store(window_content::some, std::memory_order_relaxed);
  newest_bad_slice_.store(0, std::memory_order_relaxed);  // what the window holds must be judged anew
  sound_slice_.store(nothing_bad, std::memory_order_relaxed);
  const circuit_mode mode = effective_mode_locked();
  if (changed.mode != before.mode) mode_ = changed.mode;
  change_mode_locked(mode);
  // Calls that the old watch has counted must not leave the new one.
  const bool watch_changed = changed.slow_in_flight == 0 || changed.slow_call_duration != before.slow_call_duration;
  publish_word_locked(state(), before.slow_in_flight > 0 && watch_changed, false);
}

// --------------------------------------------------------------------------------------------------- small helpers

std::size_t circuit_core::effective_minimum() const noexcept {
  return counts_calls() ? std::min(options().minimum_calls, options().window_calls) : options().minimum_calls;
}

duration circuit_core::probe_deadline() const noexcept {
  return options().probe_deadline > duration::zero() ? options().probe_deadline : options().break_duration;
}

bool circuit_core::has_abandoned_share(std::uint64_t abandoned, std::uint64_t calls) const noexcept {
  return options().abandoned == abandoned_policy::by_share && reaches(abandoned, calls, options().abandoned_ratio);
}

window_counts circuit_core::weigh(window_counts seen) const noexcept {
  if (seen.calls >= effective_minimum() && has_abandoned_share(seen.abandoned, seen.calls)) {
    seen.failures += seen.abandoned;
  } else {
    seen.calls -= seen.abandoned;
  }
  return seen;
}

/// What the trials so far decide, whatever those still to come will say.
circuit_cause circuit_core::judge_probes_locked() const noexcept {
  const std::size_t all = options().probes;
  const std::size_t settled = probed_.successes + probed_.failures, missing = all - std::min(all, settled);
  const double failure_ratio =
      options().probe_failure_ratio > 0 ? options().probe_failure_ratio : options().failure_ratio;
  const bool measures_slow = options().slow_call_duration > duration::zero();
  const std::size_t with_abandoned = settled + probed_.abandoned;
  if (reaches(probed_.failures, all, failure_ratio) ||
      (measures_slow && reaches(probed_.slow, all, options().slow_call_ratio)) ||
      (with_abandoned >= all && has_abandoned_share(probed_.abandoned, with_abandoned))) {
    return circuit_cause::probe_failed;
  }
  const bool may_fail = reaches(probed_.failures + missing, all, failure_ratio);
  const bool may_be_slow = measures_slow && reaches(probed_.slow + missing, all, options().slow_call_ratio);
  return may_fail || may_be_slow ? circuit_cause::none : circuit_cause::probes_succeeded;
}

circuit_cause circuit_core::judge(const window_counts& counts) const noexcept {
  if (options().failures_in_window > 0 && counts.failures >= options().failures_in_window) {
    return circuit_cause::failure_count;
  }
  if (counts.calls < effective_minimum()) return circuit_cause::none;
  if (reaches(counts.failures, counts.calls, options().failure_ratio)) return circuit_cause::failure_rate;
  if (options().slow_call_duration > duration::zero() &&
      reaches(counts.slow, counts.calls, options().slow_call_ratio)) {
    return circuit_cause::slow_rate;
  }
  return circuit_cause::none;
}

/// Good calls that threads still keep go into the count window, and end a row of failures.
void circuit_core::collect_good_calls_locked(working_memory& memory) const noexcept {
  const std::uint64_t good = memory.good->collect(generation_of(state_.load(std::memory_order_relaxed)));
  for (std::uint64_t i = 0; i < good; ++i) memory.by_count->add(false, false);
  if (good > 0) memory.in_a_row.store(0, std::memory_order_relaxed);
}

window_counts circuit_core::window_at_locked(std::uint64_t word, time_point now) const noexcept {
  auto* memory = memory_.load(std::memory_order_acquire);
  if (memory == nullptr) return {};
  if (memory->by_count) {
    collect_good_calls_locked(*memory);
    return memory->by_count->counts();
  }
  return memory->sum(generation_of(word), memory->by_time->slice_of(now));
}

window_counts circuit_core::working_memory::sum(unsigned generation, std::int64_t slice) const noexcept {
  window_counts seen = by_time->sum(generation, slice);
  if (abandoned_by_time) {
    seen.abandoned = abandoned_by_time->sum(generation, slice).calls;
    seen.calls += seen.abandoned;
  }
  return seen;
}

void circuit_core::note_late(working_memory& memory) noexcept {
  memory.late.fetch_add(1, std::memory_order_relaxed);
  if (!events_.has_listeners()) return;
  const std::lock_guard lock(mutex_);
  announce_locked(circuit_event_kind::late_result, state(), state(), circuit_cause::none, newest());
}

circuit_core::working_memory* circuit_core::ensure_memory() noexcept {
  if (auto* memory = memory_.load(std::memory_order_acquire)) [[likely]]
    return memory;
  std::unique_ptr<working_memory> made;
  try {
    made = std::make_unique<working_memory>(options(), nullptr);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
  working_memory* present = nullptr;
  // Release publishes the contents; the loser of a race deletes its own.
  if (memory_.compare_exchange_strong(present, made.get(), std::memory_order_acq_rel)) return made.release();
  return present;
}

void circuit_core::tally(working_memory::counter working_memory::* counter) noexcept {
  if (auto* memory = ensure_memory()) (memory->*counter).fetch_add(1, std::memory_order_relaxed);
}

void circuit_core::record_latency(working_memory& memory, duration latency, time_point ended) noexcept {
  if (!memory.latency) return;
  if (ended.time_since_epoch() / options().window > memory.latency->period()) {
    const std::lock_guard lock(mutex_);
    record_latency_locked(memory, latency, ended);
  } else {
    memory.latency->record(latency);
  }
}

void circuit_core::record_latency_locked(working_memory& memory, duration latency, time_point ended) noexcept {
  if (!memory.latency) return;
  memory.latency->rotate(ended.time_since_epoch() / options().window);
  memory.latency->record(latency);
}

// -------------------------------------------------------------------------------------------------------- results

void circuit_core::count(working_memory& memory, outcome_class result, bool slow) noexcept {
  switch (result) {
    case outcome_class::success:
      memory.successes.add_one();
      break;
    case outcome_class::failure:
      memory.failed.fetch_add(1, std::memory_order_relaxed);
      break;
    case outcome_class::ignored:
      memory.ignored.fetch_add(1, std::memory_order_relaxed);
      break;
    case outcome_class::abandoned:
      memory.abandoned.fetch_add(1, std::memory_order_relaxed);
      break;
  }
  if (slow) memory.slow.fetch_add(1, std::memory_order_relaxed);
}

/// Into a time window.
bool circuit_core::record_good(const circuit_permit& permit) noexcept {
  auto* memory = memory_.load(std::memory_order_acquire);
  if (memory == nullptr || !memory->by_time || !permit.recorded || permit.probe != 0 || wants_end()) return false;
  if (!is_current(permit.word)) return false;
  const bool is_clean = newest_bad_slice_.load(std::memory_order_relaxed) == nothing_bad;
  if (!is_clean) {
    // Once a slice was found sound, further good calls in it cannot trip; but they end a row of failures.
    if (memory->by_time->slice_of(permit.started) != sound_slice_.load(std::memory_order_relaxed)) return false;
    if (options().consecutive_failures > 0) return false;
  }
  if (!memory->by_time->add_good(generation_of(permit.word), permit.started)) return false;
  memory->successes.add_one();
  common_fence();
  if (is_clean && newest_bad_slice_.load(std::memory_order_relaxed) != nothing_bad) [[unlikely]] {
    // A bad call ended at the same time, and may have been judged without this one.
    judge_again(*memory, permit);
  }
  return true;
}

void circuit_core::judge_again(working_memory& memory, const circuit_permit& permit) noexcept {
  const mark good{.failed = false, .slow = false, .abandoned = false};
  (void)count_in_a_row(memory, good);
  const std::int64_t slice = memory.by_time->slice_of(permit.started);
  if (judge_by_time(memory, generation_of(permit.word), slice, good, permit.started) && !is_spared()) {
    evaluate_quietly(permit);
  }
}

bool circuit_core::record(const circuit_permit& permit, outcome_class result, time_point ended) noexcept {
  if (!permit.recorded) return false;
  if (permit.watched) {
    const std::lock_guard lock(mutex_);
    if (is_current(permit.word) && flight_) flight_->leave(permit.started);
  }
  auto* memory = ensure_memory();
  if (memory == nullptr) return false;
  const duration latency = ended - permit.started;
  const bool slow = memory->measures_slow && options().slow_call_duration > duration::zero() &&
                    latency > options().slow_call_duration;
  if (permit.probe != 0) return record_probe(permit, result, slow);
  if (!is_current(permit.word)) {
    note_late(*memory);
    return false;
  }
  const bool abandoned = result == outcome_class::abandoned && options().abandoned == abandoned_policy::by_share &&
                         (memory->by_count || memory->abandoned_by_time);
  const mark how{
      .failed = result == outcome_class::failure ||
                (result == outcome_class::abandoned && options().abandoned == abandoned_policy::as_failure),
      .slow = slow && !abandoned,
      .abandoned = abandoned,
  };
  if (!how.failed && !how.abandoned && result != outcome_class::success) {
    count(*memory, result, slow);
    return false;
  }
  if (options().warm_up > duration::zero()) {
    std::int64_t unknown = INT64_MIN;
    memory->warm_until.compare_exchange_strong(
        unknown, saturating_add(permit.started, options().warm_up).time_since_epoch().count(),
        std::memory_order_relaxed);
  }
  if (how.is_bad()) spared_.store(false, std::memory_order_relaxed);
  if (memory->by_count) {
    const std::lock_guard lock(mutex_);
    if (!is_current(permit.word) || memory != memory_.load(std::memory_order_relaxed)) {
      memory->late.fetch_add(1, std::memory_order_relaxed);
      return false;  // while this one waited for the lock
    }
    count(*memory, result, slow);
    collect_good_calls_locked(*memory);
    auto& window = *memory->by_count;
    window.add(how.failed, how.slow, how.abandoned);
    const window_counts counts = weigh(window.counts());
    const circuit_cause verdict = judge(counts);
    const bool trips = verdict != circuit_cause::none;
    // Good calls change nothing in the end if they can only push out bad ones that do not trip.
    const bool can_wait = window.is_full() && window.counts().abandoned == 0 && !trips;
    content_.store(window.is_clean() ? window_content::clean
                   : can_wait        ? window_content::sound
                                     : window_content::some,
                   std::memory_order_relaxed);
    record_latency_locked(*memory, latency, ended);
    const bool too_many = count_in_a_row(*memory, how);
    const bool is_due = trips && !is_spared();
    if (is_due) due_ = {verdict, counts};
    return too_many || is_due;
  }
  count(*memory, result, slow);
  record_latency(*memory, latency, ended);
  const unsigned generation = generation_of(permit.word);
  auto& window = how.abandoned ? *memory->abandoned_by_time : *memory->by_time;
  // A call that outlasted the window counts where the window begins now.
  const std::int64_t slice = std::max(window.slice_of(permit.started), window.slice_of(ended) - window.buckets() + 1);
  if (!window.add(generation, slice, how.failed, how.slow)) return false;
  const bool too_many = count_in_a_row(*memory, how);
  return (judge_by_time(*memory, generation, slice, how, ended) && !is_spared()) || too_many;
}

bool circuit_core::count_in_a_row(working_memory& memory, const mark& how) noexcept {
  if (options().consecutive_failures == 0 || how.abandoned) return false;
  if (!how.failed) {
    memory.in_a_row.store(0, std::memory_order_relaxed);
    return false;
  }
  return memory.in_a_row.fetch_add(1, std::memory_order_relaxed) + 1 >= options().consecutive_failures;
}

bool circuit_core::has_too_many_in_a_row(const working_memory& memory) const noexcept {
  return options().consecutive_failures > 0 &&
         memory.in_a_row.load(std::memory_order_relaxed) >= options().consecutive_failures;
}

bool circuit_core::judge_by_time(const working_memory& memory, unsigned generation, std::int64_t slice, const mark& how,
                                 time_point ended) noexcept {
  // The call is counted: of two that end at the same time, at least one is judged with both. A good one into a clean
  // window needs no fence of its own, since the bad one that ends that makes it pass one.
  how.is_bad() ? std::atomic_thread_fence(std::memory_order_seq_cst) : common_fence();
  std::int64_t newest_bad = newest_bad_slice_.load(std::memory_order_relaxed);
  if (how.is_bad()) {
    while (newest_bad < slice &&
           !newest_bad_slice_.compare_exchange_weak(newest_bad, slice, std::memory_order_relaxed)) {
    }
    if (newest_bad == nothing_bad) rare_fence();  // it was clean until now
  } else if (newest_bad == nothing_bad) [[likely]] {
    return false;
  } else {
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  // A long success may be said to have ended when it began; the newest failure is then closer to the present.
  const std::int64_t present = std::max({slice, memory.by_time->slice_of(ended), newest_bad});
  if (!how.is_bad() && present == sound_slice_.load(std::memory_order_relaxed)) return false;
  const auto has_bad = [](const window_counts& c) { return c.failures + c.slow + c.abandoned > 0; };
  const auto counts = memory.sum(generation, present);
  if (!how.is_bad() && !has_bad(counts) &&
      newest_bad_slice_.compare_exchange_strong(newest_bad, nothing_bad, std::memory_order_seq_cst)) {
    // Unless a bad call was counted meanwhile that still saw the old mark.
    if (has_bad(memory.sum(generation, present))) {
      newest_bad_slice_.store(present, std::memory_order_relaxed);
      rare_fence();
    }
  }
  const bool trips = judge(weigh(counts)) != circuit_cause::none;  // whether or not it may open now
  // Until older calls leave the window, good ones only make its ratios better.
  const bool is_sound = counts.calls >= effective_minimum() && counts.abandoned == 0 && !trips;
  sound_slice_.store(is_sound ? present : nothing_bad, std::memory_order_relaxed);
  return trips;
}

void circuit_core::abandon(const circuit_permit& permit) noexcept {
  if (record(permit, outcome_class::abandoned, permit.started)) evaluate_quietly(permit);
}

void circuit_core::evaluate_quietly(const circuit_permit& permit) noexcept {
  try {
    evaluate(permit, permit.started, nullptr);
  } catch (...) {
    // No memory for the transition; the next result leads to it.
  }
}

bool circuit_core::record_probe(const circuit_permit& permit, outcome_class result, bool slow) noexcept {
  const std::lock_guard lock(mutex_);
  auto& memory = *memory_.load(std::memory_order_relaxed);
  const auto found = std::ranges::find(memory.probes, permit.probe, &probe::id);
  if (!is_current(permit.word) || found == memory.probes.end()) {
    memory.late.fetch_add(1, std::memory_order_relaxed);
    announce_locked(circuit_event_kind::late_result, state(), state(), circuit_cause::none, newest());
    return false;
  }
  memory.probes.erase(found);
  count(memory, result, slow);
  const bool abandoned = result == outcome_class::abandoned;
  if (result == outcome_class::failure || (abandoned && options().abandoned == abandoned_policy::as_failure)) {
    ++probed_.failures;
  } else if (result == outcome_class::success) {
    ++probed_.successes;
  } else {
    if (abandoned) ++probed_.abandoned;
    changes_.fetch_add(1, std::memory_order_release);  // its place is free
    return judge_probes_locked() != circuit_cause::none;
  }
  if (slow) ++probed_.slow;
  return judge_probes_locked() != circuit_cause::none;
}

// ---------------------------------------------------------------------------------------------------- transitions

void circuit_core::publish_word_locked(circuit_state state, bool new_epoch, bool switch_generation) noexcept {
  const std::uint64_t old = state_.load(std::memory_order_relaxed);
  std::uint64_t word = (epoch_of(old) + (new_epoch ? 1 : 0)) << epoch_shift | static_cast<std::uint64_t>(state);
  word |= (old & generation_flag) ^ (switch_generation ? generation_flag : 0);
  const circuit_mode mode = effective_mode_locked();
  if (mode == circuit_mode::disabled) word |= disabled_flag;
  const bool closed = mode == circuit_mode::normal && state == circuit_state::closed;
  if (closed && ramping_) word |= ramps_flag;
  const bool passes = mode == circuit_mode::disabled || mode == circuit_mode::metrics_only || (closed && !ramping_);
  if (passes) word |= passes_flag;
  if (passes && mode != circuit_mode::disabled && counts_calls() && !wants_end()) word |= plain_flag;
  if (new_epoch) due_ = {};
  if (new_epoch && flight_) flight_->clear();
  const bool certain = state == circuit_state::open && mode == circuit_mode::normal && !break_starts_later_;
  refuses_until_.store(
      certain ? (saturating_add(opened_at_, break_duration_) - coarse_lag).time_since_epoch().count() : INT64_MIN,
      std::memory_order_relaxed);
  state_.store(word, std::memory_order_release);
  changes_.fetch_add(1, std::memory_order_release);
}

void circuit_core::announce_locked(circuit_event_kind kind, circuit_state from, circuit_state to, circuit_cause cause,
                                   time_point now, const window_counts& counts) noexcept {
  if (!events_.has_listeners()) return;
  circuit_event event;
  event.kind = kind;
  event.circuit = name_;
  event.from = from;
  event.to = to;
  event.cause = cause;
  event.epoch = epoch_of(state_.load(std::memory_order_relaxed));
  event.at = now;
  if (kind == circuit_event_kind::opened) event.break_duration = break_duration_;
  event.calls = counts.calls;
  event.failures = counts.failures;
  event.slow = counts.slow;
  try {
    events_.enqueue(std::move(event));
  } catch (const std::bad_alloc&) {
    // An event without memory is lost; the transition it tells of is not.
  }
}

void circuit_core::forget_probes_locked() noexcept {
  probed_ = {};
  auto* memory = memory_.load(std::memory_order_acquire);
  if (memory == nullptr) return;
  memory->probes.clear();
}

void circuit_core::transition_locked(circuit_state to, circuit_cause cause, time_point now, bool clear_window) {
  const circuit_state from = state();
  forget_probes_locked();
  would_open_announced_ = false;
  if (clear_window) {
    auto* memory = memory_.load(std::memory_order_acquire);
    content_.store(window_content::some, std::memory_order_relaxed);
    newest_bad_slice_.store(nothing_bad, std::memory_order_relaxed);
    sound_slice_.store(nothing_bad, std::memory_order_relaxed);  // the next bad call says so, too, but later
    if (memory != nullptr) {
      memory->in_a_row.store(0, std::memory_order_relaxed);
      // The other generation was in use two epochs ago at the latest; a writer of the present one never touches it.
      const unsigned next = 1 - generation_of(state_.load(std::memory_order_relaxed));
      if (memory->by_count) {
        memory->by_count->clear();
        (void)memory->good->collect(next);
      }
      if (memory->by_time) memory->by_time->clear(next);
      if (memory->abandoned_by_time) memory->abandoned_by_time->clear(next);
    }
  }
  spared_.store(to == circuit_state::closed && !clear_window, std::memory_order_relaxed);
  ramping_ = cause == circuit_cause::probes_succeeded && options().ramp > duration::zero();
  ramp_from_ = now;
  ramp_credit_ = 0.9;  // the first call goes
  publish_word_locked(to, true, clear_window);
  if (to == circuit_state::closed) consecutive_opens_ = 0;
  const auto kind = to == circuit_state::open     ? circuit_event_kind::opened
                    : to == circuit_state::closed ? circuit_event_kind::closed
                                                  : circuit_event_kind::half_opened;
  announce_locked(kind, from, to, cause, now);
}

void circuit_core::open_locked(circuit_cause cause, time_point now, duration length, const window_counts& counts) {
  const circuit_state from = state();
  ++consecutive_opens_;
  tally(&working_memory::opens);
  if (auto* memory = memory_.load(std::memory_order_acquire)) memory->in_a_row.store(0, std::memory_order_relaxed);
  ramping_ = false;
  break_duration_ = length;
  opened_at_ = now;
  publish_word_locked(circuit_state::open, true, false);
  announce_locked(circuit_event_kind::opened, from, circuit_state::open, cause, now, counts);
}

/// The next break's length. The user's generator runs without the lock, so the caller must check its epoch again.
duration circuit_core::next_break_locked(time_point, const window_counts& counts, std::exception_ptr failure,
                                         std::unique_lock<std::mutex>& lock) {
  const auto longest = static_cast<double>(options().max_break_duration.count());
  const double grown =
      static_cast<double>(options().break_duration.count()) * std::pow(options().break_growth, consecutive_opens_);
  const duration formula = grown < longest ? duration(static_cast<std::int64_t>(grown)) : options().max_break_duration;
  if (!generator_) return formula;
  const auto generator = generator_;
  const break_context context{consecutive_opens_ + 1, counts.calls, counts.failures, std::move(failure)};
  lock.unlock();
  duration generated = formula;
  try {
    generated = (*generator)(context);
  } catch (...) {
    // A generator that throws leaves the formula in force.
  }
  lock.lock();
  return std::clamp(generated, duration(1), options().max_break_duration);
}

void circuit_core::evaluate(const circuit_permit& permit, time_point now, std::exception_ptr last_failure) {
  std::unique_lock lock(mutex_);
  const std::uint64_t word = state_.load(std::memory_order_relaxed);
  if (epoch_of(word) != epoch_of(permit.word)) return;
  note_time(now);
  now = newest();
  auto cause = circuit_cause::none;
  window_counts counts;
  if (permit.probe != 0) {
    cause = judge_probes_locked();
    if (cause == circuit_cause::none) return;
    if (cause == circuit_cause::probes_succeeded) {
      transition_locked(circuit_state::closed, cause, now, !options().keep_window_on_close);
      return;
    }
    counts = {probed_.successes + probed_.failures, probed_.failures, probed_.slow, probed_.abandoned};
  } else {
    const auto* memory = memory_.load(std::memory_order_acquire);
    if (memory != nullptr && now.time_since_epoch().count() < memory->warm_until.load(std::memory_order_relaxed)) {
      due_ = {};
      return;
    }
    counts = weigh(window_at_locked(word, now));
    cause = judge(counts);
    if (cause == circuit_cause::none && due_.cause != circuit_cause::none) {
      cause = due_.cause;
      counts = due_.counts;
    }
    if (cause == circuit_cause::none && memory != nullptr && has_too_many_in_a_row(*memory)) {
      cause = circuit_cause::consecutive_failures;
    }
    if (cause == circuit_cause::none && flight_ && flight_->slow(now) >= options().slow_in_flight) {
      cause = circuit_cause::slow_in_flight;
    }
    if (cause == circuit_cause::none) return;
    if (mode_ == circuit_mode::metrics_only) {
      due_ = {};
      if (!std::exchange(would_open_announced_, true)) {
        announce_locked(circuit_event_kind::would_open, state(), circuit_state::open, cause, now, counts);
      }
      return;
    }
  }
  const duration length = next_break_locked(now, counts, last_failure, lock);
  if (epoch_of(state_.load(std::memory_order_relaxed)) != epoch_of(permit.word)) return;  // somebody was faster
  if (last_failure) {
    last_failure_ = std::move(last_failure);
    has_last_failure_.store(true, std::memory_order_relaxed);
  }
  open_locked(cause, now, length, counts);
}

bool circuit_core::try_admit_at(circuit_permit& permit, time_point now) const noexcept {
  if (!try_admit(permit)) return false;
  permit.started = now;
  return true;
}

bool circuit_core::pass(circuit_permit& permit, time_point now) {
  if (!try_admit_at(permit, now)) return false;
  if (!watches_flight() || !permit.recorded) return true;
  std::unique_lock lock(mutex_);
  if (flight_ && flight_->slow(now) >= options().slow_in_flight) {
    lock.unlock();
    evaluate(permit, now, nullptr);
    if (!try_admit_at(permit, now)) return false;  // opened; metrics_only just says so
    lock.lock();
  }
  permit.watched = flight_ && is_current(permit.word);
  if (permit.watched) flight_->enter(now);
  return true;
}

/// Lets in a share of all calls that grows with time.
failure circuit_core::ramp_up_locked(circuit_permit& permit, time_point now, working_memory& memory, bool counts) {
  constexpr double first_share = 0.1;
  const double share = std::max(
      first_share, static_cast<double>((now - ramp_from_).count()) / static_cast<double>(options().ramp.count()));
  ramp_credit_ += share;
  if (ramp_credit_ < 1) return refuse_locked(memory, errc::circuit_open, std::nullopt, counts);
  ramp_credit_ -= 1;
  if (share >= 1) {
    ramping_ = false;
    publish_word_locked(circuit_state::closed, false, false);
  }
  permit = circuit_permit{};
  permit.word = state_.load(std::memory_order_relaxed);
  permit.started = now;
  return {};
}

failure circuit_core::refuse_locked(working_memory& memory, errc code, std::optional<duration> retry_after,
                                    bool counts) const {
  if (counts) memory.rejected.add_one();
  return failure::refused(code, name_, retry_after, last_failure_);
}

failure circuit_core::refuse_while_open(time_point coarse) noexcept {
  auto* memory = memory_.load(std::memory_order_acquire);
  const time_point until{duration(refuses_until_.load(std::memory_order_acquire))};
  if (memory == nullptr || coarse >= until) return {};
  memory->rejected.add_one();
  note_time(coarse);
  const auto refuse = [&](const std::exception_ptr& cause) {
    return failure::refused(errc::circuit_open, name_, until + coarse_lag - coarse, cause);
  };
  if (!has_last_failure_.load(std::memory_order_relaxed)) return refuse(nullptr);
  const std::lock_guard lock(mutex_);
  return refuse(last_failure_);
}

failure circuit_core::admit(circuit_permit& permit, time_point now, bool counts) {
  if (pass(permit, now)) return {};
  if (ensure_memory() == nullptr) throw std::bad_alloc();
  const std::lock_guard lock(mutex_);
  auto* memory = memory_.load(std::memory_order_relaxed);
  note_time(now);
  if (try_admit_at(permit, now)) return {};
  const auto refuse = [&](errc code, std::optional<duration> retry_after) {
    return refuse_locked(*memory, code, retry_after, counts);
  };
  if (effective_mode_locked() == circuit_mode::isolated) return refuse(errc::circuit_isolated, std::nullopt);
  if (state() == circuit_state::closed) return ramp_up_locked(permit, now, *memory, counts);
  if (state() == circuit_state::open) {
    if (std::exchange(break_starts_later_, false)) {
      opened_at_ = now;
      publish_word_locked(circuit_state::open, false, false);
    }
    const time_point half_open_at = saturating_add(opened_at_, break_duration_);
    if (now < half_open_at) return refuse(errc::circuit_open, half_open_at - now);
    transition_locked(circuit_state::half_open, circuit_cause::break_elapsed, now, false);
  }
  // Half-open: as many trials as may still decide something.
  auto& probes = memory->probes;
  if (probes.size() + probed_.successes + probed_.failures >= options().probes) {
    const auto oldest = std::ranges::min_element(probes, {}, &probe::started);
    if (oldest == probes.end()) return refuse(errc::circuit_open, std::nullopt);
    const time_point gives_up = saturating_add(oldest->started, probe_deadline());
    if (now < gives_up) return refuse(errc::circuit_open, gives_up - now);
    probes.erase(oldest);  // hung: its place goes to this call, its result will be late
    announce_locked(circuit_event_kind::probe_abandoned, state(), state(), circuit_cause::none, now);
  }
  permit = circuit_permit{};
  permit.word = state_.load(std::memory_order_relaxed);
  permit.started = now;
  permit.probe = next_probe_++;
  if (next_probe_ == 0) next_probe_ = 1;
  probes.push_back({permit.probe, now});  // reserved: cannot fail
  return {};
}

void circuit_core::open() {
  const std::lock_guard lock(mutex_);
  if (state() == circuit_state::open) return;
  break_starts_later_ = true;
  open_locked(circuit_cause::manual, newest(), options().break_duration, {});
}

void circuit_core::close() {
  const std::lock_guard lock(mutex_);
  if (state() == circuit_state::closed) return;
  break_starts_later_ = false;
  transition_locked(circuit_state::closed, circuit_cause::manual, newest(), !options().keep_window_on_close);
}

void circuit_core::reset() {
  const std::lock_guard lock(mutex_);
  break_starts_later_ = false;
  last_failure_ = nullptr;
  has_last_failure_.store(false, std::memory_order_relaxed);
  mode_ = options().mode;
  if (auto* memory = memory_.load(std::memory_order_relaxed)) {
    memory->warm_until.store(INT64_MIN, std::memory_order_relaxed);
  }
  transition_locked(circuit_state::closed, circuit_cause::manual, newest(), true);
  announce_locked(circuit_event_kind::reset, circuit_state::closed, circuit_state::closed, circuit_cause::manual,
                  newest());
}

void circuit_core::set_mode(circuit_mode mode) {
  const std::lock_guard lock(mutex_);
  const circuit_mode before = effective_mode_locked();
  mode_ = mode;
  change_mode_locked(before);
}

void circuit_core::hold_isolated() {
  const std::lock_guard lock(mutex_);
  const circuit_mode before = effective_mode_locked();
  ++isolation_holds_;
  change_mode_locked(before);
}

void circuit_core::release_isolated() {
  const std::lock_guard lock(mutex_);
  const circuit_mode before = effective_mode_locked();
  --isolation_holds_;
  change_mode_locked(before);
}

void circuit_core::end_break() {
  const std::lock_guard lock(mutex_);
  if (state() != circuit_state::open) return;
  break_starts_later_ = true;
  break_duration_ = duration::zero();
  publish_word_locked(circuit_state::open, false, false);
}

void circuit_core::change_mode_locked(circuit_mode before) {
  if (effective_mode_locked() == before) return;
  would_open_announced_ = false;
  // A new epoch: results of calls admitted under the old mode must not move the new one.
  publish_word_locked(state(), true, false);
  forget_probes_locked();
  announce_locked(circuit_event_kind::mode_changed, state(), state(), circuit_cause::manual, newest());
}

circuit_mode circuit_core::mode() const {
  const std::lock_guard lock(mutex_);
  return effective_mode_locked();
}

void circuit_core::set_break_generator(std::function<duration(const break_context&)> generator) {
  const std::lock_guard lock(mutex_);
  generator_ = std::make_shared<const std::function<duration(const break_context&)>>(std::move(generator));
}

// ---------------------------------------------------------------------------------------------------- observation

circuit_snapshot circuit_core::snapshot(time_point now) const {
  const std::lock_guard lock(mutex_);
  circuit_snapshot result;
  result.mode = mode_;
  result.consecutive_opens = consecutive_opens_;
  if (state() == circuit_state::closed) return result;
  result.state = circuit_state::open;
  if (state() == circuit_state::open) {
    const duration passed = break_starts_later_ ? duration::zero() : now - opened_at_;
    result.remaining_break = std::max(break_duration_ - passed, duration::zero());
  }
  return result;
}

void circuit_core::restore(const circuit_snapshot& snapshot) {
  const std::lock_guard lock(mutex_);
  mode_ = snapshot.mode;
  break_starts_later_ = false;
  if (snapshot.state == circuit_state::closed) {
    transition_locked(circuit_state::closed, circuit_cause::imported, newest(), true);
    return;
  }
  consecutive_opens_ = snapshot.consecutive_opens > 0 ? snapshot.consecutive_opens - 1 : 0;
  break_starts_later_ = true;
  open_locked(circuit_cause::imported, newest(), std::max(snapshot.remaining_break, duration::zero()), {});
}

std::exception_ptr circuit_core::last_failure() const {
  const std::lock_guard lock(mutex_);
  return last_failure_;
}

circuit_stats circuit_core::stats(std::optional<time_point> now) const {
  const std::lock_guard lock(mutex_);
  circuit_stats s;
  const std::uint64_t word = state_.load(std::memory_order_relaxed);
  const time_point present = now.value_or(newest());
  s.state = state();
  s.mode = effective_mode_locked();
  s.ramping = ramping_;
  s.epoch = epoch_of(word);
  s.consecutive_opens = consecutive_opens_;
  if (s.state == circuit_state::open) {
    s.remaining_break = break_starts_later_
                            ? break_duration_
                            : std::max(saturating_add(opened_at_, break_duration_) - present, duration::zero());
  }
  const auto counts = weigh(window_at_locked(word, present));
  s.calls = counts.calls;
  s.failures = counts.failures;
  s.slow = counts.slow;
  s.enough_calls = counts.calls >= effective_minimum();
  if (counts.calls > 0) {
    s.failure_ratio = static_cast<double>(counts.failures) / static_cast<double>(counts.calls);
    s.slow_ratio = static_cast<double>(counts.slow) / static_cast<double>(counts.calls);
  }
  const auto* memory = memory_.load(std::memory_order_acquire);
  if (memory == nullptr) return s;
  const auto read = [](const working_memory::counter& counter) { return counter.load(std::memory_order_relaxed); };
  for (const auto* part = memory; part != nullptr; part = part->earlier.get()) {
    s.successes += part->successes.sum();
    s.failed += read(part->failed);
    s.slow_calls += read(part->slow);
    s.ignored += read(part->ignored);
    s.abandoned += read(part->abandoned);
    s.rejected += part->rejected.sum();
    s.late += read(part->late);
    s.timeouts += read(part->timeouts);
    s.fallbacks += read(part->fallbacks);
    s.opens += read(part->opens);
  }
  s.fires = s.successes + s.failed + s.ignored + s.abandoned + s.rejected + s.late;
  if (memory->latency) {
    memory->latency->rotate(present.time_since_epoch() / options().window);
    s.latency = memory->latency->stats();
  }
  return s;
}

}  // namespace detail

std::string_view to_string(circuit_state state) noexcept {
  switch (state) {
    case circuit_state::closed:
      return "closed";
    case circuit_state::open:
      return "open";
    case circuit_state::half_open:
      return "half_open";
  }
  return "?";
}

std::string_view to_string(circuit_mode mode) noexcept {
  switch (mode) {
    case circuit_mode::normal:
      return "normal";
    case circuit_mode::isolated:
      return "isolated";
    case circuit_mode::disabled:
      return "disabled";
    case circuit_mode::metrics_only:
      return "metrics_only";
  }
  return "?";
}

std::string_view to_string(circuit_cause cause) noexcept {
  switch (cause) {
    case circuit_cause::none:
      return "none";
    case circuit_cause::failure_rate:
      return "failure_rate";
    case circuit_cause::slow_rate:
      return "slow_rate";
    case circuit_cause::failure_count:
      return "failure_count";
    case circuit_cause::consecutive_failures:
      return "consecutive_failures";
    case circuit_cause::slow_in_flight:
      return "slow_in_flight";
    case circuit_cause::probe_failed:
      return "probe_failed";
    case circuit_cause::probes_succeeded:
      return "probes_succeeded";
    case circuit_cause::break_elapsed:
      return "break_elapsed";
    case circuit_cause::manual:
      return "manual";
    case circuit_cause::imported:
      return "imported";
  }
  return "?";
}

std::string_view to_string(circuit_event_kind kind) noexcept {
  switch (kind) {
    case circuit_event_kind::fire:
      return "fire";
    case circuit_event_kind::success:
      return "success";
    case circuit_event_kind::failure:
      return "failure";
    case circuit_event_kind::timeout:
      return "timeout";
    case circuit_event_kind::reject:
      return "reject";
    case circuit_event_kind::fallback:
      return "fallback";
    case circuit_event_kind::opened:
      return "opened";
    case circuit_event_kind::closed:
      return "closed";
    case circuit_event_kind::half_opened:
      return "half_opened";
    case circuit_event_kind::would_open:
      return "would_open";
    case circuit_event_kind::mode_changed:
      return "mode_changed";
    case circuit_event_kind::reset:
      return "reset";
    case circuit_event_kind::late_result:
      return "late_result";
    case circuit_event_kind::probe_abandoned:
      return "probe_abandoned";
  }
  return "?";
}

}  // namespace cofferdam::inline COFFERDAM_ABI
