// For tests of what becomes of a program whose database is in trouble, or that dies at a bad moment.
//
//     database shaky = watched(db, [&](std::string_view call, bool is_over) {
//       if (call == "commit" && !is_over && ++commits == 3) throw storage_error(errc::database_full, "no room");
//     });
#pragma once

#include <cofferdam/storage/database.hpp>

#include <functional>
#include <string_view>

namespace cofferdam::inline COFFERDAM_ABI {

/// Called before and after every call, which is "commit", "query", "read" or "open cursor". What it throws before is
/// what the call ends with, and nothing has happened; what it throws after likewise, but it has. Called by the caller's
/// thread.
using database_watcher = std::function<void(std::string_view call, bool is_over)>;

/// The same database, with every call seen by `watch`. Hears of every commit. `close` ends the view alone.
/// Refers to `below`'s database, which it keeps open.
[[nodiscard]] database watched(database& below, database_watcher watch);

}  // namespace cofferdam::inline COFFERDAM_ABI
