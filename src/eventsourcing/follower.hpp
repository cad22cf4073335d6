// What those who follow the events share.
#pragma once

#include <cofferdam/storage/storage_error.hpp>

#include <system_error>

namespace cofferdam::inline COFFERDAM_ABI::detail {

/// Nothing is wrong with the batch. What became of it, if anything did, is seen where its position is read anew.
[[nodiscard]] inline bool is_trouble(const std::error_code& code) noexcept {
  return storage_error::is_retryable(code) || code == errc::outcome_unknown;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
