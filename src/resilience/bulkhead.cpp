#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/units.hpp>
#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/detail/validation.hpp>

#include <algorithm>
#include <cassert>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

constexpr std::int64_t one = 2, waiting_bit = 1;

constexpr std::int64_t permits(std::int64_t word) noexcept { return word >> 1; }
constexpr bool somebody_waits(std::int64_t word) noexcept { return (word & waiting_bit) != 0; }

}  // namespace

/// A queued call. Lives in its coroutine's frame; everything in it belongs to the mutex.
struct bulkhead::waiter {
  explicit waiter(bulkhead& owner) noexcept : owner_(owner) {}
  waiter(const waiter&) = delete;
  waiter& operator=(const waiter&) = delete;
  /// Also when the frame is destroyed while it waits, or between the hand-over of a permit and its resumption.
  ~waiter() {
    const std::lock_guard lock(owner_.mutex_);
    if (linked_) owner_.unlink_locked(*this);
    if (granted_) owner_.give_back_locked();
  }

  bulkhead& owner_;
  waiter* previous_ = nullptr;
  waiter* next_ = nullptr;
  detail::parked_reference parked_;
  time_point since_{};
  bool linked_ = false, granted_ = false, cleared_ = false, patient_ = false;
};

std::vector<std::string> validate(const bulkhead_options& options) {
  std::vector<std::string> problems;
  if (options.max_concurrent < 1) problems.emplace_back("max_concurrent: must be at least 1");
  if (options.max_concurrent > 1'000'000'000) problems.emplace_back("max_concurrent: must be at most 1e9");
  if (options.max_wait <= duration::zero()) problems.emplace_back("max_wait: must be positive");
  if (options.target_delay < duration::zero() || options.target_delay >= options.max_wait) {
    problems.emplace_back("target_delay: must not be negative and must be less than max_wait; 0 turns it off");
  }
  if (options.interval <= duration::zero()) problems.emplace_back("interval: must be positive");
  if (options.order == queue_order::adaptive && options.target_delay == duration::zero()) {
    problems.emplace_back("order: adaptive needs a target_delay");
  }
  return problems;
}

bulkhead::bulkhead(std::string name, const bulkhead_options& options)
    : free_(static_cast<std::int64_t>(options.max_concurrent) * one),
      name_(std::make_shared<const std::string>(std::move(name))),
      options_((detail::require_valid("bulkhead '" + *name_ + "'", validate(options)), options)),
      limit_(options.max_concurrent) {}

bulkhead::~bulkhead() { assert(first_ == nullptr && "calls still wait for a bulkhead that ends"); }

bool bulkhead::try_take() noexcept {
  std::int64_t word = free_.load(std::memory_order_relaxed);
  do {
    if (permits(word) <= 0 || somebody_waits(word)) return false;
    // Acquire pairs with the release of whoever gave the permit back: the task that ends happens before the next.
  } while (!free_.compare_exchange_weak(word, word - one, std::memory_order_acquire, std::memory_order_relaxed));
  return true;
}

admission bulkhead::admit(call& c, policy_slot&) noexcept {
  if (try_take()) [[likely]]
    return admission::go;
  if (options_.max_queue > 0) return admission::wait;
  rejected_.fetch_add(1, std::memory_order_relaxed);
  return c.refuse(errc::bulkhead_full, name_);
}

awaitable<admission> bulkhead::wait(call& c, policy_slot&) { return queue(c, false); }

/// @param patient  waits as long as it takes, and is not one of `max_queue`.
awaitable<admission> bulkhead::queue(call& c, bool patient) {
  waiter mine(*this);
  mine.patient_ = patient;
  const time_point now = c.now();
  duration patience = patient ? duration::max() : options_.max_wait;
  bool newest_first = options_.order == queue_order::lifo;
  if (options_.target_delay > duration::zero() && !patient) {
    const std::lock_guard lock(mutex_);
    if (queued_ > 0 && now - occupied_since_ >= options_.interval) {
      patience = options_.target_delay;
      drop_older_locked(now - patience);
      newest_first = options_.order != queue_order::fifo;
    }
  }
  const time_point until = patience == duration::max() ? never : saturating_add(now, patience);
  bool full = false;
  const auto enlist = [&](const detail::parked_reference& self) {
    const std::lock_guard lock(mutex_);
    mine.parked_ = self;
    full = !patient && queued_ >= options_.max_queue;
    if (full) {
      self->wake(wake_reason::woken);
      return;
    }
    enqueue_locked(mine, newest_first, now);
    hand_out_locked();  // a permit may have come back since admit
  };
  const wake_reason reason = co_await park(until, enlist);

  const std::lock_guard lock(mutex_);
  if (std::exchange(mine.granted_, false)) co_return admission::go;
  if (mine.linked_) unlink_locked(mine);
  if (full) {
    rejected_.fetch_add(1, std::memory_order_relaxed);
    co_return c.refuse(errc::bulkhead_full, name_);
  }
  if (mine.cleared_) co_return c.refuse(errc::queue_cleared, name_);
  if (reason == wake_reason::cancelled) co_return c.refuse(failure::cancelled());
  queue_timeouts_.fetch_add(1, std::memory_order_relaxed);
  co_return c.refuse(errc::queue_timed_out, name_);
}

verdict bulkhead::settle(call&, policy_slot&, const outcome_view&) noexcept {
  give_back();
  return verdict::deliver;
}

void bulkhead::abandon(policy_slot&) noexcept { give_back(); }

void bulkhead::give_back() noexcept {
  std::int64_t word = free_.load(std::memory_order_relaxed);
  while (!somebody_waits(word)) {
    if (free_.compare_exchange_weak(word, word + one, std::memory_order_release, std::memory_order_relaxed)) return;
  }
  const std::lock_guard lock(mutex_);
  give_back_locked();
}

void bulkhead::give_back_locked() noexcept {
  free_.fetch_add(one, std::memory_order_acq_rel);
  hand_out_locked();
}

/// Lets waiting calls in while there are permits. A call that was resumed otherwise in the meantime is passed over.
void bulkhead::hand_out_locked() noexcept {
  while (first_ != nullptr && permits(free_.load(std::memory_order_relaxed)) > 0) {
    waiter& w = *first_;
    // Before unlinking, which may clear the bit that keeps newcomers from taking this very permit.
    free_.fetch_sub(one, std::memory_order_acq_rel);
    unlink_locked(w);
    w.granted_ = w.parked_->wake(wake_reason::woken);
    if (!w.granted_) free_.fetch_add(one, std::memory_order_acq_rel);
  }
}

void bulkhead::enqueue_locked(waiter& w, bool newest_first, time_point now) noexcept {
  if (queued_ == 0) occupied_since_ = now;
  w.since_ = now;
  if (newest_first) {
    w.next_ = first_;
    (first_ != nullptr ? first_->previous_ : last_) = &w;
    first_ = &w;
  } else {
    w.previous_ = last_;
    (last_ != nullptr ? last_->next_ : first_) = &w;
    last_ = &w;
  }
  w.linked_ = true;
  ++queued_;
  free_.fetch_or(waiting_bit, std::memory_order_acq_rel);
}

/// Ends the waits that began before `limit`: whoever waited so long is the least likely to be still of use to anyone.
void bulkhead::drop_older_locked(time_point limit) noexcept {
  for (waiter* w = first_; w != nullptr;) {
    waiter& each = *std::exchange(w, w->next_);
    if (each.patient_ || each.since_ >= limit) continue;
    unlink_locked(each);
    each.parked_->wake(wake_reason::timed_out);
  }
}

void bulkhead::unlink_locked(waiter& w) noexcept {
  (w.previous_ != nullptr ? w.previous_->next_ : first_) = w.next_;
  (w.next_ != nullptr ? w.next_->previous_ : last_) = w.previous_;
  w.previous_ = w.next_ = nullptr;
  w.linked_ = false;
  if (--queued_ == 0) free_.fetch_and(~waiting_bit, std::memory_order_acq_rel);
}

std::size_t bulkhead::clear_queue() {
  const std::lock_guard lock(mutex_);
  std::size_t count = 0;
  while (first_ != nullptr) {
    waiter& w = *first_;
    unlink_locked(w);
    w.cleared_ = w.parked_->wake(wake_reason::woken);  // unless its time or its cancellation came first
    if (w.cleared_) ++count;
  }
  cleared_.fetch_add(count, std::memory_order_relaxed);
  return count;
}

void bulkhead::resize(std::size_t max_concurrent) {
  bulkhead_options changed = options_;
  changed.max_concurrent = max_concurrent;
  detail::require_valid("bulkhead '" + *name_ + "'", validate(changed));
  const std::lock_guard lock(mutex_);
  const auto more = static_cast<std::int64_t>(max_concurrent) - static_cast<std::int64_t>(limit_.load());
  limit_.store(max_concurrent, std::memory_order_relaxed);
  free_.fetch_add(more * one, std::memory_order_acq_rel);
  hand_out_locked();
}

std::size_t bulkhead::limit() const noexcept { return limit_.load(std::memory_order_relaxed); }

std::size_t bulkhead::active_count() const noexcept {
  const auto active = static_cast<std::int64_t>(limit()) - permits(free_.load(std::memory_order_relaxed));
  return static_cast<std::size_t>(std::max<std::int64_t>(active, 0));
}

std::size_t bulkhead::pending_count() const noexcept {
  const std::lock_guard lock(mutex_);
  return queued_;
}

bulkhead_stats bulkhead::stats() const noexcept {
  bulkhead_stats s;
  s.limit = limit();
  s.active = active_count();
  s.queued = pending_count();
  s.rejected = rejected_.load(std::memory_order_relaxed);
  s.queue_timeouts = queue_timeouts_.load(std::memory_order_relaxed);
  s.cleared = cleared_.load(std::memory_order_relaxed);
  return s;
}

bool bulkhead::is_idle(time_point) const noexcept { return active_count() == 0 && limit() == options_.max_concurrent; }

std::string bulkhead::describe() const {
  std::string text = *name_ + ": bulkhead, " + std::to_string(limit()) + " at once";
  if (options_.max_queue == 0) return text + ", no queue";
  text += ", " + std::to_string(options_.max_queue) + " waiting";
  if (options_.order == queue_order::lifo) text += ", newest first";
  if (options_.order == queue_order::adaptive) text += ", newest first under overload";
  if (options_.target_delay > duration::zero()) text += ", for " + to_string(options_.target_delay) + " under overload";
  if (options_.max_wait != duration::max()) text += ", for " + to_string(options_.max_wait) + " at most";
  return text;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
