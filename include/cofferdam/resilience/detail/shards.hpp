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

/// A count that only grows. Reading it sums all shards.
class sharded_counter {
 public:
  sharded_counter() : lines_(new line[shard_count()]) {}

  void add_one() noexcept {
    const auto [index, exclusive] = this_shard();
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
  std::unique_ptr<line[]> lines_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
