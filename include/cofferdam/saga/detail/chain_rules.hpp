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

template <class... L> consteval bool has_double_name() {
  const auto names = joined_names<L...>();
  for (std::size_t i = 0; i < names.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (names[i] == names[j]) return true;
    }
  }
  return false;
}

/// Whether a link is, or has in it, a step of a kind.
template <step_kind Kind, class L> struct has_kind : std::false_type {};
template <step_kind Kind, class L>
  requires(L::is_step)
struct has_kind<Kind, L> : std::bool_constant<L::role == Kind> {};
template <step_kind Kind, fixed_string Name, class... L>
struct has_kind<Kind, all_link<Name, L...>> : std::bool_constant<(has_kind<Kind, L>::value || ...)> {};
template <step_kind Kind, class Condition, class... L>
struct has_kind<Kind, when_link<Condition, L...>> : std::bool_constant<(has_kind<Kind, L>::value || ...)> {};

template <class List> struct results_of;
template <class... Slots> struct results_of<slot_list<Slots...>> {
  using type = chain_results<Slots...>;
  template <class In> using run = typed_run<In, Slots...>;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
