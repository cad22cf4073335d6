// Where messages go: a broker, or whatever stands in for one.
#pragma once

#include <cofferdam/core/error.hpp>
#include <cofferdam/core/net.hpp>
#include <cofferdam/core/outcome.hpp>
#include <cofferdam/outbox/message.hpp>

#include <span>
#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// Thrown by a publisher for a message that the broker will never take: too large, an impossible topic.
class message_refused_error : public error {
 public:
  explicit message_refused_error(std::string message)
      : error(errc::message_refused, nullptr), message_(std::move(message)) {}
  [[nodiscard]] const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

/// A message to be published, and what became of it.
struct publication {
  const message* content = nullptr;
  bool is_done = false;  ///< the broker has it
  failure why{};         ///< otherwise; as an exception of `publish`
};

/// Thread safety: called from one relay's strand, many calls at a time.
class publisher {
 public:
  publisher() = default;
  publisher(const publisher&) = delete;
  publisher& operator=(const publisher&) = delete;
  virtual ~publisher() = default;

  /// Returns when the broker has the message, whatever that means for this broker. The same message may come again.
  /// Errors: `message_refused_error` for what will never work; anything else means that the broker is in trouble, and
  /// the message is tried again. Cancellation: ends the wait; the message may have arrived.
  virtual awaitable<void> publish(const message& m) = 0;
  /// Publishes all of these at once, in no order, and returns when each is done or has failed. Unless a publisher knows
  /// a shorter way, by a `publish` for each. Refers to `all` until it ends.
  /// Cancellation: ends the wait with an exception; what then is neither done nor failed may have arrived.
  virtual awaitable<void> publish_all(std::span<publication> all);
};

}  // namespace cofferdam::inline COFFERDAM_ABI
