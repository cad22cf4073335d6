// What a saga's body can do: run steps, wait, run branches side by side. Everything that is awaited here is written
// down, so that the saga goes on in another process where it stopped in this one.
#pragma once

#include <cofferdam/saga/detail/operations.hpp>

#include <array>
#include <concepts>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::saga {

namespace detail {

template <class R, class... Parameters> class typed_branch;

/// A branch before it runs: a function and its arguments.
template <class R, class... Parameters> struct branch_of {
  branch_of(instance& owner, std::string at, task<R> (*body)(scope&, Parameters...),
            std::tuple<std::decay_t<Parameters>...> with)
      : saga(&owner), path(std::move(at)), function(body), arguments(std::move(with)) {}
  using result = R;
  using running = typed_branch<R, Parameters...>;
  instance* saga;
  std::string path;
  task<R> (*function)(scope&, Parameters...);
  std::tuple<std::decay_t<Parameters>...> arguments;
};

template <class... Branches> class all_operation;
template <class... Branches> class race_operation;
template <class Branch> class nested_operation;
template <class Out> class child_operation;

}  // namespace detail

/// Where the steps of a body, or of a branch, have their names. Made by the engine, one for each.
/// Every name counts: a step is found in the journal by its scope, its name, and how often the name came before in that
/// scope. Steps may thus be reordered or added behind those that ran, but not renamed.
class scope {
 public:
  scope(detail::instance& saga, detail::fiber& f, std::string path) noexcept
      : saga_(&saga), fiber_(&f), path_(std::move(path)) {}
  scope(const scope&) = delete;
  scope& operator=(const scope&) = delete;

  [[nodiscard]] const std::string& saga_id() const noexcept;

  /// Runs a step. What it will do is durable before it begins, and its outcome before the next one begins; both but for
  /// read-only steps, which may be repeated together with the one before.
  /// Errors: `step_failed`, the same at every replay. Not caught, it ends the body, and what was done is undone.
  template <fixed_string Name, step_kind Kind, auto Act, auto Undo, class... Args>
  auto run(const bound_step<Name, Kind, Act, Undo>& step, Args&&... args) {
    using step_type = bound_step<Name, Kind, Act, Undo>;
    static_assert((cofferdam::detail::safe_in_co_await<Args> && ...),
                  "GCC 12 destroys this temporary twice inside co_await: name the argument first, and pass the name");
    static_assert(std::is_constructible_v<typename step_type::arguments, Args...>,
                  "saga: these are not the arguments of the step's action");
    return detail::step_operation<step_type>(*saga_, *fiber_, step, key_of(Name.view()),
                                             typename step_type::arguments(std::forward<Args>(args)...));
  }

  /// Waits, also through the end of this process. Never early.
  detail::sleep_operation sleep(duration d) { return {*saga_, *fiber_, key_of("sleep"), {}, d}; }

  /// Waits for the next signal of this name; those that came before are there. Nothing when the time is over first.
  template <class T>
  detail::signal_operation<T> wait_signal(const std::string& name, duration limit = duration::max()) {
    return {*saga_, *fiber_, key_of("signal:" + name), name, limit};
  }

  /// Marks something, "account:7" say, so that other sagas that lock it wait until this one has ended: a semantic lock,
  /// in the order of asking, seen by all who ask `locked_by`. Held through the way back, and let go of with the saga's
  /// last commit. Again by the same saga: no effect. Two sagas that wait for each other do so until a limit, or a
  /// deadline.
  /// Errors: `step_failed` (`refused`), when the time is over first.
  detail::lock_operation lock(const std::string& resource, duration limit = duration::max()) {
    return {*saga_, *fiber_, key_of("lock:" + resource), resource, limit};
  }

  /// A part of the body, for `all` and `nested`: a function `saga::task<R>(scope&, parameters...)` and its arguments.
  template <fixed_string Name, class R, class... Parameters, class... Args>
  [[nodiscard]] detail::branch_of<R, Parameters...> branch(task<R> (*function)(scope&, Parameters...), Args&&... args) {
    static_assert((cofferdam::detail::safe_in_co_await<Args> && ...),
                  "GCC 12 destroys this temporary twice inside co_await: name the argument first, and pass the name");
    return {*saga_, key_of(Name.view()), function, {std::forward<Args>(args)...}};
  }

  /// Runs branches side by side and yields a tuple of what they return (std::monostate for void).
  /// `s.all(...).undo_in_parallel()`: what the branches did is undone side by side, too; else last first.
  /// Errors: what the first branch in their order threw, when all have ended; the others begin no further step.
  template <class... Branches> detail::all_operation<Branches...> all(Branches... branches);

  /// Runs branches side by side until one succeeds, and yields a variant: its index says which (std::monostate for
  /// void). The others are stopped, attempts that run are cancelled, and all they did is undone before the body goes
  /// on. No branch may have a pivot. Errors: `aborted`, when every branch failed and all of it is undone.
  template <class... Branches> detail::race_operation<Branches...> any(Branches... branches);

  /// Runs another saga with an id of its own, `<this id>/<name>#<n>`, its own journal and its own workers, and waits
  /// for its end, also through the end of this process. It begins with the saga's deadline, in one commit with what
  /// this saga did before. When this saga goes back, the child does, too, also when it has completed; past its pivot it
  /// cannot, and this saga stops for an operator.
  /// Errors: `step_failed` (`refused`), when the child went back or was given up.
  template <fixed_string Name, class Out, class In, class Given>
  detail::child_operation<Out> call(task<Out> (*body)(scope&, In), Given&& input);
  template <fixed_string Name, class Chain, class Given>
    requires requires(const Chain& c) { c.define(std::uint32_t{}); }
  detail::child_operation<typename Chain::results> call(const Chain& chain, Given&& input);

