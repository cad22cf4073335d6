// Where a relay takes messages from: an outbox, an event log, or whatever else keeps them in an order of its own.
#pragma once

#include <cofferdam/outbox/message.hpp>
#include <cofferdam/storage/database.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

/// Thread safety: every member from any thread. Errors of every member: `storage_error`.
class message_source {
 public:
  /// What was read of a part.
  struct page {
    std::vector<message> messages;  ///< in their order, with their numbers
    std::uint64_t read_to = 0;      ///< up to here there is nothing more that could be read
    bool is_end = true;             ///< nothing more was there
    duration look_again{};          ///< something is held back by a writer that has not ended: look again then
  };
  struct backlog {
    std::uint64_t count = 0;
    std::optional<std::chrono::system_clock::time_point> oldest;
  };
  virtual ~message_source() = default;

  /// Where the messages are; the relay keeps its place there, too.
  [[nodiscard]] virtual database& storage() const noexcept = 0;
  /// Messages of a key are all in one of these parts, for ever; those of different parts know no order.
  [[nodiscard]] virtual std::size_t parts() const noexcept = 0;
  /// Messages of a part after a number. What is read is never preceded by one that becomes visible later.
  [[nodiscard]] virtual awaitable<page> read(std::size_t part, std::uint64_t after, std::size_t limit) = 0;
  [[nodiscard]] virtual awaitable<std::optional<message>> find(std::uint64_t number) = 0;
  /// Messages of all parts after a number that were added from `from` to before `to`; empty at the end.
  [[nodiscard]] virtual awaitable<std::vector<message>> added(std::uint64_t after,
                                                              std::chrono::system_clock::time_point from,
                                                              std::chrono::system_clock::time_point to,
                                                              std::size_t limit) = 0;
  /// What lies behind the place of the relays of a name.
  [[nodiscard]] virtual awaitable<backlog> waiting(std::string relay) = 0;

  // --- for sources that hold messages back, or forget them; others have nothing to do
  /// Gives those whose time has come a place in the order, in a commit together with `fence`. Returns whether any had.
  [[nodiscard]] virtual awaitable<bool> move_due(batch fence);
  /// When the next one's time comes.
  [[nodiscard]] virtual awaitable<std::optional<std::chrono::system_clock::time_point>> next_due();
  /// How many wait for their time.
  [[nodiscard]] virtual awaitable<std::uint64_t> delayed();
  /// Removes messages of before a time that every relay has published and none has put aside. Returns how many.
  [[nodiscard]] virtual awaitable<std::size_t> forget_before(std::chrono::system_clock::time_point t);

 protected:
  message_source() = default;
  message_source(const message_source&) = default;
  message_source(message_source&&) = default;
  message_source& operator=(const message_source&) = default;
  message_source& operator=(message_source&&) = default;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
