#include "run_kinds.hpp"

#include <stdexcept>

#if !defined(COFFERDAM_HAS_DURABLE)
namespace cofferdam::inline COFFERDAM_ABI::chaos {
namespace {

[[noreturn]] void refuse(const char* kind) {
  throw std::runtime_error(std::string(kind) +
                           " scenarios need SQLite, which this build has not: install libsqlite3-dev and build "
                           "cofferdam again");
}

}  // namespace

run_result run_outbox(const scenario& /*s*/, std::size_t /*variant*/, std::uint64_t /*seed*/) { refuse("outbox"); }
run_result run_saga(const scenario& /*s*/, std::size_t /*variant*/, std::uint64_t /*seed*/) { refuse("saga"); }

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
#endif
