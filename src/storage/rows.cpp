#include <cofferdam/storage/rows.hpp>
#include <cofferdam/storage/storage_error.hpp>

#include <algorithm>
#include <stdexcept>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

const char* kind_of(const value& cell) noexcept {
  constexpr const char* kinds[] = {"NULL", "an integer", "a real number", "text", "bytes"};
  return kinds[cell.as_variant().index()];
}

[[noreturn]] void mismatch(const value& cell, std::string_view column, const char* wanted) {
  throw storage_error(errc::type_mismatch,
                      "column '" + std::string(column) + "' holds " + kind_of(cell) + ", not " + wanted);
}

template <class T> const T& cell_as(const value& cell, std::string_view column, const char* wanted) {
  const T* found = cell.get_if<T>();
  if (found == nullptr) mismatch(cell, column, wanted);
  return *found;
}

}  // namespace

namespace detail {

std::int64_t cell_integer(const value& cell, std::string_view column) {
  return cell_as<std::int64_t>(cell, column, "an integer");
}
double cell_real(const value& cell, std::string_view column) {
  if (const auto* integer = cell.get_if<std::int64_t>()) return static_cast<double>(*integer);
  return cell_as<double>(cell, column, "a number");
}
const std::string& cell_text(const value& cell, std::string_view column) {
  return cell_as<std::string>(cell, column, "text");
}
const blob& cell_bytes(const value& cell, std::string_view column) { return cell_as<blob>(cell, column, "bytes"); }

void cell_out_of_range(std::int64_t cell, std::string_view column) {
  throw storage_error(errc::type_mismatch, "column '" + std::string(column) + "' holds " + std::to_string(cell) +
                                               ", which does not fit into the integer that was asked for");
}

}  // namespace detail

const value& row::operator[](std::size_t column) const {
  if (column >= columns_->size()) {
    throw std::out_of_range("row has " + std::to_string(columns_->size()) + " columns, no number " +
                            std::to_string(column));
  }
  return cells_[column];
}

std::size_t row::index_of(std::string_view column) const {
  const auto found = std::find(columns_->begin(), columns_->end(), column);
  if (found == columns_->end()) throw std::out_of_range("row has no column '" + std::string(column) + "'");
  return static_cast<std::size_t>(found - columns_->begin());
}

row rows::operator[](std::size_t i) const {
  if (i >= size())
    throw std::out_of_range("there are " + std::to_string(size()) + " rows, no number " + std::to_string(i));
  return row(columns_, cells_.data() + i * columns_.size());
}

}  // namespace cofferdam::inline COFFERDAM_ABI
