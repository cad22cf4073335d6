#include <cofferdam/core/net.hpp>
#include <cofferdam/core/outcome.hpp>

namespace cofferdam::inline COFFERDAM_ABI {

failure failure::refused(errc code, shared_name policy, std::optional<duration> retry_after,
                         std::exception_ptr cause) noexcept {
  failure result;
  result.kind_ = kind::refusal;
  result.set_code(make_error_code(code));
  result.policy_ = std::move(policy);
  if (retry_after) result.retry_after_ = std::max(*retry_after, duration::zero());
  result.exception_ = std::move(cause);
  return result;
}

failure failure::cancelled() noexcept {
  failure result;
  result.kind_ = kind::cancellation;
  result.set_code(net::asio_error_code(net::error::operation_aborted));
  return result;
}

failure failure::current(const std::exception& e) noexcept {
  failure result;
  result.kind_ = kind::exception;
  result.exception_ = std::current_exception();
  if (const auto* asio = dynamic_cast<const net::asio_system_error*>(&e)) {
    result.set_code(asio->code());
  } else if (const auto* system = dynamic_cast<const std::system_error*>(&e)) {
    result.set_code(system->code());
  }
  if (dynamic_cast<const bail*>(&e) != nullptr) result.kind_ = kind::bail;
  if (cofferdam::is_cancellation(result.code())) result.kind_ = kind::cancellation;
  if (!is_ours(result.code())) return result;
  if (const auto* ours = dynamic_cast<const error*>(&e)) {
    result.policy_ = ours->shared_policy();
    result.retry_after_ = ours->retry_after().value_or(duration(-1));
  }
  return result;
}

failure failure::current() noexcept {
  try {
    throw;
  } catch (const std::exception& e) {
    return current(e);
  } catch (...) {
    failure result;
    result.kind_ = kind::exception;
    result.exception_ = std::current_exception();
    return result;
  }
}

failure failure::thrown(std::exception_ptr exception) noexcept {
  try {
    std::rethrow_exception(std::move(exception));
  } catch (...) {
    return current();
  }
}

std::exception_ptr failure::exception() const {
  switch (kind_) {
    case kind::none:
      break;
    case kind::refusal:
      return make_exception(static_cast<errc>(value_), policy_, retry_after(), exception_);
    case kind::cancellation:
      if (!exception_) return std::make_exception_ptr(net::asio_system_error(net::error::operation_aborted));
      [[fallthrough]];
    case kind::exception:
    case kind::bail:
      return exception_;
  }
  return nullptr;
}

void failure::unwrap_bail() noexcept {
  if (kind_ != kind::bail) return;
  try {
    raise();
  } catch (const bail& e) {
    *this = thrown(e.error());
  }
}

std::string failure::message() const {
  if (kind_ == kind::none) return {};
  try {
    raise();
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "an exception that is no std::exception";
  }
}

}  // namespace cofferdam::inline COFFERDAM_ABI
