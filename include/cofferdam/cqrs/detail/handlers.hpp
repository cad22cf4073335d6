// Handlers of messages, found by the message's type: a number for each type, a virtual call, nothing else.
#pragma once

#include <cofferdam/core/outcome.hpp>
#include <cofferdam/core/task.hpp>
#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/resilience/pipeline.hpp>

#include <nlohmann/json.hpp>

#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::detail {

[[nodiscard]] std::size_t next_message_slot() noexcept;
[[nodiscard]] std::string readable_name(const std::type_info& type);

template <class Message> [[nodiscard]] std::size_t message_slot() noexcept {
  static const std::size_t slot = next_message_slot();
  return slot;
}
/// `Message::name` if it has one, otherwise the type's.
template <class Message> [[nodiscard]] const std::string& message_name() {
  if constexpr (requires { std::string(Message::name); }) {
    static const std::string name(Message::name);
    return name;
  } else {
    static const std::string name = readable_name(typeid(Message));
    return name;
  }
}

class any_handler {
 public:
  virtual ~any_handler() = default;
};

template <class Message, class Context> class handler_for : public any_handler {
 public:
  /// `message`, and `context` where it is wanted, must live until the awaitable has ended.
  [[nodiscard]] virtual awaitable<typename Message::result> run(const Message& message, Context* context) = 0;
  [[nodiscard]] virtual bool wants_context() const noexcept = 0;
};

template <class Message, class Context, class Handler> class handler_of final : public handler_for<Message, Context> {
 public:
  explicit handler_of(Handler handler) : handler_(std::move(handler)) {}

  awaitable<typename Message::result> run(const Message& message, Context* context) override {
    if constexpr (takes_context) {
      return awaited(std::invoke(handler_, message, *context));
    } else if constexpr (std::is_void_v<std::invoke_result_t<Handler&, const Message&>>) {
      std::invoke(handler_, message);
      return nothing();
    } else {
      return awaited(std::invoke(handler_, message));
    }
  }
  [[nodiscard]] bool wants_context() const noexcept override { return takes_context; }

 private:
  static constexpr bool takes_context = std::is_invocable_v<Handler&, const Message&, Context&>;
  using result = typename Message::result;

  static awaitable<result> awaited(awaitable<result> pending) { return pending; }
  template <class T> static awaitable<result> awaited(T value) { co_return result(std::move(value)); }
  static awaitable<void> nothing() { co_return; }

  Handler handler_;
};

/// The slot says that the types are right.
template <class Message, class Context>
[[nodiscard]] handler_for<Message, Context>& typed_handler(any_handler& handler) noexcept {
  return static_cast<handler_for<Message, Context>&>(handler);
}

template <class T> awaitable<T> valued(awaitable<outcome<T>> attempted) {
  auto result = co_await std::move(attempted);
  if constexpr (std::is_void_v<T>) {
    result.value();
  } else {
    co_return std::move(result).value();
  }
}

/// What the handler yields, or why it does not.
template <class Message, class Context>
awaitable<outcome<typename Message::result>> run_under(std::optional<pipeline>& policies,
                                                       handler_for<Message, Context>& handler, const Message& message,
                                                       Context* context) {
  const auto work = [&handler, &message, context] { return handler.run(message, context); };
  if (policies) co_return co_await policies->try_run(work);
  failure why;
  try {
    if constexpr (std::is_void_v<typename Message::result>) {
      co_await work();
      co_return outcome<void>();
    } else {
      co_return co_await work();
    }
  } catch (const std::exception& e) {
    why = failure::current(e);
  } catch (...) {
    why = failure::current();
  }
  co_return why;
}

/// Since it was made.
class stopwatch {
 public:
  explicit stopwatch(const net::any_io_executor& executor) : timers_(&timers_of(executor)), began_(timers_->now()) {}
  [[nodiscard]] duration elapsed() const { return timers_->now() - began_; }
  [[nodiscard]] std::chrono::system_clock::time_point date() const { return timers_->date(); }

 private:
  const timer_service* timers_;
  time_point began_;
};

template <class C, class Result>
inline constexpr bool is_encodable =
    std::is_constructible_v<nlohmann::json, const C&> && std::is_constructible_v<nlohmann::json, const Result&> &&
    requires(nlohmann::json data) {
      { data.get<Result>() };
    };
template <class C> inline constexpr bool is_encodable<C, void> = std::is_constructible_v<nlohmann::json, const C&>;

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
