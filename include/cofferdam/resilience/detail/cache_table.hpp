// What a cache knows and for how long it may say it: no Asio, no clock, no lock.
#pragma once

#include <cofferdam/core/outcome.hpp>
#include <cofferdam/core/time.hpp>
#include <cofferdam/resilience/cache_options.hpp>

#include <cstdint>
#include <list>
#include <optional>
#include <unordered_map>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::detail {

enum class freshness : std::uint8_t {
  fresh,     ///< answer with it
  aging,     ///< answer with it, and load it anew
  stale,     ///< load it anew; answer with it only if that fails
  excused,   ///< answer with it though it is stale: loading it failed a moment ago
  negative,  ///< answer with the remembered failure
  missing,   ///< load it
};

/// The least recently used entry goes first when there are too many.
template <class Key, class T, class Hash> class cache_table {
 public:
  struct entry {
    explicit entry(Key k) : key(std::move(k)) {}
    Key key;
    std::optional<T> value;
    failure why;  // of the last loading, while it is remembered
    time_point refresh_at{}, fresh_until{}, stale_until{}, negative_until{};
  };

  explicit cache_table(const cache_options& options) : options_(options) {}

  /// The entry, now the most recently used; null when there is none.
  [[nodiscard]] entry* find(const Key& key) {
    const auto found = index_.find(key);
    if (found == index_.end()) return nullptr;
    order_.splice(order_.begin(), order_, found->second);
    return &*found->second;
  }
  [[nodiscard]] static freshness judge(const entry* e, time_point now) noexcept {
    if (e == nullptr) return freshness::missing;
    if (e->value && now < e->fresh_until) return now < e->refresh_at ? freshness::fresh : freshness::aging;
    const bool has_stale = e->value && now < e->stale_until;
    if (e->why && now < e->negative_until) return has_stale ? freshness::excused : freshness::negative;
    return has_stale ? freshness::stale : freshness::missing;
  }

  /// @param spread  in [0, 1): where in its range of jitter this value's life ends.
  void store(const Key& key, T value, time_point now, double spread) {
    entry& e = make(key);
    e.value.emplace(std::move(value));
    e.why = failure();
    const auto shortened = [&](duration d) {
      return d - duration(static_cast<std::int64_t>(static_cast<double>(d.count()) * options_.jitter * spread));
    };
    const duration life = shortened(options_.ttl);
    e.fresh_until = saturating_add(now, life);
    e.refresh_at = options_.refresh_after > duration::zero() ? saturating_add(now, shortened(options_.refresh_after))
                                                             : e.fresh_until;
    e.stale_until = saturating_add(e.fresh_until, options_.stale_if_error);
  }
  /// Remembers that loading failed, if failures are remembered.
  void store(const Key& key, const failure& why, time_point now) {
    if (options_.negative_ttl <= duration::zero()) return;
    entry& e = make(key);
    e.why = why;
    e.negative_until = saturating_add(now, options_.negative_ttl);
  }
  bool erase(const Key& key) {
    const auto found = index_.find(key);
    if (found == index_.end()) return false;
    order_.erase(found->second);
    index_.erase(found);
    return true;
  }
  void clear() noexcept {
    index_.clear();
    order_.clear();
  }
  [[nodiscard]] std::size_t size() const noexcept { return order_.size(); }
  [[nodiscard]] std::uint64_t evictions() const noexcept { return evictions_; }

 private:
  entry& make(const Key& key) {
    if (entry* known = find(key)) return *known;
    if (order_.size() >= options_.max_entries) {
      index_.erase(order_.back().key);
      order_.pop_back();
      ++evictions_;
    }
    order_.emplace_front(key);
    try {
      index_.emplace(key, order_.begin());
    } catch (...) {
      order_.pop_front();
      throw;
    }
    return order_.front();
  }

  cache_options options_;
  std::list<entry> order_;  // the most recently used first
  std::unordered_map<Key, typename std::list<entry>::iterator, Hash> index_;
  std::uint64_t evictions_ = 0;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
