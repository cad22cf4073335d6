// The links of a chain: as types while it is built, without their types when it runs.
#pragma once

#include <cofferdam/saga/chain_results.hpp>
#include <cofferdam/saga/engine.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
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

namespace detail {

/// A chain that runs: its input and results, without their types.
class chain_run {
 public:
  virtual ~chain_run() = default;
  [[nodiscard]] virtual const void* input() const noexcept = 0;
  [[nodiscard]] virtual void* const* slots() const noexcept = 0;
  /// As it is now, for the undo of a step that runs again.
  [[nodiscard]] virtual std::shared_ptr<chain_run> snapshot() const = 0;
};
template <class In, class... Slots> class typed_run final : public chain_run {
 public:
  explicit typed_run(In in) : input_(std::move(in)), pointers_(results_.pointers()) {}
  typed_run(const typed_run&) = delete;
  typed_run& operator=(const typed_run&) = delete;
  [[nodiscard]] const void* input() const noexcept override { return &input_; }
  [[nodiscard]] void* const* slots() const noexcept override { return pointers_.data(); }
  [[nodiscard]] std::shared_ptr<chain_run> snapshot() const override {
    auto copy = std::make_shared<typed_run>(input_);
    from_json(nlohmann::json(results_), copy->results_);
    return copy;
  }
  [[nodiscard]] chain_results<Slots...>& results() noexcept { return results_; }

 private:
  In input_;
  chain_results<Slots...> results_;
  std::array<void*, sizeof...(Slots)> pointers_;
};
using run_pointer = std::shared_ptr<chain_run>;

/// One link, without its types.
struct link {
  enum class kind : std::uint8_t { step, wait, pause, all, any, when, repeat, call, lock };
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
  bool (*holds)(const chain_run& run) = nullptr;   // of a when or repeat
  void (*forget)(const chain_run& run) = nullptr;  // the result of a step
  std::size_t rounds = 0;                          // the slot of a repeat
  plain_function body = nullptr;                   // of a call
  std::string_view child_name{};
  std::function<definition()> child{};
  std::vector<link> inner;  // of a when or repeat, or branches of an all or any
  bool is_branch = false, is_repeated = false, is_undone_in_parallel = false;

