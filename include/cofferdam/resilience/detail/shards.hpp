// Places per thread, for what every healthy call counts: nothing that two threads write at once.
#pragma once

#include <cofferdam/core/config.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace cofferdam::inline COFFERDAM_ABI::detail {

/// The first so many threads own a shard each, for life, and write it without a lock prefix; all later ones share the
/// last shard.
struct shard {
  std::size_t index;
  bool exclusive;
};
[[nodiscard]] std::size_t shard_count() noexcept;
inline constexpr std::size_t unassigned = ~std::size_t{0};
inline constinit thread_local shard cached_shard{unassigned, false};
[[nodiscard]] shard assign_shard() noexcept;
[[nodiscard]] inline shard this_shard() noexcept {
  if (cached_shard.index == unassigned) [[unlikely]]
    cached_shard = assign_shard();
  return cached_shard;
}

/// Who writes: all threads, a shard each, or only one thread or strand, which needs but one.
class writers {
 public:
  static constexpr writers all() noexcept { return writers(false); }
  static constexpr writers one_strand() noexcept { return writers(true); }

  [[nodiscard]] std::size_t shards() const noexcept { return is_one_ ? 1 : shard_count(); }
  [[nodiscard]] shard mine() const noexcept { return is_one_ ? shard{0, true} : this_shard(); }

 private:
  explicit constexpr writers(bool is_one) noexcept : is_one_(is_one) {}
  bool is_one_;
};

/// A count that only grows. Reading it sums all shards.
class sharded_counter {
 public:
  explicit sharded_counter(writers w = writers::all()) : writers_(w), lines_(new line[w.shards()]) {}

  void add_one() noexcept {
    const auto [index, exclusive] = writers_.mine();
    auto& counter = lines_[index].count;
    if (exclusive) [[likely]] {
      counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    } else {
      counter.fetch_add(1, std::memory_order_relaxed);
    }
  }
  [[nodiscard]] std::uint64_t sum() const noexcept;

 private:
  struct alignas(64) line {
    std::atomic<std::uint64_t> count{0};
  };
  writers writers_;
  std::unique_ptr<line[]> lines_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
