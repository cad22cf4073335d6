// What the links of a chain leave behind, by name: for the links after them, and for who ran the chain.
#pragma once

#include <cofferdam/saga/step.hpp>

#include <nlohmann/json.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga {

/// The name of a step, as an index: `"reserve"_s`.
template <fixed_string Name> struct step_name {};
inline namespace literals {
template <fixed_string Name> constexpr step_name<Name> operator""_s() noexcept { return {}; }
}  // namespace literals

namespace detail {

template <fixed_string Name, class R> struct slot {
  static constexpr std::string_view name = Name.view();
  using type = R;
  using stored = std::conditional_t<std::is_void_v<R>, std::monostate, R>;
};

template <fixed_string Name, class... Slots> consteval std::size_t slot_index() {
  std::size_t found = sizeof...(Slots), i = 0;
  ((Slots::name == Name.view() ? found = i++ : i++), ...);
  return found;
}

[[noreturn]] void raise_missing(std::string_view step);

}  // namespace detail

/// What the steps of a chain returned. `done["ship"_s]`; a step in a `when` that was passed by has nothing.
template <class... Slots> class chain_results {
 public:
  template <fixed_string Name> [[nodiscard]] const auto& operator[](step_name<Name>) const {
    constexpr std::size_t i = detail::slot_index<Name, Slots...>();
    static_assert(i < sizeof...(Slots), "saga: no step of this chain has this name");
    const auto& found = std::get<i>(values_);
    if (!found) detail::raise_missing(Name.view());
    return *found;
  }
  template <fixed_string Name> [[nodiscard]] bool has(step_name<Name>) const noexcept {
    constexpr std::size_t i = detail::slot_index<Name, Slots...>();
    static_assert(i < sizeof...(Slots), "saga: no step of this chain has this name");
    return std::get<i>(values_).has_value();
  }

  friend void to_json(nlohmann::json& text, const chain_results& r) {
    text = nlohmann::json::object();
    r.each([&text](std::string_view name, const auto& found) {
      if (found) text[std::string(name)] = text_of(*found);
    });
  }
  friend void from_json(const nlohmann::json& text, chain_results& r) {
    r.each([&text](std::string_view name, auto& found) {
      using stored = typename std::remove_cvref_t<decltype(found)>::value_type;
      const auto it = text.find(std::string(name));
      if (it == text.end()) return;
      if constexpr (std::same_as<stored, std::monostate>) {
        found.emplace();
      } else if constexpr (cofferdam::detail::is_optional<stored>) {
        found.emplace();
        if (!it->is_null()) found->emplace(it->template get<typename stored::value_type>());
      } else {
        found.emplace(it->template get<stored>());
      }
    });
  }

  // --- for the engine
  [[nodiscard]] std::array<void*, sizeof...(Slots)> pointers() {
    return std::apply([](auto&... found) { return std::array<void*, sizeof...(Slots)>{&found...}; }, values_);
  }

 private:
  template <class T> static nlohmann::json text_of(const T& value) { return nlohmann::json(value); }
  template <class T> static nlohmann::json text_of(const std::optional<T>& value) {
    return value ? nlohmann::json(*value) : nlohmann::json();
  }
  static nlohmann::json text_of(const std::monostate&) { return nullptr; }
  template <class Visit> void each(Visit visit) const {
    std::apply([&](const auto&... found) { (visit(Slots::name, found), ...); }, values_);
  }
  template <class Visit> void each(Visit visit) {
    std::apply([&](auto&... found) { (visit(Slots::name, found), ...); }, values_);
  }
  std::tuple<std::optional<typename Slots::stored>...> values_;
};

/// What a link of a chain sees: the input, and the results of the links before it.
template <class In, class... Slots> class chain_view {
 public:
  chain_view(const In& in, void* const* slots, step_context* context) noexcept
      : input_(&in), slots_(slots), context_(context) {}

  [[nodiscard]] const In& input() const noexcept { return *input_; }
  /// Not in a condition, or where arguments are made.
  [[nodiscard]] step_context& context() const noexcept { return *context_; }
  /// The result of an earlier step. Errors: std::logic_error, for a step in a `when` that was passed by.
  template <fixed_string Name> [[nodiscard]] const auto& operator[](step_name<Name> name) const {
    const auto& found = at(name);
    if (!found) detail::raise_missing(Name.view());
    return *found;
  }
  template <fixed_string Name> [[nodiscard]] bool has(step_name<Name> name) const noexcept {
    return at(name).has_value();
  }

 private:
  template <fixed_string Name> [[nodiscard]] const auto& at(step_name<Name>) const noexcept {
    constexpr std::size_t i = detail::slot_index<Name, Slots...>();
    static_assert(i < sizeof...(Slots), "saga: no earlier step of this chain has this name");
    using found = std::tuple_element_t<i, std::tuple<Slots...>>;
    return *static_cast<const std::optional<typename found::stored>*>(slots_[i]);
  }

  const In* input_;
  void* const* slots_;
  step_context* context_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
