// Races, repetitions, calls and locks as links of a chain.
#include "async_test.hpp"
#include "error_of.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/saga/chain.hpp>

#include <map>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::saga::literals;
using namespace std::chrono_literals;

namespace links {

struct diary {
  std::vector<std::string> lines;
  std::map<std::string, duration> takes;
  std::string refuses;
  int polls = 0;
};

awaitable<std::string> act(saga::step_context& context, std::string what) {
  auto& d = context.get<diary>();
  d.lines.push_back("do " + what);
  if (d.takes[what] > duration()) co_await sleep_for(d.takes[what]);
  if (d.refuses == what) throw saga::refused("no " + what);
  co_return what;
}
awaitable<void> unact(saga::step_context& context, std::string what) {
  context.get<diary>().lines.push_back("undo " + what);
  co_return;
}
awaitable<int> poll(saga::step_context& context, int round) {
  auto& d = context.get<diary>();
  d.lines.push_back("poll " + std::to_string(round));
  co_return ++d.polls;
}

constexpr auto fastest =
    saga::start<int>("fastest") |
    saga::any<"carrier">(
        saga::step<"ship">([](const auto& s) {
          return act(s.context(), "ship");
        }).undo([](const auto& s, const std::optional<std::string>& r) { return unact(s.context(), r.value_or("?")); }),
        saga::step<"train">([](const auto& s) {
          return act(s.context(), "train");
        }).undo([](const auto& s, const std::optional<std::string>& r) {
          return unact(s.context(), r.value_or("?"));
        })) |
    saga::step<"label">([](const auto& s) {
      return act(s.context(), s.has("ship"_s) ? "label " + s["ship"_s] : "label " + s["train"_s]);
    }) |
    saga::pivot<"pay">([](const auto& s) { return act(s.context(), "pay"); });

constexpr auto patient =
    saga::start<int>("patient") |
    saga::repeat<"wait">([](const auto& s) { return !s.has("asked"_s) || s["asked"_s] < s.input(); },
                         saga::step<"note">([](const auto& s) {
                           return act(s.context(), "note " + std::to_string(s["wait"_s]));
                         }).undo([](const auto& s) { return unact(s.context(), s["note"_s]); }),
                         saga::step<"asked">([](const auto& s) { return poll(s.context(), int(s["wait"_s])); }),
                         saga::pause(1h)) |
    saga::step<"end">([](const auto& s) { return act(s.context(), "end"); });

saga::task<std::string> child_body(saga::scope&, std::string what) { co_return "child of " + what; }
constexpr auto caller =
    saga::start<std::string>("caller") | saga::call<"ask">(&child_body, [](const auto& s) { return s.input(); }) |
    saga::call<"ship it">(fastest, [](const auto&) { return 1; }) |
    saga::pivot<"pay">([](const auto& s) { return act(s.context(), s["ask"_s] + ", " + s["ship it"_s]["label"_s]); });

constexpr auto locking = saga::start<std::string>("locking") |
                         saga::lock([](const auto& s) { return "account:" + s.input(); }, 1h) |
                         saga::step<"use">([](const auto& s) { return act(s.context(), "use " + s.input()); });

using lines = std::vector<std::string>;

template <class Chain, class In, class Check>
awaitable<void> both_ways(const Chain& chain, In in, diary told, Check check) {
  for (const bool has_journal : {false, true}) {
    database db = co_await database::open("sqlite::memory:");
    saga::engine engine;
    if (has_journal) engine = co_await saga::engine::open(db);
    diary d = told;
    engine.provide(d);
    engine.define(fastest);
    engine.define(patient);
    engine.define("child", child_body);
    engine.define(caller);
    std::string error;
    std::optional<typename Chain::results> results;
    const auto run = [&]() -> awaitable<void> {
      try {
        results.emplace(co_await chain.run(engine, "c-1", in));
      } catch (const saga::saga_error& e) {
        error = e.what();
      }
    };
    if (!has_journal) {
      co_await run();
    } else {
      const auto executor = co_await net::this_coro::executor;
      const auto worker = spawn(executor, [&engine] { return engine.run(); });
      co_await run();
      co_await worker.stop();
    }
    check(results, error, d);
  }
}

}  // namespace links

ASYNC_TEST("a race in a chain leaves the result of its winner only") {
  links::diary d;
  d.takes["ship"] = 2s;
  d.takes["train"] = 1s;
  co_await links::both_ways(links::fastest, 1, d, [](const auto& results, const std::string& error, const auto& seen) {
    CHECK(error.empty());
    REQUIRE(results);
    CHECK(!results->has("ship"_s));
    CHECK((*results)["train"_s] == "train");
    CHECK((*results)["label"_s] == "label train");
    CHECK(seen.lines == links::lines{"do ship", "do train", "undo ?", "do label train", "do pay"});
  });
}

