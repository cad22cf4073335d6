// The rows a statement returned, typed where they are read.
#pragma once

#include <cofferdam/storage/value.hpp>

#include <cstddef>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

namespace detail {
/// Each throws a `storage_error` that names the column when the cell holds something else.
[[nodiscard]] std::int64_t cell_integer(const value& cell, std::string_view column);
[[nodiscard]] double cell_real(const value& cell, std::string_view column);
[[nodiscard]] const std::string& cell_text(const value& cell, std::string_view column);
[[nodiscard]] const blob& cell_bytes(const value& cell, std::string_view column);
[[noreturn]] void cell_out_of_range(std::int64_t cell, std::string_view column);

template <class T> inline constexpr bool is_optional = false;
template <class T> inline constexpr bool is_optional<std::optional<T>> = true;
}  // namespace detail

/// One row. Valid as long as its `rows`.
class row {
 public:
  row(const std::vector<std::string>& columns, const value* cells) noexcept : columns_(&columns), cells_(cells) {}

  [[nodiscard]] std::size_t size() const noexcept { return columns_->size(); }
  /// Errors: std::out_of_range.
  [[nodiscard]] const value& operator[](std::size_t column) const;
  [[nodiscard]] const value& operator[](std::string_view column) const { return (*this)[index_of(column)]; }

  /// A cell as bool, integer, double, std::string, std::string_view, blob, or an optional of these (nothing for NULL).
  /// Errors: `storage_error` (`type_mismatch`) naming the column; std::out_of_range for a column that is not there.
  template <class T> [[nodiscard]] T get(std::size_t column) const {
    const value& cell = (*this)[column];
    const std::string_view name = (*columns_)[column];
    if constexpr (detail::is_optional<T>) {
      if (cell.is_null()) return std::nullopt;
      return get<typename T::value_type>(column);
    } else if constexpr (std::same_as<T, bool>) {
      return detail::cell_integer(cell, name) != 0;
    } else if constexpr (std::integral<T>) {
      const std::int64_t integer = detail::cell_integer(cell, name);
      if (!std::in_range<T>(integer)) detail::cell_out_of_range(integer, name);
      return static_cast<T>(integer);
    } else if constexpr (std::floating_point<T>) {
      return static_cast<T>(detail::cell_real(cell, name));
    } else if constexpr (std::same_as<T, blob>) {
      return detail::cell_bytes(cell, name);
    } else {
      return T(detail::cell_text(cell, name));
    }
  }
  template <class T> [[nodiscard]] T get(std::string_view column) const { return get<T>(index_of(column)); }

 private:
  [[nodiscard]] std::size_t index_of(std::string_view column) const;

  const std::vector<std::string>* columns_;
  const value* cells_;
};

/// What a statement returned, in order. A value: copies are deep.
class rows {
 public:
  rows() = default;
  explicit rows(std::vector<std::string> columns) : columns_(std::move(columns)) {}

  [[nodiscard]] const std::vector<std::string>& columns() const noexcept { return columns_; }
  [[nodiscard]] std::size_t size() const noexcept { return columns_.empty() ? 0 : cells_.size() / columns_.size(); }
  [[nodiscard]] bool empty() const noexcept { return cells_.empty(); }
  /// Errors: std::out_of_range.
  [[nodiscard]] row operator[](std::size_t i) const;
  [[nodiscard]] row front() const { return (*this)[0]; }
  /// Rows that an INSERT, UPDATE or DELETE changed; 0 for a query.
  [[nodiscard]] std::size_t affected() const noexcept { return affected_; }

  class iterator {
   public:
    using value_type = row;
    using difference_type = std::ptrdiff_t;
    iterator() noexcept = default;
    iterator(const rows& r, std::size_t i) noexcept : rows_(&r), i_(i) {}
    row operator*() const noexcept { return row(rows_->columns_, rows_->cells_.data() + i_ * rows_->columns_.size()); }
    iterator& operator++() noexcept { return ++i_, *this; }
    iterator operator++(int) noexcept { return std::exchange(*this, iterator(*rows_, i_ + 1)); }
    bool operator==(const iterator&) const noexcept = default;

   private:
    const rows* rows_ = nullptr;
    std::size_t i_ = 0;
  };
  [[nodiscard]] iterator begin() const noexcept { return {*this, 0}; }
  [[nodiscard]] iterator end() const noexcept { return {*this, size()}; }

  // --- for drivers
  void add_cell(value cell) { cells_.push_back(std::move(cell)); }
  void set_affected(std::size_t n) noexcept { affected_ = n; }

 private:
  std::vector<std::string> columns_;
  std::vector<value> cells_;  // row by row
  std::size_t affected_ = 0;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
