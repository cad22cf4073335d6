// Queries to the one handler each has, through what all of them pass: authorisation, the wait for the tables that must
// know of a command, and the policies of a pipeline.
//
//     struct orders_of {
//       using result = std::vector<std::string>;
//       std::string customer;
//     };
//     query_bus queries;
//     queries.handle<orders_of>(find_orders).reads<orders_of>(order_table);  // a projection
//     queries.build();
//     const orders_of q{"ada"};
//     const auto found = co_await queries.ask(q, {.at_least = context.token(), .limit = 1s});
#pragma once

#include <cofferdam/core/event_channel.hpp>
#include <cofferdam/cqrs/command_context.hpp>
#include <cofferdam/cqrs/detail/handlers.hpp>
#include <cofferdam/resilience/pipeline.hpp>

#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

/// Says with a member type what its handler yields.
template <class Q>
concept query = requires { typename Q::result; };

/// A table that follows events: `projection`, `blue_green_projection`, or the program's own.
template <class T>
concept followed_table = requires(T& table, std::uint64_t position, duration limit) {
  { table.wait_for(position, limit) } -> std::same_as<awaitable<bool>>;
  { table.position() } -> std::same_as<awaitable<std::uint64_t>>;
};

struct ask_options {
  consistency_token at_least = {};           ///< what the answer must know of
  duration limit = std::chrono::seconds(1);  ///< how long to wait for it, then `stale_read`
};

struct query_event {
  enum class kind : std::uint8_t { started, succeeded, refused, failed };
  kind what;
  std::string query;
  failure why;                               ///< of `refused` and `failed`
  duration took{};                           ///< since it was asked; 0 of `started`
  const command_context* context = nullptr;  ///< whose query it is; for as long as the listener runs
};

/// Thread safety: setting up: none, and before `build`; then every member from any thread. Must outlive its calls.
class query_bus {
 public:
  query_bus();
  ~query_bus();
  query_bus(const query_bus&) = delete;
  query_bus& operator=(const query_bus&) = delete;

  /// The one who answers `Q`: anything callable with (const Q&) that yields Q::result or awaitable<Q::result>.
  template <query Q, class Handler> query_bus& handle(Handler handler) {
    static_assert(std::is_invocable_v<Handler&, const Q&>, "a handler takes (const Query&)");
    set_handler(detail::message_slot<Q>(), detail::message_name<Q>(),
                std::make_unique<detail::handler_of<Q, void_context, Handler>>(std::move(handler)));
    return *this;
  }
  /// Answers of `Q` come from a table that follows events. Several: all are waited for.
  template <query Q, followed_table Table> query_bus& reads(Table& table) {
    at(detail::message_slot<Q>())
        .tables.push_back({[&table](std::uint64_t position, duration limit) { return table.wait_for(position, limit); },
                           [&table] { return table.position(); }});
    return *this;
  }
  /// These must have handlers: `build` says which have none.
  template <query... Q> query_bus& expect() {
    (expect(detail::message_slot<Q>(), detail::message_name<Q>()), ...);
    return *this;
  }
  /// Whether this query (its name) may be asked in this context; asked before all else. One for all.
  query_bus& authorise(std::function<bool(const std::string&, const command_context&)> rule);
  /// The policies that every handler runs under. A retry among them starts the handler again. Of an `answer_stream`
  /// they see the beginning.
  query_bus& use(pipeline policies);
  /// Ends the set-up. Errors: `invalid_options_error` with every query that has no handler, or more than one.
  void build();

