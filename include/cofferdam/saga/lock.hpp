// Semantic locks as others see them: what is marked by a saga that has not ended, with `co_await s.lock("account:7")`.
//
//     batch b;
//     saga::require_unlocked(b, "account:7");
//     b.execute("update accounts set ...");
#pragma once

#include <cofferdam/storage/database.hpp>

#include <optional>
#include <string>

namespace cofferdam::inline COFFERDAM_ABI::saga {

/// The id of the saga that has it. `db` is an engine's. Errors: `storage_error`.
[[nodiscard]] awaitable<std::optional<std::string>> locked_by(database& db, std::string resource);

/// Refuses a batch of somebody else (`condition_failed`) as long as a saga has it.
void require_unlocked(batch& b, const std::string& resource);

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
