// The bulkhead: a bounded number of calls at once, and a bounded queue before them.
//
//     bulkhead pool{"reports", {.max_concurrent = 10, .max_queue = 100}};
//     auto report = co_await pool.run(render, id);
//     auto pages = co_await pool.map(urls, fetch);
#pragma once

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/workers.hpp>
#include <cofferdam/resilience/pipeline.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

enum class queue_order : std::uint8_t {
  fifo,      ///< fair
  lifo,      ///< the newest first: under overload the old ones have given up anyway
  adaptive,  ///< fair, and the newest first while the queue does not empty; needs a `target_delay`
  priority,  ///< the most important first, fair among equals; in a full queue the least important makes room
};

struct bulkhead_options {
  std::size_t max_concurrent = 10;      // calls at once; >= 1
  std::size_t max_queue = 0;            // calls that may wait for a permit, in each partition
  duration max_wait = duration::max();  // how long each may wait
  queue_order order = queue_order::fifo;
  duration target_delay{};  // > 0: how long calls may wait that come while the queue does not empty; less than max_wait
  duration interval = std::chrono::milliseconds(100);  // a queue that has not been empty for so long is overloaded
  friend bool operator==(const bulkhead_options&, const bulkhead_options&) = default;
};

inline constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max();

/// What a part of the calls may use of a bulkhead.
struct partition_limits {
  std::size_t reserved = 0;         // permits that nobody else gets
  std::size_t at_most = unlimited;  // permits at once, the reserved ones included; >= 1
  friend bool operator==(const partition_limits&, const partition_limits&) = default;
};
using bulkhead_partitions = std::map<std::string, partition_limits, std::less<>>;  // by name

[[nodiscard]] std::vector<std::string> validate(const bulkhead_options& options,
                                                const bulkhead_partitions& partitions = {});

struct bulkhead_stats {
  std::size_t limit = 0, active = 0;  // permits
  std::size_t queued = 0;             // calls, as the following
  std::uint64_t rejected = 0, queue_timeouts = 0, cleared = 0;
  std::uint64_t displaced = 0;  // left a full queue for a more important call
};

namespace detail {

/// Shared by the parallel workers of one `map`, all on one strand.
template <class T, class F, class Result> struct map_run {
  map_run(std::vector<T> all, F f) : items(std::move(all)), function(std::move(f)), results(items.size()) {}

  std::vector<T> items;
  F function;
  using kept = std::conditional_t<std::is_void_v<Result>, std::monostate, Result>;
  std::vector<std::optional<kept>> results;
  std::size_t next = 0;
  std::exception_ptr error;
};

}  // namespace detail

/// A permit is held from admission until the task really ended, and returns exactly once: on success, error,
/// cancellation, also while queued, and when the call is destroyed. A free permit never passes a waiting call by.
///
/// A call takes as many permits as its `call_info::weight` says, and waits until it can have them all at once: no
/// lighter call behind it goes first. What it is refused with is `weight_too_large` if it could never have them.
///
/// Partitions divide the permits among calls by their `call_info::key`. What no partition reserves is shared by all, in
/// the order in which they wait; each partition has a queue of its own.
///
/// With a `target_delay` a queue that has not been empty for an `interval` is taken for a standing one: calls that come
/// then wait no longer than the target, and those that have waited longer are dropped, so that whoever is served is
/// served in time (Nichols and Jacobson, Controlling Queue Delay, 2012, as simplified by Maurer, Fail at Scale, 2015).
///
/// Errors of calls: `bulkhead_full_error`, also for a call that had to leave a full queue for a more important one;
///                  `queue_error` (waited longer than `max_wait`, or cleared); `rate_limit_error` (`weight_too_large`).
/// Cancellation:    a waiting call leaves the queue at once.
/// Thread safety:   every member from any thread. Waiting calls must have ended before the bulkhead is destroyed.
/// Nested use:      a task that enters the bulkhead it runs in can wait for itself for ever; give it a `max_wait`.
class bulkhead final : public runnable_policy<bulkhead> {
 public:
  /// Errors: `invalid_options_error`.
  explicit bulkhead(std::string name, const bulkhead_options& options = {});
  ~bulkhead() override;
  bulkhead(const bulkhead&) = delete;
  bulkhead& operator=(const bulkhead&) = delete;

