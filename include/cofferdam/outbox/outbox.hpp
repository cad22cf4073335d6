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
#include <cofferdam/outbox/message_source.hpp>
#include <cofferdam/storage/database.hpp>

#include <cstddef>
#include <memory>
#include <string>

namespace cofferdam::inline COFFERDAM_ABI {

struct outbox_options {
  std::size_t max_payload = 1024 * 1024;  ///< bytes; larger messages are refused when they are enqueued
};

/// Thread safety: every member from any thread. Refers to the database, which must outlive it.
class outbox final : public message_source {
 public:
  /// Errors: `storage_error`.
  [[nodiscard]] static awaitable<outbox> open(database& db, outbox_options options = {});

  /// Adds the message to the batch. Returns its id. Rows are only ever added. Say what it tells about first: on
  /// PostgreSQL, batches that change the same rows then have their messages in the order of their changes.
  /// Errors: `message_refused_error` for a payload, topic, key or header that cannot be stored.
  std::string enqueue(batch& b, message m);

  [[nodiscard]] database& storage() const noexcept override { return *db_; }

  // --- for relays
  [[nodiscard]] std::size_t parts() const noexcept override { return 8; }
  [[nodiscard]] awaitable<page> read(std::size_t part, std::uint64_t after, std::size_t limit) override;
  [[nodiscard]] awaitable<std::optional<message>> find(std::uint64_t number) override;
  [[nodiscard]] awaitable<std::vector<message>> added(std::uint64_t after, std::chrono::system_clock::time_point from,
                                                      std::chrono::system_clock::time_point to,
                                                      std::size_t limit) override;
  [[nodiscard]] awaitable<backlog> waiting(std::string relay) override;
  [[nodiscard]] awaitable<bool> move_due(batch fence) override;
  [[nodiscard]] awaitable<std::optional<std::chrono::system_clock::time_point>> next_due() override;
  [[nodiscard]] awaitable<std::uint64_t> delayed() override;
  [[nodiscard]] awaitable<std::size_t> forget_before(std::chrono::system_clock::time_point t) override;

 private:
  struct state;
  outbox(database& db, std::shared_ptr<state> s) noexcept : db_(&db), state_(std::move(s)) {}
  struct horizon {
    std::uint64_t number = 0;      // up to here nothing can become visible any more
    bool hides_something = false;  // what is behind it is there, but somebody may write before it
  };
  awaitable<horizon> find_horizon(std::size_t part, std::uint64_t after);
  database* db_;
  std::shared_ptr<state> state_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
