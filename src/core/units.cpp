#include <cofferdam/core/units.hpp>

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

struct unit {
  std::string_view name;
  double nanoseconds;
};
constexpr std::array units{unit{"h", 3600e9}, unit{"min", 60e9}, unit{"s", 1e9},
                           unit{"ms", 1e6},   unit{"us", 1e3},   unit{"ns", 1}};

/// The number at the front of `text`, which becomes the rest.
std::optional<double> take_number(std::string_view& text) noexcept {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  if (error != std::errc() || !std::isfinite(value)) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

std::optional<double> unit_of(std::string_view name) noexcept {
  for (const auto& candidate : units) {
    if (candidate.name == name) return candidate.nanoseconds;
  }
  return std::nullopt;
}

}  // namespace

std::optional<duration> parse_duration(std::string_view text) noexcept {
  const auto value = take_number(text);
  const auto nanoseconds = unit_of(text);
  if (!value || !nanoseconds) return std::nullopt;
  const double total = std::round(*value * *nanoseconds);
  if (std::abs(total) >= 9.2e18) return std::nullopt;
  return duration(static_cast<std::int64_t>(total));
}

std::optional<double> parse_rate(std::string_view text) noexcept {
  const auto value = take_number(text);
  if (!value || *value < 0 || !text.starts_with('/')) return std::nullopt;
  const auto nanoseconds = unit_of(text.substr(1));
  if (!nanoseconds) return std::nullopt;
  return *value * 1e9 / *nanoseconds;
}

std::string to_string(duration d) {
  if (d == duration::zero()) return "0s";
  const std::string sign = d < duration::zero() ? "-" : "";
  // Unsigned: the least duration has no positive counterpart.
  const auto count = static_cast<std::uint64_t>(d.count());
  const std::uint64_t magnitude = sign.empty() ? count : 0 - count;
  for (const auto& candidate : units) {
    // The largest unit in which at most three decimals are needed.
    const auto nanoseconds = static_cast<std::uint64_t>(candidate.nanoseconds);
    if (magnitude < nanoseconds) continue;
    const auto whole = magnitude / nanoseconds;
    const auto rest = magnitude % nanoseconds;
    if (rest == 0) return (sign + std::to_string(whole)).append(candidate.name);
    if (nanoseconds > 1'000'000'000 || rest * 1000 % nanoseconds != 0) continue;
    std::string decimals = std::to_string(1000 + rest * 1000 / nanoseconds).substr(1);
    while (decimals.ends_with('0')) decimals.pop_back();
    return (sign + std::to_string(whole)).append(".").append(decimals).append(candidate.name);
  }
  return sign + std::to_string(magnitude) + "ns";
}

std::string to_string(std::chrono::system_clock::time_point at, int digits) {
  const auto day = std::chrono::floor<std::chrono::days>(at);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss time(std::chrono::floor<std::chrono::nanoseconds>(at - day));
  std::array<char, 64> text{};
  const int length =
      std::snprintf(text.data(), text.size(), "%04d-%02u-%02uT%02d:%02d:%02d.%09d", static_cast<int>(date.year()),
                    static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                    static_cast<int>(time.hours().count()), static_cast<int>(time.minutes().count()),
                    static_cast<int>(time.seconds().count()), static_cast<int>(time.subseconds().count()));
  const int cut = digits > 0 ? 9 - digits : 10;  // with the point
  return std::string(text.data(), static_cast<std::size_t>(length - cut)) + 'Z';
}

}  // namespace cofferdam::inline COFFERDAM_ABI
