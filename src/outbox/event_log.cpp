#include <cofferdam/outbox/event_log.hpp>

#include "message_rows.hpp"

namespace cofferdam::inline COFFERDAM_ABI {

awaitable<event_log> event_log::open(event_store& store, mapping how) {
  auto schema = detail::outbox_schema(store.storage().has_one_writer());
  co_await store.storage().migrate("outbox", std::move(schema));
  co_return event_log(store, std::move(how));
}

event_log& event_log::filter(event_query query) & {
  query_ = std::move(query);
  return *this;
}

std::optional<message> event_log::message_of(const recorded_event& e) const {
  auto made = how_(e);
  if (!made) return made;
  if (made->id().empty()) made->id(e.id.to_string());
  if (made->key().empty()) made->key(e.stream);
  made->place(e.position, e.at);
  return made;
}

awaitable<message_source::page> event_log::read(std::size_t /*part*/, std::uint64_t after, std::size_t limit) {
  read_options options;
  options.from = after + 1;
  options.limit = limit;
  options.as_stored = true;
  const slice read = co_await store_->read_all(query_, options);
  page found;
  found.read_to = std::max(after, read.scanned_to);
  found.is_end = read.is_end;
  for (const recorded_event& e : read.events) {
    auto made = message_of(e);
    if (made) found.messages.push_back(*std::move(made));
  }
  co_return found;
}

awaitable<std::optional<message>> event_log::find(std::uint64_t number) {
  read_options one;
  one.from = number;
  one.limit = 1;
  one.as_stored = true;
  const slice read = co_await store_->read_all(one);
  if (read.events.empty() || read.events[0].position != number) co_return std::nullopt;
  co_return message_of(read.events[0]);
}

/// Events say themselves when they happened, so their order by time is not that of the log: all are looked at.
awaitable<std::vector<message>> event_log::added(std::uint64_t after, std::chrono::system_clock::time_point from,
                                                 std::chrono::system_clock::time_point to, std::size_t limit) {
  std::vector<message> all;
  read_options options;
  options.limit = limit;
  options.as_stored = true;
  for (bool is_end = false; all.empty() && !is_end;) {
    options.from = after + 1;
    const slice read = co_await store_->read_all(query_, options);
    for (const recorded_event& e : read.events) {
      const bool is_wanted = e.at >= from && e.at < to;
      auto made = is_wanted ? message_of(e) : std::nullopt;
      if (made) all.push_back(*std::move(made));
    }
    after = std::max(after, read.scanned_to);
    is_end = read.is_end;
  }
  co_return all;
}

awaitable<message_source::backlog> event_log::waiting(std::string relay) {
  const rows found = co_await storage().query(
      "select position from cofferdam_relay_parts where relay = $1 and part = 0", std::move(relay));
  read_options one;
  one.from = (found.empty() ? 0 : found.front().get<std::uint64_t>(0)) + 1;
  one.limit = 1;
  one.as_stored = true;
  const slice first = co_await store_->read_all(one);
  backlog all;
  if (first.events.empty()) co_return all;
  const std::uint64_t newest = co_await store_->newest_position();
  all.count = newest + 1 - first.events[0].position;
  all.oldest = first.events[0].at;
  co_return all;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