  /// The answer. The query lives until it is there.
  /// Errors: whatever the handler throws; `error` (`command_forbidden`); refusals of the policies; `error`
  /// (`stale_read`) with how far the table is; std::logic_error for a query without handler. Cancellation: reaches the
  /// handler, or the wait.
  template <class Q>
    requires query<std::remove_cvref_t<Q>>
  [[nodiscard]] awaitable<typename std::remove_cvref_t<Q>::result> ask(Q&& q, ask_options options = {}) {
    COFFERDAM_GUARD_TASK(Q);
    using type = std::remove_cvref_t<Q>;
    entry& to = find(detail::message_slot<type>(), detail::message_name<type>());
    auto& handler = detail::typed_handler<type, void_context>(*to.handler);
    if constexpr (std::is_lvalue_reference_v<Q>) {
      // Nothing in between: the handler's own coroutine is all there is.
      if (is_plain_ && options.at_least.position == 0 && !events_.has_listeners()) return handler.run(q, nullptr);
      return detail::valued(attempt<type, const type&>(to, handler, q, options));
    } else {
      return detail::valued(attempt<type, type>(to, handler, std::forward<Q>(q), options));
    }
  }
  /// As `ask`, for somebody: the answer also knows of the command that the context went with.
  template <class Q>
    requires query<std::remove_cvref_t<Q>>
  [[nodiscard]] awaitable<typename std::remove_cvref_t<Q>::result> ask(Q&& q, const command_context& context,
                                                                       ask_options options = {}) {
    COFFERDAM_GUARD_TASK(Q);
    using type = std::remove_cvref_t<Q>;
    using held = std::conditional_t<std::is_lvalue_reference_v<Q>, const type&, type>;
    entry& to = find(detail::message_slot<type>(), detail::message_name<type>());
    auto& handler = detail::typed_handler<type, void_context>(*to.handler);
    options.at_least.position = std::max(options.at_least.position, context.token().position);
    return detail::valued(pass<type, held>(to, handler, std::forward<Q>(q), context, options));
  }

  [[nodiscard]] event_channel<query_event>& events() noexcept { return events_; }

 private:
  struct void_context {};
  struct awaited_table {
    std::function<awaitable<bool>(std::uint64_t, duration)> wait_for;
    std::function<awaitable<std::uint64_t>()> position;
  };
  struct entry {
    std::string name;
    std::unique_ptr<detail::any_handler> handler;
    std::vector<awaited_table> tables;
  };

  template <class Q, class Held>
  awaitable<outcome<typename Q::result>> attempt(entry& to, detail::handler_for<Q, void_context>& handler, Held q,
                                                 ask_options options) {
    const command_context nobody;
    co_return co_await pass<Q, const Q&>(to, handler, q, nobody, options);
  }

  /// All that a query passes.
  template <class Q, class Held>
  awaitable<outcome<typename Q::result>> pass(entry& to, detail::handler_for<Q, void_context>& handler, Held q,
                                              const command_context& context, ask_options options) {
    const auto executor = co_await net::this_coro::executor;
    const detail::stopwatch since(executor);
    publish(query_event::kind::started, to, context, {});
    failure why = refusal(to, context);
    if (!why && options.at_least.position > 0) why = co_await wait_for_tables(to, options);
    if (why) {
      publish(query_event::kind::refused, to, context, since.elapsed(), why);
      co_return why;
    }
    auto result = co_await detail::run_under<Q, void_context>(policies_, handler, q, nullptr);
    const auto what = result ? query_event::kind::succeeded : query_event::kind::failed;
    publish(what, to, context, since.elapsed(), result.why());
    co_return result;
  }

  [[nodiscard]] failure refusal(const entry& to, const command_context& context) const;
  awaitable<failure> wait_for_tables(const entry& to, ask_options options);
  void publish(query_event::kind what, const entry& about, const command_context& context, duration took,
               const failure& why = {});
  [[nodiscard]] entry& at(std::size_t slot);
  [[nodiscard]] entry& find(std::size_t slot, const std::string& name);
  void set_handler(std::size_t slot, const std::string& name, std::unique_ptr<detail::any_handler> handler);
  void expect(std::size_t slot, const std::string& name);

  std::vector<std::unique_ptr<entry>> entries_;  // by slot
  std::vector<std::string> problems_;
  std::vector<std::size_t> expected_;
  std::function<bool(const std::string&, const command_context&)> authorise_;
  std::optional<pipeline> policies_;
  bool is_plain_ = true;
  event_channel<query_event> events_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
