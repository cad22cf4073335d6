#include "follower.hpp"

#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::detail {

awaitable<std::optional<recorded_event>> find_event(event_store& store, std::uint64_t position) {
  read_options one;
  one.from = position;
  one.limit = 1;
  slice page = co_await store.read_all(one);
  if (page.events.empty() || page.events[0].position != position) co_return std::nullopt;
  co_return std::move(page.events[0]);
}

awaitable<recorded_event> require_parked(event_store& store, std::uint64_t position, std::string follower) {
  auto found = co_await find_event(store, position);
  if (!found) {
    throw storage_error(errc::events_missing, "the event at position " + std::to_string(position) + ", which '" +
                                                  follower + "' has put aside, is not in the store any more; discard " +
                                                  "what cannot be replayed");
  }
  co_return *std::move(found);
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
