// One SQLite connection: opened with our pragmas, statements prepared once, result codes turned into storage errors.
#pragma once

#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/storage/sqlite.hpp>
#include <cofferdam/storage/storage_error.hpp>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

struct sqlite3;
struct sqlite3_stmt;

namespace cofferdam::inline COFFERDAM_ABI::sqlite {

/// What a URL `sqlite:PATH?...` says.
struct location {
  std::string path;  ///< empty: in memory
  std::string vfs;   ///< SQLite's name of a file system; empty: its default
  bool threads = true;
  std::size_t cached_bytes = 0;  ///< as `database_options` has it
};
/// Errors: `storage_error` (`database_unavailable`).
[[nodiscard]] location parse_location(const std::string& url);

enum class access : std::uint8_t { read, write, create };

/// A statement of the cache, with the parameter numbers that SQLite gave to `$1`, `$2`, ...
struct prepared::entry {
  entry(::sqlite3* database, ::sqlite3_stmt* prepared_statement);
  entry(const entry&) = delete;
  entry& operator=(const entry&) = delete;
  ~entry();

  ::sqlite3* db;
  ::sqlite3_stmt* handle;
  std::vector<int> positions;  // [n] is the place of $n; empty when they are in order anyway
  int parameters;
  bool controls_transaction = false;  // begins, divides or ends one
  bool in_use = false, is_cached = false;
};

/// Thread safety: one thread at a time.
class owned_connection final : public connection {
 public:
  owned_connection(const location& where, access mode, std::int64_t busy_milliseconds);
  ~owned_connection() override;
  owned_connection(const owned_connection&) = delete;
  owned_connection& operator=(const owned_connection&) = delete;

  [[nodiscard]] prepared prepare(std::string_view sql) override;
  [[nodiscard]] std::int64_t last_insert_id() const noexcept override;
  [[nodiscard]] std::size_t changed() const noexcept override;
  /// Rows changed since it was opened.
  [[nodiscard]] int all_changes() const noexcept;

  /// As `prepare`, for statements of the program's. Errors: `invalid_statement` when it controls transactions, which
  /// are the driver's.
  [[nodiscard]] prepared prepare_statement(std::string_view sql);
  /// As `prepare_statement`. Errors: `invalid_statement` when it would write.
  [[nodiscard]] prepared prepare_query(std::string_view sql);
  /// Runs a statement without parameters and without rows.
  void execute(const char* sql);
  [[nodiscard]] bool in_transaction() const noexcept;
  /// While it lives, statements end with SQLITE_INTERRUPT soon after `flag` is set. (sqlite3_interrupt would be lost
  /// when it comes just before a statement begins.)
  class interruptible {
   public:
    interruptible(owned_connection& connection, const std::atomic<bool>& flag) noexcept;
    /// Ends them likewise when it is `until`.
    interruptible(owned_connection& connection, const timer_service& timers, time_point until) noexcept;
    ~interruptible();
    interruptible(const interruptible&) = delete;
    interruptible& operator=(const interruptible&) = delete;

   private:
    owned_connection& connection_;
    const timer_service* timers_ = nullptr;
    time_point until_{};
  };
  [[nodiscard]] ::sqlite3* handle() const noexcept { return db_; }

 private:
  struct text_hash : std::hash<std::string_view> {
    using is_transparent = void;
  };

  ::sqlite3* db_ = nullptr;
  std::string name_;
  bool controls_transaction_ = false;  // what is being prepared
  std::unordered_map<std::string, std::unique_ptr<prepared::entry>, text_hash, std::equal_to<>> cache_;
};

[[noreturn]] void raise(::sqlite3* db, int result, std::string_view doing);

}  // namespace cofferdam::inline COFFERDAM_ABI::sqlite
