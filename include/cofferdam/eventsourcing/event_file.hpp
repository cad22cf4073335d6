// Events in a text file, one JSON object a line: to look at, to keep elsewhere, to bring into another store.
#pragma once

#include <cofferdam/eventsourcing/event_store.hpp>

#include <cstdint>
#include <iosfwd>

namespace cofferdam::inline COFFERDAM_ABI {

/// Writes every event after position `after`, in the order of the store. Returns how many.
///
///     {"stream":"order-1","version":1,"id":"0190...","type":"order.placed","schema":1,"at":1700000000000000,
///      "data":"{\"total\":12}","tags":["customer:7"],"position":1}
///
/// `at` is in microseconds since 1970. Data that is no UTF-8 stands in "data_hex". Correlation, causation and metadata
/// are there when they are not empty. Errors: `storage_error`; std::ios_base::failure when `out` cannot be written.
[[nodiscard]] awaitable<std::size_t> export_events(event_store& store, std::ostream& out, std::uint64_t after = 0);

struct import_result {
  std::size_t appended = 0, duplicates = 0;
};

/// Appends the events of a file, with their ids and times, in its order; streams go on where they are. What is there
/// already is left alone, so that the same file may be imported again. Reads and blocks the thread a line at a time.
/// Errors: `storage_error` (`event_rejected` naming the line; those of an append naming it, or the lines of one commit,
/// at most 500); std::ios_base::failure when `in` cannot be read to its end. What was committed before stays.
[[nodiscard]] awaitable<import_result> import_events(event_store& store, std::istream& in);

}  // namespace cofferdam::inline COFFERDAM_ABI
