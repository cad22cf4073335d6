// Outcomes and failures: what they keep, what they turn into, and that nothing is thrown before somebody asks.
#include "catch.hpp"

#include <cofferdam/core/net.hpp>
#include <cofferdam/core/outcome.hpp>

#include <memory>
#include <stdexcept>
#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace outcome_test {
namespace {

shared_name name_of(const char* text) { return std::make_shared<const std::string>(text); }
template <class E> failure thrown(E e) { return failure::thrown(std::make_exception_ptr(std::move(e))); }

struct no_default {
  explicit no_default(int v) : value(v) {}
  int value;
};

TEST_CASE("an empty failure is none", "[core][outcome]") {
  const failure none;
  CHECK_FALSE(none);
  CHECK_FALSE(none.is_refusal());
  CHECK_FALSE(none.is_cancellation());
  CHECK_FALSE(none.is_bail());
  CHECK(none.exception() == nullptr);
  CHECK(none.message().empty());
  CHECK(none.policy().empty());
}

TEST_CASE("a refusal knows who refused, why, and when to come back", "[core][outcome]") {
  const auto cause = std::make_exception_ptr(std::runtime_error("connection reset"));
  const auto why = failure::refused(errc::circuit_open, name_of("payments"), 3s, cause);
  CHECK(why);
  CHECK(why.is_refusal());
  CHECK(why.is_refusal(errc::circuit_open));
  CHECK_FALSE(why.is_refusal(errc::bulkhead_full));
  CHECK(why.code() == errc::circuit_open);
  CHECK(why.policy() == "payments");
  CHECK(why.retry_after() == 3s);
  try {
    why.raise();
  } catch (const circuit_open_error& e) {
    CHECK(e.policy() == "payments");
    CHECK(e.retry_after() == 3s);
    CHECK_THROWS_WITH(std::rethrow_exception(e.cause()), "connection reset");
  }
}

TEST_CASE("a hint in the past says now, and no hint says nothing", "[core][outcome]") {
  CHECK(failure::refused(errc::circuit_open, nullptr, -1s).retry_after() == 0s);
  CHECK_FALSE(failure::refused(errc::circuit_open).retry_after());
}

TEST_CASE("a refusal thrown below this pipeline is still a refusal, with its policy and hint", "[core][outcome]") {
  const auto below = failure::refused(errc::bulkhead_full, name_of("pool"), 2s);
  const auto above = failure::thrown(below.exception());
  CHECK(above.is_refusal());
  CHECK(above.is_refusal(errc::bulkhead_full));
  CHECK(above.policy() == "pool");
  CHECK(above.retry_after() == 2s);
  CHECK(above.exception() != nullptr);
}

TEST_CASE("the user's own exception passes unchanged", "[core][outcome]") {
  const auto original = std::make_exception_ptr(std::out_of_range("index"));
  const auto why = failure::thrown(original);
  CHECK(why.exception() == original);
  CHECK(why.message() == "index");
  CHECK_FALSE(why.is_refusal());
  CHECK_FALSE(why.code());
  CHECK(thrown(std::system_error(std::make_error_code(std::errc::timed_out))).code() == std::errc::timed_out);
  CHECK_FALSE(thrown(std::system_error(std::make_error_code(std::errc::timed_out))).is_refusal());
  const auto odd = thrown(42);
  CHECK(odd);
  CHECK(odd.message() == "an exception that is no std::exception");
}

TEST_CASE("a cancellation is recognised however it comes", "[core][outcome]") {
  CHECK(failure::cancelled().is_cancellation());
  CHECK(thrown(net::asio_system_error(net::error::operation_aborted)).is_cancellation());
  CHECK_FALSE(failure::cancelled().is_refusal());
  CHECK_FALSE(thrown(net::asio_system_error(net::error::eof)).is_cancellation());
  CHECK(thrown(net::asio_system_error(net::error::eof)).code() ==
        std::error_code(net::asio_error_code(net::error::eof)));
  CHECK_THROWS_AS(failure::cancelled().raise(), net::asio_system_error);
}

TEST_CASE("a bail turns into the error it carries, anything else stays", "[core][outcome]") {
  auto why = thrown(bail(std::make_exception_ptr(std::invalid_argument("no such order"))));
  CHECK(why.is_bail());
  CHECK(why.message() == "bailed out");
  why.unwrap_bail();
  CHECK_FALSE(why.is_bail());
  CHECK(why.message() == "no such order");
  why.unwrap_bail();
  CHECK(why.message() == "no such order");
  auto nested = thrown(bail(std::make_exception_ptr(bail(std::make_exception_ptr(std::runtime_error("inner"))))));
  nested.unwrap_bail();
  CHECK(nested.is_bail());  // one layer belongs to each retry
  nested.unwrap_bail();
  CHECK(nested.message() == "inner");
}

TEST_CASE("an outcome holds values of any kind, or says why not", "[core][outcome]") {
  outcome<int> five(5);
  CHECK(five.has_value());
  CHECK(five.value() == 5);
  CHECK_FALSE(five.why());
  CHECK(five.value_or(6) == 5);
  const outcome<int> none(failure::refused(errc::timed_out, name_of("limit")));
  CHECK_FALSE(none);
  CHECK(none.value_or(6) == 6);
  CHECK(none.code() == errc::timed_out);
  CHECK_THROWS_AS(none.value(), timeout_error);
  outcome<std::unique_ptr<int>> movable(std::make_unique<int>(7));
  const auto taken = std::move(movable).value();
  CHECK(*taken == 7);
  outcome<no_default> odd(no_default(3));
  CHECK(odd->value == 3);
  const outcome<void> done;
  CHECK(done);
  CHECK_NOTHROW(done.value());
  const outcome<void> not_done(failure::cancelled());
  CHECK_FALSE(not_done);
  CHECK_THROWS_AS(not_done.value(), net::asio_system_error);
}

TEST_CASE("a view gives the value to who names its exact type", "[core][outcome]") {
  const int value = 5;
  const failure none;
  const outcome_view view(&value, typeid(int), none);
  CHECK(view.has_value());
  REQUIRE(view.get_if<int>() != nullptr);
  CHECK(*view.get_if<int>() == 5);
  CHECK(view.get_if<long>() == nullptr);
  const auto why = failure::cancelled();
  const outcome_view failed(nullptr, typeid(int), why);
  CHECK_FALSE(failed.has_value());
  CHECK(failed.get_if<int>() == nullptr);
  CHECK(failed.why().is_cancellation());
}

}  // namespace
}  // namespace outcome_test
