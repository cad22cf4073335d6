// What the compiler checks of a chain: names, and what may follow what.
#pragma once

#include <cofferdam/saga/detail/links.hpp>

#include <array>
#include <cstddef>
#include <string_view>
#include <type_traits>

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {

/// The names of a link and those in it.
template <class L> struct names_of {
  static constexpr std::array<std::string_view, L::name.empty() ? 0 : 1> value = [] {
    std::array<std::string_view, L::name.empty() ? 0 : 1> made{};
    if constexpr (!L::name.empty()) made[0] = L::name;
    return made;
  }();
};
template <class... L> consteval auto joined_names() {
  constexpr std::size_t n = (names_of<L>::value.size() + ... + 0);
  std::array<std::string_view, n> made{};
  std::size_t i = 0;
  const auto add = [&](const auto& names) {
    for (const auto each : names) made[i++] = each;
  };
  (add(names_of<L>::value), ...);
  return made;
}
template <fixed_string Name, class... L> struct names_of<all_link<Name, L...>> {
  static constexpr auto value = joined_names<L...>();
};
template <class Condition, class... L> struct names_of<when_link<Condition, L...>> {
  static constexpr auto value = joined_names<L...>();
};

/// Those that have a place in the journal of their own, beside those in them.
template <fixed_string Name, class... L> consteval auto names_with() {
  constexpr auto inner = joined_names<L...>();
  std::array<std::string_view, inner.size() + 1> made{};
  for (std::size_t i = 0; i < inner.size(); ++i) made[i] = inner[i];
  made[inner.size()] = Name.view();
  return made;
}
template <fixed_string Name, class... L> struct names_of<any_link<Name, L...>> {
  static constexpr auto value = names_with<Name, L...>();
};
template <fixed_string Name, class Condition, class... L> struct names_of<repeat_link<Name, Condition, L...>> {
  static constexpr auto value = names_with<Name, L...>();
};

template <class... L> consteval bool has_double_name() {
  const auto names = joined_names<L...>();
  for (std::size_t i = 0; i < names.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (names[i] == names[j]) return true;
    }
  }
  return false;
}

/// The kinds of the steps of a link and those in it, in their order.
template <class L> struct kinds_of {
  static constexpr std::array<step_kind, L::is_step ? 1 : 0> value = [] {
    std::array<step_kind, L::is_step ? 1 : 0> made{};
    if constexpr (L::is_step) made[0] = L::role;
    return made;
  }();
};
template <class... L> consteval auto joined_kinds() {
  constexpr std::size_t n = (kinds_of<L>::value.size() + ... + 0);
  std::array<step_kind, n> made{};
  std::size_t i = 0;
  const auto add = [&](const auto& kinds) {
    for (const auto each : kinds) made[i++] = each;
  };
  (add(kinds_of<L>::value), ...);
  return made;
}
template <fixed_string Name, class... L> struct kinds_of<all_link<Name, L...>> {
  static constexpr auto value = joined_kinds<L...>();
};
template <fixed_string Name, class... L> struct kinds_of<any_link<Name, L...>> {
  static constexpr auto value = joined_kinds<L...>();
};
template <class Condition, class... L> struct kinds_of<when_link<Condition, L...>> {
  static constexpr auto value = joined_kinds<L...>();
};
template <fixed_string Name, class Condition, class... L> struct kinds_of<repeat_link<Name, Condition, L...>> {
  static constexpr auto value = joined_kinds<L...>();
};
/// A child saga may fail, and is undone with its parent.
template <fixed_string Name, class Child, class Input> struct kinds_of<call_link<Name, Child, Input>> {
  static constexpr std::array<step_kind, 1> value{step_kind::compensatable};
};

template <class... L> consteval std::size_t pivots_in() {
  std::size_t n = 0;
  for (const auto each : joined_kinds<L...>()) n += each == step_kind::pivot ? 1 : 0;
  return n;
}
/// Whether something that may have to be undone comes after a pivot.
template <class... L> consteval bool goes_back_after_pivot() {
  bool has_pivot = false;
  for (const auto each : joined_kinds<L...>()) {
    if (has_pivot && each == step_kind::compensatable) return true;
    has_pivot = has_pivot || each == step_kind::pivot;
  }
  return false;
}

/// Whether a link is, or has in it, a repeat with a pivot.
template <class L> struct repeats_pivot : std::false_type {};
template <class Condition, class... L>
struct repeats_pivot<when_link<Condition, L...>> : std::bool_constant<(repeats_pivot<L>::value || ...)> {};
template <fixed_string Name, class Condition, class... L>
struct repeats_pivot<repeat_link<Name, Condition, L...>> : std::bool_constant<(pivots_in<L...>() > 0)> {};

template <class List> struct results_of;
template <class... Slots> struct results_of<slot_list<Slots...>> {
  using type = chain_results<Slots...>;
  template <class In> using run = typed_run<In, Slots...>;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
