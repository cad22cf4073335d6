// What living with client libraries of brokers takes, which are C and wait in their calls.
#pragma once

#include <cofferdam/core/net.hpp>

#include <memory>

namespace cofferdam::inline COFFERDAM_ABI::detail {

template <class T, void (*Destroy)(T*)> struct destroyed_by {
  void operator()(T* object) const noexcept { Destroy(object); }
};
/// Owns what the library made.
template <class T, void (*Destroy)(T*)> using c_pointer = std::unique_ptr<T, destroyed_by<T, Destroy>>;

/// Where calls run that wait. Lives as long as the program, since whoever comes back from it may be its last user.
[[nodiscard]] net::thread_pool& blocking_calls();

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
