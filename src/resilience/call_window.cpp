#include <cofferdam/resilience/detail/call_window.hpp>

#include <algorithm>
#include <bit>

namespace cofferdam::inline COFFERDAM_ABI::detail {

// --------------------------------------------------------------------------------------------------- count_window

void count_window::add(bool failed, bool slow, bool abandoned) noexcept {
  std::uint8_t& place = ring_[next_];
  if (counts_.calls < ring_.size()) {
    ++counts_.calls;
  } else {
    if ((place & failed_bit) != 0) --counts_.failures;
    if ((place & slow_bit) != 0) --counts_.slow;
    if ((place & abandoned_bit) != 0) --counts_.abandoned;
  }
  place =
      static_cast<std::uint8_t>((failed ? failed_bit : 0) | (slow ? slow_bit : 0) | (abandoned ? abandoned_bit : 0));
  if (failed) ++counts_.failures;
  if (slow) ++counts_.slow;
  if (abandoned) ++counts_.abandoned;
  if (++next_ == ring_.size()) next_ = 0;
}

void count_window::add_all_of(const count_window& other) noexcept {
  const std::size_t size = other.ring_.size(), count = static_cast<std::size_t>(other.counts_.calls);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint8_t call = other.ring_[(other.next_ + size - count + i) % size];
    add((call & failed_bit) != 0, (call & slow_bit) != 0, (call & abandoned_bit) != 0);
  }
}

void count_window::clear() noexcept {
  next_ = 0;
  counts_ = {};
}

// ----------------------------------------------------------------------------------------------------- good_calls

std::uint64_t good_calls::collect(unsigned generation) noexcept {
  std::uint64_t all = 0;
  for (std::size_t index = 0; index < writers_.shards(); ++index) {
    auto& [made, collected] = lines_[index].of[generation];
    const std::uint64_t seen = made.load(std::memory_order_relaxed);
    all += seen - collected.load(std::memory_order_relaxed);
    collected.store(seen, std::memory_order_relaxed);
  }
  return all;
}

// ---------------------------------------------------------------------------------------------------- time_window

time_window::time_window(std::size_t buckets, duration width, bool with_slow, writers w)
    : writers_(w),
      buckets_(buckets),
      width_(std::max<std::int64_t>(width.count(), 1)),
      per_nanosecond_(1.0 / static_cast<double>(width_)),
      with_slow_(with_slow),
      lines_per_shard_((buckets * 2 * (with_slow ? 2U : 1U) + 7) / 8),
      heads_(new shard_head[writers_.shards()]()),
      lines_(new line[lines_per_shard_ * writers_.shards()]()) {}

time_window::place time_window::place_of(std::int64_t slice) const noexcept {
  const auto number = static_cast<std::uint64_t>(slice);
  // Slices fit into 32 bits in practice, and then the division is short.
  const std::uint64_t turns =
      number >> 32 == 0 ? static_cast<std::uint32_t>(number) / static_cast<std::uint32_t>(buckets_) : number / buckets_;
  // A lap is never 0, which marks an empty word.
  return {static_cast<std::size_t>(number - turns * buckets_), turns % ((1U << lap_bits) - 1) + 1};
}

bool time_window::advance(const shard& mine, std::int64_t slice) noexcept {
  auto& newest_slice = heads_[mine.index].newest;
  const auto span = static_cast<std::int64_t>(buckets_);
  std::unique_lock<std::mutex> one_at_a_time(advancing_, std::defer_lock);
  if (!mine.exclusive) one_at_a_time.lock();
  const std::int64_t old = static_cast<std::int64_t>(newest_slice.load(std::memory_order_relaxed)) - 1;
  if (slice <= old) return slice > old - span;
  // Before anybody counts there: what is left of another turn may bear the same lap.
  for (std::int64_t passed = std::max(old, slice - span) + 1; passed <= slice; ++passed) {
    const std::size_t bucket = place_of(passed).bucket;
    for (const unsigned generation : {0U, 1U}) {
      word(mine.index, generation, false, bucket).store(0, std::memory_order_relaxed);
      if (with_slow_) word(mine.index, generation, true, bucket).store(0, std::memory_order_relaxed);
    }
  }
  newest_slice.store(static_cast<std::uint64_t>(slice) + 1, std::memory_order_release);
  if (mine.exclusive) {
    const auto [bucket, lap] = place_of(slice);
    heads_[mine.index].of_owner = {static_cast<std::uint64_t>(slice * width_), lap, bucket};
  }
  return true;
}

void time_window::add_to(std::atomic<std::uint64_t>& word, std::uint64_t lap, bool marked, bool exclusive) noexcept {
  std::uint64_t old = word.load(std::memory_order_relaxed);
  std::uint64_t next = 0;
  do {
    const std::uint64_t base = old >> (2 * field_bits) == lap ? old : lap << (2 * field_bits);
    if ((base & field_max) == field_max) return;  // saturated; the ratio stays what it is
    next = base + 1 + (marked ? std::uint64_t{1} << field_bits : 0);
    if (exclusive) [[likely]] {
      word.store(next, std::memory_order_relaxed);
      return;
    }
  } while (!word.compare_exchange_weak(old, next, std::memory_order_relaxed));
}

bool time_window::add(unsigned generation, std::int64_t slice, bool failed, bool slow) noexcept {
  const shard mine = writers_.mine();
  if (heads_[mine.index].newest.load(std::memory_order_acquire) != static_cast<std::uint64_t>(slice) + 1) [[unlikely]] {
    if (!advance(mine, slice)) return false;
  }
  const auto [bucket, lap] = place_of(slice);
  add_to(word(mine.index, generation, false, bucket), lap, failed, mine.exclusive);
  if (slow) add_to(word(mine.index, generation, true, bucket), lap, true, mine.exclusive);
  return true;
}

window_counts time_window::sum(unsigned generation, std::int64_t slice) const noexcept {
  window_counts total;
  const auto span = static_cast<std::int64_t>(buckets_);
  for (std::size_t shard = 0; shard < writers_.shards(); ++shard) {
    const std::uint64_t newest_slice = heads_[shard].newest.load(std::memory_order_relaxed);
    if (newest_slice == 0 || static_cast<std::int64_t>(newest_slice) - 1 <= slice - span) continue;
    for (std::int64_t past = slice; past > slice - span && past >= 0; --past) {
      const auto [bucket, lap] = place_of(past);
      const std::uint64_t seen = word(shard, generation, false, bucket).load(std::memory_order_relaxed);
      if (seen >> (2 * field_bits) == lap) {
        total.calls += seen & field_max;
        total.failures += seen >> field_bits & field_max;
      }
      if (!with_slow_) continue;
      const std::uint64_t slow = word(shard, generation, true, bucket).load(std::memory_order_relaxed);
      if (slow >> (2 * field_bits) == lap) total.slow += slow & field_max;
    }
  }
  return total;
}

void time_window::clear(unsigned generation) noexcept {
  for (std::size_t shard = 0; shard < writers_.shards(); ++shard) {
    for (std::size_t bucket = 0; bucket < buckets_; ++bucket) {
      word(shard, generation, false, bucket).store(0, std::memory_order_relaxed);
      if (with_slow_) word(shard, generation, true, bucket).store(0, std::memory_order_relaxed);
    }
  }
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
