// Single flight: callers that want the same thing at the same time share one run of the task.
//
//     single_flight<std::string, page> pages;
//     auto front = co_await pages.run("front", fetch, url);
#pragma once

#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/task.hpp>
#include <cofferdam/resilience/outcome_class.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

struct single_flight_stats {
  std::uint64_t flights = 0;  // runs of a task
  std::uint64_t joined = 0;   // calls that shared one
  std::size_t flying = 0;     // right now
};

/// The task runs beside its callers, on a strand of the first one's executor and under no caller's deadline. So a
/// caller that is cancelled or out of time just leaves, whoever it is; the task is cancelled when the last one has
/// left, and whoever comes then starts it anew. All get copies of the same value or the same failure.
///
/// The task and its arguments are copied or moved into the flight and may outlive the call that brought them, by the
/// time that they take to end after their cancellation. Cancellation:  a caller's ends its own wait only. Thread
/// safety: any thread. May be destroyed while flights end.
template <class Key, std::copy_constructible T, class Hash = std::hash<Key>> class single_flight {
 public:
  /// Errors: whatever the task throws.
  template <class F, class... Args>
    requires std::same_as<run_value_t<F, Args...>, T>
  [[nodiscard]] awaitable<T> run(Key key, F&& task, Args&&... args) {
    COFFERDAM_GUARD_TASK(F);
    return valued(try_join<std::decay_t<F>, std::decay_t<Args>...>(hub_, std::move(key), std::forward<F>(task),
                                                                   std::forward<Args>(args)...));
  }
  /// As `run`; a failure is a value.
  template <class F, class... Args>
    requires std::same_as<run_value_t<F, Args...>, T>
  [[nodiscard]] awaitable<outcome<T>> try_run(Key key, F&& task, Args&&... args) {
    COFFERDAM_GUARD_TASK(F);
    return try_join<std::decay_t<F>, std::decay_t<Args>...>(hub_, std::move(key), std::forward<F>(task),
                                                            std::forward<Args>(args)...);
  }

  [[nodiscard]] single_flight_stats stats() const {
    const std::lock_guard lock(hub_->mutex);
    single_flight_stats s = hub_->stats;
    s.flying = hub_->flights.size();
    return s;
  }

 private:
  struct flight {
    std::optional<outcome<T>> result;  // set once, never changed
    std::vector<detail::parked_reference> waiting;
    std::size_t interested = 0;
    std::optional<spawned> job;
  };
  struct hub {
    std::mutex mutex;
    std::unordered_map<Key, std::shared_ptr<flight>, Hash> flights;
    single_flight_stats stats;

    /// Takes the flight off the list, unless another one has taken its place there.
    void forget_locked(const Key& key, const std::shared_ptr<flight>& which) {
      const auto found = flights.find(key);
      if (found != flights.end() && found->second == which) flights.erase(found);
    }
  };

  /// One caller's place in a flight.
  class interest {
   public:
    interest(std::shared_ptr<hub> h, const Key& key) : hub_(std::move(h)), key_(key) {
      const std::lock_guard lock(hub_->mutex);
      const auto found = hub_->flights.find(key_);
      first_ = found == hub_->flights.end();
      flight_ = first_ ? std::make_shared<flight>() : found->second;
      if (first_) hub_->flights.emplace(key_, flight_);
      ++flight_->interested;
      ++(first_ ? hub_->stats.flights : hub_->stats.joined);
    }
    interest(const interest&) = delete;
    interest& operator=(const interest&) = delete;
    ~interest() {
      std::optional<spawned> abandoned;
      {
        const std::lock_guard lock(hub_->mutex);
        if (--flight_->interested > 0 || flight_->result) return;
        hub_->forget_locked(key_, flight_);
        abandoned = flight_->job;
      }
      if (abandoned) abandoned->cancel();
    }
    [[nodiscard]] bool first() const noexcept { return first_; }
    [[nodiscard]] const std::shared_ptr<flight>& to() const noexcept { return flight_; }

   private:
    std::shared_ptr<hub> hub_;
    const Key& key_;
    std::shared_ptr<flight> flight_;
    bool first_ = false;
  };

  /// Lands the flight, also when its coroutine is destroyed with its context.
  class landing {
   public:
    landing(std::shared_ptr<hub> h, Key key, std::shared_ptr<flight> f)
        : hub_(std::move(h)), key_(std::move(key)), flight_(std::move(f)) {}
    landing(const landing&) = delete;
    landing& operator=(const landing&) = delete;
    ~landing() {
      std::vector<detail::parked_reference> waiting;
      {
        const std::lock_guard lock(hub_->mutex);
        flight_->result.emplace(std::move(result));
        waiting.swap(flight_->waiting);
        hub_->forget_locked(key_, flight_);
      }
      for (const auto& one : waiting) one->wake(wake_reason::woken);
    }
    outcome<T> result = failure::cancelled();

   private:
    std::shared_ptr<hub> hub_;
    Key key_;
    std::shared_ptr<flight> flight_;
  };

  template <class F, class... Args>
  static awaitable<void> fly(std::shared_ptr<hub> h, Key key, std::shared_ptr<flight> f, F task, Args... args) {
    landing at_end(std::move(h), std::move(key), std::move(f));
    at_end.result = co_await detail::outcome_of(task, args...);
  }

  template <class F, class... Args>
  static awaitable<outcome<T>> try_join(std::shared_ptr<hub> h, Key key, F task, Args... args) {
    const net::any_io_executor executor = co_await net::this_coro::executor;
    const interest mine(h, key);
    const std::shared_ptr<flight>& f = mine.to();
    if (mine.first()) {
      try {
        const spawned job =
            spawn(detail::without_deadline(executor), &fly<F, Args...>, h, key, f, std::move(task), std::move(args)...);
        const std::lock_guard lock(h->mutex);
        f->job = job;
      } catch (...) {  // no memory: nobody may be left waiting
        landing(h, key, f).result = failure::current();
        throw;
      }
    }
    const auto enlist = detail::wait_among(f->waiting, h->mutex, [&] { return f->result.has_value(); });
    const wake_reason reason = co_await park(never, enlist);
    if (reason != wake_reason::woken) co_return failure::cancelled();
    co_return *f->result;
  }

  static awaitable<T> valued(awaitable<outcome<T>> joined) {
    auto result = co_await std::move(joined);
    co_return std::move(result).value();
  }

  std::shared_ptr<hub> hub_ = std::make_shared<hub>();
};

}  // namespace cofferdam::inline COFFERDAM_ABI
