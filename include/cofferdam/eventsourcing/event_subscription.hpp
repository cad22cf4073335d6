// Reading on: events as they were, then as they come.
//
//     event_subscription news(store, query, checkpoint);
//     for (;;) {
//       const recorded_event e = co_await news.next();
//     }
//     co_await news.for_each(handle);  // or so: awaitable<void> handle(const recorded_event&)
#pragma once

#include <cofferdam/core/task.hpp>
#include <cofferdam/eventsourcing/event_store.hpp>

#include <cstdint>
#include <deque>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

struct event_subscription_options {
  std::size_t page = 500;  ///< events read at once
  /// How long to believe that nothing has happened when no commit is heard of.
  duration look_at_least_every = std::chrono::seconds(5);
};

/// One way of reading from the first page to the newest event, so nothing is missed where the past ends. Reads no
/// further while nobody asks.
/// Thread safety: none. Refers to the store, which must outlive it.
class event_subscription {
 public:
  /// @param after  events after this position; 0: from the beginning.
  event_subscription(event_store& store, event_query query, std::uint64_t after = 0,
                     event_subscription_options options = {})
      : store_(&store), query_(std::move(query)), scanned_to_(after), options_(options) {}

  /// The next event that matches; waits for it as long as it takes.
  /// Errors: `storage_error`; it may be asked again. Cancellation: any type, `operation_aborted`; nothing is lost.
  [[nodiscard]] awaitable<recorded_event> next();
  /// What is there already, up to a page; empty when everything was read. Events that cannot be opened are among it.
  [[nodiscard]] awaitable<std::vector<recorded_event>> next_page();
  /// Gives `handler(const recorded_event&)`, a coroutine or a plain function, one event after the other, for ever.
  /// Errors: as `next`, and what the handler throws; `position()` is then before the event that it failed at.
  /// Cancellation: reaches the handler.
  template <class Handler>
    requires std::invocable<Handler&, const recorded_event&>
  [[nodiscard]] awaitable<void> for_each(Handler&& handler) {
    COFFERDAM_GUARD_TASK(Handler);
    return give_each<std::decay_t<Handler>>(std::forward<Handler>(handler));
  }

  /// Goes on after this position: back, or past an event that cannot be handled.
  void seek(std::uint64_t after) noexcept;
  /// Everything up to here was given out, or does not match: where to begin another time.
  [[nodiscard]] std::uint64_t position() const noexcept;

 private:
  awaitable<void> read_page();
  awaitable<void> wait_for_page();
  void pass_first() noexcept;
  /// What cannot be opened is read again the next time: its key may be there by then.
  void require_first_opened();
  template <class Handler> awaitable<void> give_each(Handler handler) {
    for (;;) {
      co_await wait_for_page();
      require_first_opened();
      const recorded_event& first = page_.front();
      if constexpr (std::is_void_v<std::invoke_result_t<Handler&, const recorded_event&>>) {
        std::invoke(handler, first);
      } else {
        co_await std::invoke(handler, first);
      }
      pass_first();
    }
  }

  event_store* store_;
  event_query query_;
  std::uint64_t scanned_to_;  // behind the page
  event_subscription_options options_;
  std::deque<recorded_event> page_;
  std::uint64_t given_to_ = 0;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
