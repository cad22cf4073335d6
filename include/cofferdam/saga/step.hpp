// Steps: what a saga does, and how it is undone. A step is a constant with a name, made of functions without captures,
// so that any process can undo it from the journal.
//
//     awaitable<reservation> reserve(saga::step_context&, std::string sku, int quantity);
//     awaitable<void> release(saga::step_context&, const reservation&, std::string sku, int quantity);
//     constexpr auto reserve_stock = saga::step<"stock.reserve", &reserve, &release>.max_attempts(5).timeout(2s);
//     constexpr auto charge_card = saga::pivot<"card.charge", &charge>;
//     constexpr auto send_parcel = saga::retriable<"parcel.send", &send>;
//     constexpr auto ask_price = saga::read_only<"price.ask", &price>;
#pragma once

#include <cofferdam/core/task.hpp>
#include <cofferdam/saga/saga_error.hpp>
#include <cofferdam/saga/step_context.hpp>
#include <cofferdam/storage/batch.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga {

/// A string as a template argument.
template <std::size_t N> struct fixed_string {
  char text[N]{};
  consteval fixed_string(const char (&literal)[N]) {  // NOLINT(google-explicit-constructor): written as a literal
    std::copy_n(literal, N, text);
  }
  [[nodiscard]] constexpr std::string_view view() const noexcept { return {text, N - 1}; }
};

enum class step_kind : std::uint8_t {
  compensatable,  ///< can be undone
  pivot,          ///< once it succeeded there is no way back
  retriable,      ///< after the pivot: succeeds sooner or later
  read_only,      ///< has no effect: needs no undo, and may be repeated
};

struct step_settings {
  std::uint32_t max_attempts = 0;   ///< 0: 4 of a step after which the saga can go back, no limit for others
  duration timeout{};               ///< of one attempt; 0: the engine's `step_timeout`
  std::uint32_t undo_attempts = 0;  ///< 0: no limit
  duration undo_timeout{};          ///< of one attempt; 0: the engine's `step_timeout`
  friend bool operator==(const step_settings&, const step_settings&) = default;
};

namespace detail {

/// What an undo wants to know of its step's outcome.
enum class undo_kind : std::uint8_t {
  none,   // there is no undo
  blind,  // only the arguments
  maybe,  // an optional result: empty when nobody knows whether the action happened
  known,  // a result: the action is driven on until it is known
};

template <class F> struct action_traits;
template <class R, class... Args> struct action_traits<awaitable<R> (*)(step_context&, Args...)> {
  using result = R;
  using arguments = std::tuple<std::decay_t<Args>...>;
  static constexpr bool is_transactional = false;
};
template <class R, class... Args> struct action_traits<awaitable<R> (*)(step_context&, batch&, Args...)> {
  using result = R;
  using arguments = std::tuple<std::decay_t<Args>...>;
  static constexpr bool is_transactional = true;
};

template <class F> struct undo_parameters;
template <class... Args> struct undo_parameters<awaitable<void> (*)(step_context&, Args...)> {
  using type = std::tuple<std::decay_t<Args>...>;
};

template <class First, class Tuple> struct prepend;
template <class First, class... Rest> struct prepend<First, std::tuple<Rest...>> {
  using type = std::tuple<First, Rest...>;
};

template <class R, class Arguments, class Undo> consteval undo_kind undo_kind_of() {
  if constexpr (std::same_as<Undo, std::nullptr_t>) {
    return undo_kind::none;
  } else {
    using parameters = typename undo_parameters<Undo>::type;
    if constexpr (std::same_as<parameters, Arguments>) {
      return undo_kind::blind;
    } else if constexpr (std::is_void_v<R>) {
      static_assert(std::same_as<parameters, Arguments>,
                    "saga: an undo takes (step_context&, arguments of the action...)");
    } else if constexpr (std::same_as<parameters, typename prepend<std::optional<R>, Arguments>::type>) {
      return undo_kind::maybe;
    } else {
      static_assert(std::same_as<parameters, typename prepend<R, Arguments>::type>,
                    "saga: an undo takes (step_context&, arguments of the action...), or before those the action's "
                    "result, or std::optional of it");
      return undo_kind::known;
    }
  }
}

template <class T>
concept storable = std::is_void_v<T> || requires(const T& value, const nlohmann::json& text) {
  nlohmann::json(value);
  { text.get<T>() } -> std::same_as<T>;
};
template <class Tuple> inline constexpr bool all_storable = false;
template <class... T> inline constexpr bool all_storable<std::tuple<T...>> = (storable<T> && ...);

/// What the journal has of a step. Errors: `fatal`: to try again would not help.
template <class T> T read_stored(const nlohmann::json& stored, const char* what) {
  try {
    if constexpr (std::is_same_v<T, std::tuple<>>) return {};  // JSON has no empty tuple: it writes null, reads none
    return stored.get<T>();
  } catch (const nlohmann::json::exception& e) {
    throw fatal(std::string("its ") + what + " cannot be read from the journal: " + e.what());
  }
}

/// Where an undo finds what the journal knows.
class journal_view {
 public:
  virtual ~journal_view() = default;
  [[nodiscard]] virtual const nlohmann::json& input() const = 0;
  /// Null: not known.
  [[nodiscard]] virtual const nlohmann::json* result_of(const std::string& key) const = 0;
  /// Whether anything began whose key begins like this.
  [[nodiscard]] virtual bool has_any(const std::string& prefix) const = 0;
};

/// A step as the engine knows it, to undo it from its journal.
struct step_descriptor {
  std::string_view name;
  step_kind kind = step_kind::compensatable;
  undo_kind undo_wants = undo_kind::none;
  /// `result` is null when it is not known.
  std::function<awaitable<void>(step_context&, const journal_view&, const nlohmann::json& arguments,
                                const nlohmann::json* result)>
      undo;
  /// The action again, for its result.
  std::function<awaitable<nlohmann::json>(step_context&, const journal_view&, const nlohmann::json& arguments)> act;
};

template <fixed_string Name, step_kind Kind> struct unbound_step;
template <class Step, class Arguments> struct bound_link;

}  // namespace detail

