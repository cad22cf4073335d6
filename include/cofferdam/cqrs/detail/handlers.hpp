// Handlers of messages, found by the message's type: a number for each type, a virtual call, nothing else.
#pragma once

#include <cofferdam/core/task.hpp>

#include <nlohmann/json.hpp>

#include <atomic>
#include <cstddef>
#include <functional>
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

template <class C, class Result>
inline constexpr bool is_encodable =
    std::is_constructible_v<nlohmann::json, const C&> && std::is_constructible_v<nlohmann::json, const Result&> &&
    requires(nlohmann::json data) {
      { data.get<Result>() };
    };
template <class C> inline constexpr bool is_encodable<C, void> = std::is_constructible_v<nlohmann::json, const C&>;

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
