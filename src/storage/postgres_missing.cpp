#include <cofferdam/storage/detail/driver.hpp>

#if !defined(COFFERDAM_HAS_POSTGRES)
namespace cofferdam::inline COFFERDAM_ABI::detail {

awaitable<std::shared_ptr<storage_driver>> open_postgres(std::string /*url*/, database_options /*options*/) {
  throw storage_error(errc::database_unavailable,
                      "this build has no PostgreSQL: install libpq-dev and build cofferdam again");
  co_return nullptr;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
#endif
