// The event log of an event store as an outbox: what was appended is what is published, and nothing is written for it.
//
//     event_log log = co_await event_log::open(store, [](const recorded_event& e) {
//       return message("orders." + e.type, e.type, e.data);
//     });
//     relay carrier(log, broker);
#pragma once

#include <cofferdam/eventsourcing/event_store.hpp>
#include <cofferdam/outbox/message_source.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// Events of a stream are published in their order. There is one part: of several relays, one works and the others
/// stand by. The backlog that a relay tells of is at most that: it counts events that become no message, too. Nothing
/// is ever forgotten here; that is the event store's business.
/// Thread safety: every member from any thread, `filter` before the relay runs. Refers to the store, which must outlive
/// it.
class event_log final : public message_source {
 public:
  /// What an event becomes; nothing for one that is nobody's business elsewhere. Must always say the same. Id, key,
  /// and the headers of a CloudEvent that it leaves open are those of the event: its id, its stream, its time.
  using mapping = std::function<std::optional<message>(const recorded_event&)>;

  /// Errors: `storage_error`.
  [[nodiscard]] static awaitable<event_log> open(event_store& store, mapping how);

  /// Reads only these events.
  event_log& filter(event_query query) &;

  [[nodiscard]] database& storage() const noexcept override { return store_->storage(); }
  [[nodiscard]] std::size_t parts() const noexcept override { return 1; }
  [[nodiscard]] awaitable<page> read(std::size_t part, std::uint64_t after, std::size_t limit) override;
  [[nodiscard]] awaitable<std::optional<message>> find(std::uint64_t number) override;
  [[nodiscard]] awaitable<std::vector<message>> added(std::uint64_t after, std::chrono::system_clock::time_point from,
                                                      std::chrono::system_clock::time_point to,
                                                      std::size_t limit) override;
  [[nodiscard]] awaitable<backlog> waiting(std::string relay) override;

 private:
  event_log(event_store& store, mapping how) : store_(&store), how_(std::move(how)) {}
  [[nodiscard]] std::optional<message> message_of(const recorded_event& e) const;

  event_store* store_;
  mapping how_;
  event_query query_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
