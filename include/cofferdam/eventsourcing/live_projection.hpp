// A live projection: a state in memory that follows the events. Gone with the program, built anew by the next one.
//
//     live_projection<std::map<std::string, int>> totals(store);
//     totals.apply([](auto& state, const recorded_event& e) { ++state[e.type]; });
//     co_await totals.catch_up();
#pragma once

#include <cofferdam/eventsourcing/event_subscription.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <iterator>
#include <stdexcept>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// Thread safety: none. Refers to the store, which must outlive it.
template <std::movable State> class live_projection {
 public:
  using handler = std::function<void(State&, const recorded_event&)>;

  /// @param query  only these events. @param initial  the state before the first.
  explicit live_projection(event_store& store, event_query query = {}, State initial = {})
      : events_(store, std::move(query)), state_(std::move(initial)) {}

  live_projection& apply(handler h) {
    handler_ = std::move(h);
    return *this;
  }

  /// Applies what was committed by now, so that the state shows it. Returns how many events that were.
  /// Errors: `storage_error`; what the handler throws, which leaves the event for the next time.
  [[nodiscard]] awaitable<std::size_t> catch_up() {
    require_handler();
    for (std::size_t applied = 0;;) {
      while (!page_.empty()) {
        if (const std::exception_ptr why = page_.front().unopened) {
          events_.seek(position());
          page_.clear();
          std::rethrow_exception(why);
        }
        handler_(state_, page_.front());
        page_.pop_front();
        ++applied;
      }
      auto page = co_await events_.next_page();
      if (page.empty()) co_return applied;
      page_.assign(std::make_move_iterator(page.begin()), std::make_move_iterator(page.end()));
    }
  }
  /// Follows the events until it is cancelled; `catch_up` is not called meanwhile. Errors: as `catch_up`.
  [[nodiscard]] awaitable<void> run() {
    (void)co_await catch_up();
    const auto apply_one = [this](const recorded_event& e) { handler_(state_, e); };
    co_await events_.for_each(apply_one);
  }

  [[nodiscard]] const State& state() const noexcept { return state_; }
  /// Everything up to here is applied, or does not matter.
  [[nodiscard]] std::uint64_t position() const noexcept {
    return page_.empty() ? events_.position() : page_.front().position - 1;
  }

 private:
  void require_handler() const {
    if (!handler_) throw std::logic_error("a live projection has nothing to apply: call apply() first");
  }

  event_subscription events_;
  std::deque<recorded_event> page_;
  State state_;
  handler handler_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
