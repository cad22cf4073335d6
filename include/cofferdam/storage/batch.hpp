// A batch: everything that must happen together, or not at all. It is filled without touching the database and
// committed in one hop; no transaction is ever held open across a co_await.
//
//     batch b;
//     b.require("stock is left", "select count(*) > 0 from stock where item = $1 and left > 0", item);
//     b.execute("update stock set left = left - 1 where item = $1", item);
//     outbox.enqueue(b, message);
//     co_await db.commit(std::move(b));
#pragma once

#include <cofferdam/storage/rows.hpp>
#include <cofferdam/storage/value.hpp>

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

namespace sqlite {
class connection;
}

/// What a feature of this library does beyond plain statements: inside a batch (append events, say) or on a snapshot
/// (read many). One object serves one call; what it found out stays in it for whoever kept a pointer.
/// Errors: what its functions throw refuses the whole batch, and is what the commit reports.
class operation {
 public:
  virtual ~operation() = default;
  /// On the writer's thread, inside the batch's savepoint, or on a reader's. May run again from the start: forget an
  /// earlier run.
  virtual void run(sqlite::connection& connection) = 0;
  /// Whether a read takes some microseconds as a rule: it is then tried in the calling thread, for a small time, before
  /// a reader's thread does it.
  [[nodiscard]] virtual bool is_short() const noexcept { return false; }
};

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

  /// A statement of the user's own. Its rows are in the receipt, under the index returned here.
  template <std::convertible_to<value>... Values> std::size_t execute(std::string sql, Values&&... parameters) {
    return execute(statement(std::move(sql), std::forward<Values>(parameters)...));
  }
  std::size_t execute(statement s) {
    steps_.emplace_back(std::move(s));
    return statements_++;
  }

  void add(std::shared_ptr<operation> o) { steps_.emplace_back(std::move(o)); }
  /// All of `other`, after what is here; the indexes of its statements are then those of this batch, further on.
  batch& add(batch other);

  [[nodiscard]] bool empty() const noexcept { return steps_.empty(); }
  [[nodiscard]] std::size_t size() const noexcept { return steps_.size(); }

  // --- for drivers
  struct requirement {
    std::string name;
    statement query;
  };
  using step = std::variant<statement, requirement, std::shared_ptr<operation>>;
  [[nodiscard]] const std::vector<step>& steps() const noexcept { return steps_; }

 private:
  std::vector<step> steps_;
  std::size_t statements_ = 0;
};

inline batch& batch::add(batch other) {
  for (auto& each : other.steps_) steps_.push_back(std::move(each));
  statements_ += other.statements_;
  return *this;
}

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
