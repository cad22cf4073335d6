// How long to wait before the next attempt. A pure function of its options, the attempt and a random source.
#pragma once

#include <cofferdam/core/random.hpp>
#include <cofferdam/core/time.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

enum class backoff_kind : std::uint8_t {
  constant,     ///< base
  linear,       ///< base * n
  exponential,  ///< base * factor^(n-1)
};

enum class jitter_kind : std::uint8_t {
  none,
  proportional,     ///< d * (1 - share .. 1 + share)
  equal,            ///< uniform in [d/2, d)
  full,             ///< uniform in [0, d): least work at high contention (AWS, "Exponential Backoff and Jitter", 2015)
  decorrelated,     ///< uniform in [base, 3 * previous), capped (same source)
  decorrelated_v2,  ///< smooth exponential, whatever `kind` says; medians of 0.9, 1.2, 2, 4, 8, ... times base
                    ///< (Polly.Contrib, 2019)
  stretched,        ///< d * [1, 2), before the cap: what node-retry does
};

struct backoff_options {
  backoff_kind kind = backoff_kind::exponential;
  duration base = std::chrono::milliseconds(100);  // > 0 unless constant 0
  double factor = 2.0;                             // of exponential, >= 1
  jitter_kind jitter = jitter_kind::full;
  double jitter_share = 0.25;  // of proportional, in [0, 1]
  duration cap =
      std::chrono::seconds(30);  // of every delay, applied after jitter (full and equal: before, as published)
  friend bool operator==(const backoff_options&, const backoff_options&) = default;
};

/// Every problem of `options`, each naming its field; empty when they can work.
[[nodiscard]] std::vector<std::string> validate(const backoff_options& options);

/// What a sequence of delays remembers between two of them. Start with a fresh one per call.
struct backoff_state {
  duration previous{};
  double previous_curve = 0;
};

/// The delay before retry number `retry` (1 = the first retry): in [0, cap]. Overflow gives the cap.
[[nodiscard]] duration backoff_delay(const backoff_options& options, std::uint32_t retry, backoff_state& state,
                                     random_source& random) noexcept;

}  // namespace cofferdam::inline COFFERDAM_ABI
