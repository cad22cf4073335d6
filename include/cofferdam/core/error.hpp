// Errors of the library: one category, one exception base, one typed subclass per refusal. A refusal is first of all a
// value (`failure`, see outcome.hpp); it becomes an exception only where a caller asks for one.
#pragma once

#include <cofferdam/core/config.hpp>
#include <cofferdam/core/time.hpp>

#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

namespace cofferdam::inline COFFERDAM_ABI {

/// What the library itself refuses or reports. Never used for the user's own errors.
enum class errc {
  circuit_open = 1,   ///< the circuit is open, or half-open with all probes taken
  circuit_isolated,   ///< the circuit was isolated by an operator
  bulkhead_full,      ///< no permit free and no place in the queue, or that lost to a more important call
  queue_timed_out,    ///< waited longer for a permit than the bulkhead allows
  queue_cleared,      ///< the waiting call was dropped by clear_queue() or by the bulkhead's end
  timed_out,          ///< the time limit passed before the task was done
  deadline_exceeded,  ///< an enclosing deadline leaves no time to start
  injected_fault,     ///< made by a chaos policy
  cancelled,          ///< the caller cancelled
  rate_limited,       ///< the rate is used up; `retry_after` says until when
  weight_too_large,   ///< the call needs more permits than the policy ever has
  throttled,          ///< the client holds back, since the server refuses too much
  shed,               ///< dropped under overload
  nested_use,         ///< within a call of the same, for which it would wait
  invalid_options,    ///< options rejected at construction; what() lists every problem

  // storage: see storage_error.hpp for what to do about each
  condition_failed,      ///< a requirement of the batch does not hold
  constraint_violated,   ///< UNIQUE, CHECK, NOT NULL or a foreign key
  database_busy,         ///< locked by another process, a deadlock or a serialisation failure
  database_overloaded,   ///< too many batches or cursors wait
  database_unavailable,  ///< cannot be opened or reached
  outcome_unknown,       ///< disk or connection broke during the commit
  database_full,         ///< no room left
  database_io_error,     ///< the operating system failed
  database_corrupt,      ///< damaged, or no database
  invalid_statement,     ///< the database rejects the SQL or its parameters
  type_mismatch,         ///< a cell holds another type than was asked for
  schema_mismatch,       ///< the schema has another history than the program
  database_closed,       ///< close() was called

  // event sourcing
  version_conflict,         ///< the stream is not as expected
  append_condition_failed,  ///< an event stands where none may
  stream_deleted,           ///< for ever
  event_id_reused,          ///< an event with this id is there, and it is another one
  event_rejected,           ///< an event or a name that cannot be stored
  event_undecodable,        ///< data that is not what its type says, or a type nobody knows
  events_missing,           ///< events that are needed were truncated, moved out or removed

  // commands and queries
  command_invalid,     ///< validation found something; what() lists all of it
  command_forbidden,   ///< not authorised
  command_key_reused,  ///< the idempotency key belongs to a command with other content
  stale_read,          ///< the table has not got as far as the reader asked for

  // outbox
  message_refused,      ///< the broker will never take this message
  message_undecodable,  ///< a stored message that cannot be read

  // brokers
  broker_unavailable,    ///< no connection, no answer, no room
  broker_refuses_login,  ///< wrong credentials
  topic_missing,         ///< nobody takes messages of this topic

  // sagas: see saga_error.hpp
  saga_compensated,  ///< failed or was cancelled, and all it did is undone
  saga_stuck,        ///< stopped for an operator
  saga_abandoned,    ///< given up by an operator
  saga_conflict,     ///< the id belongs to a saga with another input or definition
  saga_not_found,    ///< no saga has this id
  saga_past_pivot,   ///< too late to go back
  saga_wrong_state,  ///< not possible in the state the saga is in
  saga_undecodable,  ///< a journal, an input or an output that cannot be read
};

/// The category "cofferdam" of all `errc` codes.
[[nodiscard]] const std::error_category& error_category() noexcept;

[[nodiscard]] inline std::error_code make_error_code(errc e) noexcept {
  return {static_cast<int>(e), error_category()};
}

/// A policy's name, shared so that an error may outlive its policy.
using shared_name = std::shared_ptr<const std::string>;

/// Base of every exception that a call of ours can end with, and of `invalid_options_error`. Mistakes in files and
/// programs have types of their own: `configuration_error`, `deadlock_error`, `chaos::scenario_error`.
/// Thread safety: immutable after construction.
class error : public std::system_error {
 public:
  error(errc code, shared_name policy, std::optional<duration> retry_after = std::nullopt,
        std::exception_ptr cause = nullptr);

  /// Name of the policy that refused; empty when none did.
  [[nodiscard]] std::string_view policy() const noexcept { return policy_ ? std::string_view(*policy_) : ""; }
  [[nodiscard]] const shared_name& shared_policy() const noexcept { return policy_; }
  /// When trying again may help, counted from the refusal; nothing when unknown.
  [[nodiscard]] std::optional<duration> retry_after() const noexcept { return retry_after_; }
  /// The error behind this one (a circuit's last failure), or null.
  [[nodiscard]] const std::exception_ptr& cause() const noexcept { return cause_; }

 private:
  shared_name policy_;
  std::optional<duration> retry_after_;
  std::exception_ptr cause_;
};

struct circuit_open_error : error {
  using error::error;
};
struct circuit_isolated_error : error {
  using error::error;
};
struct bulkhead_full_error : error {
  using error::error;
};
/// The wait in the bulkhead's queue ended without a permit: `queue_timed_out` or `queue_cleared`.
struct queue_error : error {
  using error::error;
};
/// `timed_out` or `deadline_exceeded`.
struct timeout_error : error {
  using error::error;
};
/// `rate_limited` or `weight_too_large`.
struct rate_limit_error : error {
  using error::error;
};
/// `throttled` or `shed`: load that was held back on purpose.
struct overload_error : error {
  using error::error;
};
/// `nested_use`: a mistake of the program.
struct nested_use_error : error {
  using error::error;
};
struct injected_error : error {
  using error::error;
};

/// Options or configuration that cannot work; `what()` lists every problem, one per line, each naming its field.
struct invalid_options_error : error {
  explicit invalid_options_error(std::string problems);
  [[nodiscard]] const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

/// The typed exception for `code`, as a pointer. Errors: std::bad_alloc.
[[nodiscard]] std::exception_ptr make_exception(errc code, shared_name policy, std::optional<duration> retry_after,
                                                std::exception_ptr cause);

/// True for errors of this library, whoever threw them.
[[nodiscard]] inline bool is_ours(const std::error_code& code) noexcept { return code.category() == error_category(); }

}  // namespace cofferdam::inline COFFERDAM_ABI

template <> struct std::is_error_code_enum<cofferdam::errc> : std::true_type {};
