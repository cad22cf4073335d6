// Messages to functions of the same process: durable through the database that the outbox is in, with nothing else
// installed.
//
//     in_process_bus bus;
//     bus.subscribe("orders", [&](const message& m) { return ship(m); });
//     relay carrier(messages, bus);
#pragma once

#include <cofferdam/core/net.hpp>
#include <cofferdam/core/time.hpp>
#include <cofferdam/outbox/publisher.hpp>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

/// A publisher that hands each message to everyone who subscribed to its topic. What is acknowledged: every handler has
/// returned. A handler that fails makes the message come again, to all of them; an `inbox` makes its effect happen
/// once. Thread safety: subscribe before the relay runs.
class in_process_bus final : public publisher {
 public:
  /// Errors: `message_refused_error` parks the key of the message; anything else lets it come again.
  using handler = std::function<awaitable<void>(const message&)>;

  in_process_bus& subscribe(std::string topic, handler h);
  /// Messages that nobody subscribed to are acknowledged, since nobody wants them.
  awaitable<void> publish(const message& m) override;

 private:
  std::map<std::string, std::vector<handler>> handlers_;
};

/// The messages of a topic for a `receiver`, as a broker's consumer would bring them. The relay's publish ends when the
/// message is acknowledged, so the relay's `publish_timeout` and `window` are the limits here.
/// Thread safety: every member from any thread. The bus calls it as long as it publishes.
class in_process_consumer {
 public:
  struct delivery {
    message content;
    std::shared_ptr<void> handle;
  };

  in_process_consumer(in_process_bus& bus, std::string topic);
  in_process_consumer(const in_process_consumer&) = delete;
  in_process_consumer& operator=(const in_process_consumer&) = delete;
  ~in_process_consumer();

  /// The next message; nothing when the time is over first. Cancellation: any type.
  [[nodiscard]] awaitable<std::optional<delivery>> next(duration limit);
  void acknowledge(const delivery& d);
  /// It comes again, in the relay's time.
  void reject(const delivery& d);

 private:
  class state;
  std::shared_ptr<state> state_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
