// What can go wrong between a program and its database, told apart by what to do about it.
#pragma once

#include <cofferdam/core/error.hpp>

#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// An error of a database: `code()` says what to do, `what()` what happened, `native()` what the database called it.
///
/// | code | what happened | trying again |
/// |---|---|---|
/// | `condition_failed` | a requirement of the batch does not hold | after reading anew |
/// | `constraint_violated` | UNIQUE, CHECK, NOT NULL or a foreign key | no |
/// | `database_busy` | locked by another process, a deadlock or a serialisation failure | yes |
/// | `database_overloaded` | the queue of waiting batches is full | yes, later |
/// | `database_unavailable` | cannot be opened or reached | yes |
/// | `outcome_unknown` | disk or connection broke during the commit: it may have happened | what is idempotent |
/// | `database_full` | the disk or the allowed size is used up | when there is room |
/// | `database_io_error` | the operating system failed reading or writing | no |
/// | `database_corrupt` | the file is damaged or is no database | no |
/// | `invalid_statement` | SQL that the database rejects, a wrong parameter or type | no |
/// | `type_mismatch` | a cell holds another type than was asked for | no |
/// | `schema_mismatch` | the schema has another history than the program | no |
/// | `database_closed` | close() was called | no |
///
/// Nothing of the batch has happened, except perhaps with `outcome_unknown`.
class storage_error : public error {
 public:
  /// @param native  SQLite's extended result code as a number, PostgreSQL's SQLSTATE; may be empty.
  storage_error(errc code, std::string message, std::string native = {}, std::exception_ptr cause = nullptr);

  [[nodiscard]] const char* what() const noexcept override { return message_.c_str(); }
  [[nodiscard]] const std::string& native() const noexcept { return native_; }
  /// Whether the same batch may succeed when it is tried again.
  [[nodiscard]] bool is_retryable() const noexcept { return is_retryable(code()); }
  [[nodiscard]] static bool is_retryable(const std::error_code& code) noexcept;

 private:
  std::string message_, native_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
