// The outbox: messages are rows that commit together with what they tell about. No state without its message, no
// message without its state. A relay carries them to a broker.
//
//     outbox messages = co_await outbox::open(db);
//     batch b;
//     b.execute("insert into orders(id, total) values($1, $2)", id, total);
//     messages.enqueue(b, message("orders", "order.placed", json).key(id));
//     co_await db.commit(std::move(b));
#pragma once

#include <cofferdam/outbox/message.hpp>
#include <cofferdam/storage/database.hpp>

#include <cstddef>
#include <memory>
#include <string>

namespace cofferdam::inline COFFERDAM_ABI {

struct outbox_options {
  std::size_t max_payload = 1024 * 1024;  ///< bytes; larger messages are refused when they are enqueued
};

/// Thread safety: every member from any thread. Refers to the database, which must outlive it.
class outbox {
 public:
  /// Messages of a key are all in one of these parts; a relay serves some of them.
  static constexpr std::size_t parts = 8;

  /// Errors: `storage_error`.
  [[nodiscard]] static awaitable<outbox> open(database& db, outbox_options options = {});

  /// Adds the message to the batch. Returns its id. Rows are only ever added.
  /// Errors: `message_refused_error` for a payload, topic, key or header that cannot be stored.
  std::string enqueue(batch& b, message m);

  [[nodiscard]] database& storage() const noexcept { return *db_; }

 private:
  struct state;
  outbox(database& db, std::shared_ptr<state> s) noexcept : db_(&db), state_(std::move(s)) {}
  database* db_;
  std::shared_ptr<state> state_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