  /// Runs a part that is undone alone when it fails. Errors: `aborted`, when all of the part is undone.
  template <fixed_string Name, class R, class... Parameters, class... Args>
  auto nested(task<R> (*function)(scope&, Parameters...), Args&&... args);

  /// False in sagas that passed here before this question was there, else true: for changing the steps of a body while
  /// sagas are on their way.
  detail::mark_operation patched(std::string_view change) { return {*saga_, *fiber_, key_of(change)}; }

  /// Gives up: what was done is undone.
  [[noreturn]] static void fail(const std::string& message, std::string code = {}) {
    throw aborted(message, std::move(code));
  }

  // --- for chains
  [[nodiscard]] std::string key_of(std::string_view name);
  [[nodiscard]] detail::instance& owner() const noexcept { return *saga_; }
  [[nodiscard]] detail::fiber& control() const noexcept { return *fiber_; }

 private:
  detail::instance* saga_;
  detail::fiber* fiber_;
  std::string path_;
  std::vector<std::pair<std::string, std::uint32_t>> counts_;  // how often each name came; few
};

namespace detail {

template <class R, class... Parameters> class typed_branch : public branch_base {
 public:
  using result = std::conditional_t<std::is_void_v<R>, std::monostate, R>;

  explicit typed_branch(branch_of<R, Parameters...>&& made)
      : branch_base(*made.saga, std::move(made.path)),
        scope_(saga(), control(), prefix()),
        function_(made.function),
        arguments_(std::move(made.arguments)) {}

  std::coroutine_handle<> start() override {
    task_.emplace(std::apply([this](auto&... each) { return function_(scope_, each...); }, arguments_));
    return task_->handle();
  }
  std::exception_ptr take() override {
    try {
      if constexpr (std::is_void_v<R>) {
        task_->take();
        value_.emplace();
      } else {
        value_.emplace(task_->take());
      }
    } catch (...) {
      return std::current_exception();
    }
    return nullptr;
  }
  [[nodiscard]] result take_value() { return *std::move(value_); }

 private:
  scope scope_;
  task<R> (*function_)(scope&, Parameters...);
  std::tuple<std::decay_t<Parameters>...> arguments_;
  std::optional<task<R>> task_;
  std::optional<result> value_;
};

template <class... Branches> class [[nodiscard]] all_operation final : public all_work {
 public:
  all_operation(instance& saga, fiber& f, Branches&&... branches)
      : all_work(saga, f), branches_(std::move(branches)...) {
    std::apply([this](auto&... each) { pointers_ = {&each...}; }, branches_);
  }
  /// Part of the expression that is awaited.
  all_operation&& undo_in_parallel() && {
    all_work::undo_in_parallel(true);
    return std::move(*this);
  }
  std::tuple<typename Branches::running::result...> await_resume() {
    raise_failure();
    return std::apply([](auto&... each) { return std::make_tuple(each.take_value()...); }, branches_);
  }

 private:
  std::span<branch_base* const> branches() noexcept override { return pointers_; }
  std::tuple<typename Branches::running...> branches_;
  std::array<branch_base*, sizeof...(Branches)> pointers_{};
};

template <class... Branches> class [[nodiscard]] race_operation final : public race_work {
 public:
  using result = std::variant<typename Branches::running::result...>;
  race_operation(instance& saga, fiber& f, std::string key, Branches&&... branches)
      : race_work(saga, f, std::move(key)), branches_(std::move(branches)...) {
    std::apply([this](auto&... each) { pointers_ = {&each...}; }, branches_);
  }
  result await_resume() { return take(winner(), std::index_sequence_for<Branches...>()); }
  [[nodiscard]] std::span<branch_base* const> branches() noexcept override { return pointers_; }

 private:
  template <std::size_t... I> result take(std::size_t winner, std::index_sequence<I...>) {
    std::optional<result> won;
    ((I == winner ? (void)won.emplace(std::in_place_index<I>, std::get<I>(branches_).take_value()) : void()), ...);
    return *std::move(won);
  }
  std::tuple<typename Branches::running...> branches_;
  std::array<branch_base*, sizeof...(Branches)> pointers_{};
};

template <class Branch> class [[nodiscard]] nested_operation final : public nested_work {
 public:
  nested_operation(instance& saga, fiber& f, Branch&& branch) : nested_work(saga, f), branch_(std::move(branch)) {}
  typename Branch::result await_resume() {
    raise_failure();
    if constexpr (!std::is_void_v<typename Branch::result>) return branch_.take_value();
  }

 private:
  branch_base& branch() noexcept override { return branch_; }
  typename Branch::running branch_;
};

}  // namespace detail

template <class... Branches> detail::all_operation<Branches...> scope::all(Branches... branches) {
  return {*saga_, *fiber_, std::move(branches)...};
}
template <class... Branches> detail::race_operation<Branches...> scope::any(Branches... branches) {
  return {*saga_, *fiber_, key_of("any"), std::move(branches)...};
}
template <fixed_string Name, class R, class... Parameters, class... Args>
auto scope::nested(task<R> (*function)(scope&, Parameters...), Args&&... args) {
  return detail::nested_operation<detail::branch_of<R, Parameters...>>(
      *saga_, *fiber_, branch<Name>(function, std::forward<Args>(args)...));
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
