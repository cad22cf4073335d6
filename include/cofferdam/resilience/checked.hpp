// Mistakes in the order of a pipeline's policies, found when it is compiled. What depends on numbers is found by a
// configuration (see configuration.hpp).
#pragma once

#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/fallback.hpp>
#include <cofferdam/resilience/hedging.hpp>
#include <cofferdam/resilience/pipeline.hpp>
#include <cofferdam/resilience/retry.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include <array>
#include <cstddef>
#include <type_traits>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {
namespace detail {

/// Whether an `Outer` has an `Inner` somewhere below it.
template <class Outer, class Inner, class... Policies> consteval bool has_below() {
  constexpr std::array<bool, sizeof...(Policies)> outer{std::is_same_v<Policies, Outer>...};
  constexpr std::array<bool, sizeof...(Policies)> inner{std::is_same_v<Policies, Inner>...};
  bool seen = false;
  for (std::size_t i = 0; i < outer.size(); ++i) {
    if (seen && inner[i]) return true;
    seen = seen || outer[i];
  }
  return false;
}

}  // namespace detail

/// The pipeline as it is, if its policies stand in an order that makes sense:
///
///     auto calls = checked(timeout(2s) | retry({.max_attempts = 3}) | breaker | timeout(500ms));
template <class... Holders> [[nodiscard]] auto checked(static_pipeline<Holders...> calls) {
  using detail::has_below;
  static_assert(!has_below<retry, retry, typename Holders::policy_type...>(),
                "a retry within a retry multiplies the attempts: keep one of them");
  static_assert(!has_below<hedging, hedging, typename Holders::policy_type...>(),
                "a hedge within a hedge multiplies the attempts: keep one of them");
  static_assert(!has_below<circuit_breaker, retry, typename Holders::policy_type...>(),
                "a circuit breaker outside of a retry sees one failure for all attempts: put it below the retry");
  static_assert(!has_below<circuit_breaker, fallback, typename Holders::policy_type...>(),
                "a fallback below a circuit breaker hides failures from it: put it outside");
  static_assert(!has_below<retry, fallback, typename Holders::policy_type...>(),
                "a fallback below a retry hides failures from it: put it outside");
  constexpr bool retries = (std::is_same_v<typename Holders::policy_type, retry> || ...);
  static_assert(!retries || has_below<retry, timeout, typename Holders::policy_type...>(),
                "attempts that hang are never retried: put a timeout below the retry");
  return calls;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
