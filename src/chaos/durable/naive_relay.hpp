// A relay as one writes it first: it has a lease, and nothing that makes it safe. For comparison only.
#pragma once

#include <cofferdam/outbox/outbox.hpp>
#include <cofferdam/outbox/publisher.hpp>

#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

/// Publishes one message after the other and tries one that fails for ever. Asks for the lease before a page, not
/// before a message, and writes its place without asking whether the lease is still its own.
class naive_relay {
 public:
  naive_relay(outbox& from, publisher& to, std::string name, duration lease)
      : from_(&from), to_(&to), name_(std::move(name)), lease_(lease) {}

  /// Never ends.
  [[nodiscard]] awaitable<void> run();
  /// Messages behind its place.
  [[nodiscard]] static awaitable<void> prepare(database& db);

 private:
  awaitable<bool> has_lease();
  awaitable<void> publish_until_it_works(const message& m);

  outbox* from_;
  publisher* to_;
  std::string name_;
  duration lease_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
