#include "metrics.hpp"

#include <algorithm>
#include <cstdlib>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

std::optional<double> measure_sagas(const run_result& run, const std::string& metric) {
  const auto count = [&run](auto is_one) { return static_cast<double>(std::ranges::count_if(run.sagas, is_one)); };
  if (metric == "crash_points") return count([](const saga_record& r) { return !r.killed_at.empty(); });
  if (metric == "completed" || metric == "compensated") {
    return count([&metric](const saga_record& r) { return r.state == metric; });
  }
  if (metric == "half_done") return count([](const saga_record& r) { return r.is_half_done(); });
  double duplicates = 0, money = 0, longest = 0;
  for (const auto& r : run.sagas) {
    duplicates += static_cast<double>(r.too_many);
    money += static_cast<double>(std::abs(r.money));
    const bool is_resume = metric == "resume_time";
    if (!r.killed_at.empty())
      longest = std::max(longest, static_cast<double>((is_resume ? r.resumed : r.ended).count()));
  }
  if (metric == "duplicates") return duplicates;
  if (metric == "money") return money;
  return longest * 1e-9;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
