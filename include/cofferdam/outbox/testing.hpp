// For tests of your own receivers: let the relay's process die at every point at which it can, and see that what its
// messages are to bring about happens once, in order, whatever is delivered again.
//
//     relay_crash_explorer explorer;
//     explorer.begin([&](outbox& o) { return place_orders(o); });
//     explorer.publish_to([&](const message& m) { return warehouse.receive(m); });
//     explorer.check([&](const std::string& where) { return every_order_has_left_once(where); });
//     const auto explored = co_await explorer.run();
#pragma once

#include <cofferdam/outbox/outbox.hpp>
#include <cofferdam/outbox/relay.hpp>

#include <cstddef>
#include <functional>
#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// Runs a scenario on a database in memory, in virtual time, once for every point at which a relay's process may die:
/// before and after each of its calls to the database and to the broker. Another relay takes over when the dead one's
/// leases are over, and carries the rest.
class relay_crash_explorer {
 public:
  struct result {
    std::size_t runs = 0;    ///< in all
    std::size_t points = 0;  ///< at which the first relay died
  };

  explicit relay_crash_explorer(relay_options options = {}) : options_(options) {}

  /// Called before every run: forget what the runs before did.
  relay_crash_explorer& reset(std::function<void()> how) { return reset_ = std::move(how), *this; }
  /// Enqueues and commits the messages of a run.
  relay_crash_explorer& begin(std::function<awaitable<void>(outbox&)> how) { return begin_ = std::move(how), *this; }
  /// The broker. A relay that dies after a call was heard, and does not know that it was.
  relay_crash_explorer& publish_to(std::function<awaitable<void>(const message&)> how) {
    return publish_ = std::move(how), *this;
  }
  /// Called at the end of every run, when nothing is left to publish. `where` says at which points the relays died.
  relay_crash_explorer& check(std::function<awaitable<void>(const std::string& where)> how) {
    return check_ = std::move(how), *this;
  }
  /// Lets the relay that takes over die, too, at every `step`-th point. 0: never.
  relay_crash_explorer& twice(std::size_t step) { return second_step_ = step, *this; }

  /// Must run in virtual time. Errors: std::logic_error naming the point when something is never published; what the
  /// functions throw.
  [[nodiscard]] awaitable<result> run();

 private:
  /// Returns how many relays died.
  awaitable<std::size_t> run_once(std::size_t first, std::size_t second);

  relay_options options_;
  std::size_t second_step_ = 0;
  std::function<void()> reset_;
  std::function<awaitable<void>(outbox&)> begin_;
  std::function<awaitable<void>(const message&)> publish_;
  std::function<awaitable<void>(const std::string&)> check_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
