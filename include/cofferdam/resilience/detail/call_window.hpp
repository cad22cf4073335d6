// The windows a circuit breaker judges by: the last N calls, or the calls of the last so many seconds.
#pragma once

#include <cofferdam/core/time.hpp>
#include <cofferdam/resilience/detail/shards.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::detail {

struct window_counts {
  std::uint64_t calls = 0, failures = 0, slow = 0, abandoned = 0;  // `calls` is all of them
};

/// The outcomes of exactly the last N calls. No synchronisation of its own.
class count_window {
 public:
  void resize(std::size_t calls) { ring_.assign(calls, 0); }
  void add(bool failed, bool slow, bool abandoned = false) noexcept;
  /// Adds the calls of another window, the oldest first.
  void add_all_of(const count_window& other) noexcept;
  void clear() noexcept;
  [[nodiscard]] const window_counts& counts() const noexcept { return counts_; }
  /// Another good call can only push out an older one.
  [[nodiscard]] bool is_full() const noexcept { return counts_.calls == ring_.size(); }
  /// Full of good calls: another one changes nothing.
  [[nodiscard]] bool is_clean() const noexcept {
    return is_full() && counts_.failures == 0 && counts_.slow == 0 && counts_.abandoned == 0;
  }

 private:
  static constexpr std::uint8_t failed_bit = 1, slow_bit = 2, abandoned_bit = 4;
  std::vector<std::uint8_t> ring_;
  std::size_t next_ = 0;
  window_counts counts_;
};

/// Good calls on their way into a full count window. Every thread keeps a few of its own, whoever holds the window's
/// lock collects them all: before a bad call goes in, so that no window is ever judged without them.
/// Two generations, as of a time window.
class good_calls {
 public:
  static constexpr std::uint64_t batch = 8;

  explicit good_calls(writers w = writers::all()) : writers_(w), lines_(new line[w.shards()]) {}
  /// False when it is time to collect; the call is not kept then.
  [[nodiscard]] bool keep(unsigned generation) noexcept {
    const shard mine = writers_.mine();
    auto& [made, collected] = lines_[mine.index].of[generation];
    const std::uint64_t before = made.load(std::memory_order_relaxed);
    if (before - collected.load(std::memory_order_relaxed) >= batch - 1) return false;
    if (mine.exclusive) [[likely]] {
      made.store(before + 1, std::memory_order_relaxed);
    } else {
      made.fetch_add(1, std::memory_order_relaxed);
    }
    return true;
  }
  /// How many there are; they are forgotten. For one thread at a time.
  std::uint64_t collect(unsigned generation) noexcept;

 private:
  struct alignas(64) line {
    struct {
      std::atomic<std::uint64_t> made{0}, collected{0};  // by the threads of the shard; by whoever collects
    } of[2];
  };
  writers writers_;
  std::unique_ptr<line[]> lines_;
};

/// The calls of the last `buckets` slices of time, counted where they began. Lock-free: every thread adds to a shard of
/// its own, readers sum all shards. Two generations, so that a writer of the past never touches the present.
class time_window {
 public:
  time_window(std::size_t buckets, duration width, bool with_slow, writers w = writers::all());

  [[nodiscard]] std::int64_t buckets() const noexcept { return static_cast<std::int64_t>(buckets_); }
  /// `at / width`, without the cost of a 64-bit division: estimated in floating point, corrected to be exact.
  [[nodiscard]] std::int64_t slice_of(time_point at) const noexcept {
    const std::int64_t time = at.time_since_epoch().count();
    auto slice = static_cast<std::int64_t>(static_cast<double>(time) * per_nanosecond_);
    const std::int64_t rest = time - slice * width_;
    if (rest < 0) {
      --slice;
    } else if (rest >= width_) {
      ++slice;
    }
    return slice;
  }
  /// Counts a good call that began at `at`; as `add`, but cheap for a thread's own shard while the slice lasts.
  bool add_good(unsigned generation, time_point at) noexcept {
    const shard mine = writers_.mine();
    if (mine.exclusive) [[likely]] {
      const auto& here = heads_[mine.index].of_owner;
      const auto since = static_cast<std::uint64_t>(at.time_since_epoch().count()) - here.begin;
      if (since < static_cast<std::uint64_t>(width_)) [[likely]] {
        auto& calls = word(mine.index, generation, false, here.bucket);
        const std::uint64_t old = calls.load(std::memory_order_relaxed);
        if (old >> (2 * field_bits) == here.lap && (old & field_max) != field_max) [[likely]] {
          calls.store(old + 1, std::memory_order_relaxed);
          return true;
        }
      }
    }
    return add(generation, slice_of(at), false, false);
  }
  /// Counts a call that began in `slice`. False when that slice has left the window of this thread's shard.
  bool add(unsigned generation, std::int64_t slice, bool failed, bool slow) noexcept;
  /// The window that ends with `slice`.
  [[nodiscard]] window_counts sum(unsigned generation, std::int64_t slice) const noexcept;
  void clear(unsigned generation) noexcept;

 private:
  // lap : 12 | failures or slow : 26 | calls : 26. The lap tells a bucket of one turn from the same of another turn.
  static constexpr unsigned field_bits = 26, lap_bits = 12;
  static constexpr std::uint64_t field_max = (std::uint64_t{1} << field_bits) - 1;
  struct alignas(64) line {
    std::atomic<std::uint64_t> words[8];
  };

  struct place {
    std::size_t bucket;
    std::uint64_t lap;
  };
  struct alignas(64) shard_head {
    std::atomic<std::uint64_t> newest{0};  // slice + 1; 0 when nothing was added yet
    struct {
      std::uint64_t begin = 0;                           // of the newest slice
      std::uint64_t lap = std::uint64_t{1} << lap_bits;  // at first one that no word can have
      std::size_t bucket = 0;
    } of_owner;  // written and read by the thread that owns the shard, and nobody else
  };

  [[nodiscard]] std::atomic<std::uint64_t>& word(std::size_t shard, unsigned generation, bool slow,
                                                 std::size_t bucket) const noexcept {
    const std::size_t index = (slow ? 2 * buckets_ : 0) + generation * buckets_ + bucket;
    return lines_[shard * lines_per_shard_ + index / 8].words[index % 8];
  }
  [[nodiscard]] place place_of(std::int64_t slice) const noexcept;
  /// Moves the shard on to `slice` if that is newer, and clears the buckets it passes, which hold calls of an earlier
  /// turn: what remains in a shard is never older than its window. False when `slice` itself is.
  bool advance(const shard& mine, std::int64_t slice) noexcept;
  static void add_to(std::atomic<std::uint64_t>& word, std::uint64_t lap, bool marked, bool exclusive) noexcept;

  writers writers_;
  std::mutex advancing_;  // of the shard that several threads share
  std::size_t buckets_;
  std::int64_t width_;
  double per_nanosecond_;
  bool with_slow_;
  std::size_t lines_per_shard_;
  std::unique_ptr<shard_head[]> heads_;
  std::unique_ptr<line[]> lines_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
