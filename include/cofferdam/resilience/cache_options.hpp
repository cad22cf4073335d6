// The vocabulary of caches.
#pragma once

#include <cofferdam/core/time.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

struct cache_options {
  std::size_t max_entries = 1000;          // then the least recently used one goes; >= 1
  duration ttl = std::chrono::minutes(1);  // how long a value is answered with
  duration refresh_after{};                // > 0: from this age on the next caller has it loaded anew meanwhile
  duration stale_if_error{};               // how long after `ttl` it is still answered with if loading fails
  duration negative_ttl{};                 // how long a failure is answered with, or a stale value that there is still,
                                           // without loading again; 0 = failures are not remembered
  double jitter = 0.1;                     // lives are shorter by up to this share, so that they end one by one
};

/// Every problem of `options`, each naming its field; empty when they can work.
[[nodiscard]] std::vector<std::string> validate(const cache_options& options);

struct cache_stats {
  std::uint64_t hits = 0;       // answered from memory, fresh
  std::uint64_t misses = 0;     // had to load, or to wait for somebody who did
  std::uint64_t refreshes = 0;  // loadings beside an answer
  std::uint64_t stale = 0;      // answered with an old value since loading failed
  std::uint64_t negative = 0;   // answered with a remembered failure
  std::uint64_t evictions = 0;
  std::size_t entries = 0;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
