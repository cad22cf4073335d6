#include <cofferdam/storage/storage_error.hpp>

namespace cofferdam::inline COFFERDAM_ABI {

storage_error::storage_error(errc code, std::string message, std::string native, std::exception_ptr cause)
    : error(code, nullptr, std::nullopt, std::move(cause)), message_(std::move(message)), native_(std::move(native)) {
  message_.insert(0, make_error_code(code).message() + ": ");
}

bool storage_error::is_retryable(const std::error_code& code) noexcept {
  return code == make_error_code(errc::database_busy) || code == make_error_code(errc::database_overloaded) ||
         code == make_error_code(errc::database_unavailable);
}

}  // namespace cofferdam::inline COFFERDAM_ABI
