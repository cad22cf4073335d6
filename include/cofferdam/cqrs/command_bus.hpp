// Commands to the one handler each has, through what all of them pass: authorisation, validation, happening once, and
// the policies of a pipeline.
//
//     struct place_order {
//       using result = std::string;
//       std::string customer;
//       int total = 0;
//     };
//     command_bus commands;
//     commands.handle<place_order>(place);  // awaitable<std::string> place(const place_order&, command_context&)
//     commands.build();
//     const place_order order{"ada", 12};
//     const std::string id = co_await commands.send(order);
#pragma once

#include <cofferdam/core/event_channel.hpp>
#include <cofferdam/core/task.hpp>
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
template <class C>
concept command = requires { typename C::result; };

/// What a validation found. Nothing: valid.
class violations {
 public:
  void add(std::string field, std::string what) { found_.push_back({std::move(field), std::move(what)}); }
  /// As `add`, unless `holds`.
  void require(bool holds, std::string field, std::string what) {
    if (!holds) add(std::move(field), std::move(what));
  }

  struct violation {
    std::string field, what;
  };
  [[nodiscard]] const std::vector<violation>& all() const noexcept { return found_; }

 private:
  std::vector<violation> found_;
};

/// A command that is not valid, with everything that is wrong with it.
class command_invalid_error : public error {
 public:
  command_invalid_error(const std::string& command, violations found);
  [[nodiscard]] const char* what() const noexcept override { return message_.c_str(); }
  [[nodiscard]] const violations& found() const noexcept { return found_; }

 private:
  violations found_;
  std::string message_;
};

struct command_event {
  enum class kind : std::uint8_t { started, succeeded, repeated, refused, failed };
  kind what;
  std::string command;
  failure why;                               ///< of `refused` and `failed`
  duration took{};                           ///< since it was sent; 0 of `started`
  const command_context* context = nullptr;  ///< whose command it is; for as long as the listener runs
};

/// Thread safety: setting up: none, and before `build`; then every member from any thread. Must outlive its calls.
class command_bus {
 public:
  command_bus();
  ~command_bus();
  command_bus(const command_bus&) = delete;
  command_bus& operator=(const command_bus&) = delete;

  // --- set-up
  /// The one who handles `C`: anything callable with (const C&) or (const C&, command_context&) that yields C::result
  /// or awaitable<C::result>. It refers to the command, which lives until it has ended.
  template <command C, class Handler> command_bus& handle(Handler handler) {
    static_assert(std::is_invocable_v<Handler&, const C&> || std::is_invocable_v<Handler&, const C&, command_context&>,
                  "a handler takes (const Command&) or (const Command&, command_context&)");
    set_handler(detail::message_slot<C>(), detail::message_name<C>(),
                std::make_unique<detail::handler_of<C, command_context, Handler>>(std::move(handler)));
    return *this;
  }
  /// These must have handlers: `build` says which have none.
  template <command... C> command_bus& expect() {
    (expect(detail::message_slot<C>(), detail::message_name<C>()), ...);
    return *this;
  }
  /// Looks at commands before they are handled, and says everything that is wrong with them. Several are asked in turn.
  template <command C> command_bus& validate(std::function<void(const C&, violations&)> rule) {
    at(detail::message_slot<C>()).rules.push_back([rule = std::move(rule)](const void* c, violations& found) {
      rule(*static_cast<const C*>(c), found);
    });
    return *this;
  }
  /// Whether this command (its name) may be sent in this context; asked before all else. One for all.
  command_bus& authorise(std::function<bool(const std::string&, const command_context&)> rule);
  /// The policies that every handler runs under. A retry among them starts the handler again.
  command_bus& use(pipeline policies);
  /// Heeds idempotency keys: handlers commit through `command_context::commit` on `db`, and a command that comes again
  /// with the same key and content gets the first one's result. Those of one tenant do not meet those of another.
  /// Commands need `to_json`, results also `from_json`; both are asked for only when a key is given.
  /// Errors: `storage_error`.
  [[nodiscard]] awaitable<void> once(database& db);
  /// Removes keys that were used before `date`. Returns how many. Errors: `storage_error`; std::logic_error without
  /// `once`.
  [[nodiscard]] awaitable<std::size_t> forget_before(std::chrono::system_clock::time_point date);
  /// Ends the set-up. Errors: `invalid_options_error` with every command that has no handler, or more than one.
  void build();

  // --- sending
  /// What the handler yields. The first form suits whoever needs no context.
  /// Errors: `command_invalid_error`; `error` (`command_forbidden`, `command_key_reused`); refusals of the policies;
  /// whatever the handler throws; std::logic_error for a command without handler, and for a handler that was given a
  /// key and did not commit through its context. Cancellation: reaches the handler.
  template <class C>
    requires command<std::remove_cvref_t<C>>
  [[nodiscard]] awaitable<typename std::remove_cvref_t<C>::result> send(C&& c) {
    COFFERDAM_GUARD_TASK(C);
    using type = std::remove_cvref_t<C>;
    entry& to = find(detail::message_slot<type>(), detail::message_name<type>());
    if constexpr (std::is_lvalue_reference_v<C>) {
      auto& handler = detail::typed_handler<type, command_context>(*to.handler);
      // Nothing in between: the handler's own coroutine is all there is.
      if (is_plain_ && to.rules.empty() && !handler.wants_context() && !events_.has_listeners()) {
        return handler.run(c, nullptr);
      }
      return detail::valued(attempt<type>(to, c));
    } else {
      return detail::valued(keep<type>(to, std::forward<C>(c)));
    }
  }
  template <class C>
    requires command<std::remove_cvref_t<C>>
  [[nodiscard]] awaitable<typename std::remove_cvref_t<C>::result> send(C&& c, command_context& context) {
    COFFERDAM_GUARD_TASK(C);
    return detail::valued(try_send(std::forward<C>(c), context));
  }
  /// As `send`; a failure is a value.
  template <class C>
    requires command<std::remove_cvref_t<C>>
  [[nodiscard]] awaitable<outcome<typename std::remove_cvref_t<C>::result>> try_send(C&& c) {
    COFFERDAM_GUARD_TASK(C);
    using type = std::remove_cvref_t<C>;
    entry& to = find(detail::message_slot<type>(), detail::message_name<type>());
    if constexpr (std::is_lvalue_reference_v<C>) {
      return attempt<type>(to, c);
    } else {
      return keep<type>(to, std::forward<C>(c));
    }
  }
  template <class C>
    requires command<std::remove_cvref_t<C>>
  [[nodiscard]] awaitable<outcome<typename std::remove_cvref_t<C>::result>> try_send(C&& c, command_context& context) {
    COFFERDAM_GUARD_TASK(C);
    using type = std::remove_cvref_t<C>;
    entry& to = find(detail::message_slot<type>(), detail::message_name<type>());
    if constexpr (std::is_lvalue_reference_v<C>) {
      return pass<type>(to, c, context);
    } else {
      return keep_with<type>(to, std::forward<C>(c), context);
    }
  }

