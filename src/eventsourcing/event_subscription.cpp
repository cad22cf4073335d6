#include <cofferdam/eventsourcing/event_subscription.hpp>

#include <iterator>

namespace cofferdam::inline COFFERDAM_ABI {

std::uint64_t event_subscription::position() const noexcept { return page_.empty() ? scanned_to_ : given_to_; }

awaitable<void> event_subscription::read_page() {
  read_options options;
  options.limit = options_.page;
  for (;;) {
    options.from = scanned_to_ + 1;
    slice found = co_await store_->read_all(query_, options);
    given_to_ = scanned_to_;
    scanned_to_ = found.scanned_to;
    page_.assign(std::make_move_iterator(found.events.begin()), std::make_move_iterator(found.events.end()));
    if (!page_.empty() || found.is_end) co_return;
  }
}

awaitable<void> event_subscription::wait_for_page() {
  while (page_.empty()) {
    co_await read_page();
    if (page_.empty()) (void)co_await store_->wait_for_events(scanned_to_, options_.look_at_least_every);
  }
}

void event_subscription::pass_first() noexcept {
  given_to_ = page_.front().position;
  page_.pop_front();
}

void event_subscription::require_first_opened() {
  const std::exception_ptr why = page_.front().unopened;
  if (!why) return;
  seek(given_to_);
  std::rethrow_exception(why);
}

void event_subscription::seek(std::uint64_t after) noexcept {
  page_.clear();
  scanned_to_ = given_to_ = after;
}

awaitable<recorded_event> event_subscription::next() {
  co_await wait_for_page();
  require_first_opened();
  recorded_event first = std::move(page_.front());
  pass_first();
  co_return first;
}

awaitable<std::vector<recorded_event>> event_subscription::next_page() {
  if (page_.empty()) co_await read_page();
  std::vector<recorded_event> all(std::make_move_iterator(page_.begin()), std::make_move_iterator(page_.end()));
  page_.clear();
  co_return all;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
