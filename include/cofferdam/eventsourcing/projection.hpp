// Projections: tables that follow the events. Their rows and how far they got are written in one batch, so that every
// event counts exactly once, whatever is killed when.
//
//     projection balances(store, "balances-v1");
//     balances.apply([](batch& b, const recorded_event& e) { b.execute("...", ...); });
//     co_await balances.run();
#pragma once

#include <cofferdam/core/event_channel.hpp>
#include <cofferdam/eventsourcing/event_store.hpp>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

struct projection_options {
  std::size_t page = 500;  ///< events in one batch
  /// An event that cannot be applied is put aside with everything that follows in its stream, and the others go on;
  /// else the projection stops there with its error.
  bool parks_failures = false;
  std::size_t max_parked = 10'000;                         ///< then it stops rather than put more aside
  duration look_at_least_every = std::chrono::seconds(5);  ///< when no commit is heard of
};

/// An event that was put aside.
struct parked_event {
  recorded_event event;  ///< position and stream only, if it is not in the store any more
  std::string reason;    ///< empty for those that only follow one that failed
};

/// A table's follower. One runs at a time under a name: another one, in whatever process, ends with
/// `condition_failed`. To build a table anew, give it and its projection a new name and switch readers when
/// `position()` is near the old one's.
/// Thread safety: setting up: none; else every member from any thread. Refers to the store, which must outlive it.
class projection {
 public:
  /// Adds what follows from an event to the batch. Called in the order of events; may be called again for the same
  /// event when a batch failed, so it changes nothing else.
  using handler = std::function<void(batch&, const recorded_event&)>;

  /// @param name  what its position is kept under.
  projection(event_store& store, std::string name, projection_options options = {});

  /// Only these events; the others are passed over.
  projection& filter(event_query query);
  projection& apply(handler h);

  /// Follows the events until it is cancelled. Waits for a database that is busy or away, with growing pauses.
  /// Errors: `storage_error`; what a handler throws, when failures are not parked.
  [[nodiscard]] awaitable<void> run();
  /// Applies everything there is. Returns how many events that were. Errors: as `run`, and a database in trouble.
  [[nodiscard]] awaitable<std::size_t> catch_up();

  /// Everything up to here is applied.
  [[nodiscard]] awaitable<std::uint64_t> position();
  /// Waits until the event at `position` (of an `appended`, say) is applied: what was written can be read. False when
  /// the time is over first.
  [[nodiscard]] awaitable<bool> wait_for(std::uint64_t position, duration limit);

  /// What was put aside, oldest first.
  [[nodiscard]] awaitable<std::vector<parked_event>> parked();
  /// Applies what was put aside of a stream, in order. Returns how many events that were.
  /// Errors: what the first that still fails ends with (`events_missing` for one that is not in the store any more);
  /// those before it are applied.
  [[nodiscard]] awaitable<std::size_t> replay(std::string stream);
  /// Gives up what was put aside of a stream. Returns how many events that were.
  [[nodiscard]] awaitable<std::size_t> discard(std::string stream);

 private:
  using stream_set = std::unordered_set<std::string>;

  awaitable<std::uint64_t> start();
  awaitable<std::uint64_t> settled_position();
  /// @param done  the position of what is applied; moves on with it.
  awaitable<std::size_t> catch_up_from(std::uint64_t& done);
  awaitable<void> apply_all(std::uint64_t from, std::span<const recorded_event> events, std::uint64_t to,
                            stream_set& parked);
  awaitable<bool> is_their_fault(failure why, std::uint64_t from);
  [[nodiscard]] batch moved(std::uint64_t from, std::uint64_t to) const;
  awaitable<stream_set> parked_streams();
  void park(batch& b, const recorded_event& e, std::string reason) const;

  event_store* store_;
  std::string name_;
  projection_options options_;
  event_query query_;
  handler handler_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
