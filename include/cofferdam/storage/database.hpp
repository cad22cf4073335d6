// A database: every write is one atomic batch, reads run beside it.
//
//     database db = co_await database::open("sqlite:orders.db");
//     co_await db.migrate("orders", schema);
//     batch b;
//     b.execute("insert into orders(id, total) values($1, $2)", id, total);
//     co_await db.commit(std::move(b));
//     const rows found = co_await db.query("select total from orders where id = $1", id);
#pragma once

#include <cofferdam/core/event_channel.hpp>
#include <cofferdam/core/net.hpp>
#include <cofferdam/core/outcome.hpp>
#include <cofferdam/core/time.hpp>
#include <cofferdam/storage/batch.hpp>
#include <cofferdam/storage/rows.hpp>
#include <cofferdam/storage/storage_error.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

namespace detail {
class storage_driver;
class storage_cursor;
struct database_access;
}  // namespace detail

struct database_options {
  std::size_t max_batches_per_commit = 256;         ///< how many waiting batches share one commit to disk
  std::size_t max_waiting_batches = 10'000;         ///< more are refused with `database_overloaded`
  std::size_t readers = 2;                          ///< threads that read
  std::size_t max_cursors = 64;                     ///< open cursors; more are refused with `database_overloaded`
  duration busy_timeout = std::chrono::seconds(5);  ///< how long to wait for another process's lock
  std::int64_t checkpoint_pages = 10'000;           ///< size of the write-ahead log that is moved into the database
  std::size_t cached_bytes = 16 << 20;              ///< SQLite: how much of the file each connection may keep in memory
  bool create = true;                               ///< make the file when it is not there
  std::size_t connections = 4;                      ///< PostgreSQL: connections that write; `readers` others read
  duration connect_timeout = std::chrono::seconds(5);  ///< PostgreSQL
  /// PostgreSQL: how long a statement may take; then it ends with `database_busy`, and where the server does not even
  /// say so, its connection counts as lost. Raise it for migrations that take longer. At least a millisecond.
  duration statement_limit = std::chrono::minutes(1);
};

/// One step of a schema's history: statements that lead from the version before to this one.
struct migration {
  std::uint32_t version = 0;  ///< 1, 2, 3, ...
  std::string name;
  std::vector<std::string> statements;  ///< one SQL statement each
};

struct database_stats {
  std::uint64_t commits = 0;          ///< transactions written
  std::uint64_t batches = 0;          ///< batches in them
  std::uint64_t refused_batches = 0;  ///< conditions, constraints, invalid statements
  std::uint64_t failed_commits = 0;   ///< transactions that the database could not write
  std::uint64_t queries = 0;
  std::size_t waiting_batches = 0;     ///< right now
  std::size_t open_cursors = 0;        ///< right now
  std::size_t connections = 0;         ///< right now; PostgreSQL: that may be opened
  std::size_t open_connections = 0;    ///< right now, PostgreSQL
  std::size_t busy_connections = 0;    ///< right now, PostgreSQL: waiting for an answer
  std::uint64_t connects = 0;          ///< PostgreSQL: connections opened, again or for the first time
  std::uint64_t failed_connects = 0;   ///< PostgreSQL
  std::uint64_t lost_connections = 0;  ///< PostgreSQL: that broke, or did not answer within `statement_limit`
  std::uint64_t log_bytes = 0;         ///< SQLite: of the write-ahead log, as far as it is in use
};

struct database_event {
  enum class kind : std::uint8_t {
    committed,      ///< `batches` batches are durable
    commit_failed,  ///< and what became of them is in `why`
    checkpointed,   ///< the write-ahead log was moved into the database
  };
  kind what;
  std::size_t batches = 0;
  failure why;
};

/// Rows of one query, page by page; what is not asked for is not read. Holds a connection and a snapshot of the
/// database until it ends: read on, or let it go.
/// Thread safety: none.
class [[nodiscard]] cursor {
 public:
  cursor(cursor&&) noexcept;
  cursor& operator=(cursor&&) noexcept;
  ~cursor();

  /// The next page, at least one row; nothing at the end. Errors: `storage_error`. Cancellation: ends the cursor.
  awaitable<std::optional<rows>> next();

 private:
  friend class database;
  explicit cursor(std::unique_ptr<detail::storage_cursor> implementation) noexcept;
  std::unique_ptr<detail::storage_cursor> implementation_;
};