ASYNC_TEST("a chain that goes back after a race undoes the winner") {
  links::diary d;
  d.takes["ship"] = 10ms;
  d.takes["train"] = 1s;
  d.refuses = "pay";
  co_await links::both_ways(links::fastest, 1, d, [](const auto& results, const std::string& error, const auto& seen) {
    CHECK(!results);
    CHECK(error == "the saga 'c-1' went back: the step 'pay' was refused: no pay");
    CHECK(seen.lines == links::lines{"do ship", "do train", "undo ?", "do label ship", "do pay", "undo ship"});
  });
}

ASYNC_TEST("links repeat while their condition holds, and each round is undone with what it knew") {
  co_await links::both_ways(
      links::patient, 3, links::diary(), [](const auto& results, const std::string& error, const auto& seen) {
        CHECK(error.empty());
        REQUIRE(results);
        CHECK((*results)["wait"_s] == 3U);
        CHECK(seen.lines ==
              links::lines{"do note 1", "poll 1", "do note 2", "poll 2", "do note 3", "poll 3", "do end"});
      });
  links::diary d;
  d.refuses = "end";
  co_await links::both_ways(links::patient, 3, d, [](const auto& results, const std::string&, const auto& seen) {
    CHECK(!results);
    CHECK(links::lines(seen.lines.begin() + 7, seen.lines.end()) ==
          links::lines{"undo note 3", "undo note 2", "undo note 1"});
  });
  co_await links::both_ways(links::patient, 0, links::diary(), [](const auto& results, const auto&, const auto& seen) {
    REQUIRE(results);
    CHECK((*results)["wait"_s] == 1U);  // nothing was asked before the first round
    CHECK(seen.polls == 1);
  });
}

ASYNC_TEST("a chain calls coroutines and chains, and has their results by name") {
  links::diary d;
  d.takes["ship"] = 1s;
  co_await links::both_ways(links::caller, std::string("me"), d,
                            [](const auto& results, const std::string& error, const auto& seen) {
                              CHECK(error.empty());
                              REQUIRE(results);
                              CHECK(seen.lines.back() == "do child of me, label train");
                            });
  d.refuses = "child of me, label train";
  saga::engine here;
  here.provide(d);
  const auto why = co_await test::error_of(links::caller.run(here, "c-1", std::string("me")));
  CHECK(why ==
        "the saga 'c-1' waits for an operator: the step 'pay' was refused: no child of me, label train; and then: "
        "'ship it#1' cannot be undone: the child saga is past its pivot");
}

ASYNC_TEST("a chain that locks waits for the saga that has it") {
  database db = co_await database::open("sqlite::memory:");
  links::diary d;
  saga::engine engine = co_await saga::engine::open(db);
  engine.provide(d);
  engine.define(links::locking);
  const auto executor = co_await net::this_coro::executor;
  const auto worker = spawn(executor, [&engine] { return engine.run(); });
  d.takes["use a"] = 20s;
  auto first = co_await engine.start("c-1", links::locking, std::string("a"));
  auto second = co_await engine.start("c-2", links::locking, std::string("a"));
  auto other = co_await engine.start("c-3", links::locking, std::string("b"));
  co_await sleep_for(5s);
  CHECK(d.lines == links::lines{"do use a", "do use b"});
  (void)co_await second.result();
  CHECK(time.elapsed() >= 40s);
  CHECK(time.elapsed() < 42s);
  (void)co_await first.result();
  (void)co_await other.result();
  co_await worker.stop();
}

TEST_CASE("races, repetitions, calls and locks show in graphs") {
  CHECK(links::patient.to_mermaid() == R"x(flowchart TD
  start(["patient"])
  s1["note, can be undone"]
  start --> s1
  s2["asked"]
  s1 --> s2
  s3["wait"]
  s2 --> s3
  s3 -->|again| s1
  s4["end"]
  start --> s4
  s3 --> s4
)x");
  CHECK(links::patient.to_dot().find("  s3 -> s1 [label=\"again\"]\n") != std::string::npos);
  CHECK(links::fastest.to_mermaid().find("s1[\"ship, can be undone (in a race)\"]") != std::string::npos);
  CHECK(links::caller.to_mermaid().find("s2[\"ship it (saga fastest)\"]") != std::string::npos);
  CHECK(links::locking.to_mermaid().find("s1[\"lock\"]") != std::string::npos);
}
