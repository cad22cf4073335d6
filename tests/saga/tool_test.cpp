// The tool as an operator runs it: the real program, on files and on PostgreSQL.
#include "tool.hpp"
#include "catch.hpp"
#include "postgres_server.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/saga/admin.hpp>
#include <cofferdam/saga/engine.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;

#ifdef COFFERDAM_TOOL

namespace tooling {

using test::run_tool;

struct bench {
  bool is_broken = true, cannot_undo = false;
};
awaitable<int> saw(saga::step_context& context, int boards) {
  if (boards == 13) throw saga::refused("unlucky");
  if (boards == 7 && context.get<bench>().is_broken) throw saga::fatal("the saw is broken");
  co_return boards;
}
awaitable<void> glue(saga::step_context& context, int) {
  if (context.get<bench>().cannot_undo) throw saga::cannot_undo("no glue");
  co_return;
}
constexpr auto saw_step = saga::step<"saw", &saw, &glue>;

saga::task<int> shelf(saga::scope& s, int boards) {
  int sum = co_await s.run(saw_step, 1);
  const auto more = co_await s.wait_signal<int>("more", 24h);
  sum += co_await s.run(saw_step, more.value_or(boards));
  co_return sum;
}
saga::task<int> chair(saga::scope& s, int boards) { co_return co_await s.run(saw_step, boards); }

awaitable<void> settle(saga::engine& engine) {
  (void)co_await engine.run_due();
  while (engine.active() > 0) co_await sleep_for(1ms);
}

/// The work of a while, by a process of its own as it were.
awaitable<void> with_engine(std::string url, bench b, std::function<awaitable<void>(saga::engine&)> what) {
  database db = co_await database::open(url);
  {
    saga::engine engine = co_await saga::engine::open(db);
    engine.provide(b);
    engine.define("shelf", shelf, saw_step);
    engine.define("chair", chair, saw_step);
    co_await what(engine);
    co_await settle(engine);
  }
  co_await db.close();
}

awaitable<void> begin(saga::engine& engine) {
  (void)co_await engine.start("s-1", shelf, 2);
  (void)co_await engine.start("s-2", shelf, 2);
  (void)co_await engine.start("c-1", chair, 7);
}
awaitable<void> nothing(saga::engine&) { co_return; }
awaitable<void> send_unlucky(saga::engine& engine) { co_await engine.signal("s-1", "more", 13); }

saga::saga_state state_of(const std::string& database, const std::string& id) {
  const auto shown = run_tool(database + " --json show " + id);
  INFO(shown.text);
  REQUIRE(shown.code == 0);
  const std::string name = nlohmann::json::parse(shown.text)["state"];
  for (int i = 0; i < 8; ++i) {
    if (to_string(static_cast<saga::saga_state>(i)) == name) return static_cast<saga::saga_state>(i);
  }
  return saga::saga_state::abandoned;
}

void operate(const std::string& url) {
  const std::string db = "--database '" + url + "'";
  const std::string by = " --who ada --why 'so it is'";
  test::run_in_real_time(with_engine, url, bench(), begin);

  // looking
  auto a = run_tool(db + " list");
  INFO(a.text);
  CHECK(a.code == 0);
  CHECK(std::ranges::count(a.text, '\n') == 3);
  a = run_tool(db + " list --state stuck");
  CHECK(a.text.find("stuck ") == 0);
  CHECK(a.text.find("c-1 (chair, version 1): 'saw#1': the saw is broken\n") != std::string::npos);
  CHECK(std::ranges::count(a.text, '\n') == 1);
  a = run_tool(db + " --json list --name shelf --limit 1");
  CHECK(nlohmann::json::parse(a.text).size() == 1);
  a = run_tool(db + " list --unchanged-for 1h");
  CHECK(a.code == 0);
  CHECK(a.text.empty());
  a = run_tool(db + " show s-1");
  CHECK(a.code == 0);
  CHECK(a.text.find("started with 2\n") != std::string::npos);
  CHECK(a.text.find("  1  intent saw#1 {\"arguments\":[1]}\n") != std::string::npos);
  CHECK(a.text.find("it wakes at 20") != std::string::npos);

  // deciding
  a = run_tool(db + " retry c-1" + by);
  CHECK(a.code == 0);
  CHECK(a.text.find("running ") == 0);
  test::run_in_real_time(with_engine, url, bench(), nothing);
  CHECK(state_of(db, "c-1") == saga::saga_state::stuck);
  a = run_tool(db + " skip c-1 saw#9 --result 1" + by);
  CHECK(a.code == 1);
  CHECK(a.text.find("its journal has no step 'saw#9'") != std::string::npos);
  a = run_tool(db + " skip c-1 saw#1 --result '{'" + by);
  CHECK(a.code == 2);
  a = run_tool(db + " skip c-1 saw#1 --result 5" + by);
  CHECK(a.code == 0);
  a = run_tool(db + " pause s-2" + by);
  CHECK(a.code == 0);
  test::run_in_real_time(with_engine, url, bench(), send_unlucky);
  CHECK(state_of(db, "c-1") == saga::saga_state::completed);
  CHECK(state_of(db, "s-1") == saga::saga_state::compensated);
  a = run_tool(db + " retry c-1" + by);
  CHECK(a.code == 1);
  CHECK(a.text == "cofferdam-saga: cannot retry the saga 'c-1': it is completed\n");
  a = run_tool(db + " resume s-2" + by);
  CHECK(a.code == 0);
  test::run_in_real_time(with_engine, url, bench(), nothing);
  CHECK(state_of(db, "s-2") == saga::saga_state::waiting);
  a = run_tool(db + " cancel s-2" + by);
  CHECK(a.code == 0);
  test::run_in_real_time(with_engine, url, bench{false, true}, nothing);
  CHECK(state_of(db, "s-2") == saga::saga_state::stuck);
  a = run_tool(db + " mark-undone s-2 saw#1 --who ada --evidence 'photo 7'");
  CHECK(a.code == 0);
  test::run_in_real_time(with_engine, url, bench(), nothing);
  CHECK(state_of(db, "s-2") == saga::saga_state::compensated);
  a = run_tool(db + " show s-2");
  CHECK(a.text.find("photo 7") != std::string::npos);
  CHECK(a.text.find(": so it is\n") != std::string::npos);

  // moving
  const test::temporary_directory directory;
  const std::string file = directory.file("saga.json");
  a = run_tool(db + " export s-2 " + file);
  CHECK(a.code == 0);
  a = run_tool(db + " import " + file);
  CHECK(a.code == 1);
  CHECK(a.text.find("is there already") != std::string::npos);
  const std::string other = "--database sqlite:" + directory.file("other.db");
  a = run_tool(other + " import " + file);
  INFO(a.text);
  CHECK(a.code == 0);
  CHECK(state_of(other, "s-2") == saga::saga_state::compensated);
  auto moved = run_tool(db + " export c-1");
  std::ofstream(file) << moved.text.substr(0, moved.text.size() / 2);
  a = run_tool(other + " import " + file);
  CHECK(a.code == 2);
  CHECK(a.text == "cofferdam-saga: '" + file + "' is no JSON\n");
  auto damaged = nlohmann::json::parse(moved.text);
  damaged["journal"][0]["kind"] = 99;
  std::ofstream(file) << damaged.dump();
  a = run_tool(other + " import " + file);
  CHECK(a.code == 1);
  CHECK(a.text == "cofferdam-saga: the saga 'c-1': entry 1 is of kind 99, which is unknown\n");
}

}  // namespace tooling

