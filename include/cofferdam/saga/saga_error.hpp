// How things go wrong in a saga: what actions and undos throw to say what happened, what a body sees of a step that
// failed, and what callers of the engine get.
#pragma once

#include <cofferdam/core/error.hpp>

#include <cstdint>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga {

/// Thrown by an action: refused, and nothing has happened. Not tried again, not undone; the body sees `step_failed`.
class refused : public std::runtime_error {
 public:
  /// @param code  for programs, such as "out_of_stock"; may be empty.
  explicit refused(const std::string& message, std::string code = {})
      : std::runtime_error(message), code_(std::move(code)) {}
  [[nodiscard]] const std::string& code() const noexcept { return code_; }

 private:
  std::string code_;
};

/// Thrown by an action or undo: accepted, but not done yet. Called again after a while; counts as no attempt.
class ongoing : public std::exception {
 public:
  explicit ongoing(duration after) noexcept : after_(after) {}
  [[nodiscard]] duration after() const noexcept { return after_; }
  [[nodiscard]] const char* what() const noexcept override { return "ongoing"; }

 private:
  duration after_;
};

/// Thrown by an undo: it will never work. The saga stops there for an operator.
class cannot_undo : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Thrown by an action: a bug. The saga stops there for an operator; nothing is tried again, nothing undone.
class fatal : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What a body sees of a step that failed: the same when it happens and whenever the saga is replayed.
class step_failed : public std::runtime_error {
 public:
  enum class reason : std::uint8_t {
    refused,    ///< the action threw `refused`: nothing has happened
    exhausted,  ///< no attempt succeeded: something may have happened, and will be undone
    stopped,    ///< another branch failed before this step began
  };
  step_failed(std::string step, reason why, const std::string& message, std::string code)
      : std::runtime_error("the step '" + step + "' " + describe(why) + (message.empty() ? "" : ": ") + message),
        step_(std::move(step)),
        why_(why),
        message_(message),
        code_(std::move(code)) {}

  [[nodiscard]] const std::string& step() const noexcept { return step_; }
  [[nodiscard]] reason why() const noexcept { return why_; }
  /// The action's own words, and its code.
  [[nodiscard]] const std::string& message() const noexcept { return message_; }
  [[nodiscard]] const std::string& code() const noexcept { return code_; }

 private:
  static const char* describe(reason why) noexcept {
    return why == reason::refused ? "was refused" : why == reason::exhausted ? "failed" : "was stopped";
  }
  std::string step_;
  reason why_;
  std::string message_, code_;
};

/// Thrown by a body, or by `scope::fail`: gives up, so that what was done is undone.
class aborted : public std::runtime_error {
 public:
  explicit aborted(const std::string& message, std::string code = {})
      : std::runtime_error(message), code_(std::move(code)) {}
  [[nodiscard]] const std::string& code() const noexcept { return code_; }

 private:
  std::string code_;
};

/// What calls of the engine end with.
///
/// | code | what happened |
/// |---|---|
/// | `saga_compensated` | the saga failed, or was cancelled, and all it did is undone; the message says why |
/// | `saga_stuck` | the saga stopped for an operator |
/// | `saga_abandoned` | an operator gave the saga up; effects may remain |
/// | `saga_conflict` | a saga with this id was started with another input, or as another definition |
/// | `saga_not_found` | there is no saga with this id |
/// | `saga_past_pivot` | it is too late to go back |
/// | `saga_wrong_state` | the saga is not in a state in which this can be done |
/// | `saga_undecodable` | its journal, input or output cannot be read; the message names the entry |
class saga_error : public error {
 public:
  /// @param cause  what the body ended with, where this process knows.
  saga_error(errc code, std::string message, std::exception_ptr cause = nullptr)
      : error(code, nullptr, std::nullopt, std::move(cause)), message_(std::move(message)) {}
  [[nodiscard]] const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
