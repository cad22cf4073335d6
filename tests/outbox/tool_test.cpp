#include "tool.hpp"
#include "async_test.hpp"
#include "postgres_server.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/outbox/relay.hpp>

#include <nlohmann/json.hpp>

#include <functional>
#include <set>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

#if defined(COFFERDAM_TOOL)

namespace outbox_tool {

test::tool_answer run(const std::string& url, const std::string& words) {
  return test::run_tool("--database '" + url + "' " + words);
}
nlohmann::json json_of(const test::tool_answer& said) { return nlohmann::json::parse(said.text); }

class broker final : public publisher {
 public:
  awaitable<void> publish(const message& m) override {
    if (refused.contains(m.id())) throw message_refused_error("too odd");
    log.push_back(m.id());
    co_return;
  }
  std::set<std::string> refused;
  std::vector<std::string> log;
};

awaitable<void> put(outbox& o, std::string key, std::string id) {
  batch b;
  o.enqueue(b, message("orders", "placed", "{}").key(key).id(id));
  co_await o.storage().commit(std::move(b));
}

/// Waits, as an operator would, until nothing is asked for any more.
awaitable<void> wait_until_done(std::string url) {
  while (!json_of(run(url, "status --json"))["requests"].empty()) co_await sleep_for(20ms);
}

void on_both(const std::function<awaitable<void>(std::string)>& body) {
  const test::temporary_directory directory;
  test::run_in_real_time(body, "sqlite:" + directory.file("outbox.db"));
  if (auto* const server = test::postgres_server::shared()) {
    server->clear();
    test::run_in_real_time(body, server->url());
  }
}

}  // namespace outbox_tool

TEST_CASE("the outbox tool shows what was put aside, and relays carry out what it asks for") {
  using outbox_tool::json_of;
  outbox_tool::on_both([](std::string url) -> awaitable<void> {
    database db = co_await database::open(url);
    outbox o = co_await outbox::open(db);
    outbox_tool::broker b;
    b.refused = {"b1", "c1"};
    relay r(o, b);
    for (const char* id : {"a1", "b1", "b2", "c1", "c2", "c3"}) co_await outbox_tool::put(o, std::string(id, 1), id);
    const auto executor = co_await net::this_coro::executor;
    {
      const auto job = spawn(executor, [&r] { return r.run(); });
      for (auto s = co_await r.status(); s.parked != 5 || s.backlog > 0; s = co_await r.status())
        co_await sleep_for(5ms);

      const auto status = outbox_tool::run(url, "status --json");
      CHECK(status.code == 0);
      CHECK(json_of(status)["parked"] == 5);
      CHECK(json_of(status)["backlog"] == 0);
      CHECK(json_of(status)["owned_parts"] == 8);
      const auto listed = outbox_tool::run(url, "--json list");
      CHECK(listed.code == 0);
      REQUIRE(json_of(listed).size() == 5);
      CHECK(json_of(listed)[0]["id"] == "b1");
      CHECK(json_of(listed)[0]["reason"] == "too odd");
      CHECK(json_of(listed)[1]["key"] == "b");
      CHECK(json_of(listed)[1]["reason"] == "");
      const auto table = outbox_tool::run(url, "list --limit 2");
      CHECK(table.text.starts_with("NUMBER"));
      CHECK(table.text.find("too odd\n") != std::string::npos);
      CHECK(table.text.find("follows\n") != std::string::npos);

      b.refused = {"c1"};
      const auto asked = outbox_tool::run(url, "replay b");
      CHECK(asked.code == 0);
      CHECK(asked.text.starts_with("asked: replay of 2 messages\n"));
      co_await outbox_tool::wait_until_done(url);
      CHECK(b.log == std::vector<std::string>{"a1", "b1", "b2"});
      const auto again = outbox_tool::run(url, "replay b");
      CHECK(again.code == 1);
      CHECK(again.text == "cofferdam-outbox: nothing is parked of the key 'b'\n");

      const auto in_vain = outbox_tool::run(url, "replay --all");  // c1 is refused again
      CHECK(in_vain.code == 0);
      co_await outbox_tool::wait_until_done(url);
      const auto left = json_of(outbox_tool::run(url, "list --json"));
      REQUIRE(left.size() == 3);
      CHECK(left[0]["reason"] == "too odd");
      const std::string number = left[0]["number"].dump();
      const auto skipped = outbox_tool::run(url, "skip " + number);
      CHECK(skipped.code == 0);
      CHECK(skipped.text == "message " + number + " is given up\n");
      CHECK(outbox_tool::run(url, "skip " + number).code == 1);
      CHECK(outbox_tool::run(url, "replay --all").code == 0);
      co_await outbox_tool::wait_until_done(url);
      CHECK(b.log == std::vector<std::string>{"a1", "b1", "b2", "c2", "c3"});
      const auto none = outbox_tool::run(url, "list");
      CHECK(none.code == 1);
      CHECK(none.text == "cofferdam-outbox: nothing is parked\n");
      co_await job.stop();
    }
    b.log.clear();
    const auto later = outbox_tool::run(url, "republish --since 1h --json");
    CHECK(later.code == 0);
    CHECK(json_of(later)["is_served"] == false);
    CHECK(outbox_tool::run(url, "status").text.find("republish from ") != std::string::npos);
    const auto job = spawn(executor, [&r] { return r.run(); });
    co_await outbox_tool::wait_until_done(url);
    CHECK(b.log == std::vector<std::string>{"a1", "b1", "b2", "c2", "c3"});  // c1 is refused as before
    co_await job.stop();
    const auto nothing = outbox_tool::run(url, "republish --since 2001-01-01 --until 2001-01-02T12:00:00Z");
    CHECK(nothing.code == 1);
    CHECK(nothing.text ==
          "cofferdam-outbox: there is nothing of what was added from 2001-01-01T00:00:00.000Z to "
          "2001-01-02T12:00:00.000Z\n");
    const auto stranger = outbox_tool::run(url, "--relay audit status");
    CHECK(stranger.code == 1);
    CHECK(stranger.text == "cofferdam-outbox: no relay 'audit' ever was at work here; --relay takes one of 'relay'\n");
    co_await db.close();
  });
}

TEST_CASE("the outbox tool tells misuse from trouble with the database") {
  const test::temporary_directory directory;
  const std::string nowhere = "sqlite:" + directory.file("none.db");
  const auto missing = outbox_tool::run(nowhere, "status");
  CHECK(missing.code == 3);
  CHECK(missing.text.find(directory.file("none.db")) != std::string::npos);
  const auto odd = outbox_tool::run("mysql:here", "status");
  CHECK(odd.code == 3);
  CHECK(odd.text.find("not with 'mysql'") != std::string::npos);
  const auto make = [&nowhere]() -> awaitable<void> {
    database db = co_await database::open(nowhere);
    batch b;
    b.execute("create table others(n integer)");
    co_await db.commit(std::move(b));
    co_await db.close();
  };
  test::run_in_real_time(make);
  const auto another = outbox_tool::run(nowhere, "list");
  CHECK(another.code == 3);
  CHECK(another.text.find("holds no outbox") != std::string::npos);
  for (const char* words :
       {"", "dance", "replay", "replay b --all", "skip one", "republish", "republish --since soon"}) {
    INFO(words);
    const auto misused = outbox_tool::run(nowhere, words);
    CHECK(misused.code == 2);
    CHECK(misused.text.find("--help") != std::string::npos);
  }
  CHECK(outbox_tool::run(nowhere, "--help").code == 0);
}

#endif