  /// Calls with the key `name` form a partition from now on; to be said before the first call. With partitions every
  /// call takes a lock, and looks through their names: a handful is fine.
  /// Errors: `invalid_options_error`.
  bulkhead& partition(std::string name, const partition_limits& limits);

  /// Runs `function(item)` for every item, as many at once as there are permits, and yields the results (a
  /// `std::monostate` for each item where there are none) in the order of
  /// the items. At most `max_concurrent` items are drawn ahead; those wait for their permits as long as it takes,
  /// whatever `max_queue`, `max_wait` and `target_delay` say, and `clear_queue` reaches them.
  /// Errors:       after the first error nothing more is drawn; it is thrown once everything started has ended.
  /// Cancellation: reaches all that is running.
  template <class T, class F, class Result = run_value_t<F, T>>
  [[nodiscard]] awaitable<std::vector<typename detail::map_run<T, F, Result>::kept>> map(std::vector<T> items,
                                                                                         F function);

  /// Completes all waiting calls with `queue_error`; returns how many.
  std::size_t clear_queue();
  /// Changes the limit now. More: waiting calls are let in. Fewer: running calls are left alone, and waiting ones that
  /// need more than there are now are refused.
  /// Errors: `invalid_options_error` for 0, and for fewer than the partitions reserve.
  void resize(std::size_t max_concurrent);

  [[nodiscard]] std::string_view name() const noexcept { return *name_; }
  [[nodiscard]] std::size_t limit() const noexcept;
  [[nodiscard]] std::size_t active_count() const noexcept;   // permits in use
  [[nodiscard]] std::size_t pending_count() const noexcept;  // calls that wait
  [[nodiscard]] bulkhead_stats stats() const noexcept;
  /// Of the partition that calls with this key belong to, or of all calls that belong to none. The limit is what it can
  /// have at most.
  [[nodiscard]] bulkhead_stats stats(std::string_view key) const noexcept;

  // --- the policy
  [[nodiscard]] admission admit(call& c, policy_slot& slot) noexcept override;
  [[nodiscard]] awaitable<admission> wait(call& c, policy_slot& slot) override;
  [[nodiscard]] verdict settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept override;
  void abandon(policy_slot& slot) noexcept override;
  [[nodiscard]] bool is_idle(time_point now) const noexcept override;
  [[nodiscard]] std::string describe() const override;

 private:
  friend class adaptive_limiter;
  struct waiter;
  struct lane;
  /// What a call asks for and then holds; kept in its slot.
  struct permit {
    lane* from;
    std::size_t weight;
  };
  /// The bulkhead as an item of `map` sees it.
  class for_items final : public runnable_policy<for_items> {
   public:
    explicit for_items(bulkhead& permits) noexcept : permits_(permits) {}
    [[nodiscard]] admission admit(call& c, policy_slot& slot) noexcept override { return permits_.admit_item(c, slot); }
    [[nodiscard]] awaitable<admission> wait(call& c, policy_slot& slot) override {
      return permits_.queue(c, slot.get<permit>(), true);
    }
    [[nodiscard]] verdict settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept override {
      return permits_.settle(c, slot, outcome);
    }
    void abandon(policy_slot& slot) noexcept override { permits_.abandon(slot); }
    [[nodiscard]] std::string describe() const override { return permits_.describe(); }

   private:
    bulkhead& permits_;
  };

