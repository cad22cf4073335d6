// Messages as rows, and the tables they are in.
#pragma once

#include <cofferdam/outbox/message.hpp>
#include <cofferdam/storage/database.hpp>
#include <cofferdam/storage/detail/stored.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::detail {

[[nodiscard]] std::vector<migration> outbox_schema(bool has_one_writer);

[[nodiscard]] std::string headers_to_text(const message& m);
/// Errors: storage_error (`message_undecodable`) that begins with `what`.
void headers_from_text(message& m, const std::string& text, const std::string& what);

/// What `message_from` needs, of the table `o`.
inline constexpr const char* message_columns = "o.nr, o.id, o.topic, o.key, o.type, o.payload, o.headers, o.at";
/// Errors: storage_error (`message_undecodable`) naming the message.
[[nodiscard]] message message_from(const row& r);

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
