// Time as a service of an execution context: every deadline of the library is an entry here, whether time is real or
// virtual. The queue is a radix wheel (11 levels of 64 slots over 64-bit nanoseconds): insert and cancel are O(1),
// entries are intrusive, equal times fire in the order of insertion.
#pragma once

#include <cofferdam/core/net.hpp>
#include <cofferdam/core/time.hpp>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>

namespace cofferdam::inline COFFERDAM_ABI {

/// One pending deadline, embedded in the object that waits. It must stay alive until it fired or `cancel` said true.
/// Whoever waits tracks the context's work itself: cancelling the last entry may let `run()` return.
struct timer_entry {
  /// Called once when due, on a thread that runs the context, without any lock held.
  void (*on_due)(timer_entry&) noexcept = nullptr;
  /// Called instead when the context is destroyed first: release what is held, complete nothing.
  void (*on_shutdown)(timer_entry&) noexcept = nullptr;

 private:
  friend class timer_wheel;
  friend class timer_service;
  timer_entry* prev_ = nullptr;
  timer_entry* next_ = nullptr;
  std::uint64_t due_ = 0;
  std::uint16_t slot_ = 0;
  bool pending_ = false;
};

/// The queue alone: no clock, no lock.
class timer_wheel {
 public:
  timer_wheel() = default;
  timer_wheel(const timer_wheel&) = delete;
  timer_wheel& operator=(const timer_wheel&) = delete;

  /// Sets the present of an empty wheel.
  void restart(std::uint64_t present) noexcept;
  /// Entries due at or before the present fire at the next `advance`.
  void insert(timer_entry& entry, std::uint64_t due) noexcept;
  void remove(timer_entry& entry) noexcept;
  /// Moves on to the earliest entries due at or before `limit` and returns them as a chain (linked by `next`, all due
  /// at the same time); null when there are none, and then the present is `limit`.
  [[nodiscard]] timer_entry* advance(std::uint64_t limit) noexcept;
  /// Takes any one entry out; null when empty.
  [[nodiscard]] timer_entry* take_any() noexcept;
  /// No entry is due before this time; the maximum when empty.
  [[nodiscard]] std::uint64_t lower_bound() const noexcept;
  [[nodiscard]] static timer_entry* next(const timer_entry& entry) noexcept { return entry.next_; }
  [[nodiscard]] std::uint64_t present() const noexcept { return present_; }

 private:
  static constexpr unsigned bits = 6, levels = 11, slots = 1U << bits;

  void place(timer_entry& entry) noexcept;
  timer_entry* detach(unsigned level, unsigned slot) noexcept;

  std::uint64_t present_ = 0;
  std::uint16_t occupied_levels_ = 0;
  std::array<std::uint64_t, levels> occupied_{};      // per level: which slots hold entries
  std::array<timer_entry*, levels * slots> heads_{};  // circular lists; a head's prev_ is its tail
};

/// Thread safety: every member from any thread. Nothing pending costs nothing and never keeps `run()` from returning.
/// In real time an entry fires up to 0.27 ms late (one tick), never early; virtual time is exact.
class timer_service final : public net::execution_context::service {
 public:
  using key_type = timer_service;
  static inline net::execution_context::id id;  // NOLINT: Asio's service protocol

  explicit timer_service(net::execution_context& context);
  ~timer_service() override;

  /// The present. About 20 ns in real time.
  [[nodiscard]] time_point now() const noexcept;
  /// A present that may lag by one kernel tick (up to 4 ms) and costs a quarter; equals now() in virtual time.
  [[nodiscard]] time_point coarse_now() const noexcept;

  /// The date, for what is stored. In virtual time the clock's own time since 1970, so that runs are alike.
  [[nodiscard]] std::chrono::system_clock::time_point date() const noexcept;

  /// Makes `entry` pending. `executor` is any executor of this service's context. `never` waits for cancel or shutdown.
  void schedule(timer_entry& entry, time_point due, const net::any_io_executor& executor);
  /// True when the entry was pending and will not fire; false when it fired, fires right now, or was never scheduled.
  bool cancel(timer_entry& entry) noexcept;
  /// Entries that have a time to fire at.
  [[nodiscard]] std::size_t pending() const noexcept;

  // --- virtual time; one thread only, before anything is scheduled
  void use_virtual_time(time_point start) noexcept;
  [[nodiscard]] bool is_virtual() const noexcept { return virtual_.load(std::memory_order_relaxed); }
  /// Jumps to the earliest deadline at or before `limit` and fires it; otherwise moves to `limit` and returns false.
  /// With `never` as limit and nothing pending the time stays.
  bool advance(time_point limit);

 private:
  void shutdown() noexcept override;
  void arm_locked(std::uint64_t at, const net::any_io_executor& executor);
  void on_tick(std::uint64_t arming);
  void disarm_if_idle();
  void release_work_locked() noexcept;
  void reclaim_work_locked() noexcept;

  mutable std::mutex mutex_;
  timer_wheel wheel_;
  std::size_t finite_ = 0;                   // entries that are due at some time
  std::uint64_t armed_ = ~std::uint64_t{0};  // when the driver's wait ends; the maximum when it does not wait
  std::uint64_t arming_ = 0;                 // how often it was armed
  std::optional<net::steady_timer> driver_;
  std::optional<net::io_context::executor_type> driver_context_;  // set where the driver runs on an io_context
  bool disarm_posted_ = false, work_released_ = false;
  std::atomic<bool> virtual_{false};
  std::atomic<std::int64_t> virtual_now_{0};
};

namespace detail {

/// Bumped when a timer service goes, so that no thread trusts a cached pointer to it.
extern std::atomic<std::uint64_t> timer_service_generation;

struct timer_service_cache {
  const net::execution_context* context = nullptr;
  timer_service* service = nullptr;
  std::uint64_t generation = 0;
};
inline constinit thread_local timer_service_cache cached_timer_service{};

timer_service& find_timer_service(net::execution_context& context);

}  // namespace detail

/// The timer service of an executor's context, made at first use.
[[nodiscard]] inline timer_service& timers_of(net::execution_context& context) {
  const auto& cache = detail::cached_timer_service;
  if (cache.context == &context && cache.generation == detail::timer_service_generation.load(std::memory_order_acquire))
      [[likely]] {
    return *cache.service;
  }
  return detail::find_timer_service(context);
}
[[nodiscard]] inline timer_service& timers_of(const net::any_io_executor& executor) {
  return timers_of(net::query(executor, net::execution::context));
}

}  // namespace cofferdam::inline COFFERDAM_ABI
