#include <cofferdam/core/deadline.hpp>
#include <cofferdam/core/timer_service.hpp>

#include <algorithm>
#include <bit>
#include <cassert>
#include <chrono>
#include <utility>

#include <time.h>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

constexpr std::uint64_t unreachable = ~std::uint64_t{0};

// Real deadlines are rounded up to this many nanoseconds, so that the lowest levels of the wheel stay empty and a
// far deadline cascades twice at most.
constexpr std::uint64_t tick = std::uint64_t{1} << 18;

constexpr std::uint64_t to_tick(std::uint64_t due) {
  return due > unreachable - tick ? due : (due + tick - 1) & ~(tick - 1);
}

std::uint64_t key_of(time_point at) noexcept {
  if (at == never) return unreachable;
  return at.time_since_epoch().count() < 0 ? 0 : static_cast<std::uint64_t>(at.time_since_epoch().count());
}

std::uint64_t steady_now() noexcept {
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::nanoseconds(since).count());
}

}  // namespace

// ---------------------------------------------------------------------------------------------------- timer_wheel
//
// An entry sits at the level of the highest 6-bit digit in which its time differs from the present. Moving the present
// forward to a time before the first occupied slot changes no entry's level; entering a slot redistributes its list, in
// order, to lower levels. Two entries of equal time are therefore always in the same list, in the order of insertion.

void timer_wheel::place(timer_entry& entry) noexcept {
  const std::uint64_t difference = entry.due_ ^ present_;
  const unsigned level = difference == 0 ? 0 : (63U - static_cast<unsigned>(std::countl_zero(difference))) / bits;
  const unsigned slot = static_cast<unsigned>(entry.due_ >> (level * bits)) & (slots - 1);
  entry.slot_ = static_cast<std::uint16_t>(level * slots + slot);
  timer_entry*& head = heads_[entry.slot_];
  if (head == nullptr) {
    head = entry.prev_ = entry.next_ = &entry;
    occupied_[level] |= std::uint64_t{1} << slot;
    occupied_levels_ = static_cast<std::uint16_t>(occupied_levels_ | (1U << level));
    return;
  }
  entry.prev_ = head->prev_;
  entry.next_ = head;
  head->prev_->next_ = &entry;
  head->prev_ = &entry;
}

void timer_wheel::restart(std::uint64_t present) noexcept {
  assert(occupied_levels_ == 0);
  present_ = present;
}

void timer_wheel::insert(timer_entry& entry, std::uint64_t due) noexcept {
  entry.due_ = std::max(due, present_);
  place(entry);
}

timer_entry* timer_wheel::detach(unsigned level, unsigned slot) noexcept {
  timer_entry* head = std::exchange(heads_[level * slots + slot], nullptr);
  occupied_[level] &= ~(std::uint64_t{1} << slot);
  if (occupied_[level] == 0) occupied_levels_ = static_cast<std::uint16_t>(occupied_levels_ & ~(1U << level));
  head->prev_->next_ = nullptr;
  return head;
}

void timer_wheel::remove(timer_entry& entry) noexcept {
  const unsigned level = entry.slot_ / slots;
  if (entry.next_ == &entry) {
    (void)detach(level, entry.slot_ % slots);
    return;
  }
  if (heads_[entry.slot_] == &entry) heads_[entry.slot_] = entry.next_;
  entry.prev_->next_ = entry.next_;
  entry.next_->prev_ = entry.prev_;
}

timer_entry* timer_wheel::advance(std::uint64_t limit) noexcept {
  while (occupied_levels_ != 0) {
    const auto level = static_cast<unsigned>(std::countr_zero(occupied_levels_));
    const auto slot = static_cast<unsigned>(std::countr_zero(occupied_[level]));
    const unsigned shift = level * bits;
    // The slot begins at the present's digits above this level, this slot's digit, and zeros below.
    const std::uint64_t above = level + 1 == levels ? 0 : present_ >> (shift + bits) << (shift + bits);
    const std::uint64_t begin = above | std::uint64_t{slot} << shift;
    if (begin > limit) break;
    present_ = begin;
    timer_entry* list = detach(level, slot);
    if (level == 0) return list;
    while (list != nullptr) {
      timer_entry* entry = list;
      list = list->next_;
      place(*entry);
    }
  }
  present_ = std::max(present_, limit);
  return nullptr;
}

