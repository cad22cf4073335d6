// What became of a call: a value, or a `failure` that says why there is none. The non-throwing `try_` twins return
// `outcome<T>`; policies look at outcomes of any type through `outcome_view`.
#pragma once

#include <cofferdam/core/error.hpp>

#include <cassert>
#include <exception>
#include <optional>
#include <system_error>
#include <type_traits>
#include <typeinfo>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// Thrown by a task to end its retries at once: `throw bail(std::make_exception_ptr(not_found()))`. The innermost retry
/// unwraps it; its caller sees the error inside.
class bail : public std::exception {
 public:
  explicit bail(std::exception_ptr error) noexcept : error_(std::move(error)) {}
  [[nodiscard]] const std::exception_ptr& error() const noexcept { return error_; }
  [[nodiscard]] const char* what() const noexcept override { return "bailed out"; }

 private:
  std::exception_ptr error_;
};

/// Why a call has no value: refused by a policy (no exception is made until somebody asks), thrown by the task, or
/// cancelled by the caller.
/// Thread safety: as a value.
class failure {
 public:
  /// Empty: no failure.
  failure() noexcept = default;

  /// A refusal by a policy of this library.
  [[nodiscard]] static failure refused(errc code, shared_name policy = nullptr,
                                       std::optional<duration> retry_after = std::nullopt,
                                       std::exception_ptr cause = nullptr) noexcept;
  /// The exception being handled; call inside a catch block only.
  [[nodiscard]] static failure current() noexcept;
  /// As `current()` where the handler already knows the exception as `e`: spares a rethrow.
  [[nodiscard]] static failure current(const std::exception& e) noexcept;
  /// An exception that was caught elsewhere.
  [[nodiscard]] static failure thrown(std::exception_ptr exception) noexcept;
  /// A cancellation, as Asio reports it.
  [[nodiscard]] static failure cancelled() noexcept;

  /// True when there is a failure.
  explicit operator bool() const noexcept { return kind_ != kind::none; }
  /// True when a policy refused or gave up, whether in this pipeline or in one below it.
  [[nodiscard]] bool is_refusal() const noexcept { return kind_ == kind::refusal || is_ours(code()); }
  [[nodiscard]] bool is_refusal(errc code) const noexcept { return this->code() == make_error_code(code); }
  /// True when the operation was cancelled (Asio's `operation_aborted`).
  [[nodiscard]] bool is_cancellation() const noexcept { return kind_ == kind::cancellation; }
  /// The `errc` of a refusal, the code of a thrown `system_error`, otherwise empty.
  [[nodiscard]] std::error_code code() const noexcept {
    return category_ != nullptr ? std::error_code(value_, *category_) : std::error_code();
  }
  /// Name of the policy that refused; empty for anything else.
  [[nodiscard]] std::string_view policy() const noexcept { return policy_ ? std::string_view(*policy_) : ""; }
  /// When trying again may help, if the refusing policy knows.
  [[nodiscard]] std::optional<duration> retry_after() const noexcept {
    return retry_after_ < duration::zero() ? std::nullopt : std::optional(retry_after_);
  }
  /// What led to a refusal, if its policy says so: a circuit breaker names the failure that opened it.
  [[nodiscard]] std::exception_ptr cause() const noexcept {
    return kind_ == kind::refusal ? exception_ : std::exception_ptr();
  }
  /// The user's own exception, unchanged, or the typed exception of a refusal, made now.
  [[nodiscard]] std::exception_ptr exception() const;
  /// Throws `exception()`.
  [[noreturn]] void raise() const { std::rethrow_exception(exception()); }
  /// True when the task threw `bail`.
  [[nodiscard]] bool is_bail() const noexcept { return kind_ == kind::bail; }
  /// Makes a bail the error it carries; no effect on anything else.
  void unwrap_bail() noexcept;
  /// what() of the exception, without its type.
  [[nodiscard]] std::string message() const;

 private:
  enum class kind : unsigned char { none, refusal, cancellation, exception, bail };

