// The receiver: takes messages from a consumer, lets a handler say what follows from each, and makes that happen once.
// A message that cannot be handled is put aside with its key, and the others flow.
//
//     inbox seen = co_await inbox::open(db, "shipping");
//     receiver parcels(*consumer, seen, "orders", [](const message& m, batch& effect) -> awaitable<void> {
//       effect.execute("insert into parcels(order_id) values($1)", m.payload());
//       co_return;
//     });
//     co_await parcels.run();
#pragma once

#include <cofferdam/core/backoff.hpp>
#include <cofferdam/core/event_channel.hpp>
#include <cofferdam/outbox/inbox.hpp>
#include <cofferdam/outbox/message.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

/// Brings messages, each until it is acknowledged: `nats_consumer`, `in_process_consumer`. May also have
/// `reject(const delivery&)`: bring it again at once.
template <class C>
concept message_consumer = requires(C& from, const typename C::delivery& d, duration limit) {
  { d.content } -> std::convertible_to<const message&>;
  { from.next(limit) } -> std::same_as<awaitable<std::optional<typename C::delivery>>>;
  from.acknowledge(d);
};

struct receiver_options {
  std::size_t max_concurrent = 16;  ///< messages handled at once, each of another key
  std::size_t max_waiting = 256;    ///< messages taken from the consumer and not dealt with
  std::uint32_t max_attempts = 5;   ///< of a message; then its key is put aside
  backoff_options backoff{.cap = std::chrono::seconds(10)};
  duration handler_timeout = std::chrono::seconds(30);
};

struct receiver_event {
  enum class kind : std::uint8_t {
    handled,   ///< and its effect has happened
    repeated,  ///< and nothing has happened, since it was handled before
    failed,    ///< an attempt; `message` says why
    troubled,  ///< the database, the broker, or what the handler needs: no attempt is counted
    parked,    ///< put aside; `message` says why, empty for one that only follows
  };
  kind what;
  std::string id, key, message;
};

namespace detail {

struct taken_message {
  message content;
  std::shared_ptr<void> delivery;
};

class any_consumer {
 public:
  virtual ~any_consumer() = default;
  virtual awaitable<std::optional<taken_message>> next(duration limit) = 0;
  virtual void acknowledge(const taken_message& taken) = 0;
  virtual void give_back(const taken_message& taken) = 0;
};

template <message_consumer C> class consumer_of final : public any_consumer {
 public:
  explicit consumer_of(C& from) noexcept : from_(&from) {}
  awaitable<std::optional<taken_message>> next(duration limit) override {
    auto got = co_await from_->next(limit);
    if (!got) co_return std::nullopt;
    message content = got->content;
    auto kept = std::make_shared<typename C::delivery>(*std::move(got));
    co_return std::optional<taken_message>(taken_message{std::move(content), std::move(kept)});
  }
  void acknowledge(const taken_message& taken) override { from_->acknowledge(delivery_of(taken)); }
  void give_back(const taken_message& taken) override {
    if constexpr (requires { from_->reject(delivery_of(taken)); }) from_->reject(delivery_of(taken));
  }

 private:
  static const typename C::delivery& delivery_of(const taken_message& taken) {
    return *static_cast<const typename C::delivery*>(taken.delivery.get());
  }
  C* from_;
};

}  // namespace detail

/// Messages of a key are handled one after the other, those of many keys side by side. A message is acknowledged when
/// its effect is committed, or when it is put aside, which is as durable.
///
/// A handler that throws `message_refused_error` has its message put aside at once, one that fails otherwise after
/// `max_attempts`. What says that the database or a policy of this library refuses (a circuit is open, say) costs no
/// attempt: the message waits.
///
/// Thread safety: every member from any thread; `run` once at a time, on the strand of its caller. Refers to consumer
/// and inbox, which must outlive it.
class receiver {
 public:
  /// Adds what follows from the message to the batch. May be called again for the same message: whatever else it does
  /// may happen twice.
  using handler = std::function<awaitable<void>(const message&, batch& effect)>;

  /// @param source  what the inbox knows the messages by: ids must be unique in it.
  template <message_consumer C>
  receiver(C& from, inbox& seen, std::string source, handler how, receiver_options options = {})
      : receiver(std::make_unique<detail::consumer_of<C>>(from), seen, std::move(source), std::move(how), options) {}
  receiver(const receiver&) = delete;
  receiver& operator=(const receiver&) = delete;
  ~receiver();

  /// Until it is cancelled; then it lets the handlers that are at work finish, and gives back what nobody works on.
  [[nodiscard]] awaitable<void> run();

  /// What was put aside, oldest first.
  [[nodiscard]] awaitable<std::vector<parked_message>> parked(std::size_t limit = 100);
  /// Handles what was put aside of a key, in order; then the key is open again. Returns how many messages.
  /// Errors: what the first that still fails ends with; those before it are handled.
  [[nodiscard]] awaitable<std::size_t> replay(std::string key);
  /// Gives up one message that was put aside; false when there is none of this id.
  [[nodiscard]] awaitable<bool> skip(std::string message_id);

  [[nodiscard]] event_channel<receiver_event>& events() noexcept;

 private:
  class session;
  struct state;
  receiver(std::unique_ptr<detail::any_consumer> from, inbox& seen, std::string source, handler how,
           receiver_options options);
  std::unique_ptr<state> state_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
