// A batch: everything that must happen together, or not at all. It is filled without touching the database and
// committed in one hop; no transaction is ever held open across a co_await.
//
//     batch b;
//     b.require_change("stock is left", "update stock set amount = amount - 1 where item = $1 and amount > 0", item);
//     outbox.enqueue(b, message);
//     co_await db.commit(std::move(b));
#pragma once

#include <cofferdam/storage/detail/stored.hpp>
#include <cofferdam/storage/rows.hpp>
#include <cofferdam/storage/value.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

namespace sqlite {
class connection;
}
namespace postgres {
/// What the server says against a statement.
struct complaint {
  std::string state, message;  ///< the SQLSTATE, and the text
  std::string detail;          ///< more of it, if there is
  std::string constraint;      ///< which one, if it is about one
  bool is_stale_plan = false;  ///< the schema changed under a prepared statement
};
}  // namespace postgres

/// What a feature of this library does beyond plain statements: inside a batch (append events, say) or on a snapshot
/// (read many). One object serves one call; what it found out stays in it for whoever kept a pointer.
/// Errors: what its functions throw refuses the whole batch, and is what the commit reports.
class operation {
 public:
  virtual ~operation() = default;
  /// SQLite. On the writer's thread, inside the batch's savepoint, or on a reader's. May run again from the start:
  /// forget an earlier run.
  virtual void run(sqlite::connection& connection) = 0;
  /// Whether a read takes some microseconds as a rule: it is then tried in the calling thread, for a small time, before
  /// a reader's thread does it.
  [[nodiscard]] virtual bool is_short() const noexcept { return false; }

  // --- PostgreSQL, where a batch goes out in one flight
  /// The statements that do the same, in its place; may be asked for again. Unless overridden: `invalid_statement`.
  [[nodiscard]] virtual std::vector<statement> statements();
  /// Their rows, once the batch is committed, or the read done.
  virtual void answered(std::vector<rows> found);
  /// Asked after the batch was rolled back over a complaint about one of them; nothing: no need to ask.
  [[nodiscard]] virtual std::optional<statement> question(const postgres::complaint& why) const;
  /// Throws what the commit reports. Returning leaves that to the driver. @param found  rows of the question.
  virtual void refused(const postgres::complaint& why, const rows& found) const;
};

/// Whether batches that lock the same name exclude each other.
enum class lock_mode : std::uint8_t { exclusive, shared };

/// Thread safety: as a value. Cheap to move; may be committed once.
class batch {
 public:
  /// A condition for all of it: a query whose first cell must be true, or the commit ends with `condition_failed`.
  /// @param name  what the error says failed.
  template <std::convertible_to<value>... Values>
  batch& require(std::string name, std::string sql, Values&&... parameters) {
    steps_.emplace_back(requirement{std::move(name), statement(std::move(sql), std::forward<Values>(parameters)...)});
    return *this;
  }
  batch& require(std::string name, statement query) {
    steps_.emplace_back(requirement{std::move(name), std::move(query)});
    return *this;
  }

  /// An insert, update or delete that must change a row, or the commit ends with `condition_failed`: what is written
  /// only under the version, epoch or owner that was read.
  template <std::convertible_to<value>... Values>
  batch& require_change(std::string name, std::string sql, Values&&... parameters) {
    steps_.emplace_back(
        requirement{std::move(name), statement(std::move(sql), std::forward<Values>(parameters)...), true});
    return *this;
  }

  /// A statement of the user's own. Its rows are in the receipt, under the index returned here.
  template <std::convertible_to<value>... Values> std::size_t execute(std::string sql, Values&&... parameters) {
    return execute(statement(std::move(sql), std::forward<Values>(parameters)...));
  }
  std::size_t execute(statement s) {
    steps_.emplace_back(std::move(s));
    return statements_++;
  }

  /// Batches that lock the same name follow each other, and a `require` sees what the one before wrote; `shared` ones
  /// wait only for exclusive ones. For conditions that two batches could otherwise both find met. All locks of a batch
  /// are taken before anything else happens, in one order, so nobody waits in a circle. Nothing to do for SQLite, where
  /// one writes. More than 100 names count as `lock_everything`.
  batch& lock(std::string_view name, lock_mode mode = lock_mode::exclusive);
  /// As locking every name.
  batch& lock_everything() { return locks_everything_ = true, *this; }

  void add(std::shared_ptr<operation> o) { steps_.emplace_back(std::move(o)); }
  /// All of `other`, after what is here; the indexes of its statements are then those of this batch, further on.
  batch& add(batch other);

  [[nodiscard]] bool empty() const noexcept { return steps_.empty(); }
  [[nodiscard]] std::size_t size() const noexcept { return steps_.size(); }

  // --- for drivers
  struct requirement {
    std::string name;
    statement query;
    bool is_change = false;  // it must change a row; else its first cell must be true
  };
  using step = std::variant<statement, requirement, std::shared_ptr<operation>>;
  [[nodiscard]] const std::vector<step>& steps() const noexcept { return steps_; }
  /// By the hash of their names.
  [[nodiscard]] const std::map<std::int64_t, lock_mode>& locks() const noexcept { return locks_; }
  [[nodiscard]] bool locks_everything() const noexcept { return locks_everything_; }

 private:
  void lock_key(std::int64_t key, lock_mode mode);

  std::vector<step> steps_;
  std::size_t statements_ = 0;
  std::map<std::int64_t, lock_mode> locks_;
  bool locks_everything_ = false;
};

/// What a commit brought back.
class receipt {
 public:
  receipt() = default;
  explicit receipt(std::vector<rows> results) noexcept : results_(std::move(results)) {}

  /// The rows of the statement that `batch::execute` gave this index. Errors: std::out_of_range.
  [[nodiscard]] const rows& operator[](std::size_t statement) const { return results_.at(statement); }
  /// How many there are.
  [[nodiscard]] std::size_t size() const noexcept { return results_.size(); }

 private:
  std::vector<rows> results_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
