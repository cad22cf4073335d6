#include "relay_options.hpp"

namespace cofferdam::inline COFFERDAM_ABI::chaos {

relay_options options_of(const relay_spec& spec) {
  relay_options options;
  options.lease = spec.lease.value_or(options.lease);
  options.window = spec.window.value_or(options.window);
  options.page = spec.page.value_or(options.page);
  options.publish_timeout = spec.timeout.value_or(options.publish_timeout);
  options.breaker = spec.breaker.value_or(options.breaker);
  if (spec.retry) {
    options.max_attempts = spec.retry->max_attempts;
    options.backoff = spec.retry->backoff;
  }
  return options;
}

void note_events(relay& from, order_book& book, subscription& listening) {
  listening = from.events().subscribe([&book](const relay_event& e) {
    switch (e.what) {
      case relay_event::kind::taken:
        return book.note("lease_taken");
      case relay_event::kind::lost:
        return book.note("lease_lost");
      case relay_event::kind::troubled:
        return book.note("broker_troubled");
      case relay_event::kind::parked:
        return book.note("key_parked");
      default:
        return;
    }
  });
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
