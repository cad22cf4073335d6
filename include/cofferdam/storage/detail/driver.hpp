// What a database driver provides; `database` is the typed shell over it. One implementation per database, in src/.
#pragma once

#include <cofferdam/core/parked.hpp>
#include <cofferdam/storage/database.hpp>

#include <atomic>
#include <mutex>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::detail {

class storage_cursor {
 public:
  virtual ~storage_cursor() = default;
  /// An empty result is the end.
  virtual awaitable<outcome<rows>> next() = 0;
};

/// Counts what was committed and wakes who waits for it.
class change_signal {
 public:
  /// Any thread.
  void raise() noexcept;
  [[nodiscard]] std::uint64_t count() const noexcept { return count_.load(std::memory_order_acquire); }
  awaitable<std::uint64_t> wait(std::uint64_t seen, duration limit);

 private:
  std::atomic<std::uint64_t> count_{1};
  std::mutex mutex_;
  std::vector<parked_reference> waiting_;
};

/// Failures are values here: `storage_error`s, what an operation threw, or a cancellation.
class storage_driver {
 public:
  virtual ~storage_driver() = default;
  storage_driver(const storage_driver&) = delete;
  storage_driver& operator=(const storage_driver&) = delete;

  virtual awaitable<outcome<receipt>> commit(batch b) = 0;
  virtual awaitable<outcome<rows>> query(statement q) = 0;
  virtual awaitable<outcome<void>> read(std::shared_ptr<operation> o) = 0;
  virtual awaitable<outcome<std::unique_ptr<storage_cursor>>> open_cursor(statement q, std::size_t page) = 0;
  virtual awaitable<outcome<void>> check_health() = 0;
  virtual awaitable<void> close() = 0;
  /// Makes `changes` hear of other processes too; called before every wait, cheap but for the first time.
  virtual void hear_others() = 0;
  /// A statement that lets only one transaction migrate at a time; empty where only one writes anyway.
  [[nodiscard]] virtual std::string migration_lock() const = 0;
  [[nodiscard]] virtual const std::string& name() const noexcept = 0;
  [[nodiscard]] virtual database_stats stats() const = 0;

  change_signal changes;
  event_channel<database_event> events;

 protected:
  storage_driver() = default;
};

/// For views of a database.
struct database_access {
  [[nodiscard]] static database of(std::shared_ptr<storage_driver> driver) { return database(std::move(driver)); }
  [[nodiscard]] static const std::shared_ptr<storage_driver>& driver_of(const database& db) noexcept {
    return db.driver_;
  }
};

/// Errors: throw `storage_error`.
awaitable<std::shared_ptr<storage_driver>> open_sqlite(std::string url, database_options options);
awaitable<std::shared_ptr<storage_driver>> open_postgres(std::string url, database_options options);

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
