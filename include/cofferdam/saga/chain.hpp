// Sagas as chains: a constant built from steps with `|`, whose data flow and structure the compiler checks.
//
//     constexpr auto place_order = saga::start<order>("order.place")
//         | saga::step<"reserve">([](const auto& s) { return reserve(s.context(), s.input().sku); })
//               .undo([](const auto& s) { return release(s.context(), s["reserve"_s]); })
//         | saga::pivot<"charge">([](const auto& s) { return charge(s.context(), s.input().total); })
//         | saga::retriable<"ship">([](const auto& s) { return ship(s.context(), s["reserve"_s]); });
//     const auto done = co_await place_order.run(engine, "order-42", o);
//     const parcel p = done["ship"_s];
#pragma once

#include <cofferdam/saga/engine.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

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

namespace detail {

/// A chain that runs: its input and results, without their types.
class chain_run {
 public:
  virtual ~chain_run() = default;
  [[nodiscard]] virtual const void* input() const noexcept = 0;
  [[nodiscard]] virtual void* const* slots() const noexcept = 0;
};
template <class In, class... Slots> class typed_run final : public chain_run {
 public:
  explicit typed_run(In in) : input_(std::move(in)), pointers_(results_.pointers()) {}
  typed_run(const typed_run&) = delete;
  typed_run& operator=(const typed_run&) = delete;
  [[nodiscard]] const void* input() const noexcept override { return &input_; }
  [[nodiscard]] void* const* slots() const noexcept override { return pointers_.data(); }
  [[nodiscard]] chain_results<Slots...>& results() noexcept { return results_; }

 private:
  In input_;
  chain_results<Slots...> results_;
  std::array<void*, sizeof...(Slots)> pointers_;
};
using run_pointer = std::shared_ptr<chain_run>;

/// One link, without its types.
struct link {
  enum class kind : std::uint8_t { step, wait, pause, all, when };
  struct made {
    std::unique_ptr<operation> work;
    void (*finish)(operation&) = nullptr;
  };

  kind what = kind::step;
  std::string_view name;
  step_kind role = step_kind::compensatable;
  bool has_undo = false;
  step_settings settings;
  duration limit{};  // of a wait or pause
  made (*make)(const link& self, const run_pointer& run, scope& s) = nullptr;
  bool (*holds)(const chain_run& run) = nullptr;  // of a when
  std::vector<link> inner;                        // of a when, or branches of an all
  bool is_branch = false;

  [[nodiscard]] std::string key() const {
    const std::string own = std::string(name) + "#1";
    return is_branch ? own + '/' + own : own;
  }
};

[[nodiscard]] link::made make_pause(const link& self, const run_pointer& run, scope& s);
[[nodiscard]] link::made make_all(const link& self, const run_pointer& run, scope& s);
/// Links one after the other: a whole chain, or a branch of it. Refers to them.
class links_branch : public branch_base {
 public:
  links_branch(instance& saga, std::string path, std::span<const link> links, run_pointer run);
  std::coroutine_handle<> start() override;
  std::exception_ptr take() override;

