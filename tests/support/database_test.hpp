// DATABASE_TEST: a test case whose body is a coroutine that is given an empty database, once for each kind: `db`. On
// SQLite in memory time is virtual; with a file, which has threads, and on PostgreSQL it is real, and `time.shortened`
// makes long waits of it short ones.
#pragma once

#include "async_test.hpp"
#include "postgres_server.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/storage/database.hpp>

#include <algorithm>
#include <concepts>
#include <functional>
#include <type_traits>

namespace cofferdam::test {

struct test_time {
  bool is_virtual;
  /// For waits that must only be long compared with others.
  [[nodiscard]] duration shortened(duration d) const noexcept {
    return is_virtual ? d : std::min<duration>(d, std::chrono::milliseconds(100));
  }
};

/// Waits until `holds`, a function or a coroutine, says so, for a minute at least. @return whether it does.
template <class Predicate> awaitable<bool> eventually(const Predicate& holds) {
  for (int looks = 0; looks < 12'000; ++looks) {
    bool is_so = false;
    if constexpr (std::same_as<std::invoke_result_t<const Predicate&>, bool>) {
      is_so = holds();
    } else {
      is_so = co_await holds();
    }
    if (is_so) co_return true;
    co_await sleep_for(std::chrono::milliseconds(5));
  }
  co_return false;
}

using database_body = std::function<awaitable<void>(database&, test_time)>;

inline awaitable<void> open_and_run(std::string url, const database_body& body, bool is_virtual) {
  database db = co_await database::open(std::move(url));
  co_await body(db, test_time{is_virtual});
  co_await db.close();
}

/// To be called in a test case: makes a section for each kind.
inline void on_every_database(const database_body& body) {
  SECTION("SQLite") {
    net::io_context context(1);
    virtual_time time(context);
    time.run(open_and_run, std::string("sqlite::memory:"), std::cref(body), true);
  }
  SECTION("SQLite in a file") {
    const temporary_directory directory;
    run_in_real_time(open_and_run, "sqlite:" + directory.file("test.db"), std::cref(body), false);
  }
  if (postgres_server* server = postgres_server::shared()) {
    SECTION("PostgreSQL") {
      server->clear();
      run_in_real_time(open_and_run, server->url(), std::cref(body), false);
    }
  }
}

}  // namespace cofferdam::test

#define COFFERDAM_DATABASE_TEST(body, ...)                                                                \
  static ::cofferdam::awaitable<void> body(::cofferdam::database& db, ::cofferdam::test::test_time time); \
  TEST_CASE(__VA_ARGS__) { ::cofferdam::test::on_every_database(body); }                                  \
  static ::cofferdam::awaitable<void> body(::cofferdam::database& db,                                     \
                                           [[maybe_unused]] ::cofferdam::test::test_time time)

#define DATABASE_TEST(...) COFFERDAM_DATABASE_TEST(COFFERDAM_TEST_JOIN(database_test_body_, __COUNTER__), __VA_ARGS__)
