#include <cofferdam/cqrs/reactor.hpp>

#include <stdexcept>

namespace cofferdam::inline COFFERDAM_ABI {

reaction::reaction(command_bus& bus, const std::string& reactor_name, const recorded_event& e)
    : bus_(&bus), key_(reactor_name + " " + e.id.to_string() + " ") {
  context_.correlation(e.correlation.empty() ? e.id.to_string() : e.correlation).causation(e.id.to_string());
}

void reaction::next_key() { context_.idempotency_key(key_ + std::to_string(++sent_)); }

reactor::reactor(event_store& store, command_bus& bus, std::string name, consumer_group_options options)
    : bus_(&bus), name_(name), group_(store, std::move(name), options) {
  if (bus.keys() == nullptr) {
    throw std::logic_error("the reactor '" + name_ +
                           "' sends commands with keys, which this bus does not heed: call once(db) first");
  }
  group_.handle([this](const recorded_event& e, batch& /*b*/) { return react(e); });
}

reactor& reactor::filter(event_query query) {
  group_.filter(std::move(query));
  return *this;
}
reactor& reactor::on(handler h) {
  handler_ = std::move(h);
  return *this;
}

awaitable<void> reactor::react(const recorded_event& e) {
  if (!handler_) throw std::logic_error("the reactor '" + name_ + "' does nothing: call on() first");
  reaction what(*bus_, name_, e);
  co_await handler_(e, what);
}

}  // namespace cofferdam::inline COFFERDAM_ABI
