#include <cofferdam/cqrs/detail/handlers.hpp>

#if __has_include(<cxxabi.h>)
#include <cxxabi.h>

#include <cstdlib>
#include <memory>
#endif

namespace cofferdam::inline COFFERDAM_ABI::detail {

std::size_t next_message_slot() noexcept {
  static std::atomic<std::size_t> next{0};
  return next.fetch_add(1, std::memory_order_relaxed);
}

std::string readable_name(const std::type_info& type) {
#if __has_include(<cxxabi.h>)
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> name(abi::__cxa_demangle(type.name(), nullptr, nullptr, &status),
                                                         &std::free);
  if (status == 0 && name) return name.get();
#endif
  return type.name();
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
