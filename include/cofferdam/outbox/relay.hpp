// The relay: carries what is in the outbox to a broker, in order for every key, at least once, and nothing is lost
// whatever is killed. It writes where it got to, never to the messages. What it reads is an outbox, or the event log of
// an event store (event_log.hpp).
//
//     relay carrier(messages, broker);
//     spawn(executor, [&] { return carrier.run(); });
#pragma once

#include <cofferdam/core/backoff.hpp>
#include <cofferdam/core/event_channel.hpp>
#include <cofferdam/core/outcome.hpp>
#include <cofferdam/outbox/desk.hpp>
#include <cofferdam/outbox/outbox.hpp>
#include <cofferdam/outbox/publisher.hpp>
#include <cofferdam/resilience/circuit_options.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

struct relay_options {
  std::size_t page = 256;          ///< messages read at once from a part
  std::size_t window = 64;         ///< messages of a part in a wave, each of another key
  std::uint32_t max_attempts = 5;  ///< failures of a message between which others passed; then its key is parked
  backoff_options backoff{.cap = std::chrono::seconds(10)};
  duration lease = std::chrono::seconds(15);               ///< a relay silent for so long loses its parts to others
  duration look_at_least_every = std::chrono::seconds(5);  ///< when no commit is heard of
  duration publish_timeout = std::chrono::seconds(10);     ///< of a wave of messages
  duration measure_every = std::chrono::seconds(10);       ///< how often `measured` is told, to who listens
  duration retention{};                                    ///< of messages that every relay has published; 0: for ever
  circuit_breaker_options breaker{.consecutive_failures = 5, .break_duration = std::chrono::seconds(1)};
};

struct relay_event {
  enum class kind : std::uint8_t {
    taken,      ///< a part, from nobody or from a relay that was silent
    released,   ///< a part
    lost,       ///< a part: another relay has it
    published,  ///< `count` messages, and the place is written
    troubled,   ///< the broker; `message` says what it said
    parked,     ///< `key`; `message` says why
    measured,   ///< `status`, by the relay that has part 0
    forgotten,  ///< `count` messages, after their retention
    asked,      ///< an operator's request is carried out: `count` messages; `message` says which request
  };
  kind what;
  std::size_t part = 0, count = 0;
  std::string key, message;
  relay_status status{};
};

/// Any number of relays of one name, in any processes, share the parts. Relays of another name publish everything
/// again. Thread safety: every member from any thread; `run` runs on the strand of its caller. Refers to source and
/// publisher, which must outlive it.
///
/// A broker in trouble costs no attempts: a circuit breaker opens, and the messages wait. A message that the broker
/// refuses, or that fails again and again while it takes others, parks its key; until then its key waits, and no other.
/// As long as nothing else is sent, one that fails is tried again and again: it may be the broker.
class relay {
 public:
  explicit relay(message_source& from, publisher& to, std::string name = "relay", relay_options options = {});
  relay(const relay&) = delete;
  relay& operator=(const relay&) = delete;
  ~relay();

  /// Until it is cancelled; then it waits for what is on its way, writes where it got to, and gives its parts back.
  [[nodiscard]] awaitable<void> run();
  /// As `run`, until there is nothing left that can be published now. Returns how many messages it published.
  [[nodiscard]] awaitable<std::size_t> run_due();

  [[nodiscard]] awaitable<relay_status> status();
  /// What was put aside, oldest first.
  [[nodiscard]] awaitable<std::vector<parked_message>> parked(std::size_t limit = 100);
  /// Publishes what was put aside of a key, in order; then the key is open again. Returns how many.
  /// Errors: what the first that still fails ends with; those before it are published.
  [[nodiscard]] awaitable<std::size_t> replay(std::string key);
  /// Gives up one message that was put aside; false when there is none of this number.
  [[nodiscard]] awaitable<bool> skip(std::uint64_t number);
  /// Publishes again, with the same ids, what was added from `from` to before `to`. Returns how many; those that the
  /// broker refuses are passed over. Errors: of a broker in trouble.
  [[nodiscard]] awaitable<std::size_t> republish(std::chrono::system_clock::time_point from,
                                                 std::chrono::system_clock::time_point to);
  /// Removes messages of before a time that every relay of every name has published. Returns how many.
  [[nodiscard]] awaitable<std::size_t> forget_before(std::chrono::system_clock::time_point t);

  [[nodiscard]] event_channel<relay_event>& events() noexcept;

 private:
  class worker;
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
