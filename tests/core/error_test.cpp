// Errors: codes, the category, typed exceptions and what they say.
#include "catch.hpp"

#include <cofferdam/core/error.hpp>

#include <memory>
#include <set>
#include <stdexcept>
#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace error_test {
namespace {

/// The exception of type `Expected` that `make_exception` makes for `code`; fails the test when it makes another.
template <class Expected> Expected made(errc code, std::optional<duration> retry_after = std::nullopt) {
  const auto name = std::make_shared<const std::string>("payments");
  try {
    std::rethrow_exception(make_exception(code, name, retry_after, nullptr));
  } catch (const Expected& e) {
    return e;
  }
}

TEST_CASE("every code has the library's category and a message of its own") {
  std::set<std::string> messages;
  for (int value = 1; value <= static_cast<int>(errc::stale_read); ++value) {
    const std::error_code code = static_cast<errc>(value);
    CHECK(std::string(code.category().name()) == "cofferdam");
    CHECK(code.message().find("unknown") == std::string::npos);
    messages.insert(code.message());
  }
  CHECK(messages.size() == static_cast<std::size_t>(errc::stale_read));
  CHECK(error_category().message(999) == "unknown error 999");
}

TEST_CASE("is_ours tells the library's errors from everybody else's") {
  CHECK(is_ours(errc::timed_out));
  CHECK_FALSE(is_ours(std::make_error_code(std::errc::timed_out)));
  CHECK_FALSE(is_ours(std::error_code()));
}

TEST_CASE("make_exception throws the type that belongs to the code") {
  CHECK(made<circuit_open_error>(errc::circuit_open).code() == errc::circuit_open);
  CHECK(made<circuit_isolated_error>(errc::circuit_isolated).code() == errc::circuit_isolated);
  CHECK(made<bulkhead_full_error>(errc::bulkhead_full).code() == errc::bulkhead_full);
  CHECK(made<queue_error>(errc::queue_timed_out).code() == errc::queue_timed_out);
  CHECK(made<queue_error>(errc::queue_cleared).code() == errc::queue_cleared);
  CHECK(made<rate_limit_error>(errc::rate_limited).code() == errc::rate_limited);
  CHECK(made<rate_limit_error>(errc::weight_too_large).code() == errc::weight_too_large);
  CHECK(made<overload_error>(errc::throttled).code() == errc::throttled);
  CHECK(made<overload_error>(errc::shed).code() == errc::shed);
  CHECK(made<nested_use_error>(errc::nested_use).code() == errc::nested_use);
  CHECK(made<timeout_error>(errc::timed_out).code() == errc::timed_out);
  CHECK(made<timeout_error>(errc::deadline_exceeded).code() == errc::deadline_exceeded);
  CHECK(made<injected_error>(errc::injected_fault).code() == errc::injected_fault);
  CHECK(made<error>(errc::cancelled).code() == errc::cancelled);
}

TEST_CASE("an error says which policy refused, and when to come back") {
  const auto refusal = made<circuit_open_error>(errc::circuit_open, 1500us);
  CHECK(refusal.policy() == "payments");
  CHECK(refusal.retry_after() == 1500us);
  CHECK(std::string(refusal.what()) == "'payments', retry after 2 ms: circuit is open");
}

TEST_CASE("an error without a policy says only what happened") {
  const error plain(errc::cancelled, nullptr);
  CHECK(plain.policy().empty());
  CHECK_FALSE(plain.retry_after());
  CHECK_FALSE(plain.cause());
  CHECK(std::string(plain.what()).find("cancelled by the caller") != std::string::npos);
}

TEST_CASE("what() of an error without a policy does not begin with a separator") {
  CHECK(std::string(error(errc::cancelled, nullptr).what()) == "cancelled by the caller");
}

TEST_CASE("an error keeps the failure behind it") {
  const auto last_failure = std::make_exception_ptr(std::runtime_error("connection refused"));
  const error refusal(errc::circuit_open, nullptr, std::nullopt, last_failure);
  CHECK_THROWS_WITH(std::rethrow_exception(refusal.cause()), "connection refused");
}

TEST_CASE("an error outlives the policy that made it") {
  auto name = std::make_shared<const std::string>("short-lived");
  const error refusal(errc::bulkhead_full, name);
  name.reset();
  CHECK(refusal.policy() == "short-lived");
}

TEST_CASE("rejected options say every problem") {
  const invalid_options_error rejected("failure_ratio: 1.5 is above 1\nwindow: must be positive");
  CHECK(rejected.code() == errc::invalid_options);
  CHECK(std::string(rejected.what()) == "failure_ratio: 1.5 is above 1\nwindow: must be positive");
}

}  // namespace
}  // namespace error_test
