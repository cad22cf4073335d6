#include "../run_kinds.hpp"
namespace cofferdam::inline COFFERDAM_ABI::chaos {
run_result run_saga(const scenario& /*s*/, std::size_t /*variant*/, std::uint64_t /*seed*/) { return {}; }
}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
