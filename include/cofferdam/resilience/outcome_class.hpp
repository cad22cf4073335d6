// What an outcome says about the health of what was called.
#pragma once

#include <cofferdam/core/outcome.hpp>
#include <cofferdam/core/task.hpp>

#include <cstdint>
#include <functional>
#include <typeinfo>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

enum class outcome_class : std::uint8_t {
  success,
  failure,
  ignored,    ///< says nothing: a caller's mistake, say
  abandoned,  ///< cancelled or destroyed before it could tell
};

namespace detail {

template <class Function> struct sole_argument : sole_argument<decltype(&Function::operator())> {};
template <class R, class A> struct sole_argument<R (*)(A)> {
  using type = std::remove_cvref_t<A>;
};
template <class R, class C, class A> struct sole_argument<R (C::*)(A) const> {
  using type = std::remove_cvref_t<A>;
};
template <class R, class C, class A> struct sole_argument<R (C::*)(A)> {
  using type = std::remove_cvref_t<A>;
};
template <class R, class A> struct sole_argument<R (*)(A) noexcept> : sole_argument<R (*)(A)> {};
template <class R, class C, class A>
struct sole_argument<R (C::*)(A) const noexcept> : sole_argument<R (C::*)(A) const> {};
template <class R, class C, class A> struct sole_argument<R (C::*)(A) noexcept> : sole_argument<R (C::*)(A)> {};

/// Refusals that another attempt cannot change.
[[nodiscard]] bool is_final(const failure& why) noexcept;

}  // namespace detail

/// Decides the class of outcomes. By default a value is a success, a cancellation abandoned, anything else a failure.
/// Rules are asked in the order they were added; the first that applies decides. A rule is a function of
///   - `const outcome_view&`: applies to everything,
///   - `const failure&`: applies to outcomes without a value (cancellations excepted),
///   - `const T&`: applies to values of exactly type T,
/// and returns an `outcome_class`, or a bool (true = failure). A rule that throws says failure.
class classifier {
 public:
  template <class Rule> void add(Rule rule) {
    using argument = typename detail::sole_argument<Rule>::type;
    rules_.push_back([rule = std::move(rule)](const outcome_view& outcome, outcome_class& decided) {
      const auto decide = [&](const auto& seen) {
        if constexpr (std::is_same_v<decltype(rule(seen)), bool>) {
          decided = rule(seen) ? outcome_class::failure : outcome_class::success;
        } else {
          decided = rule(seen);
        }
        return true;
      };
      if constexpr (std::is_same_v<argument, outcome_view>) {
        return decide(outcome);
      } else if constexpr (std::is_same_v<argument, failure>) {
        return !outcome.has_value() && !outcome.why().is_cancellation() && decide(outcome.why());
      } else {
        const auto* value = outcome.get_if<argument>();
        return value != nullptr && decide(*value);
      }
    });
  }

  /// Whether no rule was added.
  [[nodiscard]] bool empty() const noexcept { return rules_.empty(); }
  [[nodiscard]] outcome_class operator()(const outcome_view& outcome) const noexcept {
    if (!rules_.empty()) [[unlikely]]
      return ask_rules(outcome);
    return by_default(outcome);
  }

 private:
  [[nodiscard]] static outcome_class by_default(const outcome_view& outcome) noexcept {
    if (outcome.has_value()) return outcome_class::success;
    return outcome.why().is_cancellation() ? outcome_class::abandoned : outcome_class::failure;
  }
  [[nodiscard]] outcome_class ask_rules(const outcome_view& outcome) const noexcept {
    try {
      auto decided = outcome_class::failure;
      for (const auto& rule : rules_) {
        if (rule(outcome, decided)) return decided;
      }
    } catch (...) {
      return outcome_class::failure;
    }
    return by_default(outcome);
  }

  std::vector<std::function<bool(const outcome_view&, outcome_class&)>> rules_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
