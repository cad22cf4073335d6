// An outbox and its relay as one writes them first: there is a lease, and nothing that makes it safe. For comparison.
#pragma once

#include <cofferdam/outbox/publisher.hpp>
#include <cofferdam/storage/database.hpp>

#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

/// Publishes one message after the other and tries one that fails for ever. Asks for the lease before a page, not
/// before a message, and writes its place without asking whether the lease is still its own.
class naive_relay {
 public:
  naive_relay(database& db, publisher& to, std::string name, duration lease)
      : db_(&db), to_(&to), name_(std::move(name)), lease_(lease) {}

  /// Makes the tables.
  [[nodiscard]] static awaitable<void> prepare(database& db);
  static void enqueue(batch& b, const message& m);
  /// Never ends.
  [[nodiscard]] awaitable<void> run();

 private:
  awaitable<bool> has_lease();
  awaitable<void> publish_until_it_works(const message& m);

  database* db_;
  publisher* to_;
  std::string name_;
  duration lease_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
