// Durations, rates and dates as people write them: "500ms", "1.5s", "850/s", "2026-03-01T12:00:00.000Z". Used by
// configuration, scenarios and reports.
#pragma once

#include <cofferdam/core/time.hpp>

#include <optional>
#include <string>
#include <string_view>

namespace cofferdam::inline COFFERDAM_ABI {

/// "500ms", "1.5s", "2min": a number and one of ns us ms s min h, nothing else. Nothing when malformed or out of range.
[[nodiscard]] std::optional<duration> parse_duration(std::string_view text) noexcept;
/// "850/s", "30/min", "5/h": events per second. Nothing when malformed or negative.
[[nodiscard]] std::optional<double> parse_rate(std::string_view text) noexcept;
/// The shortest exact form in one unit: "1.5s", "20ms", "0s".
[[nodiscard]] std::string to_string(duration d);
/// RFC 3339 in UTC: "2026-03-01T12:00:00.123Z".
/// @param digits  of the fraction of a second, at most 9; cut off, not rounded.
[[nodiscard]] std::string to_string(std::chrono::system_clock::time_point at, int digits = 3);

}  // namespace cofferdam::inline COFFERDAM_ABI
