// SQLite as an `operation` sees it: inside the batch, on the writer's thread.
#pragma once

#include <cofferdam/storage/rows.hpp>
#include <cofferdam/storage/value.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

struct sqlite3_value;

namespace cofferdam::inline COFFERDAM_ABI::sqlite {

/// The cells of one row, counted from 0. Views are valid in `row_reader::read` only.
class cells {
 public:
  explicit cells(::sqlite3_value** values) noexcept : values_(values) {}
  [[nodiscard]] std::int64_t integer(int column) const noexcept;
  [[nodiscard]] std::string_view text(int column) const noexcept;
  [[nodiscard]] std::span<const std::byte> bytes(int column) const noexcept;

 private:
  ::sqlite3_value** values_;
};

/// Reads rows of many columns in half the time: SQLite locks and checks for every column that is asked of a statement,
/// but not for the arguments of a function, and it need not stop at every row. One `step` of
///
///     select 1 from ... where ... and cofferdam_row($1, position, ...) order by (what an index has in this order)
///
/// whose parameter $1 it is, gives it row after row until it has enough: true; false at the end.
class row_reader {
 public:
  /// Returns whether that is enough. Errors: std::bad_alloc, nothing else.
  virtual bool read(const cells& row) = 0;

 protected:
  ~row_reader() = default;
};

/// A prepared statement in use: bind, step, read; reset when it goes, for the next one to use.
/// Errors: every function throws `storage_error`. Views are valid until the next step.
class prepared {
 public:
  struct entry;

  explicit prepared(entry& e) noexcept : entry_(&e) {}
  prepared(prepared&& other) noexcept : entry_(std::exchange(other.entry_, nullptr)) {}
  prepared& operator=(prepared&&) = delete;
  ~prepared();

  /// Parameters are counted from 1, as `$1` is. A text or blob must live until the statement is reset.
  template <class T> prepared& bind(int parameter, const T& any) {
    if constexpr (std::same_as<T, std::nullptr_t>) {
      bind_null(parameter);
    } else if constexpr (std::integral<T>) {
      bind_integer(parameter, static_cast<std::int64_t>(any));
    } else if constexpr (std::floating_point<T>) {
      bind_real(parameter, static_cast<double>(any));
    } else if constexpr (std::convertible_to<const T&, std::string_view>) {
      bind_text(parameter, any);
    } else if constexpr (std::convertible_to<const T&, std::span<const std::byte>>) {
      bind_bytes(parameter, any);
    } else {
      bind_value(parameter, any);
    }
    return *this;
  }
  /// For `cofferdam_row`. It must live until the statement is reset.
  prepared& bind_reader(int parameter, row_reader& reader);
  /// All parameters of `s`. Errors: `invalid_statement` when it has more or fewer than the text.
  prepared& bind_all(const statement& s);

  /// To the next row; false at the end.
  bool step();
  /// Ready to be bound and run again; parameters keep their values.
  void reset() noexcept;
  /// Runs to the end and resets.
  void execute();

  /// Columns are counted from 0.
  [[nodiscard]] bool is_null(int column) const noexcept;
  [[nodiscard]] std::int64_t integer(int column) const noexcept;
  [[nodiscard]] double real(int column) const noexcept;
  [[nodiscard]] std::string_view text(int column) const noexcept;
  [[nodiscard]] std::span<const std::byte> bytes(int column) const noexcept;
  [[nodiscard]] value cell(int column) const;
  /// Whether the statement begins, divides or ends a transaction.
  [[nodiscard]] bool controls_transaction() const noexcept;
  /// Whether the statement only reads.
  [[nodiscard]] bool is_read_only() const noexcept;
  /// Up to `limit` further rows. Fewer are the last ones.
  [[nodiscard]] rows fetch(std::size_t limit = static_cast<std::size_t>(-1));

 private:
  void bind_integer(int parameter, std::int64_t integer);
  void bind_real(int parameter, double real);
  void bind_text(int parameter, std::string_view text);
  void bind_bytes(int parameter, std::span<const std::byte> bytes);
  void bind_null(int parameter);
  void bind_value(int parameter, const value& any);

  entry* entry_;
};

/// One connection, used by one thread at a time. Prepared statements are kept for the next use of the same text.
class connection {
 public:
  virtual ~connection() = default;
  /// Errors: `storage_error` (`invalid_statement`).
  [[nodiscard]] virtual prepared prepare(std::string_view sql) = 0;
  /// Prepares, binds, runs and fetches.
  rows run(const statement& s);
  /// As `run`, of what is prepared already.
  rows run(prepared& p, const statement& s);
  [[nodiscard]] virtual std::int64_t last_insert_id() const noexcept = 0;
  /// Rows the last statement changed.
  [[nodiscard]] virtual std::size_t changed() const noexcept = 0;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::sqlite
