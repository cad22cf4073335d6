// ASYNC_TEST: a test case whose body is a coroutine on virtual time. `time` is its virtual_time; a body that waits for
// something that never happens fails with deadlock_error. Store the result of a co_await before checking it: GCC 12
// evaluates a co_await inside CHECK three times.
#pragma once

#include "catch.hpp"

#include <cofferdam/core/virtual_time.hpp>

#define COFFERDAM_TEST_JOIN_(a, b) a##b
#define COFFERDAM_TEST_JOIN(a, b) COFFERDAM_TEST_JOIN_(a, b)

#define COFFERDAM_ASYNC_TEST(body, ...)                                      \
  static ::cofferdam::awaitable<void> body(::cofferdam::virtual_time& time); \
  TEST_CASE(__VA_ARGS__) {                                                   \
    ::cofferdam::net::io_context context(1);                                 \
    ::cofferdam::virtual_time time(context);                                 \
    time.run(body, std::ref(time));                                          \
  }                                                                          \
  static ::cofferdam::awaitable<void> body([[maybe_unused]] ::cofferdam::virtual_time& time)

#define ASYNC_TEST(...) COFFERDAM_ASYNC_TEST(COFFERDAM_TEST_JOIN(async_test_body_, __COUNTER__), __VA_ARGS__)
