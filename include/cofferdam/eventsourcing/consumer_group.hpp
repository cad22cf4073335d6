// Competing consumers: members in any processes share the events, and those of one stream (or key) are handled one
// after the other, in order.
//
//     consumer_group mails(store, "mails");
//     mails.handle([&](const recorded_event& e, batch& b) { return send_mail(e, b); });  // awaitable<void>
//     co_await mails.run();
#pragma once

#include <cofferdam/core/event_channel.hpp>
#include <cofferdam/eventsourcing/event_store.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

struct consumer_group_options {
  std::size_t parts = 16;          ///< that members share; fixed once the group has begun
  std::size_t page = 200;          ///< events read at once
  std::size_t concurrency = 16;    ///< keys that a member handles at once
  std::uint32_t max_attempts = 5;  ///< of an event; then it is put aside with what follows of its key
  duration retry_after = std::chrono::milliseconds(200);   ///< the first time, then doubled, to 64 times as much
  std::size_t max_parked = 10'000;                         ///< then a part stops rather than put more aside
  duration lease = std::chrono::seconds(15);               ///< a member silent for so long loses its parts to others
  duration look_at_least_every = std::chrono::seconds(5);  ///< when no commit is heard of
  std::uint64_t start_after = 0;                           ///< a position, for a group that begins; else ignored
};

struct consumer_event {
  enum class kind : std::uint8_t {
    taken,     ///< a part, from nobody or from a member that was silent
    released,  ///< a part
    lost,      ///< a part: another member has it
    moved,     ///< a part, over `count` events, to `position`
    failed,    ///< the event at `position`; it is tried again
    parked,    ///< the event at `position`, and with it `key`
    troubled,  ///< the database; it is tried again
  };
  kind what;
  std::size_t part = 0, count = 0;
  std::uint64_t position = 0;
  std::string key, message;
};

struct consumer_status {
  std::uint64_t position = 0;   ///< everything up to here was handled, or put aside
  std::uint64_t behind = 0;     ///< positions between that and the newest event
  std::size_t owned_parts = 0;  ///< by any member
  std::uint64_t parked = 0;     ///< events
};

/// An event that was put aside.
struct parked_consumer_event {
  recorded_event event;     ///< the position only, if it is not in the store any more
  std::string key, reason;  ///< the reason is empty for those that only follow one that failed
};

/// A member of the group of this name. Parts belong to one member at a time (a lease with an epoch: who lost a part
/// writes nothing of it any more) and are shared fairly by those that run.
///
/// What a handler adds to its batch happens exactly once, together with the event being passed. What it does otherwise
/// happens at least once: again after a crash, a failure, or a lease that ran out.
/// Thread safety: setting up: none; else every member from any thread; `run` on the strand of its caller. Refers to the
/// store, which must outlive it. Works on both drivers.
class consumer_group {
 public:
  using handler = std::function<awaitable<void>(const recorded_event&, batch&)>;
  using key_function = std::function<std::string(const recorded_event&)>;

  consumer_group(event_store& store, std::string name, consumer_group_options options = {});
  consumer_group(const consumer_group&) = delete;
  consumer_group& operator=(const consumer_group&) = delete;
  ~consumer_group();

  /// Only these events; the others are passed over.
  consumer_group& filter(event_query query);
  /// What is handled in order; the stream unless said. The same in every member, for ever.
  consumer_group& key(key_function k);
  consumer_group& handle(handler h);

  /// Until it is cancelled; handlers are cancelled too, what they finished is written, parts are given back.
  /// Errors: `storage_error` (`schema_mismatch` for another number of parts); std::logic_error without a handler.
  [[nodiscard]] awaitable<void> run();
  /// As `run`, until nothing is left that can be handled now by this member. Returns how many events it handled.
  [[nodiscard]] awaitable<std::size_t> run_due();

  [[nodiscard]] awaitable<consumer_status> status();
  /// What was put aside, oldest first.
  [[nodiscard]] awaitable<std::vector<parked_consumer_event>> parked(std::size_t limit = 100);
  /// Handles what was put aside of a key, in order; then the key is open again. Returns how many events.
  /// Errors: what the first that still fails ends with (`events_missing` for one that is not in the store any more);
  /// those before it are done.
  [[nodiscard]] awaitable<std::size_t> replay(std::string key);
  /// Gives up what was put aside of a key. Returns how many events.
  [[nodiscard]] awaitable<std::size_t> discard(std::string key);

  [[nodiscard]] event_channel<consumer_event>& events() noexcept;

 private:
  class member;
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
