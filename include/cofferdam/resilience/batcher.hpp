// The batcher: many callers ask for one thing each, and one call asks for all of them.
//
//     batcher<int, user> users{"users", select_users};   // awaitable<std::vector<user>> select_users(std::vector<int>)
//     auto author = co_await users.load(post.author);
#pragma once

#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/task.hpp>
#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/detail/batch_answers.hpp>
#include <cofferdam/resilience/detail/validation.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

struct batcher_options {
  duration max_delay = std::chrono::milliseconds(1);  // of collecting; 0 = until the executor's next turn
  std::size_t max_size = 100;                         // keys in a batch; a full one starts at once; >= 1
  std::size_t max_concurrent = 1'000'000'000;         // batches at once; further ones wait and go on collecting; >= 1
  bool deduplicate = true;                            // equal keys of a batch are asked for once
  friend bool operator==(const batcher_options&, const batcher_options&) = default;
};

[[nodiscard]] std::vector<std::string> validate(const batcher_options& options);

struct batcher_stats {
  std::uint64_t calls = 0;         // of load; load_many counts for each key
  std::uint64_t deduplicated = 0;  // calls for a key that was in the batch already
  std::uint64_t batches = 0;       // that were started
  std::size_t largest = 0;         // keys of the largest of them
  std::size_t running = 0;         // right now
};