 private:
  std::span<const link> links_;
  run_pointer run_;
  scope scope_;
  std::optional<task<void>> task_;
};
[[nodiscard]] std::string to_mermaid(std::string_view name, const std::vector<link>& links);
[[nodiscard]] std::string to_dot(std::string_view name, const std::vector<link>& links);

template <class F, class View>
using link_result = typename cofferdam::detail::awaitable_value<std::invoke_result_t<F, const View&>>::type;

template <class... Slots> struct slot_list {};

/// The slots as a type that can see them.
template <class In, class List> struct view_of;
template <class In, class... Slots> struct view_of<In, slot_list<Slots...>> {
  using type = chain_view<In, Slots...>;
};
template <class List, class Slot> struct appended_slot;
template <class... Slots, class Slot> struct appended_slot<slot_list<Slots...>, Slot> {
  using type = slot_list<Slots..., Slot>;
};

/// How an undo is called, and what it wants to know.
template <class Undo, class View, class R> consteval undo_kind link_undo_kind() {
  if constexpr (std::same_as<Undo, std::nullptr_t>) {
    return undo_kind::none;
  } else if constexpr (!std::is_void_v<R> &&
                       std::is_invocable_v<Undo, const View&, const std::optional<typename slot<"", R>::stored>&>) {
    return undo_kind::maybe;
  } else {
    static_assert(std::is_invocable_v<Undo, const View&>,
                  "saga: an undo of a chain takes (const auto& s), or (const auto& s, const std::optional<R>& result)");
    return std::is_void_v<R> ? undo_kind::blind : undo_kind::known;
  }
}

/// A step of a chain while it runs. Node says how to act and undo, see below.
template <class Node, class View, class R> class link_step final : public step_work {
 public:
  link_step(scope& s, const link& self, run_pointer run)
      : step_work(s.owner(), s.control(), self.name, self.role, Node::template undo_wants<View, R>(),
                  Node::is_transactional, self.settings, s.key_of(self.name)),
        run_(std::move(run)) {}

  static void finish(operation& work) { static_cast<link_step&>(work).raise_failure(); }

  [[nodiscard]] nlohmann::json arguments() const override { return Node::template arguments<View>(view(nullptr)); }
  awaitable<void> attempt(step_context& context, batch* b) override {
    const View seen = view(&context);
    co_await Node::template act<View, R>(seen, b, own());
    is_known_ = true;
  }
  [[nodiscard]] nlohmann::json result() const override {
    if constexpr (std::is_void_v<R>) {
      return {};
    } else {
      return nlohmann::json(*own());
    }
  }
  void set_result(const nlohmann::json& text) override {
    if constexpr (std::is_void_v<R>) {
      own().emplace();
    } else {
      own().emplace(text.get<R>());
    }
  }
  [[nodiscard]] std::unique_ptr<past_step> remember() override {
    return std::make_unique<past>(key(), settings(), run_, is_known_);
  }

  class past;
  using past_type = past;

 private:
  using stored = typename slot<"", R>::stored;
  using own_view = typename Node::template view_after<View, R>;

  template <class Any> static Any seen_by(const chain_run& run, step_context* context) {
    using input = std::remove_cvref_t<decltype(std::declval<const Any&>().input())>;
    return Any(*static_cast<const input*>(run.input()), run.slots(), context);
  }
  static std::optional<stored>& slot_of(const chain_run& run) {
    return *static_cast<std::optional<stored>*>(run.slots()[Node::template index<View>()]);
  }

 public:
  class past final : public past_step {
   public:
    past(std::string at, const step_settings& s, run_pointer run, bool has_result)
        : past_step(std::move(at), s, Node::template undo_wants<View, R>(), has_result), run_(std::move(run)) {}
    void set(const nlohmann::json* known) {
      if (known == nullptr) return;
      if constexpr (std::is_void_v<R>) {
        slot_of(*run_).emplace();
      } else {
        slot_of(*run_).emplace(known->get<R>());
      }
    }
    [[nodiscard]] nlohmann::json result() const {
      if constexpr (std::is_void_v<R>) {
        return {};
      } else {
        return nlohmann::json(*slot_of(*run_));
      }
    }
    awaitable<void> undo(step_context& context) override {
      if constexpr (Node::template undo_wants<View, R>() != undo_kind::none) {
        const own_view seen = seen_by<own_view>(*run_, &context);
        co_await Node::template undo<own_view, R>(seen, slot_of(*run_));
      }
      co_return;
    }
    awaitable<void> act(step_context& context) override {
      const View seen = seen_by<View>(*run_, &context);
      co_await Node::template act<View, R>(seen, nullptr, slot_of(*run_));
      is_known = true;
    }

   private:
    run_pointer run_;
  };

 private:
  [[nodiscard]] View view(step_context* context) const { return seen_by<View>(*run_, context); }
  [[nodiscard]] std::optional<stored>& own() const { return slot_of(*run_); }

  run_pointer run_;
  bool is_known_ = false;
};

template <class View> inline constexpr std::size_t slots_in = 0;
template <class In, class... Slots> inline constexpr std::size_t slots_in<chain_view<In, Slots...>> = sizeof...(Slots);
template <class View, class Slot> struct view_plus;
template <class In, class... Slots, class Slot> struct view_plus<chain_view<In, Slots...>, Slot> {
  using type = chain_view<In, Slots..., Slot>;
};

/// What links of both kinds share. Derived is stateless but for its settings.
template <class Derived, fixed_string Name, step_kind Kind> struct step_link {
  static constexpr std::string_view name = Name.view();
  static constexpr step_kind role = Kind;
  static constexpr bool is_step = true;
  step_settings settings{};

  [[nodiscard]] constexpr Derived max_attempts(std::uint32_t n) const {
    return changed([n](step_settings& s) { s.max_attempts = n; });
  }
  [[nodiscard]] constexpr Derived timeout(duration d) const {
    return changed([d](step_settings& s) { s.timeout = d; });
  }
  [[nodiscard]] constexpr Derived undo_attempts(std::uint32_t n) const {
    return changed([n](step_settings& s) { s.undo_attempts = n; });
  }
  [[nodiscard]] constexpr Derived undo_timeout(duration d) const {
    return changed([d](step_settings& s) { s.undo_timeout = d; });
  }

  template <class View, class R> using view_after = typename view_plus<View, slot<Name, R>>::type;
  template <class View> static constexpr std::size_t index() { return slots_in<View>; }
  template <class In, class List, class Self = Derived>  // Self: complete when this is asked for
  using slots_after =
      typename appended_slot<List, slot<Name, typename Self::template result<typename view_of<In, List>::type>>>::type;

  template <class In, class List> void add_links(std::vector<link>& to, bool is_branch) const {
    using view = typename view_of<In, List>::type;
    using result = typename Derived::template result<view>;
    link made;
    made.name = name;
    made.role = Kind;
    made.settings = settings;
    made.is_branch = is_branch;
    made.has_undo = Derived::template undo_wants<view, result>() != undo_kind::none;
    made.make = [](const link& self, const run_pointer& run, scope& s) -> link::made {
      using work = link_step<Derived, view, result>;
      return {std::make_unique<work>(s, self, run), work::finish};
    };
    to.push_back(std::move(made));
  }

 private:
  template <class Change> [[nodiscard]] constexpr Derived changed(Change change) const {
    Derived copy = static_cast<const Derived&>(*this);
    change(copy.settings);
    return copy;
  }
};

/// A step given as captureless lambdas.
template <fixed_string Name, step_kind Kind, class Act, class Undo>
struct action_link : step_link<action_link<Name, Kind, Act, Undo>, Name, Kind> {
  static_assert(std::is_empty_v<Act>,
                "saga: a step of a chain is a lambda without captures: take services from "
                "s.context().get<T>(), data from s.input() and earlier steps");
  template <class View> using result = link_result<Act, View>;
  static constexpr bool is_transactional = false;