/// A step made of functions. A value; all of it is known at compile time.
template <fixed_string Name, step_kind Kind, auto Act, auto Undo> class bound_step {
  using traits = detail::action_traits<decltype(Act)>;

 public:
  using result = typename traits::result;
  using arguments = typename traits::arguments;
  static constexpr std::string_view name = Name.view();
  static constexpr step_kind kind = Kind;
  /// The action adds to a batch, which is committed together with its outcome: it happens exactly once.
  static constexpr bool is_transactional = traits::is_transactional;
  static constexpr detail::undo_kind undo_wants = detail::undo_kind_of<result, arguments, decltype(Undo)>();

  static_assert(detail::storable<result>, "saga: the result of an action needs to_json and from_json");
  static_assert(detail::all_storable<arguments>, "saga: the arguments of an action need to_json and from_json");
  static_assert(Kind == step_kind::compensatable || Kind == step_kind::read_only ||
                    undo_wants == detail::undo_kind::none,
                "saga: a pivot or retriable step is never undone");
  static_assert(Kind != step_kind::read_only || undo_wants == detail::undo_kind::none,
                "saga: a read-only step has no effect that could be undone");
  static_assert(Kind != step_kind::read_only || !is_transactional,
                "saga: a read-only step writes nothing, so it takes no batch");

  constexpr bound_step() = default;

  /// Of the action; after that the step has failed. A pivot stops the saga for an operator: it may have happened.
  [[nodiscard]] constexpr bound_step max_attempts(std::uint32_t n) const {
    return changed([n](step_settings& s) { s.max_attempts = n; });
  }
  /// Of one attempt.
  [[nodiscard]] constexpr bound_step timeout(duration d) const {
    return changed([d](step_settings& s) { s.timeout = d; });
  }
  /// Of the undo; after that the saga stops for an operator.
  [[nodiscard]] constexpr bound_step undo_attempts(std::uint32_t n) const {
    return changed([n](step_settings& s) { s.undo_attempts = n; });
  }
  [[nodiscard]] constexpr bound_step undo_timeout(duration d) const {
    return changed([d](step_settings& s) { s.undo_timeout = d; });
  }
  [[nodiscard]] constexpr const step_settings& settings() const noexcept { return settings_; }
  /// A link of a chain. @param from  captureless; makes a tuple of the arguments from what the chain has so far.
  template <class Arguments> [[nodiscard]] constexpr detail::bound_link<bound_step, Arguments> with(Arguments) const {
    return {settings_};
  }

  // --- for the engine
  static awaitable<result> act(step_context& context, batch* b, arguments& args) {
    return std::apply(
        [&](auto&... each) {
          if constexpr (is_transactional) {
            return std::invoke(Act, context, *b, each...);
          } else {
            return std::invoke(Act, context, each...);
          }
        },
        args);
  }
  template <class Known> static awaitable<void> undo(step_context& context, const Known* known, arguments& args) {
    return std::apply(
        [&](auto&... each) {
          if constexpr (undo_wants == detail::undo_kind::maybe) {
            return std::invoke(Undo, context, known != nullptr ? std::optional(*known) : std::nullopt, each...);
          } else if constexpr (undo_wants == detail::undo_kind::known) {
            return std::invoke(Undo, context, *known, each...);
          } else {
            return std::invoke(Undo, context, each...);
          }
        },
        args);
  }
  [[nodiscard]] static detail::step_descriptor describe() {
    detail::step_descriptor made;
    made.name = name;
    made.kind = kind;
    made.undo_wants = undo_wants;
    if constexpr (undo_wants != detail::undo_kind::none) made.undo = undo_from_journal;
    if constexpr (!is_transactional) made.act = act_from_journal;
    return made;
  }

 private:
  template <class Change> [[nodiscard]] constexpr bound_step changed(Change change) const {
    bound_step copy = *this;
    change(copy.settings_);
    return copy;
  }
  static awaitable<void> undo_from_journal(step_context& context, const detail::journal_view&,
                                           const nlohmann::json& stored, const nlohmann::json* result_text) {
    auto args = detail::read_stored<arguments>(stored, "arguments");
    if constexpr (std::is_void_v<result>) {
      co_await undo<std::monostate>(context, nullptr, args);
    } else {
      std::optional<result> known;
      if (result_text != nullptr) known.emplace(detail::read_stored<result>(*result_text, "result"));
      co_await undo<result>(context, known ? &*known : nullptr, args);
    }
  }
  static awaitable<nlohmann::json> act_from_journal(step_context& context, const detail::journal_view&,
                                                    const nlohmann::json& stored) {
    auto args = detail::read_stored<arguments>(stored, "arguments");
    if constexpr (std::is_void_v<result>) {
      co_await act(context, nullptr, args);
      co_return nlohmann::json();
    } else {
      const result value = co_await act(context, nullptr, args);
      co_return nlohmann::json(value);
    }
  }

  step_settings settings_;
};