/// Calls that come while a batch is collecting become one call of the batch function. It gives its answers in the order
/// of the keys, as a `std::vector<Value>` or, where single keys may fail, as a `std::vector<outcome<Value>>`; or it
/// gives a map of either by key, and then a key without an answer fails alone. It may be a coroutine or not, and it may
/// run a pipeline: `batcher<int, user> users{"users", [&](std::vector<int> ids) { return calls.run(select, ids); }}`.
///
/// A batch runs beside its callers, on a strand of the first one's executor and under no caller's deadline. Whoever is
/// cancelled or out of time leaves alone: a key that nobody waits for any more is not asked for, and when the last
/// caller has left, the batch is cancelled or never started.
///
/// Errors of calls: what the function throws, or gives for the key; `batch_answer_error` for all when it gave another
///                  number of answers than keys, and for each key that its map lacks.
/// Cancellation:    a caller's ends its own wait only.
/// Thread safety:   any thread; batches may run at the same time. May be destroyed while calls wait; what the function
///                  refers to must outlive its batches.
/// Source:          Hystrix's collapser, Facebook's DataLoader. Remembers nothing: put a `cache` before it for that.
template <class Key, std::copy_constructible Value, class Hash = std::hash<Key>> class batcher {
 public:
  /// @param function  of a `std::vector<Key>`, never empty.
  /// Errors: `invalid_options_error`.
  template <class F>
    requires task_with<F, std::vector<Key>> && detail::batch_answers<run_value_t<F, std::vector<Key>>, Key, Value>
  batcher(std::string name, F function, const batcher_options& options = {})
      : hub_(std::make_shared<hub>(std::move(name), std::move(function), options)) {}

  /// The answer to `key`; throws when there is none.
  [[nodiscard]] awaitable<Value> load(Key key) { return valued(join(hub_, std::move(key))); }
  /// As `load`; a failure is a value.
  [[nodiscard]] awaitable<outcome<Value>> try_load(Key key) { return join(hub_, std::move(key)); }
  /// The answers to all keys, in their order. More than `max_size` become several batches. Throws the first failure.
  [[nodiscard]] awaitable<std::vector<Value>> load_many(std::vector<Key> keys) {
    return all_valued(join_many(hub_, std::move(keys)));
  }
  /// As `load_many`; each key has its own outcome.
  [[nodiscard]] awaitable<std::vector<outcome<Value>>> try_load_many(std::vector<Key> keys) {
    return join_many(hub_, std::move(keys));
  }

  [[nodiscard]] const std::string& name() const noexcept { return hub_->name; }
  [[nodiscard]] batcher_stats stats() const {
    const std::lock_guard lock(hub_->mutex);
    batcher_stats s = hub_->stats;
    s.running = hub_->turns.active_count();
    return s;
  }

 private:
  using answers = std::vector<outcome<Value>>;
  using batch_function = std::function<awaitable<outcome<answers>>(std::vector<Key>)>;

  struct slot {
    Key key;
    std::size_t callers = 0;
    std::size_t answer = 0;  // which of the answers is ours; known once the batch has started
  };
  struct batch {
    std::vector<slot> slots;
    std::unordered_map<Key, std::size_t, Hash> index;  // of slots; only to deduplicate
    std::size_t wanted = 0;                            // slots that somebody waits for
    bool full = false;
    detail::parked_reference collecting;  // the batch itself, until it is full
    std::vector<detail::parked_reference> waiting;
    std::optional<outcome<answers>> result;  // set once, never changed
    std::optional<spawned> job;
  };

  struct hub {
    template <class F>
    hub(std::string called, F f, const batcher_options& o)
        : name(std::move(called)),
          options((detail::require_valid("batcher '" + name + "'", validate(o)), o)),
          function([this, f = std::move(f)](std::vector<Key> keys) { return answer<F>(name, f, std::move(keys)); }),
          turns(name, {.max_concurrent = o.max_concurrent, .max_queue = std::numeric_limits<std::size_t>::max()}) {}

    template <class F>
    static awaitable<outcome<answers>> answer(const std::string& name, F function, std::vector<Key> keys) {
      auto given = co_await detail::outcome_of(function, keys);
      if (!given.has_value()) co_return std::move(given).why();
      co_return detail::answers_to<Value>(name, keys, *std::move(given));
    }

    /// A place for the key in the open batch.
    std::size_t add_locked(batch& b, Key key) {
      std::size_t at = b.slots.size();
      if (const auto found = b.index.find(key); found != b.index.end()) {
        at = found->second;
        ++stats.deduplicated;
      } else {
        b.slots.push_back({key});
        if (options.deduplicate) b.index.emplace(std::move(key), at);
      }
      if (b.slots[at].callers++ == 0) ++b.wanted;
      ++stats.calls;
      return at;
    }
    /// Nobody else joins it.
    void close_locked(const std::shared_ptr<batch>& which) noexcept {
      if (open == which) open = nullptr;
    }
    /// Closes the batch and takes the keys that are still wanted.
    std::vector<Key> take_keys(const std::shared_ptr<batch>& which) {
      const std::lock_guard lock(mutex);
      close_locked(which);
      std::vector<Key> keys;
      keys.reserve(which->wanted);
      for (auto& one : which->slots) {
        if (one.callers == 0) continue;
        one.answer = keys.size();
        keys.push_back(std::move(one.key));
      }
      if (keys.empty()) return keys;
      ++stats.batches;
      stats.largest = std::max(stats.largest, keys.size());
      return keys;
    }

    const std::string name;
    const batcher_options options;
    const batch_function function;
    bulkhead turns;
    std::mutex mutex;
    std::shared_ptr<batch> open;  // the one that collects
    batcher_stats stats;
  };

  /// One caller's place in a batch.
  class place {
   public:
    place(std::shared_ptr<hub> h, Key key) : hub_(std::move(h)) {
      detail::parked_reference full;
      {
        const std::lock_guard lock(hub_->mutex);
        first_ = hub_->open == nullptr;
        batch_ = first_ ? std::make_shared<batch>() : hub_->open;
        slot_ = hub_->add_locked(*batch_, std::move(key));
        hub_->open = batch_;
        if (batch_->wanted >= hub_->options.max_size) {
          hub_->close_locked(batch_);
          batch_->full = true;
          full = std::exchange(batch_->collecting, {});
        }
      }
      if (full) full->wake(wake_reason::woken);
    }
    place(place&&) noexcept = default;
    place& operator=(place&&) = delete;
    ~place() {
      if (batch_ != nullptr) leave();
    }
    [[nodiscard]] bool first() const noexcept { return first_; }
    [[nodiscard]] const std::shared_ptr<batch>& in() const noexcept { return batch_; }
    /// Once there is a result.
    [[nodiscard]] outcome<Value> answer() const {
      const outcome<answers>& result = *batch_->result;
      if (!result.has_value()) return result.why();
      return (*result)[batch_->slots[slot_].answer];
    }

   private:
    void leave() noexcept {
      std::optional<spawned> abandoned;
      {
        const std::lock_guard lock(hub_->mutex);
        if (batch_->result) return;
        if (--batch_->slots[slot_].callers > 0 || --batch_->wanted > 0) return;
        hub_->close_locked(batch_);
        abandoned = batch_->job;
      }
      if (abandoned) abandoned->cancel();
    }

    std::shared_ptr<hub> hub_;
    std::shared_ptr<batch> batch_;
    std::size_t slot_ = 0;
    bool first_ = false;
  };

  /// Hands the answers out, also when the batch's coroutine is destroyed with its context.
  class distribution {
   public:
    distribution(std::shared_ptr<hub> h, std::shared_ptr<batch> b) : hub_(std::move(h)), batch_(std::move(b)) {}
    distribution(const distribution&) = delete;
    distribution& operator=(const distribution&) = delete;
    ~distribution() {
      std::vector<detail::parked_reference> waiting;
      {
        const std::lock_guard lock(hub_->mutex);
        hub_->close_locked(batch_);
        batch_->result.emplace(std::move(result));
        waiting.swap(batch_->waiting);
      }
      for (const auto& one : waiting) one->wake(wake_reason::woken);
    }
    outcome<answers> result = failure::cancelled();

   private:
    std::shared_ptr<hub> hub_;
    std::shared_ptr<batch> batch_;
  };

  /// Ends when the batch is full or its time has come.
  static awaitable<void> collect(std::shared_ptr<hub> h, std::shared_ptr<batch> b) {
    if (h->options.max_delay == duration::zero()) {
      co_await net::post(net::use_awaitable);
      co_return;
    }
    const net::any_io_executor executor = co_await net::this_coro::executor;
    const auto enlist = [&](const detail::parked_reference& self) {
      {
        const std::lock_guard lock(h->mutex);
        if (!b->full) {
          b->collecting = self;
          return;
        }
      }
      self->wake(wake_reason::woken);
    };
    (void)co_await park(saturating_add(timers_of(executor).now(), h->options.max_delay), enlist);
  }

  static awaitable<outcome<answers>> ask(std::shared_ptr<hub> h, std::shared_ptr<batch> b) {
    std::vector<Key> keys = h->take_keys(b);
    if (keys.empty()) co_return failure::cancelled();
    co_return co_await h->function(std::move(keys));
  }

  static awaitable<void> run_batch(std::shared_ptr<hub> h, std::shared_ptr<batch> b) {
    distribution at_end(h, b);
    try {
      co_await collect(h, b);
      at_end.result = co_await h->turns.try_run(&ask, h, b);
    } catch (const std::exception& e) {
      at_end.result = failure::current(e);
    }
  }

  static void start_if_first(const net::any_io_executor& executor, const std::shared_ptr<hub>& h, const place& mine) {
    if (!mine.first()) return;
    try {
      const spawned job = spawn(detail::without_deadline(executor), &run_batch, h, mine.in());
      const std::lock_guard lock(h->mutex);
      mine.in()->job = job;
    } catch (...) {  // no memory: nobody may be left waiting
      distribution(h, mine.in()).result = failure::current();
      throw;
    }
  }

  /// False when the caller was cancelled.
  static awaitable<bool> answered(std::shared_ptr<hub> h, std::shared_ptr<batch> b) {
    const auto enlist = detail::wait_among(b->waiting, h->mutex, [&] { return b->result.has_value(); });
    const wake_reason reason = co_await park(never, enlist);
    co_return reason == wake_reason::woken;
  }

  static awaitable<outcome<Value>> join(std::shared_ptr<hub> h, Key key) {
    const net::any_io_executor executor = co_await net::this_coro::executor;
    const place mine(h, std::move(key));
    start_if_first(executor, h, mine);
    const bool there = co_await answered(h, mine.in());
    if (!there) co_return failure::cancelled();
    co_return mine.answer();
  }

  static awaitable<std::vector<outcome<Value>>> join_many(std::shared_ptr<hub> h, std::vector<Key> keys) {
    const net::any_io_executor executor = co_await net::this_coro::executor;
    std::vector<place> places;
    places.reserve(keys.size());
    for (auto& key : keys) {
      places.emplace_back(h, std::move(key));
      start_if_first(executor, h, places.back());
    }
    std::vector<outcome<Value>> results;
    results.reserve(places.size());
    bool there = true;
    for (const auto& mine : places) {
      if (there) there = co_await answered(h, mine.in());
      results.push_back(there ? mine.answer() : outcome<Value>(failure::cancelled()));
    }
    co_return results;
  }

  static awaitable<Value> valued(awaitable<outcome<Value>> joined) {
    auto result = co_await std::move(joined);
    co_return std::move(result).value();
  }
  static awaitable<std::vector<Value>> all_valued(awaitable<std::vector<outcome<Value>>> joined) {
    auto results = co_await std::move(joined);
    std::vector<Value> values;
    values.reserve(results.size());
    for (auto& result : results) values.push_back(std::move(result).value());
    co_return values;
  }

  std::shared_ptr<hub> hub_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