timer_entry* timer_wheel::take_any() noexcept {
  if (occupied_levels_ == 0) return nullptr;
  const auto level = static_cast<unsigned>(std::countr_zero(occupied_levels_));
  const auto slot = static_cast<unsigned>(std::countr_zero(occupied_[level]));
  timer_entry* entry = heads_[level * slots + slot];
  remove(*entry);
  return entry;
}

std::uint64_t timer_wheel::lower_bound() const noexcept {
  if (occupied_levels_ == 0) return unreachable;
  const auto level = static_cast<unsigned>(std::countr_zero(occupied_levels_));
  const auto slot = static_cast<unsigned>(std::countr_zero(occupied_[level]));
  const timer_entry* head = heads_[level * slots + slot];
  if (head->next_ == head) return head->due_;  // alone: exact, and no wake-up is spent on a cascade
  const unsigned shift = level * bits;
  const std::uint64_t above = level + 1 == levels ? 0 : present_ >> (shift + bits) << (shift + bits);
  return above | std::uint64_t{slot} << shift;
}

// -------------------------------------------------------------------------------------------------- timer_service

timer_service::timer_service(net::execution_context& context) : service(context) { wheel_.restart(steady_now()); }

timer_service::~timer_service() { detail::timer_service_generation.fetch_add(1, std::memory_order_release); }

void timer_service::shutdown() noexcept {
  detail::timer_service_generation.fetch_add(1, std::memory_order_release);
  {
    const std::lock_guard lock(mutex_);
    driver_.reset();
  }
  // One at a time: releasing an entry destroys coroutine frames, which cancel other entries.
  for (;;) {
    timer_entry* entry = nullptr;
    {
      const std::lock_guard lock(mutex_);
      entry = wheel_.take_any();
      if (entry == nullptr) return;
      entry->pending_ = false;
    }
    entry->on_shutdown(*entry);
  }
}

time_point timer_service::now() const noexcept {
  if (is_virtual()) return time_point(duration(virtual_now_.load(std::memory_order_relaxed)));
  return time_point(duration(static_cast<std::int64_t>(steady_now())));
}

std::chrono::system_clock::time_point timer_service::date() const noexcept {
  using system = std::chrono::system_clock;
  if (!is_virtual()) return system::now();
  return system::time_point(std::chrono::duration_cast<system::duration>(now().time_since_epoch()));
}

time_point timer_service::coarse_now() const noexcept {
#if defined(CLOCK_MONOTONIC_COARSE)
  if (!is_virtual()) [[likely]] {
    timespec at{};
    ::clock_gettime(CLOCK_MONOTONIC_COARSE, &at);  // the timeline of steady_clock on Linux
    return time_point(std::chrono::seconds(at.tv_sec) + std::chrono::nanoseconds(at.tv_nsec));
  }
#endif
  return now();
}

std::size_t timer_service::pending() const noexcept {
  const std::lock_guard lock(mutex_);
  return finite_;
}

void timer_service::schedule(timer_entry& entry, time_point due, const net::any_io_executor& executor) {
  const bool in_virtual_time = is_virtual();
  const std::uint64_t at = in_virtual_time ? key_of(due) : to_tick(key_of(due));
  const std::lock_guard lock(mutex_);
  entry.pending_ = true;
  wheel_.insert(entry, at);
  if (at == unreachable) return;
  ++finite_;
  reclaim_work_locked();
  if (!in_virtual_time && at < armed_) arm_locked(at, executor);
}

bool timer_service::cancel(timer_entry& entry) noexcept {
  const std::lock_guard lock(mutex_);
  if (!entry.pending_) return false;
  entry.pending_ = false;
  wheel_.remove(entry);
  if (entry.due_ == unreachable) return true;
  if (--finite_ == 0 && driver_ && armed_ != unreachable) release_work_locked();
  return true;
}

