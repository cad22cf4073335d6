#include <cofferdam/resilience/detail/latency_histogram.hpp>

#include <algorithm>
#include <bit>
#include <cmath>

namespace cofferdam::inline COFFERDAM_ABI::detail {

std::size_t latency_histogram::bucket_of(duration latency) noexcept {
  const auto value = static_cast<std::uint64_t>(std::max(latency.count(), std::int64_t{1} << first_octave));
  const auto octave = static_cast<unsigned>(std::bit_width(value)) - 1;
  const auto sub = static_cast<unsigned>(value >> (octave - sub_bits)) & ((1U << sub_bits) - 1);
  return std::min<std::size_t>(((octave - first_octave) << sub_bits) + sub, size - 1);
}

duration latency_histogram::middle_of(std::size_t bucket) noexcept {
  const std::uint64_t octave = (bucket >> sub_bits) + first_octave;
  const std::uint64_t step = std::uint64_t{1} << (octave - sub_bits);
  const std::uint64_t begin = (std::uint64_t{1} << octave) + (bucket & ((1U << sub_bits) - 1)) * step;
  return duration(static_cast<std::int64_t>(begin + step / 2));
}

void latency_histogram::record(duration latency) noexcept {
  auto& g = generations_[current_.load(std::memory_order_relaxed)];
  g.buckets[bucket_of(latency)].fetch_add(1, std::memory_order_relaxed);
  g.sum.fetch_add(latency.count(), std::memory_order_relaxed);
  auto max = g.max.load(std::memory_order_relaxed);
  while (latency.count() > max && !g.max.compare_exchange_weak(max, latency.count(), std::memory_order_relaxed)) {
  }
}

void latency_histogram::clear(generation& g) noexcept {
  for (auto& bucket : g.buckets) bucket.store(0, std::memory_order_relaxed);
  g.sum.store(0, std::memory_order_relaxed);
  g.max.store(0, std::memory_order_relaxed);
}

void latency_histogram::rotate(std::int64_t period) noexcept {
  if (period <= this->period()) return;  // a straggler of the past does not turn time back
  const bool adjacent = period == this->period() + 1;
  period_.store(period, std::memory_order_relaxed);
  const unsigned next = 1 - current_.load(std::memory_order_relaxed);
  clear(generations_[next]);
  current_.store(next, std::memory_order_relaxed);
  if (!adjacent) clear(generations_[1 - next]);
}

struct latency_histogram::sum_of_both {
  explicit sum_of_both(const latency_histogram& histogram) noexcept {
    for (const auto& g : histogram.generations_) {
      for (std::size_t i = 0; i < size; ++i) buckets[i] += g.buckets[i].load(std::memory_order_relaxed);
      sum += g.sum.load(std::memory_order_relaxed);
      max = std::max(max, duration(g.max.load(std::memory_order_relaxed)));
    }
    for (const auto in_bucket : buckets) count += in_bucket;
  }

  [[nodiscard]] duration quantile(double share) const noexcept {
    const auto rank =
        std::max<std::uint64_t>(static_cast<std::uint64_t>(std::ceil(share * static_cast<double>(count))), 1);
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < size; ++i) {
      seen += buckets[i];
      if (seen >= rank) return std::min(middle_of(i), max);
    }
    return max;
  }

  std::array<std::uint64_t, size> buckets{};
  std::uint64_t count = 0;
  std::int64_t sum = 0;
  duration max{};
};

duration latency_histogram::quantile(double share, std::uint64_t minimum) const noexcept {
  const sum_of_both all(*this);
  return all.count == 0 || all.count < minimum ? duration::zero() : all.quantile(share);
}

latency_stats latency_histogram::stats() const noexcept {
  const sum_of_both all(*this);
  latency_stats result;
  result.count = all.count;
  if (result.count == 0) return result;
  result.mean = duration(all.sum / static_cast<std::int64_t>(all.count));
  result.max = all.max;
  result.p50 = all.quantile(0.5);
  result.p75 = all.quantile(0.75);
  result.p90 = all.quantile(0.9);
  result.p95 = all.quantile(0.95);
  result.p99 = all.quantile(0.99);
  result.p995 = all.quantile(0.995);
  return result;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
