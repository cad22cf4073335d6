// The cache: answers from memory, loads each thing once at a time, and knows what to say when loading fails.
//
//     cache<std::string, page> pages{"pages", {.ttl = 30s, .refresh_after = 20s, .stale_if_error = 10min}};
//     auto front = co_await pages.get("front", fetch, url);
#pragma once

#include <cofferdam/core/random.hpp>
#include <cofferdam/resilience/cache_options.hpp>
#include <cofferdam/resilience/detail/cache_table.hpp>
#include <cofferdam/resilience/detail/validation.hpp>
#include <cofferdam/resilience/single_flight.hpp>

#include <concepts>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// Loading is shared (see `single_flight`): one task per key at a time, whoever asks. Its task may be a run of a
/// pipeline: with a circuit breaker in it, an open circuit answers with what is stale.
///
/// Cancelled loadings are never remembered.
/// Cancellation:  a caller's ends its own wait; the loading goes on while others wait for it.
/// Thread safety: any thread. May be destroyed while loadings end.
template <class Key, std::copy_constructible T, class Hash = std::hash<Key>> class cache {
 public:
  /// Errors: `invalid_options_error`.
  explicit cache(const std::string& name, const cache_options& options = {})
      : state_(std::make_shared<state>((detail::require_valid("cache '" + name + "'", validate(options)), options))) {}

  /// The value of `key`, loaded by `task(args...)` if need be.
  /// Errors: those of the task, when there is nothing else to say.
  template <class F, class... Args>
    requires std::same_as<run_value_t<F, Args...>, T>
  [[nodiscard]] awaitable<T> get(Key key, F&& task, Args&&... args) {
    COFFERDAM_GUARD_TASK(F);
    return valued(look_up<std::decay_t<F>, std::decay_t<Args>...>(state_, std::move(key), std::forward<F>(task),
                                                                  std::forward<Args>(args)...));
  }
  /// As `get`; a failure is a value.
  template <class F, class... Args>
    requires std::same_as<run_value_t<F, Args...>, T>
  [[nodiscard]] awaitable<outcome<T>> try_get(Key key, F&& task, Args&&... args) {
    COFFERDAM_GUARD_TASK(F);
    return look_up<std::decay_t<F>, std::decay_t<Args>...>(state_, std::move(key), std::forward<F>(task),
                                                           std::forward<Args>(args)...);
  }

  /// False when there was nothing to forget. What is being loaded is stored all the same.
  bool erase(const Key& key) {
    const std::lock_guard lock(state_->mutex);
    return state_->contents.erase(key);
  }
  void clear() {
    const std::lock_guard lock(state_->mutex);
    state_->contents.clear();
  }
  [[nodiscard]] cache_stats stats() const {
    const std::lock_guard lock(state_->mutex);
    cache_stats s = state_->stats;
    s.entries = state_->contents.size();
    s.evictions = state_->contents.evictions();
    return s;
  }

 private:
  using table = detail::cache_table<Key, T, Hash>;
  struct state {
    explicit state(const cache_options& options) : contents(options) {}
    std::mutex mutex;
    table contents;
    cache_stats stats;
    single_flight<Key, T, Hash> flights;
  };

  /// Runs the task and remembers what came of it.
  template <class F, class... Args>
  static awaitable<outcome<T>> load(std::shared_ptr<state> s, Key key, F task, Args... args) {
    const net::any_io_executor executor = co_await net::this_coro::executor;
    outcome<T> result = co_await detail::outcome_of(task, args...);
    if (!result.has_value() && result.why().is_cancellation()) co_return result;
    const time_point now = timers_of(executor).now();
    const double spread = random_of(executor).uniform();
    const std::lock_guard lock(s->mutex);
    if (result.has_value()) {
      s->contents.store(key, *result, now, spread);
    } else {
      s->contents.store(key, result.why(), now);
    }
    co_return result;
  }

  template <class F, class... Args>
  static awaitable<outcome<T>> look_up(std::shared_ptr<state> s, Key key, F task, Args... args) {
    const net::any_io_executor executor = co_await net::this_coro::executor;
    const time_point now = timers_of(executor).now();
    std::optional<outcome<T>> answer;
    bool refresh = false;
    {
      const std::lock_guard lock(s->mutex);
      auto* known = s->contents.find(key);
      switch (table::judge(known, now)) {
        case detail::freshness::aging:
          refresh = true;
          ++s->stats.refreshes;
          known->refresh_at = known->fresh_until;  // one is enough
          [[fallthrough]];
        case detail::freshness::fresh:
          ++s->stats.hits;
          answer.emplace(*known->value);
          break;
        case detail::freshness::excused:
          ++s->stats.stale;
          answer.emplace(*known->value);
          break;
        case detail::freshness::negative:
          ++s->stats.negative;
          answer.emplace(known->why);
          break;
        case detail::freshness::stale:
        case detail::freshness::missing:
          ++s->stats.misses;
      }
    }
    if (refresh) {
      spawn(detail::without_deadline(executor), &join<F, Args...>, s, std::move(key), std::move(task),
            std::move(args)...);
    }
    if (answer) co_return *std::move(answer);
    outcome<T> loaded = co_await join<F, Args...>(s, key, std::move(task), std::move(args)...);
    if (loaded.has_value() || loaded.why().is_cancellation()) co_return loaded;
    const time_point later = timers_of(executor).now();
    const std::lock_guard lock(s->mutex);
    const auto* known = s->contents.find(key);
    if (known == nullptr || !known->value || later >= known->stale_until) co_return loaded;
    ++s->stats.stale;
    co_return *known->value;
  }

  template <class F, class... Args>
  static awaitable<outcome<T>> join(std::shared_ptr<state> s, Key key, F task, Args... args) {
    return s->flights.try_run(key, &load<F, Args...>, s, key, std::move(task), std::move(args)...);
  }

  static awaitable<T> valued(awaitable<outcome<T>> looked_up) {
    auto result = co_await std::move(looked_up);
    co_return std::move(result).value();
  }

  std::shared_ptr<state> state_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