namespace detail {
template <fixed_string Name, step_kind Kind, auto... Functions> struct make_step {
  static_assert(sizeof...(Functions) <= 2, "saga: a step has an action and perhaps an undo");
};
template <fixed_string Name, step_kind Kind> struct make_step<Name, Kind> {
  using type = unbound_step<Name, Kind>;
};
template <fixed_string Name, step_kind Kind, auto Act> struct make_step<Name, Kind, Act> {
  using type = bound_step<Name, Kind, Act, nullptr>;
};
template <fixed_string Name, step_kind Kind, auto Act, auto Undo> struct make_step<Name, Kind, Act, Undo> {
  using type = bound_step<Name, Kind, Act, Undo>;
};
}  // namespace detail

/// `step<"name", &action, &undo>`: can be undone, or needs no undoing where that is left out. `step<"name">(lambda)` is
/// a link of a chain, see chain.hpp.
///
/// An action is `awaitable<R>(step_context&, arguments...)`; an undo `awaitable<void>(step_context&, arguments...)`
/// with, before the arguments, nothing of the result, `std::optional<R>` (empty when nobody knows whether the action
/// happened), or `R`: then the action is first driven on, with the same idempotency key, until its outcome is known.
/// With `batch&` after the context the action writes to the engine's database exactly once, together with its outcome.
template <fixed_string Name, auto... Functions>
inline constexpr typename detail::make_step<Name, step_kind::compensatable, Functions...>::type step{};
/// The point of no return: tried until it succeeds or is refused.
template <fixed_string Name, auto... Functions>
inline constexpr typename detail::make_step<Name, step_kind::pivot, Functions...>::type pivot{};
/// What follows the pivot: tried until it succeeds.
template <fixed_string Name, auto... Functions>
inline constexpr typename detail::make_step<Name, step_kind::retriable, Functions...>::type retriable{};
/// Only looks: the journal has nothing of it before its result, which saves a commit, and a process that dies meanwhile
/// leaves a step that is repeated. Before the pivot it fails as `step` does, after it it is tried as `retriable` is.
template <fixed_string Name, auto... Functions>
inline constexpr typename detail::make_step<Name, step_kind::read_only, Functions...>::type read_only{};

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
