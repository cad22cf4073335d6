#include <cofferdam/resilience/cache_options.hpp>

namespace cofferdam::inline COFFERDAM_ABI {

std::vector<std::string> validate(const cache_options& options) {
  std::vector<std::string> problems;
  const auto require = [&](bool fine, const char* problem) {
    if (!fine) problems.emplace_back(problem);
  };
  require(options.max_entries >= 1, "max_entries: must be at least 1");
  require(options.ttl > duration::zero(), "ttl: must be positive");
  require(options.refresh_after >= duration::zero() && options.refresh_after < options.ttl,
          "refresh_after: must not be negative and must be less than ttl; 0 = never");
  require(options.stale_if_error >= duration::zero(), "stale_if_error: must not be negative");
  require(options.negative_ttl >= duration::zero(), "negative_ttl: must not be negative");
  require(options.jitter >= 0.0 && options.jitter < 1.0, "jitter: must be at least 0 and below 1");
  return problems;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
