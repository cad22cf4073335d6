#include <cofferdam/chaos/injected.hpp>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

bool is_injected(const failure& why) {
  if (why.is_refusal(errc::injected_fault)) return true;
  return why && !why.is_refusal() && !why.is_cancellation() && is_injected(why.exception());
}

bool is_injected(const std::exception_ptr& exception) {
  if (!exception) return false;
  try {
    std::rethrow_exception(exception);
  } catch (const injected_mark&) {
    return true;
  } catch (const injected_error&) {
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
