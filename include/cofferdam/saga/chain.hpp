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

#include <cofferdam/saga/detail/chain_rules.hpp>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::saga {

/// A saga as a constant. A value; all but the numbers in it is type.
template <class In, class List, class... Links> class chain {
 public:
  using input = In;
  using results = typename detail::results_of<List>::type;

  constexpr chain(std::string_view name, std::tuple<Links...> links) : name_(name), links_(std::move(links)) {}
  [[nodiscard]] constexpr std::string_view name() const noexcept { return name_; }

  /// Appends a link.
  template <class Link> constexpr auto operator|(const Link& next) const {
    static_assert(!detail::has_double_name<Links..., Link>(), "saga: two steps of this chain have the same name");
    static_assert(detail::pivots_in<Links..., Link>() <= 1, "saga: a chain has one pivot");
    static_assert(!detail::repeats_pivot<Link>::value, "saga: a pivot happens once: it cannot be in a repeat");
    static_assert(!detail::goes_back_after_pivot<Links..., Link>(),
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
    made.begin = [links](detail::instance& saga, std::string path,
                         const nlohmann::json& stored) -> std::unique_ptr<detail::branch_base> {
      return std::make_unique<body>(saga, std::move(path), stored.get<In>(), links);
    };
    made.output = [](detail::branch_base& ended) { return nlohmann::json(static_cast<body&>(ended).run().results()); };
    describe<detail::slot_list<>, 0>(made, links);
    return made;
  }
  awaitable<results> run_here(std::shared_ptr<detail::engine_state> state, std::string id, In in,
                              duration deadline) const {
    const auto links = std::make_shared<const std::vector<detail::link>>(all_links());
    detail::saga_here saga(std::move(state), std::move(id), deadline);
    body root(saga.saga(), {}, std::move(in), links);
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
    body(detail::instance& saga, std::string path, In in, shared_links links)
        : body(saga, std::move(path), std::make_shared<typed_run>(std::move(in)), std::move(links)) {}
    [[nodiscard]] typed_run& run() noexcept { return *run_; }

   private:
    body(detail::instance& saga, std::string path, std::shared_ptr<typed_run> run, shared_links links)
        : links_branch(saga, std::move(path), *links, run), links_(std::move(links)), run_(std::move(run)) {}
    shared_links links_;
    std::shared_ptr<typed_run> run_;
  };

  [[nodiscard]] std::vector<detail::link> all_links() const {
    std::vector<detail::link> made;
    made.reserve(sizeof...(Links));
    detail::add_each<In, detail::slot_list<>, 0>(links_, made, false);
    return made;
  }

  /// What the chain had when the step with this key ran, or later, as its journal tells.
  static std::shared_ptr<typed_run> restore(const detail::journal_view& journal, const std::vector<detail::link>& links,
                                            const std::string& key) {
    auto run = std::make_shared<typed_run>(detail::read_stored<In>(journal.input(), "input"));
    nlohmann::json found = nlohmann::json::object();
    detail::collect(journal, links, {}, key, found);
    from_json(found, run->results());
    return run;
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
      describe_inner<typename detail::inner_slots<Link, Before>::type, 0>(each.links, made, links);
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
        return undo_again<work, result>(restore(journal, *links, context.key()), context, known);
      };
    }
    if constexpr (!Link::is_transactional) {
      made.act = [links](step_context& context, const detail::journal_view& journal, const nlohmann::json&) {
        return act_again<work>(restore(journal, *links, context.key()), context);
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
/// Steps side by side until one succeeds; what the others did is undone. `s.has("name"_s)` says which it was: the
/// others have no result. When every step fails, the saga does.
template <fixed_string Name, class... Links>
[[nodiscard]] constexpr detail::any_link<Name, Links...> any(const Links&... links) {
  return {{links...}};
}
/// Links that run again as long as `(const auto& s) -> bool` holds, which is asked before every round: captureless, and
/// of nothing but what it sees, the links' results of the round before among it. Its own result is the number of
/// rounds.
template <fixed_string Name, class Condition, class... Links>
[[nodiscard]] constexpr detail::repeat_link<Name, Condition, Links...> repeat(Condition, const Links&... links) {
  return {{links...}};
}
/// Runs another saga, a coroutine or a chain, and waits for its end: see `scope::call`.
/// The second argument is captureless, `(const auto& s)` to the child's input.
template <fixed_string Name, class Child, class Input>
[[nodiscard]] constexpr detail::call_link<Name, Child, Input> call(const Child& child, Input) {
  return {child};
}
template <fixed_string Name, class Out, class In, class Input>
[[nodiscard]] constexpr detail::call_link<Name, task<Out> (*)(scope&, In), Input> call(task<Out> (*child)(scope&, In),
                                                                                       Input) {
  return {child};
}
/// Locks what `(const auto& s)` names until the saga has ended: see `scope::lock`. Captureless.
template <class Resource>
[[nodiscard]] constexpr detail::lock_link<Resource> lock(Resource, duration limit = duration::max()) {
  return {limit};
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
