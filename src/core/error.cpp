#include <cofferdam/core/error.hpp>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

class category final : public std::error_category {
 public:
  const char* name() const noexcept override { return "cofferdam"; }

  std::string message(int value) const override {
    switch (static_cast<errc>(value)) {
      case errc::circuit_open:
        return "circuit is open";
      case errc::circuit_isolated:
        return "circuit is isolated by an operator";
      case errc::bulkhead_full:
        return "bulkhead is full";
      case errc::queue_timed_out:
        return "waited too long for a permit";
      case errc::queue_cleared:
        return "the waiting call was cleared from the queue";
      case errc::timed_out:
        return "timed out";
      case errc::deadline_exceeded:
        return "deadline leaves no time to start";
      case errc::injected_fault:
        return "injected fault";
      case errc::cancelled:
        return "cancelled by the caller";
      case errc::rate_limited:
        return "rate limit reached";
      case errc::weight_too_large:
        return "needs more permits than there are";
      case errc::throttled:
        return "held back by the client's throttle";
      case errc::shed:
        return "dropped under overload";
      case errc::nested_use:
        return "called from within a call of its own, for which it would wait";
      case errc::invalid_options:
        return "invalid options";
      case errc::condition_failed:
        return "a condition of the batch does not hold";
      case errc::constraint_violated:
        return "a constraint of the database is violated";
      case errc::database_busy:
        return "the database is busy";
      case errc::database_overloaded:
        return "too much waits for the database";
      case errc::database_unavailable:
        return "the database cannot be reached";
      case errc::outcome_unknown:
        return "nobody can tell whether the commit happened";
      case errc::database_full:
        return "the database has no room left";
      case errc::database_io_error:
        return "the database cannot read or write";
      case errc::database_corrupt:
        return "the database is damaged";
      case errc::invalid_statement:
        return "the database rejects the statement";
      case errc::type_mismatch:
        return "the cell holds another type";
      case errc::schema_mismatch:
        return "the schema is not the one expected";
      case errc::database_closed:
        return "the database is closed";
      case errc::version_conflict:
        return "the stream is not as expected";
      case errc::append_condition_failed:
        return "an event stands where none may";
      case errc::stream_deleted:
        return "the stream was deleted for ever";
      case errc::event_id_reused:
        return "the id belongs to another event";
      case errc::event_rejected:
        return "the event cannot be stored";
      case errc::event_undecodable:
        return "the event cannot be decoded";
      case errc::events_missing:
        return "events that are needed are gone";
      case errc::command_invalid:
        return "the command is not valid";
      case errc::command_forbidden:
        return "the command or query is not allowed";
      case errc::command_key_reused:
        return "the key belongs to another command";
      case errc::stale_read:
        return "what is read lags behind";
      case errc::message_refused:
        return "the broker refuses the message";
      case errc::message_undecodable:
        return "the message cannot be read";
      case errc::broker_unavailable:
        return "the broker cannot be reached";
      case errc::broker_refuses_login:
        return "the broker refuses the login";
      case errc::topic_missing:
        return "the broker has no such topic";
      case errc::saga_compensated:
        return "the saga went back";
      case errc::saga_stuck:
        return "the saga waits for an operator";
      case errc::saga_abandoned:
        return "the saga was given up";
      case errc::saga_conflict:
        return "the id belongs to another saga";
      case errc::saga_not_found:
        return "there is no such saga";
      case errc::saga_past_pivot:
        return "the saga is past its pivot";
      case errc::saga_wrong_state:
        return "the saga is in another state";
      case errc::saga_undecodable:
        return "the saga cannot be read";
    }
    return "unknown error " + std::to_string(value);
  }
};

/// system_error writes ": " before the code's message even where there is nothing to introduce it.
std::system_error with_text(errc code, const std::string& text) {
  return text.empty() ? std::system_error(make_error_code(code)) : std::system_error(make_error_code(code), text);
}

std::string describe(const shared_name& policy, std::optional<duration> retry_after) {
  std::string text = policy ? "'" + *policy + "'" : std::string();
  if (!retry_after) return text;
  const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(*retry_after).count();
  return text + (text.empty() ? "" : ", ") + "retry after " + std::to_string(milliseconds) + " ms";
}

}  // namespace

const std::error_category& error_category() noexcept {
  static const category instance;
  return instance;
}

error::error(errc code, shared_name policy, std::optional<duration> retry_after, std::exception_ptr cause)
    : std::system_error(with_text(code, describe(policy, retry_after))),
      policy_(std::move(policy)),
      retry_after_(retry_after),
      cause_(std::move(cause)) {}

invalid_options_error::invalid_options_error(std::string problems)
    : error(errc::invalid_options, nullptr), message_(std::move(problems)) {}

std::exception_ptr make_exception(errc code, shared_name policy, std::optional<duration> retry_after,
                                  std::exception_ptr cause) {
  switch (code) {
    case errc::circuit_open:
      return std::make_exception_ptr(circuit_open_error(code, std::move(policy), retry_after, std::move(cause)));
    case errc::circuit_isolated:
      return std::make_exception_ptr(circuit_isolated_error(code, std::move(policy), retry_after, std::move(cause)));
    case errc::bulkhead_full:
      return std::make_exception_ptr(bulkhead_full_error(code, std::move(policy), retry_after, std::move(cause)));
    case errc::queue_timed_out:
    case errc::queue_cleared:
      return std::make_exception_ptr(queue_error(code, std::move(policy), retry_after, std::move(cause)));
    case errc::timed_out:
    case errc::deadline_exceeded:
      return std::make_exception_ptr(timeout_error(code, std::move(policy), retry_after, std::move(cause)));
    case errc::injected_fault:
      return std::make_exception_ptr(injected_error(code, std::move(policy), retry_after, std::move(cause)));
    case errc::rate_limited:
    case errc::weight_too_large:
      return std::make_exception_ptr(rate_limit_error(code, std::move(policy), retry_after, std::move(cause)));
    case errc::throttled:
    case errc::shed:
      return std::make_exception_ptr(overload_error(code, std::move(policy), retry_after, std::move(cause)));
    case errc::nested_use:
      return std::make_exception_ptr(nested_use_error(code, std::move(policy), retry_after, std::move(cause)));
    default:  // the others are made where they are found out
      break;
  }
  return std::make_exception_ptr(error(code, std::move(policy), retry_after, std::move(cause)));
}

}  // namespace cofferdam::inline COFFERDAM_ABI