  [[nodiscard]] std::string key() const {
    const std::string own = std::string(name) + "#1";
    return is_branch ? own + '/' + own : own;
  }
};

[[nodiscard]] link::made make_pause(const link& self, const run_pointer& run, scope& s);
[[nodiscard]] link::made make_lock(const link& self, const std::string& resource, scope& s);
[[nodiscard]] link::made make_any(const link& self, const run_pointer& run, scope& s);
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
/// The results that the journal has, by name. Of what is repeated: those of the round in which `key` is, or the last.
/// @param at  what the keys of these links begin with.
void collect(const journal_view& journal, std::span<const link> links, const std::string& at, const std::string& key,
             nlohmann::json& found);
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
        run_(std::move(run)),
        is_repeated_(self.is_repeated) {}

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
    return std::make_unique<past>(key(), settings(), is_repeated_ ? run_->snapshot() : run_, is_known_);
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
        slot_of(*run_).emplace(read_stored<R>(*known, "result"));
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
  bool is_repeated_;
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
    made.forget = [](const chain_run& run) {
      static_cast<std::optional<typename slot<Name, result>::stored>*>(run.slots()[slots_in<view>])->reset();
    };
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
    static_assert(Kind != step_kind::read_only, "saga: a read-only step has no effect that could be undone");
    static_assert(Kind == step_kind::compensatable || Kind == step_kind::read_only,
                  "saga: a pivot or retriable step is never undone");
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

template <class Resource> struct lock_link {
  static constexpr std::string_view name{};
  static constexpr bool is_step = false;
  duration limit = duration::max();
  static_assert(std::is_empty_v<Resource>, "saga: what names a lock is a lambda without captures");

  template <class In, class List> using slots_after = List;
  template <class In, class List> void add_links(std::vector<link>& to, bool) const {
    using view = typename view_of<In, List>::type;
    link made;
    made.what = link::kind::lock;
    made.name = "lock";
    made.limit = limit;
    made.make = [](const link& self, const run_pointer& run, scope& s) -> link::made {
      const std::string resource = Resource{}(view(*static_cast<const In*>(run->input()), run->slots(), nullptr));
      return make_lock(self, resource, s);
    };
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

template <class Link> consteval bool may_be_a_branch() {
  if constexpr (Link::is_step) return Link::role == step_kind::compensatable || Link::role == step_kind::read_only;
  return false;
}

template <fixed_string Name, class... Links> struct all_link {
  static constexpr std::string_view name = Name.view();
  static constexpr bool is_step = false;
  std::tuple<Links...> links;
  bool is_undone_in_parallel = false;
  static_assert((may_be_a_branch<Links>() && ...), "saga: the branches of an all are compensatable or read-only steps");

  /// What the branches did is undone side by side, too; else last first.
  [[nodiscard]] constexpr all_link undo_in_parallel() const { return {links, true}; }

  template <class In, class List> using slots_after = typename slots_after_all<In, List, Links...>::type;
  template <class In, class List> void add_links(std::vector<link>& to, bool) const {
    link made;
    made.what = link::kind::all;
    made.name = name;
    made.is_undone_in_parallel = is_undone_in_parallel;
    add_each<In, List, 0>(links, made.inner, true);
    made.make = make_all;
    to.push_back(std::move(made));
  }
};

template <fixed_string Name, class... Links> struct any_link {
  static constexpr std::string_view name = Name.view();
  static constexpr bool is_step = false;
  std::tuple<Links...> links;
  static_assert((may_be_a_branch<Links>() && ...),
                "saga: the branches of a race are compensatable or read-only steps: those that lose are undone");

  template <class In, class List> using slots_after = typename slots_after_all<In, List, Links...>::type;
  template <class In, class List> void add_links(std::vector<link>& to, bool) const {
    link made;
    made.what = link::kind::any;
    made.name = name;
    add_each<In, List, 0>(links, made.inner, true);
    made.make = make_any;
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

void mark_repeated(std::vector<link>& links);

template <fixed_string Name, class Condition, class... Links> struct repeat_link {
  static constexpr std::string_view name = Name.view();
  static constexpr bool is_step = false;
  std::tuple<Links...> links;
  static_assert(std::is_empty_v<Condition>, "saga: a condition is a lambda without captures");

  template <class List> using with_rounds = typename appended_slot<List, slot<Name, std::uint32_t>>::type;
  template <class In, class List> using slots_after = typename slots_after_all<In, with_rounds<List>, Links...>::type;
  template <class In, class List> void add_links(std::vector<link>& to, bool) const {
    using view = typename view_of<In, slots_after<In, List>>::type;
    link made;
    made.what = link::kind::repeat;
    made.name = name;
    made.rounds = slots_in<typename view_of<In, List>::type>;
    made.holds = [](const chain_run& run) -> bool {
      return Condition{}(view(*static_cast<const In*>(run.input()), run.slots(), nullptr));
    };
    add_each<In, with_rounds<List>, 0>(links, made.inner, false);
    mark_repeated(made.inner);
    to.push_back(std::move(made));
  }
};

/// What the first of the links in a link sees.
template <class Link, class List> struct inner_slots {
  using type = List;
};
template <fixed_string Name, class Condition, class... Links, class List>
struct inner_slots<repeat_link<Name, Condition, Links...>, List> {
  using type = typename repeat_link<Name, Condition, Links...>::template with_rounds<List>;
};

/// A saga that another one calls: a coroutine, or a chain.
template <class Child> struct child_of {
  using input = typename Child::input;
  using output = typename Child::results;
  static void describe(const Child& child, link& made) {
    made.child_name = child.name();
    made.child = [child] { return child.define(1); };
  }
};
template <class Out, class In> struct child_of<task<Out> (*)(scope&, In)> {
  using input = std::decay_t<In>;
  using output = Out;
  static void describe(task<Out> (*child)(scope&, In), link& made) {
    made.body = reinterpret_cast<plain_function>(child);
    made.child = [child] { return define_body<Out, In>({}, 1, child); };
  }
};

template <fixed_string Name, class Child, class Input> struct call_link {
  static constexpr std::string_view name = Name.view();
  static constexpr bool is_step = false;
  using output = typename child_of<Child>::output;
  Child child;
  static_assert(std::is_empty_v<Input>, "saga: what makes the input of a child saga is a lambda without captures");

  template <class In, class List> using slots_after = typename appended_slot<List, slot<Name, output>>::type;
  template <class In, class List> void add_links(std::vector<link>& to, bool) const {
    using view = typename view_of<In, List>::type;
    link made;
    made.what = link::kind::call;
    made.name = name;
    child_of<Child>::describe(child, made);
    made.make = [](const link& self, const run_pointer& run, scope& s) -> link::made {
      const view seen(*static_cast<const In*>(run->input()), run->slots(), nullptr);
      auto input = stored_input<typename child_of<Child>::input>(Input{}(seen));
      return {std::make_unique<calling<view>>(s, self, run, std::move(input)), calling<view>::finish};
    };
    to.push_back(std::move(made));
  }

 private:
  template <class View> class calling final : public child_work {
   public:
    calling(scope& s, const link& self, run_pointer run, nlohmann::json input)
        : child_work(s.owner(), s.control(), s.key_of(self.name), self.body, std::string(self.child_name), self.child,
                     std::move(input)),
          run_(std::move(run)) {}
    static void finish(operation& work) {
      auto& self = static_cast<calling&>(work);
      const auto& found = self.output();
      auto& own =
          *static_cast<std::optional<typename slot<Name, output_type>::stored>*>(self.run_->slots()[slots_in<View>]);
      if constexpr (std::is_void_v<output_type>) {
        own.emplace();
      } else {
        own.emplace(found.template get<output_type>());
      }
    }

   private:
    using output_type = typename call_link::output;
    run_pointer run_;
  };
};

}  // namespace detail

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