// An armed driver counts as work of its context. When nothing waits for it any more it must not keep run() going, yet
// disarming costs a system call that the next time limit would pay again. So it stays armed, and its work is taken
// back: directly where the executor lets us, otherwise by a posted check that disarms if nothing has come since.
void timer_service::release_work_locked() noexcept {
  if (driver_context_) {
    driver_context_->on_work_finished();
    work_released_ = true;
  } else if (!disarm_posted_) {
    disarm_posted_ = true;
    net::post(driver_->get_executor(), [this] { disarm_if_idle(); });
  }
}

void timer_service::reclaim_work_locked() noexcept {
  if (!std::exchange(work_released_, false)) return;
  driver_context_->on_work_started();
}

void timer_service::disarm_if_idle() {
  const std::lock_guard lock(mutex_);
  disarm_posted_ = false;
  if (finite_ != 0 || armed_ == unreachable || !driver_) return;
  armed_ = unreachable;
  driver_->cancel();
}

void timer_service::arm_locked(std::uint64_t at, const net::any_io_executor& executor) {
  if (!driver_) {
    const auto base = detail::base_executor(executor);
    driver_.emplace(base);
    if (const auto* context = target_of<net::io_context::executor_type>(base)) driver_context_ = *context;
  }
  armed_ = at;
  const std::chrono::nanoseconds since_epoch(static_cast<std::int64_t>(at));
  driver_->expires_at(std::chrono::steady_clock::time_point(since_epoch));
  driver_->async_wait([this, arming = ++arming_](const net::asio_error_code& ec) {
    if (!ec) on_tick(arming);
  });
}

void timer_service::on_tick(std::uint64_t arming) {
  const std::uint64_t present = steady_now();
  {
    const std::lock_guard lock(mutex_);
    if (arming != arming_) return;  // armed anew after this wait had ended: that one does the work
    armed_ = unreachable;           // so that nobody takes back the work of a wait that is over
    reclaim_work_locked();          // the context takes this handler's work back when it ends
  }
  for (;;) {
    timer_entry* due = nullptr;
    {
      const std::lock_guard lock(mutex_);
      due = wheel_.advance(present);
      for (auto* entry = due; entry != nullptr; entry = entry->next_) {
        entry->pending_ = false;
        --finite_;
      }
      if (due == nullptr) {
        const std::uint64_t next = wheel_.lower_bound();
        if (finite_ != 0 && next < armed_) arm_locked(next, driver_->get_executor());
        return;
      }
    }
    // From here on cancel() says false, so these entries stay alive until on_due; the chain is private to this thread.
    while (due != nullptr) {
      timer_entry* entry = due;
      due = due->next_;
      entry->on_due(*entry);
    }
  }
}

void timer_service::use_virtual_time(time_point start) noexcept {
  const std::lock_guard lock(mutex_);
  assert(finite_ == 0 && "virtual time must be switched on before anything waits");
  wheel_.restart(key_of(start));
  virtual_now_.store(start.time_since_epoch().count(), std::memory_order_relaxed);
  virtual_.store(true, std::memory_order_relaxed);
}

bool timer_service::advance(time_point limit) {
  timer_entry* due = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (finite_ == 0 && limit == never) return false;
    // An unlimited advance must not reach the entries that wait for ever.
    due = wheel_.advance(limit == never ? unreachable - 1 : key_of(limit));
    virtual_now_.store(static_cast<std::int64_t>(wheel_.present()), std::memory_order_relaxed);
    for (auto* entry = due; entry != nullptr; entry = entry->next_) {
      entry->pending_ = false;
      --finite_;
    }
  }
  const bool fired = due != nullptr;
  while (due != nullptr) {
    timer_entry* entry = due;
    due = due->next_;
    entry->on_due(*entry);
  }
  return fired;
}

namespace detail {

std::atomic<std::uint64_t> timer_service_generation{0};

timer_service& find_timer_service(net::execution_context& context) {
  auto& service = net::use_service<timer_service>(context);
  cached_timer_service = {&context, &service, timer_service_generation.load(std::memory_order_acquire)};
  return service;
}

}  // namespace detail
}  // namespace cofferdam::inline COFFERDAM_ABI
