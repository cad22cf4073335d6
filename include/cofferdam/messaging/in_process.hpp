// Messages to functions of the same process: durable through the database that the outbox is in, with nothing else
// installed.
//
//     in_process_bus bus;
//     bus.subscribe("orders", [&](const message& m) { return ship(m); });
//     relay carrier(messages, bus);
#pragma once

#include <cofferdam/core/net.hpp>
#include <cofferdam/outbox/publisher.hpp>

#include <functional>
#include <map>
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

}  // namespace cofferdam::inline COFFERDAM_ABI
