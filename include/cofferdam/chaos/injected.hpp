// The mark by which a failure that was injected is told from a real one.
#pragma once

#include <cofferdam/core/outcome.hpp>

#include <concepts>
#include <exception>
#include <type_traits>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

/// A base of the injected exceptions of your own types: a handler for your type catches them as if they were real.
class injected_mark {
 protected:
  injected_mark() = default;
  injected_mark(const injected_mark&) = default;
  injected_mark& operator=(const injected_mark&) = default;
  ~injected_mark() = default;
};

/// Whether a fault policy made this failure: it is `errc::injected_fault`, or an exception with the mark. What a fault
/// merely led to is not: an open circuit, a time limit that an injected latency used up.
/// Costs a rethrow for exceptions, nothing for refusals.
[[nodiscard]] bool is_injected(const failure& why);
[[nodiscard]] bool is_injected(const std::exception_ptr& exception);

/// An exception of yours with the mark.
template <class E> struct injected_exception final : E, injected_mark {
  explicit injected_exception(E error) : E(std::move(error)) {}
};

/// What a fault that fails calls fails them with. Made once: exceptions are dear.
class injected_failure {
 public:
  injected_failure() : why_(failure::refused(errc::injected_fault)) {}
  /// Null stands for none. An exception that is only known by pointer cannot be marked.
  explicit injected_failure(std::exception_ptr error)
      : why_(error ? failure::thrown(std::move(error)) : failure::refused(errc::injected_fault)) {}
  template <std::derived_from<std::exception> E>
  explicit injected_failure(E error) : why_(failure::thrown(mark(std::move(error)))) {}

  [[nodiscard]] const failure& get() const noexcept { return why_; }

 private:
  template <class E> static std::exception_ptr mark(E error) {
    if constexpr (std::is_final_v<E>) {
      return std::make_exception_ptr(std::move(error));
    } else {
      return std::make_exception_ptr(injected_exception<E>(std::move(error)));
    }
  }
  failure why_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
