// An event as one line of JSON.
#pragma once

#include <cofferdam/eventsourcing/event.hpp>

#include <string>

namespace cofferdam::inline COFFERDAM_ABI::detail {

[[nodiscard]] std::string to_line(const recorded_event& e);

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
