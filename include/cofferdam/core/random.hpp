// Randomness as a service of the execution context: seeded, so that a run can be repeated; split by name, so that one
// consumer's draws do not shift another's.
#pragma once

#include <cofferdam/core/net.hpp>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

namespace cofferdam::inline COFFERDAM_ABI {

/// SplitMix64 (Steele, Lea, Flood 2014): one 64-bit word of state, any seed is good.
/// Satisfies uniform_random_bit_generator. Thread safety: from any thread; the order of draws is then the schedule's.
class random_source {
 public:
  using result_type = std::uint64_t;

  explicit random_source(std::uint64_t seed) noexcept : state_(seed) {}
  random_source(const random_source& other) noexcept : state_(other.state_.load(std::memory_order_relaxed)) {}
  random_source& operator=(const random_source& other) noexcept {
    state_.store(other.state_.load(std::memory_order_relaxed), std::memory_order_relaxed);
    return *this;
  }

  [[nodiscard]] static constexpr result_type min() noexcept { return 0; }
  [[nodiscard]] static constexpr result_type max() noexcept { return ~result_type{0}; }
  result_type operator()() noexcept { return mix(state_.fetch_add(increment, std::memory_order_relaxed) + increment); }

  /// Uniform in [0, 1).
  [[nodiscard]] double uniform() noexcept { return static_cast<double>((*this)() >> 11) * 0x1.0p-53; }
  /// Exponentially distributed with the given mean.
  [[nodiscard]] double exponential(double mean) noexcept { return -mean * std::log1p(-uniform()); }
  /// Standard normal (Box and Muller 1958).
  [[nodiscard]] double normal() noexcept;

  void seed(std::uint64_t seed) noexcept { state_.store(seed, std::memory_order_relaxed); }
  /// A seed that depends on `seed` and `name` only, not on any draw made before.
  [[nodiscard]] static std::uint64_t split(std::uint64_t seed, std::string_view name) noexcept;

 private:
  static constexpr std::uint64_t increment = 0x9E3779B97F4A7C15;
  static constexpr std::uint64_t mix(std::uint64_t z) noexcept {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }

  std::atomic<std::uint64_t> state_;
};

/// 32 hexadecimal digits: an id that nobody else has.
[[nodiscard]] std::string random_id(random_source& random);

/// The context's own source, seeded from the operating system unless `seed` was called.
class random_service final : public net::execution_context::service {
 public:
  using key_type = random_service;
  static inline net::execution_context::id id;  // NOLINT: Asio's service protocol

  explicit random_service(net::execution_context& context);
  [[nodiscard]] random_source& source() noexcept { return source_; }

 private:
  void shutdown() noexcept override {}
  random_source source_;
};

[[nodiscard]] random_source& random_of(net::execution_context& context);
[[nodiscard]] random_source& random_of(const net::any_io_executor& executor);

}  // namespace cofferdam::inline COFFERDAM_ABI
