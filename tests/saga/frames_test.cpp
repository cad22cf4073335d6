// Frames of bodies, branches and parts: gone when their saga leaves the memory, with the destructors of what is in
// them; and nothing of a saga that waits keeps a context at work.
#include "async_test.hpp"
#include "error_of.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/saga/admin.hpp>
#include <cofferdam/saga/testing.hpp>

#include <optional>
#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace frames {

int alive = 0;

/// Something of the user's in a body's frame.
struct resident {
  resident() { ++alive; }
  resident(const resident&) = delete;
  resident& operator=(const resident&) = delete;
  ~resident() { --alive; }
};

awaitable<int> act(saga::step_context&, int milliseconds) {
  const resident here;
  co_await sleep_for(std::chrono::milliseconds(milliseconds));
  co_return milliseconds;
}
constexpr auto step = saga::step<"step", &act>;

saga::task<int> branch(saga::scope& s, int milliseconds) {
  const resident here;
  const int done = co_await s.run(step, milliseconds);
  co_await s.sleep(1h);
  co_return done;
}
saga::task<int> part(saga::scope& s, int milliseconds) {
  const resident here;
  auto pair = co_await s.all(s.branch<"left">(branch, milliseconds), s.branch<"right">(branch, milliseconds));
  co_return std::get<0>(pair) + std::get<1>(pair);
}
saga::task<int> body(saga::scope& s, int milliseconds) {
  const resident here;
  co_return co_await s.nested<"part">(part, milliseconds);
}

awaitable<saga::engine> open_engine(database& db) {
  saga::engine engine = co_await saga::engine::open(db);
  engine.define("body", body, step);
  co_return engine;
}

}  // namespace frames

ASYNC_TEST("a saga that leaves the memory to wait takes its frames along, in whatever they stood") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await frames::open_engine(db);
  auto started = co_await engine.start("f-1", frames::body, 100);
  co_await sleep_for(50ms);
  CHECK(frames::alive == 6);  // the body, its part, two branches, two actions
  co_await sleep_for(1s);
  CHECK(engine.active() == 0);
  CHECK(frames::alive == 0);
  co_await sleep_for(2h);
  (void)co_await engine.run_due();
  const int sum = co_await started.result();
  CHECK(sum == 200);
  CHECK(frames::alive == 0);
}

ASYNC_TEST("a saga that is cancelled, taken away, stuck or handed back leaves no frame") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await frames::open_engine(db);
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  (void)co_await engine.start("f-1", frames::body, 10'000);
  co_await sleep_for(50ms);
  CHECK(frames::alive == 6);
  co_await engine.cancel("f-1", "no more");
  co_await sleep_for(1s);
  CHECK(frames::alive == 0);

  (void)co_await engine.start("f-2", frames::body, 500);
  co_await sleep_for(50ms);
  saga::admin desk(db);
  co_await desk.pause("f-2", {"ada", "lunch"});  // it finds out with its next commit
  co_await sleep_for(1s);
  CHECK(frames::alive == 0);

  (void)co_await engine.start("f-3", frames::body, 500);
  co_await sleep_for(50ms);
  CHECK(frames::alive == 6);
  co_await worker.stop();
  CHECK(engine.active() == 0);
  CHECK(frames::alive == 0);
}

TEST_CASE("a context that goes while sagas act destroys their frames") {
  {
    net::io_context context(1);
    std::optional<database> db;
    std::optional<saga::engine> engine;
    const auto begin = [&]() -> awaitable<void> {
      database opened = co_await database::open("sqlite::memory:");
      db.emplace(std::move(opened));
      saga::engine made = co_await frames::open_engine(*db);
      engine.emplace(std::move(made));
      (void)co_await engine->start("f-1", frames::body, 3'600'000);
      co_await sleep_for(20ms);
      context.stop();
    };
    net::co_spawn(context, begin, net::detached);
    context.run();
    CHECK(frames::alive == 6);
  }
  CHECK(frames::alive == 0);
}

TEST_CASE("io_context::run returns while sagas wait for another day") {
  net::io_context context(1);
  std::optional<database> db;
  std::optional<saga::engine> engine;
  const auto begin = [&]() -> awaitable<void> {
    database opened = co_await database::open("sqlite::memory:");
    db.emplace(std::move(opened));
    saga::engine made = co_await frames::open_engine(*db);
    engine.emplace(std::move(made));
    for (int n = 0; n < 10; ++n) (void)co_await engine->start("f-" + std::to_string(n), frames::body, 1);
  };
  net::co_spawn(context, begin, net::detached);
  context.run();  // an hour is to pass for each of them
  CHECK(engine->active() == 0);
  CHECK(frames::alive == 0);
  int waiting = 0;
  context.restart();
  const auto count = [&]() -> awaitable<void> {
    const rows found = co_await db->query("select count(*) from cofferdam_sagas where state = 1");
    waiting = found.front().get<int>(0);
  };
  net::co_spawn(context, count, net::detached);
  context.run();
  CHECK(waiting == 10);
}