/// Thread safety: every member from any thread. Must outlive its cursors and the calls that wait, and go before the
/// execution contexts of those calls do.
///
/// SQLite: one thread writes, and commits to disk (`synchronous=FULL`) whatever came together while it wrote the commit
/// before; each batch in a savepoint of its own. Others read, from snapshots.
///
/// PostgreSQL: one thread serves a pool of connections; a batch is one transaction, sent in one round trip. Batches of
/// one caller that did not wait for each other may commit in any order. The types of parameters are those that the
/// server infers, so `$1` in two places of different types needs a cast; numeric and times come back as text; text may
/// not hold a zero byte. An `operation` that does not say its statements is refused. Transactions are "read committed".
class database {
 public:
  /// @param url  `sqlite:PATH`, `sqlite::memory:`, or `postgresql://user@host/name?sslmode=...`, all of which libpq
  /// gets as it is.
  /// `sqlite::memory:` lives in this object and works in the calling thread, so it suits virtual time; so does a file
  /// opened as `sqlite:PATH?threads=0`.
  /// Errors: `storage_error` naming the path, never a password.
  [[nodiscard]] static awaitable<database> open(std::string url, database_options options = {});

  database(database&&) noexcept;
  database& operator=(database&&) noexcept;
  /// Finishes the batches that were accepted, as `close()` does, but waits for them in this thread.
  ~database();

  /// All of `b`, durably, or nothing of it. An empty batch succeeds at once.
  /// Errors: see `storage_error`, and whatever the batch's operations throw.
  /// Cancellation: a batch that has not begun is taken back. One that has begun is not interrupted, and its real
  /// outcome is delivered: a cancelled commit never lies.
  [[nodiscard]] awaitable<receipt> commit(batch b);
  [[nodiscard]] awaitable<outcome<receipt>> try_commit(batch b);

  /// Runs one query on a snapshot that shows every batch whose commit was reported before.
  /// Errors: `storage_error`; `invalid_statement` for what writes. Cancellation: interrupts the query.
  template <std::convertible_to<value>... Values>
  [[nodiscard]] awaitable<rows> query(std::string sql, Values&&... parameters) {
    return query(statement(std::move(sql), std::forward<Values>(parameters)...));
  }
  [[nodiscard]] awaitable<rows> query(statement q);

  /// Runs `o` on a snapshot, as `query` does, where plain rows would be too slow or too little.
  [[nodiscard]] awaitable<void> read(std::shared_ptr<operation> o);

  /// As `query`, for results of any size. @param page  rows per page.
  [[nodiscard]] awaitable<cursor> stream(statement q, std::size_t page = 1'000);

  /// Brings the schema of `component` to the newest of `history`, each step in a commit of its own, however many
  /// processes try at once. Steps that are there are skipped.
  /// Errors: `invalid_statement` naming the step; `schema_mismatch` when the database has a step that `history` does
  /// not, or one with other statements.
  [[nodiscard]] awaitable<void> migrate(std::string component, std::vector<migration> history);

  /// A number that grows whenever something was committed, here or (soon) by another process.
  [[nodiscard]] std::uint64_t changes() const noexcept;
  /// Waits until `changes()` is no longer `seen`, or the time is over. A hint: look what really changed.
  /// What other processes commit is heard of from the first wait on. Returns changes(). Cancellation: any type ends the
  /// wait with `operation_aborted`.
  [[nodiscard]] awaitable<std::uint64_t> wait_for_change(std::uint64_t seen, duration limit);

  /// Refuses what comes from now on, finishes what was accepted, then lets the database go. Again: no effect.
  [[nodiscard]] awaitable<void> close();

  /// Whether it answers: reads from the database and locks it for a moment. Errors: none, they are in the outcome.
  [[nodiscard]] awaitable<outcome<void>> check_health();

  /// The path; `:memory:` without one; or host, port and name, no password.
  [[nodiscard]] const std::string& name() const noexcept;
  /// Whether batches commit one after the other (SQLite), so that numbers given in one are seen in their order.
  [[nodiscard]] bool has_one_writer() const;
  [[nodiscard]] database_stats stats() const;
  [[nodiscard]] event_channel<database_event>& events() noexcept;

 private:
  friend struct detail::database_access;
  explicit database(std::shared_ptr<detail::storage_driver> driver) noexcept;
  std::shared_ptr<detail::storage_driver> driver_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
