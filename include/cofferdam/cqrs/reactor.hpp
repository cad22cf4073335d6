// Reactors: events lead to commands, each once.
//
//     reactor shipping(store, commands, "shipping");
//     shipping.on([](const recorded_event& e, reaction& r) -> awaitable<void> {
//       const ship_order ship{e.stream};
//       (void)co_await r.send(ship);
//     });
//     co_await shipping.run();
#pragma once

#include <cofferdam/cqrs/command_bus.hpp>
#include <cofferdam/eventsourcing/consumer_group.hpp>

#include <cstddef>
#include <functional>
#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// What follows from one event. The commands it sends carry keys made of the reactor, the event and their number, so
/// that an event which is handled again sends nothing twice: send the same commands in the same order each time.
class reaction {
 public:
  reaction(command_bus& bus, const std::string& reactor_name, const recorded_event& e);

  /// As `command_bus::send`; the command belongs to the event's process, and was caused by the event.
  template <class C>
    requires command<std::remove_cvref_t<C>>
  [[nodiscard]] awaitable<typename std::remove_cvref_t<C>::result> send(const C& c) {
    next_key();
    return bus_->send(c, context_);
  }

 private:
  void next_key();

  command_bus* bus_;
  std::string key_;
  std::size_t sent_ = 0;
  command_context context_;
};

/// A consumer group whose handlers send commands: members share the events, those of a stream come in order, what fails
/// is tried again and then put aside. The bus must heed keys (`command_bus::once`).
/// Thread safety: as `consumer_group`. Refers to store and bus, which must outlive it.
class reactor {
 public:
  using handler = std::function<awaitable<void>(const recorded_event&, reaction&)>;

  /// @param name  part of the commands' keys. Errors: std::logic_error for a bus without `once`.
  reactor(event_store& store, command_bus& bus, std::string name, consumer_group_options options = {});

  /// Only these events; the others are passed over.
  reactor& filter(event_query query);
  reactor& on(handler h);

  [[nodiscard]] awaitable<void> run() { return group_.run(); }
  [[nodiscard]] awaitable<std::size_t> run_due() { return group_.run_due(); }
  /// For status, what was put aside, events.
  [[nodiscard]] consumer_group& group() noexcept { return group_; }

 private:
  awaitable<void> react(const recorded_event& e);

  command_bus* bus_;
  std::string name_;
  handler handler_;
  consumer_group group_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
