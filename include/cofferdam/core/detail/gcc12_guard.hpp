// GCC before 13 destroys a temporary closure or aggregate twice when it stands in the same full-expression as a
// co_await. The callee cannot repair that, but it can refuse to compile.
#pragma once

#include <cofferdam/core/config.hpp>

#include <string_view>
#include <type_traits>

namespace cofferdam::inline COFFERDAM_ABI::detail {

#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
template <class F> consteval bool is_closure() {
  return std::string_view(__PRETTY_FUNCTION__).find("<lambda") != std::string_view::npos;
}

/// Lvalues are destroyed by their owner and trivially destructible objects survive a double destruction; so do classes
/// with constructors (std::function, bind_front). What remains are owning closures and aggregates.
template <class F>
inline constexpr bool safe_in_co_await =
    std::is_lvalue_reference_v<F> || std::is_trivially_destructible_v<std::remove_cvref_t<F>> ||
    !(is_closure<F>() || std::is_aggregate_v<std::remove_cvref_t<F>>);
#else
template <class F> inline constexpr bool safe_in_co_await = true;
#endif

}  // namespace cofferdam::inline COFFERDAM_ABI::detail

/// For functions that take a callable `F&&` and are meant to be co_awaited in the same expression.
#define COFFERDAM_GUARD_TASK(F)                                                                                   \
  static_assert(::cofferdam::detail::safe_in_co_await<F>,                                                         \
                "GCC 12 destroys this temporary twice inside co_await. Name the lambda first and pass the name, " \
                "capture by reference, or pass its state as arguments: fire(fn, args...)")
