// What a database stores in a cell, and statements made of SQL and such values. The same on every driver.
#pragma once

#include <cofferdam/core/config.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

/// Bytes that are not text.
using blob = std::vector<std::byte>;

/// One cell: nothing (NULL), a 64-bit integer, a double, UTF-8 text or bytes. Booleans are the integers 0 and 1.
class value {
 public:
  using variant = std::variant<std::monostate, std::int64_t, double, std::string, blob>;

  value() noexcept = default;
  value(std::nullptr_t) noexcept {}  // NOLINT(google-explicit-constructor): everything here converts, as in SQL
  value(std::nullopt_t) noexcept {}  // NOLINT(google-explicit-constructor)
  template <std::integral T>
  value(T integer) noexcept : value_(static_cast<std::int64_t>(integer)) {}  // NOLINT(google-explicit-constructor)
  value(double real) noexcept : value_(real) {}                              // NOLINT(google-explicit-constructor)
  value(std::string text) noexcept : value_(std::move(text)) {}              // NOLINT(google-explicit-constructor)
  value(std::string_view text) : value_(std::string(text)) {}                // NOLINT(google-explicit-constructor)
  value(const char* text) : value_(std::string(text)) {}                     // NOLINT(google-explicit-constructor)
  value(blob bytes) noexcept : value_(std::move(bytes)) {}                   // NOLINT(google-explicit-constructor)
  template <std::convertible_to<value> T> value(std::optional<T> maybe) {    // NOLINT(google-explicit-constructor)
    if (maybe) *this = value(*std::move(maybe));
  }

  [[nodiscard]] bool is_null() const noexcept { return value_.index() == 0; }
  template <class T> [[nodiscard]] const T* get_if() const noexcept { return std::get_if<T>(&value_); }
  [[nodiscard]] const variant& as_variant() const noexcept { return value_; }
  bool operator==(const value&) const = default;

 private:
  variant value_;
};

/// One SQL statement with its parameters, `$1`, `$2`, ... in the text, on every driver.
///
///     statement("insert into orders(id, total) values($1, $2)", order.id, order.total)
class statement {
 public:
  template <std::convertible_to<value>... Values>
  explicit statement(std::string sql, Values&&... parameters) : sql_(std::move(sql)) {
    parameters_.reserve(sizeof...(parameters));
    (parameters_.emplace_back(std::forward<Values>(parameters)), ...);
  }

  /// Adds the next parameter.
  statement& bind(value parameter) & { return parameters_.push_back(std::move(parameter)), *this; }
  statement&& bind(value parameter) && { return std::move(bind(std::move(parameter))); }

  [[nodiscard]] const std::string& sql() const noexcept { return sql_; }
  [[nodiscard]] const std::vector<value>& parameters() const noexcept { return parameters_; }

 private:
  std::string sql_;
  std::vector<value> parameters_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