  /// @param how  captureless: `(const auto& s)`, where the own result is known (the action is driven on until it is),
  /// or `(const auto& s, const std::optional<R>& result)`, empty when nobody knows whether the action happened.
  template <class F> [[nodiscard]] constexpr auto undo(F) const {
    static_assert(std::is_empty_v<F>, "saga: an undo of a chain is a lambda without captures");
    static_assert(Kind == step_kind::compensatable, "saga: a pivot or retriable step is never undone");
    static_assert(std::same_as<Undo, std::nullptr_t>, "saga: this step has an undo already");
    return action_link<Name, Kind, Act, F>{{this->settings}};
  }

  template <class View, class R> static consteval undo_kind undo_wants() {
    if constexpr (std::same_as<Undo, std::nullptr_t>) {
      return undo_kind::none;
    } else {
      return link_undo_kind<Undo, typename action_link::template view_after<View, R>, R>();
    }
  }
  template <class View> static nlohmann::json arguments(const View&) { return nullptr; }
  template <class View, class R, class Own> static awaitable<void> act(const View& seen, batch*, Own& own) {
    if constexpr (std::is_void_v<R>) {
      co_await Act{}(seen);
      own.emplace();
    } else {
      own.emplace(co_await Act{}(seen));
    }
  }
  template <class View, class R, class Own> static awaitable<void> undo(const View& seen, const Own& own) {
    if constexpr (std::is_invocable_v<Undo, const View&, const Own&>) {
      return Undo{}(seen, own);
    } else {
      return Undo{}(seen);
    }
  }
};

/// A step made of functions, with what makes its arguments.
template <fixed_string Name, step_kind Kind, auto Act, auto Undo, class Arguments>
struct bound_link<bound_step<Name, Kind, Act, Undo>, Arguments>
    : step_link<bound_link<bound_step<Name, Kind, Act, Undo>, Arguments>, Name, Kind> {
  using step = bound_step<Name, Kind, Act, Undo>;
  using tuple = typename step::arguments;
  static_assert(std::is_empty_v<Arguments>, "saga: what makes the arguments of a step is a lambda without captures");
  template <class View> using result = typename step::result;
  static constexpr bool is_transactional = step::is_transactional;

  template <class View, class R> static consteval undo_kind undo_wants() { return step::undo_wants; }
  template <class View> static tuple make(const View& seen) { return tuple(Arguments{}(seen)); }
  template <class View> static nlohmann::json arguments(const View& seen) { return nlohmann::json(make(seen)); }
  template <class View, class R, class Own> static awaitable<void> act(const View& seen, batch* b, Own& own) {
    tuple args = make(seen);
    if constexpr (std::is_void_v<R>) {
      co_await step::act(seen.context(), b, args);
      own.emplace();
    } else {
      own.emplace(co_await step::act(seen.context(), b, args));
    }
  }
  template <class View, class R, class Own> static awaitable<void> undo(const View& seen, const Own& own) {
    tuple args = make(seen);
    co_await step::undo(seen.context(), own ? &*own : nullptr, args);
  }
};

template <fixed_string Name, step_kind Kind> struct unbound_step {
  /// A link of a chain: `(const auto& s)` to `awaitable<R>`, without captures.
  template <class Act> [[nodiscard]] constexpr action_link<Name, Kind, Act, std::nullptr_t> operator()(Act) const {
    return {};
  }
};

template <fixed_string Name, class T> struct wait_link {
  static constexpr std::string_view name = Name.view();
  static constexpr bool is_step = false;
  duration limit = duration::max();

  template <class In, class List> using slots_after = typename appended_slot<List, slot<Name, std::optional<T>>>::type;

  template <class In, class List> void add_links(std::vector<link>& to, bool) const {
    using view = typename view_of<In, List>::type;
    link made;
    made.what = link::kind::wait;
    made.name = name;
    made.limit = limit;
    made.make = [](const link& self, const run_pointer& run, scope& s) -> link::made {
      return {std::make_unique<waiting<view>>(s, self, run), waiting<view>::finish};
    };
    to.push_back(std::move(made));
  }

 private:
  template <class View> class waiting final : public wait_operation {
   public:
    waiting(scope& s, const link& self, run_pointer run)
        : wait_operation(s.owner(), s.control(), s.key_of("signal:" + std::string(self.name)), std::string(self.name),
                         self.limit),
          run_(std::move(run)) {}
    static void finish(operation& work) {
      auto& self = static_cast<waiting&>(work);
      auto& own = *static_cast<std::optional<std::optional<T>>*>(self.run_->slots()[slots_in<View>]);
      const auto& found = self.message();
      own.emplace(found ? std::optional<T>(found->template get<T>()) : std::nullopt);
    }

   private:
    run_pointer run_;
  };
};

struct pause_link {
  static constexpr std::string_view name{};
  static constexpr bool is_step = false;
  duration limit{};
  template <class In, class List> using slots_after = List;
  template <class In, class List> void add_links(std::vector<link>& to, bool) const {
    link made;
    made.what = link::kind::pause;
    made.name = "sleep";
    made.limit = limit;
    made.make = make_pause;
    to.push_back(std::move(made));
  }
};

/// The slots after several links, one after the other.
template <class In, class List, class... Links> struct slots_after_all {
  using type = List;
};
template <class In, class List, class First, class... Rest> struct slots_after_all<In, List, First, Rest...> {
  using type = typename slots_after_all<In, typename First::template slots_after<In, List>, Rest...>::type;
};

template <class In, class List, std::size_t I, class... Links>
void add_each(const std::tuple<Links...>& links, std::vector<link>& to, bool is_branch) {
  if constexpr (I < sizeof...(Links)) {
    using present = std::tuple_element_t<I, std::tuple<Links...>>;
    std::get<I>(links).template add_links<In, List>(to, is_branch);
    add_each<In, typename present::template slots_after<In, List>, I + 1>(links, to, is_branch);
  }
}

template <fixed_string Name, class... Links> struct all_link {
  static constexpr std::string_view name = Name.view();
  static constexpr bool is_step = false;
  std::tuple<Links...> links;
  static_assert(((Links::is_step && Links::role == step_kind::compensatable) && ...),
                "saga: the branches of an all are compensatable steps");

  template <class In, class List> using slots_after = typename slots_after_all<In, List, Links...>::type;
  template <class In, class List> void add_links(std::vector<link>& to, bool) const {
    link made;
    made.what = link::kind::all;
    made.name = name;
    add_each<In, List, 0>(links, made.inner, true);
    made.make = make_all;
    to.push_back(std::move(made));
  }
};

template <class Condition, class... Links> struct when_link {
  static constexpr std::string_view name{};
  static constexpr bool is_step = false;
  std::tuple<Links...> links;
  static_assert(std::is_empty_v<Condition>, "saga: a condition is a lambda without captures");

  template <class In, class List> using slots_after = typename slots_after_all<In, List, Links...>::type;
  template <class In, class List> void add_links(std::vector<link>& to, bool) const {
    using view = typename view_of<In, List>::type;
    link made;
    made.what = link::kind::when;
    made.name = "when";
    made.holds = [](const chain_run& run) -> bool {
      return Condition{}(view(*static_cast<const In*>(run.input()), run.slots(), nullptr));
    };
    add_each<In, List, 0>(links, made.inner, false);
    to.push_back(std::move(made));
  }
};

// ------------------------------------------------------------------------------------------------- names and structure

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

}  // namespace detail

