// One function for each kind of scenario.
#pragma once

#include <cofferdam/chaos/runner.hpp>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

[[nodiscard]] run_result run_calls(const scenario& s, std::size_t variant, std::uint64_t seed);
// Errors of these: `std::runtime_error` in a build without SQLite.
[[nodiscard]] run_result run_outbox(const scenario& s, std::size_t variant, std::uint64_t seed);
/// Errors: `std::runtime_error` also for what there is only in virtual time, and where there is no NATS.
[[nodiscard]] run_result run_real_outbox(const scenario& s, std::size_t variant, std::uint64_t seed);
[[nodiscard]] run_result run_saga(const scenario& s, std::size_t variant, std::uint64_t seed);

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
