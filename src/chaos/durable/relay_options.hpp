// Relays as a scenario describes them.
#pragma once

#include "order_book.hpp"

#include <cofferdam/outbox/relay.hpp>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

[[nodiscard]] relay_options options_of(const relay_spec& spec);
/// Writes down what the relay tells, as long as `listening` lives.
void note_events(relay& from, order_book& book, subscription& listening);

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
