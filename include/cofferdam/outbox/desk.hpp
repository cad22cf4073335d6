// The operator's desk of a relay: what waits, what was put aside, and what shall become of it. Works beside the relays,
// in the same process or another, and needs no broker: what is asked for here, they carry out.
//
//     outbox_desk desk(messages, "relay");
//     for (const parked_message& p : co_await desk.parked()) std::puts(p.reason.c_str());
//     co_await desk.ask_replay("customer-7");
#pragma once

#include <cofferdam/outbox/message_source.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

struct relay_status {
  std::uint64_t backlog = 0;                                    ///< messages not published yet
  std::optional<std::chrono::system_clock::time_point> oldest;  ///< of these
  std::uint64_t parked = 0, delayed = 0;                        ///< messages
  std::size_t owned_parts = 0;                                  ///< served by any relay at the moment
};

/// Something that an operator asked for, and no relay has finished yet.
struct relay_request {
  enum class kind : std::uint8_t {
    replay,     ///< of what was put aside of `key`
    republish,  ///< of what was added from `from` to before `to`
  };
  std::uint64_t number = 0;
  kind what = kind::replay;
  std::string key;
  std::chrono::system_clock::time_point from{}, to{};
  std::uint64_t reached = 0;  ///< the last message that was published again
  std::chrono::system_clock::time_point at{};
};

/// Thread safety: every member from any thread. Refers to the source, which must outlive it.
/// Errors of every member: `storage_error`.
class outbox_desk {
 public:
  /// @param relay  the name that the relays were given.
  explicit outbox_desk(message_source& from, std::string relay = "relay") : from_(&from), relay_(std::move(relay)) {}

  [[nodiscard]] awaitable<relay_status> status();
  /// What was put aside, oldest first.
  [[nodiscard]] awaitable<std::vector<parked_message>> parked(std::size_t limit = 100);
  /// Gives up one message that was put aside; false when there is none of this number.
  [[nodiscard]] awaitable<bool> skip(std::uint64_t number);

  /// Asks for what was put aside of a key: published in order, then the key is open again; one that is refused again
  /// stays, with those behind it. Returns how many messages that is; nothing is asked for when there are none.
  [[nodiscard]] awaitable<std::size_t> ask_replay(std::string key);
  /// As above, of every key.
  [[nodiscard]] awaitable<std::size_t> ask_replay_all();
  /// Asks for what was added from `from` to before `to`: published again with the same ids, as after a loss at the
  /// broker; those that are refused are passed over. Returns false, and asks nothing, when there is nothing.
  [[nodiscard]] awaitable<bool> ask_republish(std::chrono::system_clock::time_point from,
                                              std::chrono::system_clock::time_point to);
  /// What is not finished, oldest first. Relays look every second.
  [[nodiscard]] awaitable<std::vector<relay_request>> requests();
  /// Takes a request back; false when it is finished.
  [[nodiscard]] awaitable<bool> withdraw(std::uint64_t request);

  // --- for relays
  /// False when nobody wants it any more.
  [[nodiscard]] awaitable<bool> note_progress(std::uint64_t request, std::uint64_t reached);
  /// The reason why a message that was put aside still is.
  [[nodiscard]] awaitable<void> note_reason(std::uint64_t number, std::string reason);

 private:
  [[nodiscard]] database& db() const noexcept { return from_->storage(); }
  awaitable<std::size_t> ask_replay_of(std::string condition, std::string key);

  message_source* from_;
  std::string relay_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