  template <class T, class F, class Result>
  static awaitable<void> map_worker(for_items permits, detail::map_run<T, F, Result>& run);
  [[nodiscard]] awaitable<admission> queue(call& c, permit asked, bool patient);
  [[nodiscard]] admission admit_item(call& c, policy_slot& slot) noexcept;
  [[nodiscard]] admission admit_slowly(call& c, permit& asked) noexcept;
  [[nodiscard]] bool try_pass_in_partition(const call& c, permit& asked) noexcept;
  void give_back(const permit& held) noexcept;
  void give_back_slowly(const permit& held) noexcept;
  [[nodiscard]] lane& lane_of(std::string_view key) const noexcept;
  [[nodiscard]] bool is_partitioned() const noexcept { return !partitions_.empty(); }
  [[nodiscard]] std::size_t most_for(const lane& l) const noexcept;
  [[nodiscard]] bool may_pass_locked(const permit& asked) const noexcept;
  void take_locked(const permit& taken) noexcept;
  void put_back_locked(const permit& held) noexcept;
  void give_back_locked(const permit& held) noexcept;
  [[nodiscard]] std::int64_t shared_and_free_locked() const noexcept;
  [[nodiscard]] waiter* next_locked() const noexcept;
  void hand_out_locked() noexcept;
  void enqueue_locked(waiter& w, bool newest_first);
  void make_room_locked(waiter& newcomer) noexcept;
  void unlink_locked(waiter& w) noexcept;
  void leave_locked(waiter& w) noexcept;
  void drop_older_locked(lane& l, time_point limit) noexcept;
  void refuse_heavy_locked() noexcept;

  // Free permits times two; with the low bit every change goes through the mutex: calls wait, or there are partitions.
  // Negative after shrinking: that many must return before anyone is let in.
  std::atomic<std::int64_t> free_;
  std::unique_ptr<lane> lanes_;  // a list; the first is of all calls that belong to no partition
  shared_name name_;
  bulkhead_options options_;
  bulkhead_partitions partitions_;
  mutable std::mutex mutex_;
  std::size_t queued_ = 0;
  std::size_t reserved_ = 0;         // of all partitions...
  std::int64_t unused_reserve_ = 0;  // ...and what of it nobody uses now
  std::int64_t oldest_rank_ = 0, newest_rank_ = 0;
  std::atomic<std::size_t> limit_;
};

/// Takes item after item until there is none, or one has failed.
template <class T, class F, class Result>
awaitable<void> bulkhead::map_worker(for_items permits, detail::map_run<T, F, Result>& run) {
  while (!run.error && run.next < run.items.size()) {
    const std::size_t index = run.next++;
    try {
      if constexpr (std::is_void_v<Result>) {
        co_await permits.run(run.function, std::move(run.items[index]));
        run.results[index].emplace();
      } else {
        run.results[index].emplace(co_await permits.run(run.function, std::move(run.items[index])));
      }
    } catch (...) {  // also Asio's, when this worker was cancelled, the function ignored it, and there is more to do
      if (!run.error) run.error = std::current_exception();
    }
  }
}

template <class T, class F, class Result>
awaitable<std::vector<typename detail::map_run<T, F, Result>::kept>> bulkhead::map(std::vector<T> items, F function) {
  COFFERDAM_GUARD_TASK(F);
  const auto executor = co_await net::this_coro::executor;
  if (detail::is_bare_pool(executor)) {  // the workers need one strand
    co_return co_await spawn_on(executor, [&] { return map<T, F, Result>(std::move(items), std::move(function)); });
  }
  detail::map_run<T, F, Result> run(std::move(items), std::move(function));
  if (!run.items.empty()) {
    const std::size_t workers = std::min(limit(), run.items.size());
    co_await detail::run_workers(workers, [&] { return map_worker<T, F, Result>(for_items(*this), run); });
  }
  if (run.error) std::rethrow_exception(run.error);
  std::vector<typename detail::map_run<T, F, Result>::kept> values;
  values.reserve(run.results.size());
  for (auto& result : run.results) values.push_back(*std::move(result));
  co_return values;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
