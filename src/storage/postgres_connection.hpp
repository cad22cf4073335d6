// One PostgreSQL connection: libpq without blocking, many transactions in one round trip, statements prepared once.
#pragma once

#include <cofferdam/core/net_sockets.hpp>
#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/storage/batch.hpp>
#include <cofferdam/storage/database.hpp>
#include <cofferdam/storage/storage_error.hpp>

#include <libpq-fe.h>

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::postgres {

/// @param sql  what was run, for the message.
[[nodiscard]] storage_error to_error(const complaint& what, const std::string& sql);

/// What is sent up to one synchronisation point: at an error the server skips the rest.
struct unit {
  struct step {
    std::string sql;
    const statement* parameters = nullptr;  ///< may be null
    std::size_t part = none;                ///< of the batch, for whoever made the step
    rows found = {};
  };
  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();
  std::vector<step> steps;
  /// Begins and commits without a word: what stands before a synchronisation point is a transaction.
  bool is_implicit = false;
  std::vector<std::unique_ptr<const statement>> owned;  ///< parameters that live nowhere else

  /// Runs `s` as a further step.
  void add(statement s, std::size_t part) {
    owned.push_back(std::make_unique<const statement>(std::move(s)));
    steps.push_back({owned.back()->sql(), owned.back().get(), part});
  }

  [[nodiscard]] bool is_answered() const noexcept { return answered == steps.size(); }
  [[nodiscard]] bool is_committed() const noexcept {
    return is_answered() && (!is_implicit || (is_complete && !refusal));
  }

  std::size_t answered = 0;          ///< steps that succeeded
  std::optional<complaint> refusal;  ///< of the step after these; where there is none, a farewell
  bool is_complete = false;          ///< answered to the end, by success or refusal
};

/// The first cell of `query`, which must be true; otherwise the server fails, in a way that `is_condition` knows.
[[nodiscard]] std::string condition_sql(const std::string& query);
/// `change`, which must change a row; otherwise as above.
[[nodiscard]] std::string changing_condition_sql(const std::string& change);
[[nodiscard]] bool is_condition(const complaint& what) noexcept;

class connection;

/// What the connections of one driver have in common. The driver's thread; counters from any.
struct connection_group {
  connection_group(std::string where, const database_options& o) : url(std::move(where)), options(o) {}
  /// Connections that have waited for an answer for longer than the server may take count as lost.
  void abandon_silent(time_point now) noexcept;

  const std::string url;
  const database_options options;
  std::vector<connection*> all;
  std::atomic<std::size_t> open{0}, busy{0};
  std::atomic<std::uint64_t> connects{0}, failed_connects{0}, lost{0};
};

/// Thread safety: the executor's one thread; what `canceller` gave, any thread.
class connection {
 public:
  connection(net::any_io_executor executor, connection_group& group);
  ~connection();
  connection(const connection&) = delete;
  connection& operator=(const connection&) = delete;

  /// Connects anew unless connected. Errors: `storage_error` (`database_unavailable`).
  awaitable<void> ensure_open(bool is_read_only);
  /// Whether a fresh look at the socket says that the server is still there.
  [[nodiscard]] bool is_alive();
  /// Whether a transaction is open, failed or not.
  [[nodiscard]] bool in_transaction() const noexcept;
  void close() noexcept;

  /// Sends all and reads all answers. A lost connection closes itself; units that were not answered say so.
  /// Errors: `storage_error` for parameters that cannot be sent, and then nothing was.
  awaitable<void> run(std::vector<unit>& units);
  /// Ends waits of `run` and `ensure_open`: the connection counts as lost.
  void abandon() noexcept;
  /// Since when it waits for a sign of the server; `never` when it does not.
  [[nodiscard]] time_point waits_since() const noexcept { return waits_since_; }

  /// Waits until the server sends something, or `limit`. @return whether somebody else notified.
  awaitable<bool> wait_for_notification(duration limit);

  /// For PQcancel, which blocks.
  [[nodiscard]] std::shared_ptr<PGcancel> canceller() const;

 private:
  class time_limit;
  struct expected {
    std::size_t unit, step;
    bool is_prepare;
  };

  void end_waits() noexcept;
  void follow_socket();
  [[nodiscard]] complaint last_complaint() const;
  awaitable<bool> wait(bool to_read, bool to_write);
  awaitable<bool> flush();
  awaitable<bool> read_answers(std::vector<unit>& units, const std::vector<expected>& all);
  bool take_answer(PGresult* result, unit& of, const expected& what);
  bool send(const unit::step& s, std::vector<expected>& all, std::size_t unit, std::size_t step);

  net::any_io_executor executor_;
  connection_group& group_;
  const timer_service& timers_;
  time_point waits_since_ = never;
  PGconn* connection_ = nullptr;
  net::posix::stream_descriptor socket_;  // a duplicate of libpq's
  bool is_abandoned_ = false, is_open_ = false;
  std::unordered_map<std::string, std::string> prepared_;  // by SQL
  std::unordered_set<std::string> seen_;                   // worth preparing the next time
  std::uint64_t names_ = 0;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::postgres