  /// What a command passes, in order, one a line.
  [[nodiscard]] std::string describe() const;
  /// Where it keeps keys; null without `once`.
  [[nodiscard]] database* keys() const noexcept { return database_; }
  [[nodiscard]] event_channel<command_event>& events() noexcept { return events_; }

 private:
  struct entry {
    std::string name;
    std::unique_ptr<detail::any_handler> handler;
    std::vector<std::function<void(const void*, violations&)>> rules;
  };
  struct repeated_result {
    bool is_known = false;
    std::string result;
    std::uint64_t position = 0;
  };

  template <class C> awaitable<outcome<typename C::result>> attempt(entry& to, const C& c) {
    command_context context;
    co_return co_await pass<C>(to, c, context);
  }
  template <class C> awaitable<outcome<typename C::result>> keep(entry& to, C c) {
    command_context context;
    co_return co_await pass<C>(to, c, context);
  }
  template <class C> awaitable<outcome<typename C::result>> keep_with(entry& to, C c, command_context& context) {
    co_return co_await pass<C>(to, c, context);
  }

  /// All that a command passes.
  template <class C> awaitable<outcome<typename C::result>> pass(entry& to, const C& c, command_context& context) {
    using result_type = typename C::result;
    const auto executor = co_await net::this_coro::executor;
    const detail::stopwatch since(executor);
    publish(command_event::kind::started, to, context, {});
    if (failure why = refusal(to, &c, context)) {
      publish(command_event::kind::refused, to, context, since.elapsed(), why);
      co_return why;
    }
    const bool is_once = database_ != nullptr && !context.idempotency_key().empty();
    if constexpr (detail::is_encodable<C, result_type>) {
      if (is_once) {
        identify(to, nlohmann::json(c).dump(), since.date(), context);
        auto before = co_await find_repeated(context);
        if (!before) co_return report(to, outcome<result_type>(before.why()), context, since.elapsed());
        if (before->is_known) co_return repeat<result_type>(to, *before, context, since.elapsed());
      }
    } else if (is_once) {
      throw std::logic_error("'" + to.name +
                             "' was sent with an idempotency key, but it has no to_json, or its result "
                             "no to_json and from_json");
    }
    auto& handler = detail::typed_handler<C, command_context>(*to.handler);
    auto result = co_await detail::run_under(policies_, handler, c, &context);
    if constexpr (detail::is_encodable<C, result_type>) {
      if (is_once && !result) {
        // A twin of it may have been faster.
        auto twin = co_await find_repeated(context);
        if (twin && twin->is_known) co_return repeat<result_type>(to, *twin, context, since.elapsed());
      }
      if (is_once && result) require_committed(to, context);
    }
    co_return report(to, std::move(result), context, since.elapsed());
  }

  template <class T>
  outcome<T> repeat(entry& to, const repeated_result& stored, command_context& context, duration took) {
    context.reached(stored.position);
    publish(command_event::kind::repeated, to, context, took);
    if constexpr (std::is_void_v<T>) {
      return outcome<void>();
    } else {
      return outcome<T>(nlohmann::json::parse(stored.result).template get<T>());
    }
  }
  template <class T> outcome<T> report(entry& to, outcome<T> result, const command_context& context, duration took) {
    const auto what = result ? command_event::kind::succeeded : command_event::kind::failed;
    publish(what, to, context, took, result.why());
    return result;
  }

  [[nodiscard]] entry& at(std::size_t slot);
  [[nodiscard]] entry& find(std::size_t slot, const std::string& name);
  void set_handler(std::size_t slot, const std::string& name, std::unique_ptr<detail::any_handler> handler);
  void expect(std::size_t slot, const std::string& name);
  [[nodiscard]] failure refusal(const entry& to, const void* c, const command_context& context) const;
  static void identify(const entry& to, const std::string& content, std::chrono::system_clock::time_point now,
                       command_context& context);
  awaitable<outcome<repeated_result>> find_repeated(const command_context& context);
  static void require_committed(const entry& to, const command_context& context);
  void publish(command_event::kind what, const entry& about, const command_context& context, duration took,
               const failure& why = {});

  std::vector<std::unique_ptr<entry>> entries_;  // by slot
  std::vector<std::string> problems_;            // for build
  std::vector<std::size_t> expected_;
  std::function<bool(const std::string&, const command_context&)> authorise_;
  std::optional<pipeline> policies_;
  database* database_ = nullptr;
  bool is_plain_ = true;
  event_channel<command_event> events_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