/// A saga as a constant. A value; all but the numbers in it is type.
template <class In, class List, class... Links> class chain {
 public:
  using input = In;
  using results = typename detail::results_of<List>::type;

  constexpr chain(std::string_view name, std::tuple<Links...> links) : name_(name), links_(std::move(links)) {}
  [[nodiscard]] constexpr std::string_view name() const noexcept { return name_; }

  /// Appends a link.
  template <class Link> constexpr auto operator|(const Link& next) const {
    constexpr bool has_pivot = (detail::has_kind<step_kind::pivot, Links>::value || ... || false);
    static_assert(!detail::has_double_name<Links..., Link>(), "saga: two steps of this chain have the same name");
    static_assert(!(has_pivot && detail::has_kind<step_kind::pivot, Link>::value), "saga: a chain has one pivot");
    static_assert(!(has_pivot && detail::has_kind<step_kind::compensatable, Link>::value),
                  "saga: after the pivot there is no way back: make this step retriable");
    using after = typename Link::template slots_after<In, List>;
    return chain<In, after, Links..., Link>(name_, std::tuple_cat(links_, std::make_tuple(next)));
  }

  /// Starts the saga, or finds it, and waits for its end. Errors: as `engine::execute`.
  template <class Given> [[nodiscard]] awaitable<results> run(engine& by, std::string id, Given&& in) const {
    return by.execute(std::move(id), *this, std::forward<Given>(in));
  }

  /// The chain as a flow chart, to paste into Markdown, or for Graphviz.
  [[nodiscard]] std::string to_mermaid() const { return detail::to_mermaid(name_, all_links()); }
  [[nodiscard]] std::string to_dot() const { return detail::to_dot(name_, all_links()); }

  // --- for the engine
  [[nodiscard]] detail::definition define(std::uint32_t version) const {
    detail::definition made;
    made.name = name_;
    made.version = version;
    const auto links = std::make_shared<const std::vector<detail::link>>(all_links());
    made.begin = [links](detail::instance& saga, const nlohmann::json& stored) -> std::unique_ptr<detail::branch_base> {
      return std::make_unique<body>(saga, stored.get<In>(), links);
    };
    made.output = [](detail::branch_base& ended) { return nlohmann::json(static_cast<body&>(ended).run().results()); };
    describe<detail::slot_list<>, 0>(made, links);
    return made;
  }
  awaitable<results> run_here(std::shared_ptr<detail::engine_state> state, std::string id, In in) const {
    const auto links = std::make_shared<const std::vector<detail::link>>(all_links());
    detail::saga_here saga(std::move(state), std::move(id));
    body root(saga.saga(), std::move(in), links);
    auto how = co_await saga.run(root);
    if (how.state != saga_state::completed) detail::raise(saga.id(), std::move(how));
    co_return std::move(root.run().results());
  }

 private:
  using typed_run = typename detail::results_of<List>::template run<In>;
  using shared_links = std::shared_ptr<const std::vector<detail::link>>;

  /// Keeps what it runs.
  class body final : public detail::links_branch {
   public:
    body(detail::instance& saga, In in, shared_links links)
        : body(saga, std::make_shared<typed_run>(std::move(in)), std::move(links)) {}
    [[nodiscard]] typed_run& run() noexcept { return *run_; }

   private:
    body(detail::instance& saga, std::shared_ptr<typed_run> run, shared_links links)
        : links_branch(saga, {}, *links, run), links_(std::move(links)), run_(std::move(run)) {}
    shared_links links_;
    std::shared_ptr<typed_run> run_;
  };

  [[nodiscard]] std::vector<detail::link> all_links() const {
    std::vector<detail::link> made;
    made.reserve(sizeof...(Links));
    detail::add_each<In, detail::slot_list<>, 0>(links_, made, false);
    return made;
  }

  /// What the chain had when it was interrupted, as its journal tells.
  static std::shared_ptr<typed_run> restore(const detail::journal_view& journal,
                                            const std::vector<detail::link>& links) {
    auto run = std::make_shared<typed_run>(journal.input().get<In>());
    nlohmann::json found = nlohmann::json::object();
    collect(journal, links, found);
    from_json(found, run->results());
    return run;
  }
  static void collect(const detail::journal_view& journal, const std::vector<detail::link>& links,
                      nlohmann::json& found) {
    for (const detail::link& each : links) {
      collect(journal, each.inner, found);
      const std::string key = each.what == detail::link::kind::wait ? "signal:" + each.key() : each.key();
      const nlohmann::json* result = journal.result_of(key);
      const bool is_wait = each.what == detail::link::kind::wait;
      if (is_wait) found[std::string(each.name)] = result != nullptr ? result->at("payload") : nlohmann::json();
      if (!is_wait && result != nullptr) found[std::string(each.name)] = *result;
    }
  }

  template <class Before, std::size_t I> void describe(detail::definition& made, const shared_links& links) const {
    if constexpr (I < sizeof...(Links)) {
      using present = std::tuple_element_t<I, std::tuple<Links...>>;
      describe_link<Before>(std::get<I>(links_), made, links);
      describe<typename present::template slots_after<In, Before>, I + 1>(made, links);
    }
  }
  template <class Before, class Link>
  static void describe_link(const Link& each, detail::definition& made, const shared_links& links) {
    if constexpr (Link::is_step) {
      made.add(descriptor<Before, Link>(links));
    } else if constexpr (requires { each.links; }) {
      describe_inner<Before, 0>(each.links, made, links);
    }
  }
  template <class Before, std::size_t I, class... Inner>
  static void describe_inner(const std::tuple<Inner...>& inner, detail::definition& made, const shared_links& links) {
    if constexpr (I < sizeof...(Inner)) {
      using present = std::tuple_element_t<I, std::tuple<Inner...>>;
      describe_link<Before>(std::get<I>(inner), made, links);
      describe_inner<typename present::template slots_after<In, Before>, I + 1>(inner, made, links);
    }
  }

  template <class Before, class Link> static detail::step_descriptor descriptor(const shared_links& links) {
    using view = typename detail::view_of<In, Before>::type;
    using result = typename Link::template result<view>;
    using work = detail::link_step<Link, view, result>;
    detail::step_descriptor made;
    made.name = Link::name;
    made.kind = Link::role;
    made.undo_wants = Link::template undo_wants<view, result>();
    if constexpr (Link::template undo_wants<view, result>() != detail::undo_kind::none) {
      made.undo = [links](step_context& context, const detail::journal_view& journal, const nlohmann::json&,
                          const nlohmann::json* known) {
        return undo_again<work, result>(restore(journal, *links), context, known);
      };
    }
    if constexpr (!Link::is_transactional) {
      made.act = [links](step_context& context, const detail::journal_view& journal, const nlohmann::json&) {
        return act_again<work>(restore(journal, *links), context);
      };
    }
    return made;
  }
  template <class Work, class R>
  static awaitable<void> undo_again(std::shared_ptr<typed_run> run, step_context& context,
                                    const nlohmann::json* known) {
    typename Work::past_type past(std::string(), step_settings(), run, known != nullptr);
    past.set(known);
    co_await past.undo(context);
  }
  template <class Work>
  static awaitable<nlohmann::json> act_again(std::shared_ptr<typed_run> run, step_context& context) {
    typename Work::past_type past(std::string(), step_settings(), run, false);
    co_await past.act(context);
    co_return past.result();
  }

  std::string_view name_;
  std::tuple<Links...> links_;
};

/// The beginning of a chain. @param name  a literal: it is kept as it is, and found in journals for ever.
template <class In> [[nodiscard]] constexpr chain<In, detail::slot_list<>> start(std::string_view name) {
  return {name, {}};
}
/// Steps side by side; none sees the others' results.
template <fixed_string Name, class... Links>
[[nodiscard]] constexpr detail::all_link<Name, Links...> all(const Links&... links) {
  return {{links...}};
}
/// Links that are passed by unless `(const auto& s) -> bool` holds: captureless, and of nothing but what it sees.
template <class Condition, class... Links>
[[nodiscard]] constexpr detail::when_link<Condition, Links...> when(Condition, const Links&... links) {
  return {{links...}};
}
/// Waits for a signal of this name; its result is `std::optional<T>`, empty when the time is over first.
template <fixed_string Name, class T>
[[nodiscard]] constexpr detail::wait_link<Name, T> wait(duration limit = duration::max()) {
  return {limit};
}
/// Waits.
[[nodiscard]] constexpr detail::pause_link pause(duration d) { return {d}; }

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
