#include <cofferdam/resilience/detail/shards.hpp>

#include <algorithm>
#include <thread>

namespace cofferdam::inline COFFERDAM_ABI::detail {
namespace {

std::size_t exclusive_shards() noexcept {
  static const std::size_t count = std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, 16);
  return count;
}

}  // namespace

std::size_t shard_count() noexcept { return exclusive_shards() + 1; }

shard assign_shard() noexcept {
  static std::atomic<std::size_t> threads{0};
  const std::size_t number = threads.fetch_add(1, std::memory_order_relaxed);
  return {std::min(number, exclusive_shards()), number < exclusive_shards()};
}

std::uint64_t sharded_counter::sum() const noexcept {
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < writers_.shards(); ++i) total += lines_[i].count.load(std::memory_order_relaxed);
  return total;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
