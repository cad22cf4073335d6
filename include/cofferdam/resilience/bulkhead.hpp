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
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

enum class queue_order : std::uint8_t {
  fifo,      ///< fair
  lifo,      ///< the newest first: under overload the old ones have given up anyway
  adaptive,  ///< fair, and the newest first while the queue does not empty; needs a `target_delay`
};

struct bulkhead_options {
  std::size_t max_concurrent = 10;      // calls at once; >= 1
  std::size_t max_queue = 0;            // calls that may wait for a permit
  duration max_wait = duration::max();  // how long each may wait
  queue_order order = queue_order::fifo;
  duration target_delay{};  // > 0: how long calls may wait that come while the queue does not empty; less than max_wait
  duration interval = std::chrono::milliseconds(100);  // a queue that has not been empty for so long is overloaded
  friend bool operator==(const bulkhead_options&, const bulkhead_options&) = default;
};

[[nodiscard]] std::vector<std::string> validate(const bulkhead_options& options);

struct bulkhead_stats {
  std::size_t limit = 0, active = 0, queued = 0;
  std::uint64_t rejected = 0, queue_timeouts = 0, cleared = 0;
};

namespace detail {

/// Shared by the parallel workers of one `map`, all on one strand.
template <class T, class F, class Result> struct map_run {
  map_run(std::vector<T> all, F f) : items(std::move(all)), function(std::move(f)), results(items.size()) {}

  std::vector<T> items;
  F function;
  std::vector<std::optional<Result>> results;
  std::size_t next = 0;
  std::exception_ptr error;
};

}  // namespace detail

/// A permit is held from admission until the task really ended, and returns exactly once: on success, error,
/// cancellation, also while queued, and when the call is destroyed. A free permit never passes a waiting call by.
///
/// With a `target_delay` a queue that has not been empty for an `interval` is taken for a standing one: calls that come
/// then wait no longer than the target, and those that have waited longer are dropped, so that whoever is served is
/// served in time (Nichols and Jacobson, Controlling Queue Delay, 2012, as simplified by Maurer, Fail at Scale, 2015).
///
/// Errors of calls: `bulkhead_full_error`; `queue_error` (waited longer than `max_wait`, or cleared).
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

  /// Runs `function(item)` for every item, as many at once as there are permits, and yields the results in the order of
  /// the items. At most `max_concurrent` items are drawn ahead; those wait for their permits as long as it takes,
  /// whatever `max_queue`, `max_wait` and `target_delay` say, and `clear_queue` reaches them.
  /// Errors:       after the first error nothing more is drawn; it is thrown once everything started has ended.
  /// Cancellation: reaches all that is running.
  template <class T, class F, class Result = run_value_t<F, T>>
  [[nodiscard]] awaitable<std::vector<Result>> map(std::vector<T> items, F function);

  /// Completes all waiting calls with `queue_error`; returns how many.
  std::size_t clear_queue();
  /// Changes the limit now. More: waiting calls are let in. Fewer: running calls are left alone.
  /// Errors: `invalid_options_error` for 0.
  void resize(std::size_t max_concurrent);

  [[nodiscard]] std::string_view name() const noexcept { return *name_; }
  [[nodiscard]] std::size_t limit() const noexcept;
  [[nodiscard]] std::size_t active_count() const noexcept;
  [[nodiscard]] std::size_t pending_count() const noexcept;
  [[nodiscard]] bulkhead_stats stats() const noexcept;

  // --- the policy
  [[nodiscard]] admission admit(call& c, policy_slot& slot) noexcept override;
  [[nodiscard]] awaitable<admission> wait(call& c, policy_slot& slot) override;
  [[nodiscard]] verdict settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept override;
  void abandon(policy_slot& slot) noexcept override;
  [[nodiscard]] bool is_idle(time_point now) const noexcept override;
  [[nodiscard]] std::string describe() const override;

 private:
  struct waiter;
  /// The bulkhead as an item of `map` sees it.
  class for_items final : public runnable_policy<for_items> {
   public:
    explicit for_items(bulkhead& permits) noexcept : permits_(permits) {}
    [[nodiscard]] admission admit(call&, policy_slot&) noexcept override {
      return permits_.try_take() ? admission::go : admission::wait;
    }
    [[nodiscard]] awaitable<admission> wait(call& c, policy_slot&) override { return permits_.queue(c, true); }
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
  [[nodiscard]] awaitable<admission> queue(call& c, bool patient);
  [[nodiscard]] bool try_take() noexcept;
  void give_back() noexcept;
  void give_back_locked() noexcept;
  void hand_out_locked() noexcept;
  void enqueue_locked(waiter& w, bool newest_first, time_point now) noexcept;
  void unlink_locked(waiter& w) noexcept;
  void drop_older_locked(time_point limit) noexcept;

  // Free permits times two; the low bit says that calls wait, and then every change goes through the mutex. Negative
  // after shrinking: that many must return before anyone is let in.
  std::atomic<std::int64_t> free_;
  shared_name name_;
  bulkhead_options options_;
  mutable std::mutex mutex_;
  waiter* first_ = nullptr;
  waiter* last_ = nullptr;
  std::size_t queued_ = 0;
  time_point occupied_since_{};  // the queue
  std::atomic<std::size_t> limit_;
  std::atomic<std::uint64_t> rejected_{0}, queue_timeouts_{0}, cleared_{0};
};

/// Takes item after item until there is none, or one has failed.
template <class T, class F, class Result>
awaitable<void> bulkhead::map_worker(for_items permits, detail::map_run<T, F, Result>& run) {
  while (!run.error && run.next < run.items.size()) {
    const std::size_t index = run.next++;
    try {
      run.results[index].emplace(co_await permits.run(run.function, std::move(run.items[index])));
    } catch (...) {  // also Asio's, when this worker was cancelled, the function ignored it, and there is more to do
      if (!run.error) run.error = std::current_exception();
    }
  }
}

template <class T, class F, class Result>
awaitable<std::vector<Result>> bulkhead::map(std::vector<T> items, F function) {
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
  std::vector<Result> values;
  values.reserve(run.results.size());
  for (auto& result : run.results) values.push_back(*std::move(result));
  co_return values;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
