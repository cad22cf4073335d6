// What counts as a task, and what it yields.
#include "async_test.hpp"

#include <cofferdam/core/task.hpp>
#include <cofferdam/core/timeout.hpp>

#include <functional>
#include <memory>
#include <string>
#include <type_traits>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace task_test {
namespace {

using none = awaitable<int> (*)();
using two = awaitable<std::string> (*)(int, std::string);
using plain = int (*)(int);
using nothing = void (*)();
using reporting = awaitable<outcome<int>> (*)();

struct service {
  awaitable<int> ask(int question) { co_return question + base; }
  int base = 1;
};

struct move_only_task {
  move_only_task() : value(std::make_unique<int>(4)) {}  // no aggregate: GCC 12 (see gcc12_guard.hpp)
  std::unique_ptr<int> value;
  awaitable<int> operator()() { co_return *value; }
};

// (a) a callable that returns an awaitable
static_assert(std::is_same_v<task_value_t<none>, int>);
static_assert(std::is_same_v<task_value_t<two, int, const char*>, std::string>);
static_assert(std::is_same_v<task_value_t<move_only_task>, int>);
static_assert(task_with<decltype(&service::ask), service*, int>);
static_assert(!task_with<two, int>);  // an argument is missing
// (b) an awaitable
static_assert(std::is_same_v<task_value_t<awaitable<void>>, void>);
static_assert(!task_with<awaitable<int>, int>);  // takes no arguments
// (c) a plain callable
static_assert(std::is_same_v<task_value_t<plain, int>, int>);
static_assert(std::is_same_v<task_value_t<nothing>, void>);
static_assert(std::is_same_v<task_value_t<const int& (*)()>, int>);  // a reference would dangle
// (d) an Asio operation
static_assert(
    std::is_same_v<task_value_t<decltype(std::declval<net::steady_timer&>().async_wait(net::deferred))>, void>);
// What reports instead of throwing yields the value under policies.
static_assert(std::is_same_v<task_value_t<reporting>, outcome<int>>);
static_assert(std::is_same_v<run_value_t<reporting>, int>);
static_assert(std::is_same_v<run_value_t<none>, int>);
// Nothing else.
static_assert(!task_with<int>);
static_assert(!task_with<std::string>);

static_assert(repeatable_task<none> && repeatable_task<move_only_task>);
static_assert(!repeatable_task<awaitable<int>>);

ASYNC_TEST("every kind of task runs and yields its value", "[core][task]") {
  service oracle{10};
  const int asked = co_await with_timeout(1s, &service::ask, &oracle, 32);
  CHECK(asked == 42);
  const int moved = co_await with_timeout(1s, move_only_task());
  CHECK(moved == 4);
  const std::function<awaitable<int>(int)> erased = [](int n) -> awaitable<int> { co_return n * 2; };
  const int doubled = co_await with_timeout(1s, erased, 21);
  CHECK(doubled == 42);
  const int added = co_await with_timeout(1s, std::plus<>(), 40, 2);
  CHECK(added == 42);
  const auto pointer =
      co_await with_timeout(1s, [](const std::unique_ptr<int>& p) { return *p; }, std::make_unique<int>(8));
  CHECK(pointer == 8);
  const auto reported = co_await with_timeout(1s, [] { return outcome<int>(failure::refused(errc::injected_fault)); });
  CHECK(reported.why().is_refusal(errc::injected_fault));
}

ASYNC_TEST("arguments are kept for the task, which sees them as its own", "[core][task]") {
  std::string text = "before";
  const auto task = [](std::string& mine, duration d) -> awaitable<std::string> {
    mine += " and";
    co_await sleep_for(d);
    co_return mine + " after";
  };
  const auto result = co_await with_timeout(1h, task, text, 1s);
  CHECK(result == "before and after");
  CHECK(text == "before");
  co_await with_timeout(1h, [](std::string& s) { s = "changed"; }, std::ref(text));
  CHECK(text == "changed");
}

}  // namespace
}  // namespace task_test