  void set_code(const std::error_code& code) noexcept {
    value_ = code.value();
    category_ = &code.category();
  }

  // The code in its parts: an empty std::error_code takes a call into the standard library to make.
  const std::error_category* category_ = nullptr;
  int value_ = 0;
  kind kind_ = kind::none;
  duration retry_after_{-1};
  shared_name policy_;
  std::exception_ptr exception_;  // of a refusal: its cause
};

/// A value of type T or the reason why there is none. T may be void or move-only, and need not be
/// default-constructible.
template <class T> class [[nodiscard]] outcome {
 public:
  using value_type = T;

  outcome(T value) : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor): a value is an outcome
  outcome(failure why) noexcept : failure_(std::move(why)) {  // NOLINT(google-explicit-constructor): so is a failure
    assert(failure_ && "an outcome without value needs a failure");
  }

  [[nodiscard]] bool has_value() const noexcept { return value_.has_value(); }
  explicit operator bool() const noexcept { return has_value(); }

  /// The value. Errors: throws the failure's exception when there is none.
  [[nodiscard]] T& value() & { return require(), *value_; }
  [[nodiscard]] const T& value() const& { return require(), *value_; }
  [[nodiscard]] T value() && { return require(), *std::move(value_); }
  /// The value; undefined when there is none.
  [[nodiscard]] T& operator*() & noexcept { return *value_; }
  [[nodiscard]] const T& operator*() const& noexcept { return *value_; }
  [[nodiscard]] T&& operator*() && noexcept { return *std::move(value_); }
  [[nodiscard]] T* operator->() noexcept { return &*value_; }
  [[nodiscard]] const T* operator->() const noexcept { return &*value_; }
  template <class U> [[nodiscard]] T value_or(U&& other) const& {
    return has_value() ? *value_ : static_cast<T>(std::forward<U>(other));
  }

  /// The failure; empty when there is a value.
  [[nodiscard]] const failure& why() const& noexcept { return failure_; }
  [[nodiscard]] failure&& why() && noexcept { return std::move(failure_); }
  /// Shorthand for `why().code()`.
  [[nodiscard]] std::error_code code() const noexcept { return failure_.code(); }

 private:
  void require() const {
    if (!has_value()) failure_.raise();
  }

  std::optional<T> value_;
  failure failure_;
};

template <> class [[nodiscard]] outcome<void> {
 public:
  using value_type = void;

  outcome() noexcept = default;
  outcome(failure why) noexcept : failure_(std::move(why)) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] bool has_value() const noexcept { return !failure_; }
  explicit operator bool() const noexcept { return has_value(); }
  void value() const {
    if (failure_) failure_.raise();
  }
  [[nodiscard]] const failure& why() const& noexcept { return failure_; }
  [[nodiscard]] failure&& why() && noexcept { return std::move(failure_); }
  [[nodiscard]] std::error_code code() const noexcept { return failure_.code(); }

 private:
  failure failure_;
};

namespace detail {
template <class T> inline constexpr bool is_outcome = false;
template <class T> inline constexpr bool is_outcome<outcome<T>> = true;
}  // namespace detail

/// An outcome of any type as policies and their hooks see it. Valid only during the call it is passed to.
class outcome_view {
 public:
  outcome_view(const void* value, const std::type_info& type, const failure& why) noexcept
      : value_(value), type_(&type), why_(&why) {}

  [[nodiscard]] bool has_value() const noexcept { return !*why_; }
  [[nodiscard]] const failure& why() const noexcept { return *why_; }
  /// Of the value that there is, or would be.
  [[nodiscard]] const std::type_info& type() const noexcept { return *type_; }
  /// The value if there is one and it is exactly a T.
  template <class T> [[nodiscard]] const T* get_if() const noexcept {
    return value_ && has_value() && *type_ == typeid(T) ? static_cast<const T*>(value_) : nullptr;
  }

 private:
  const void* value_;
  const std::type_info* type_;
  const failure* why_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
