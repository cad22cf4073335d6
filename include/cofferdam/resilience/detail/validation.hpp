// Options are checked once, at construction, and all problems are reported together.
#pragma once

#include <cofferdam/core/error.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::detail {

/// Errors: `invalid_options_error` listing every problem as "who.field: what".
void require_valid(std::string_view who, const std::vector<std::string>& problems);

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
