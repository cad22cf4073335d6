// The inbox: what receivers remember, so that a message that comes twice has its effect once.
//
//     inbox seen = co_await inbox::open(db, "shipping");
//     batch b;
//     b.execute("insert into parcels(id) values($1)", order);
//     const bool is_new = co_await seen.commit(std::move(b), "orders", m.id());
#pragma once

#include <cofferdam/storage/database.hpp>

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// Thread safety: every member from any thread. Refers to the database, which must outlive it.
class inbox {
 public:
  /// @param consumer  whose memory it is: every consumer of a message counts for itself.
  [[nodiscard]] static awaitable<inbox> open(database& db, std::string consumer);

  /// Commits the effect of a message, unless it was committed before: then nothing happens and it is false.
  /// Errors: those of `database::commit`.
  [[nodiscard]] awaitable<bool> commit(batch effect, std::string source, std::string message_id);
  /// As above for sources whose messages have growing numbers, such as a stream or a partition, and come in order: one
  /// row a source, whatever comes. False for a number that is not greater than the last one.
  [[nodiscard]] awaitable<bool> commit_up_to(batch effect, std::string source, std::uint64_t number);
  /// The last number of a source; 0 for none.
  [[nodiscard]] awaitable<std::uint64_t> last(std::string source);
  [[nodiscard]] awaitable<bool> has(std::string source, std::string message_id);
  /// Forgets message ids of before a time. Must be longer ago than anything may be delivered again. Returns how many.
  [[nodiscard]] awaitable<std::size_t> forget_before(std::chrono::system_clock::time_point t);

  [[nodiscard]] database& storage() const noexcept { return *db_; }
  [[nodiscard]] const std::string& consumer() const noexcept { return consumer_; }

 private:
  inbox(database& db, std::string consumer) : db_(&db), consumer_(std::move(consumer)) {}
  awaitable<bool> finish(batch effect, statement is_known);
  database* db_;
  std::string consumer_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
