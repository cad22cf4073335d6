// For tests of your own sagas: let the process die at every point at which it can, and see that the saga ends well;
// replay histories that older builds have written.
//
//     saga::crash_explorer explorer;
//     explorer.prepare([&](saga::engine& e) { e.provide(shop); e.define(place_order); });
//     explorer.begin([&](saga::engine& e) { return start_order(e); });
//     explorer.check([&](database& db) { return money_is_right(db); });
//     const auto explored = co_await explorer.run();
#pragma once

#include <cofferdam/saga/engine.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga {

/// From now on the engine writes nothing and begins nothing, as if its process had been killed.
void kill(engine& e);
/// As `kill`, but at the n-th point from now on at which a process may die.
void kill_at(engine& e, std::size_t point);
[[nodiscard]] bool is_dead(const engine& e);

/// Replays recorded histories against the definitions of `e`, which needs no database and performs nothing.
/// @param path  a file of `admin::export_history` (or `cofferdam-saga export`), or a directory of such files, *.json.
/// Returns how many there were. Errors: std::runtime_error naming the file and what is wrong, or what this build does
/// in another way.
[[nodiscard]] awaitable<std::size_t> replay_histories(engine& e, std::string path);

/// Asked at every point at which a process may die: before and after every commit, action and undo. True kills it
/// there.
void kill_when(engine& e, std::function<bool(const char* where)> is_time);

/// Runs a scenario on a database in memory, in virtual time, once for every point at which a process may die: before
/// and after every commit, action and undo. Another engine takes over what the dead one left.
class crash_explorer {
 public:
  struct result {
    std::size_t runs = 0;    ///< in all
    std::size_t points = 0;  ///< at which the first process died
  };

  explicit crash_explorer(engine_options options = {}) : options_(options) {}

  /// Called for every engine, before anything is started: provide and define.
  crash_explorer& prepare(std::function<void(engine&)> how) { return prepare_ = std::move(how), *this; }
  /// Called before every run: forget what the runs before did.
  crash_explorer& reset(std::function<void()> how) { return reset_ = std::move(how), *this; }
  /// Starts the sagas. Called again on every engine that takes over, as a client would try again.
  crash_explorer& begin(std::function<awaitable<void>(engine&)> how) { return begin_ = std::move(how), *this; }
  /// Called at the end of every run. `where` says at which point the processes died.
  crash_explorer& check(std::function<awaitable<void>(database&, const std::string& where)> how) {
    return check_ = std::move(how), *this;
  }
  /// Lets the engine that takes over die, too: at every point, or at about one of `one_of`, which ones `seed` decides;
  /// 0: at none.
  crash_explorer& twice(std::size_t one_of = 1, std::uint64_t seed = 1) {
    return one_of_ = one_of, seed_ = seed, *this;
  }

  /// Must run in virtual time. Errors: std::logic_error naming the point, when a saga does not end; what the functions
  /// throw.
  [[nodiscard]] awaitable<result> run();

 private:
  /// Returns how many processes died.
  awaitable<std::size_t> run_once(std::size_t first, std::size_t second);

  engine_options options_;
  std::function<void(engine&)> prepare_;
  std::function<void()> reset_;
  std::function<awaitable<void>(engine&)> begin_;
  std::function<awaitable<void>(database&, const std::string&)> check_;
  std::size_t one_of_ = 0;
  std::uint64_t seed_ = 1;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
