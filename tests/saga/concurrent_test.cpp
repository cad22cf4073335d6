// Many sagas on several threads.
#include "catch.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/saga/engine.hpp>

#include <atomic>
#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace crowds {

struct counter {
  std::atomic<int> done{0}, undone{0};
};

awaitable<int> count(saga::step_context& context, int n) {
  context.get<counter>().done.fetch_add(1);
  if (n < 0) throw saga::refused("negative");
  co_return n;
}
awaitable<void> uncount(saga::step_context& context, std::optional<int>, int) {
  context.get<counter>().undone.fetch_add(1);
  co_return;
}
constexpr auto count_step = saga::step<"count", &count, &uncount>;

saga::task<int> one(saga::scope& s, int n) { co_return co_await s.run(count_step, n); }

saga::task<int> body(saga::scope& s, int n) {
  auto both = co_await s.all(s.branch<"left">(one, n), s.branch<"right">(one, n + 1));
  const auto word = co_await s.wait_signal<int>("word", 1h);
  co_return std::get<0>(both) + std::get<1>(both) + word.value_or(0) + co_await s.run(count_step, n % 3 == 0 ? -1 : 1);
}

awaitable<void> run_many(std::string url, std::atomic<int>& completed, std::atomic<int>& compensated) {
  database db = co_await database::open(std::move(url));
  saga::engine engine = co_await saga::engine::open(db);
  counter c;
  engine.provide(c);
  engine.define("crowd", body, count_step);
  const auto executor = co_await net::this_coro::executor;
  std::atomic<int> left{60};
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  const auto client = [&](int n) -> awaitable<void> {
    const std::string id = "c-" + std::to_string(n);
    auto started = co_await engine.start(id, body, n);
    co_await engine.signal(id, "word", 1);
    try {
      const int sum = co_await started.result();
      if (sum == 2 * n + 3) ++completed;
    } catch (const saga::saga_error& e) {
      if (e.code() == errc::saga_compensated) ++compensated;
    }
    --left;
  };
  for (int n = 0; n < 60; ++n) spawn(executor, client, n);
  while (left > 0) co_await sleep_for(5ms);
  co_await worker.stop();
  CHECK(c.done == 180);
  CHECK(c.undone == 40);
  co_await db.close();
}

}  // namespace crowds

TEST_CASE("many sagas with branches and signals run on several threads", "[concurrent]") {
  const test::temporary_directory directory;
  net::thread_pool pool(4);
  std::atomic<int> completed{0}, compensated{0};
  spawn(pool, crowds::run_many, "sqlite:" + directory.file("crowd.db"), std::ref(completed), std::ref(compensated));
  pool.join();
  CHECK(completed == 40);
  CHECK(compensated == 20);
}