TEST_CASE("an operator looks at sagas and decides, by the tool, on a file") {
  const test::temporary_directory directory;
  tooling::operate("sqlite:" + directory.file("sagas.db"));
}

TEST_CASE("an operator looks at sagas and decides, by the tool, on PostgreSQL") {
  test::postgres_server* server = test::postgres_server::shared();
  if (server == nullptr) return;
  server->clear();
  tooling::operate(server->url());
}

TEST_CASE("the tool tells misuse, what is not there and a database that does not answer apart") {
  using tooling::run_tool;
  const test::temporary_directory directory;
  const std::string file = directory.file("sagas.db");
  const std::string url = "sqlite:" + file;
  CHECK(run_tool("--help").code == 0);
  CHECK(run_tool("").code == 2);
  CHECK(run_tool("--database " + url + " dance").code == 2);
  CHECK(run_tool("list").code == 2);
  CHECK(run_tool("--database " + url + " list --state happy").code == 2);
  CHECK(run_tool("--database " + url + " list --unchanged-for soon").code == 2);
  CHECK(run_tool("--database " + url + " retry s-1 --who ada").code == 2);
  const auto check = run_tool("--database " + url + " check");
  CHECK(check.code == 2);
  CHECK(check.text.find("needs the code of the sagas") != std::string::npos);
  CHECK(run_tool("--database " + url + " list").code == 3);
  CHECK(!std::filesystem::exists(file));
  CHECK(run_tool("--database mysql:there list").code == 3);
  const auto empty = [&]() -> awaitable<void> {
    database db = co_await database::open(url);
    co_await db.close();
  };
  test::run_in_real_time(empty);
  const auto none = run_tool("--database " + url + " list");
  CHECK(none.code == 3);
  CHECK(none.text.find("holds no sagas: no saga::engine was ever opened on it") != std::string::npos);
  const auto with_tables = [&]() -> awaitable<void> {
    database db = co_await database::open(url);
    (void)co_await saga::engine::open(db);
    co_await db.close();
  };
  test::run_in_real_time(with_tables);
  const auto missing = run_tool("--database " + url + " show s-1");
  CHECK(missing.code == 1);
  CHECK(missing.text == "cofferdam-saga: there is no saga 's-1'\n");
}

#endif
