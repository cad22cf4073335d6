// Queries to the one handler each has; one that must know of a command waits for the tables it reads.
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

#include <cofferdam/cqrs/command_context.hpp>
#include <cofferdam/cqrs/detail/handlers.hpp>
#include <cofferdam/eventsourcing/projection.hpp>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

/// Says with a member type what its handler yields.
template <class Q>
concept query = requires { typename Q::result; };

struct ask_options {
  consistency_token at_least = {};           ///< what the answer must know of
  duration limit = std::chrono::seconds(1);  ///< how long to wait for it, then `stale_read`
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
  template <query Q> query_bus& reads(projection& table) {
    at(detail::message_slot<Q>()).tables.push_back(&table);
    return *this;
  }
  /// These must have handlers: `build` says which have none.
  template <query... Q> query_bus& expect() {
    (expect(detail::message_slot<Q>(), detail::message_name<Q>()), ...);
    return *this;
  }
  /// Ends the set-up. Errors: `invalid_options_error` with every query that has no handler, or more than one.
  void build();

  /// The answer. The query lives until it is there.
  /// Errors: whatever the handler throws; `error` (`stale_read`) with how far the table is; std::logic_error for a
  /// query without handler. Cancellation: reaches the handler, or the wait.
  template <class Q>
    requires query<std::remove_cvref_t<Q>>
  [[nodiscard]] awaitable<typename std::remove_cvref_t<Q>::result> ask(Q&& q, ask_options options = {}) {
    COFFERDAM_GUARD_TASK(Q);
    using type = std::remove_cvref_t<Q>;
    entry& to = find(detail::message_slot<type>(), detail::message_name<type>());
    auto& handler = detail::typed_handler<type, void_context>(*to.handler);
    if constexpr (std::is_lvalue_reference_v<Q>) {
      if (options.at_least.position == 0) return handler.run(q, nullptr);
      return wait_and_run<type, const type&>(to, handler, q, options);
    } else {
      return wait_and_run<type, type>(to, handler, std::forward<Q>(q), options);
    }
  }

 private:
  struct void_context {};
  struct entry {
    std::string name;
    std::unique_ptr<detail::any_handler> handler;
    std::vector<projection*> tables;
  };

  template <class Q, class Held>
  awaitable<typename Q::result> wait_and_run(entry& to, detail::handler_for<Q, void_context>& handler, Held q,
                                             ask_options options) {
    if (options.at_least.position > 0) co_await wait_for_tables(to, options);
    co_return co_await handler.run(q, nullptr);
  }

  awaitable<void> wait_for_tables(const entry& to, ask_options options);
  [[nodiscard]] entry& at(std::size_t slot);
  [[nodiscard]] entry& find(std::size_t slot, const std::string& name);
  void set_handler(std::size_t slot, const std::string& name, std::unique_ptr<detail::any_handler> handler);
  void expect(std::size_t slot, const std::string& name);

  std::vector<std::unique_ptr<entry>> entries_;  // by slot
  std::vector<std::string> problems_;
  std::vector<std::size_t> expected_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
