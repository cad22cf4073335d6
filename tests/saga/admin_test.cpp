#include "async_test.hpp"
#include "error_of.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/saga/admin.hpp>
#include <cofferdam/saga/engine.hpp>

#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace desk {

struct office {
  std::vector<std::string> lines;
  bool is_broken = false, is_cold = false;
  bool cannot_undo = false;
};

awaitable<int> sign(saga::step_context& context, int page) {
  auto& o = context.get<office>();
  o.lines.push_back("sign " + std::to_string(page));
  if (page == 13) throw saga::refused("unlucky");
  if (o.is_broken) throw saga::fatal("the pen is broken");
  co_return page;
}
awaitable<void> unsign(saga::step_context& context, int page) {
  auto& o = context.get<office>();
  o.lines.push_back("unsign " + std::to_string(page));
  if (o.cannot_undo) throw saga::cannot_undo("ink");
  co_return;
}
constexpr auto sign_step = saga::step<"sign", &sign, &unsign>;

saga::task<int> contract(saga::scope& s, int last) {
  int sum = co_await s.run(sign_step, 1);
  co_await s.sleep(1h);
  sum += co_await s.run(sign_step, last);
  co_return sum;
}

awaitable<int> seal(saga::step_context& context, int page) {
  auto& o = context.get<office>();
  o.lines.push_back("seal " + std::to_string(page));
  if (o.is_cold) throw saga::fatal("the wax is cold");
  co_return page;
}
constexpr auto seal_step = saga::pivot<"seal", &seal>;
constexpr auto file_step = saga::retriable<"file", &sign>;

saga::task<int> deed(saga::scope& s, int page) {
  (void)co_await s.run(sign_step, 1);
  const int sealed = co_await s.run(seal_step, page);
  co_await s.sleep(1h);
  co_return sealed + co_await s.run(file_step, 3);
}

void define_office(saga::engine& e, office& o) {
  e.provide(o);
  e.define("contract", contract, sign_step);
  e.define("deed", deed, sign_step, seal_step, file_step);
}

using lines = std::vector<std::string>;

}  // namespace desk

ASYNC_TEST("an operator sees what a saga did") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  desk::office o;
  desk::define_office(engine, o);
  saga::admin admin(db);
  (void)co_await engine.start("c-1", desk::contract, 2);
  co_await sleep_for(1s);
  const auto all = co_await admin.list();
  REQUIRE(all.size() == 1);
  CHECK(all[0].id == "c-1");
  CHECK(all[0].definition == "contract");
  CHECK(all[0].state == saga::saga_state::waiting);
  CHECK(all[0].wake_at.has_value());
  const auto none = co_await admin.list({.state = saga::saga_state::stuck});
  CHECK(none.empty());
  const auto history = co_await admin.show("c-1");
  REQUIRE(history.entries.size() == 3);
  CHECK(history.input == 2);
  CHECK(history.entries[0].kind == "intent");
  CHECK(history.entries[0].key == "sign#1");
  CHECK(history.entries[0].payload["arguments"] == nlohmann::json::array({1}));
  CHECK(history.entries[1].kind == "succeeded");
  CHECK(history.entries[2].kind == "waiting");
  const auto missing = co_await test::error_of(admin.show("c-2"));
  CHECK(missing == "there is no saga 'c-2'");
}

ASYNC_TEST("a saga that is stuck goes on when the operator says so") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  desk::office o;
  o.is_broken = true;
  desk::define_office(engine, o);
  saga::admin admin(db);
  auto started = co_await engine.start("c-1", desk::contract, 2);
  co_await sleep_for(1s);
  const auto stuck = co_await admin.list({.state = saga::saga_state::stuck});
  REQUIRE(stuck.size() == 1);
  CHECK(stuck[0].reason == "'sign#1': the pen is broken");
  o.is_broken = false;
  co_await admin.retry_now("c-1", {"ada", "a new pen"});
  (void)co_await engine.run_due();
  co_await sleep_for(2h);
  (void)co_await engine.run_due();
  const auto sum = co_await started.result();
  CHECK(sum == 3);
  const auto history = co_await admin.show("c-1");
  const auto done = std::ranges::find(history.entries, "operated", &saga::saga_entry::kind);
  REQUIRE(done != history.entries.end());
  CHECK(done->payload == nlohmann::json{{"verb", "retry"}, {"who", "ada"}, {"why", "a new pen"}});
  const auto late = co_await test::error_of(admin.retry_now("c-1", {"ada", "again"}));
  CHECK(late == "cannot retry the saga 'c-1': it is completed");
}

ASYNC_TEST("a step can be skipped with a result, and an undo marked as done by hand") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  desk::office o;
  o.is_broken = true;
  desk::define_office(engine, o);
  saga::admin admin(db);
  auto started = co_await engine.start("c-1", desk::contract, 13);
  co_await sleep_for(1s);
  const auto unknown = co_await test::error_of(admin.skip("c-1", "sign#7", 5, {"ada", "by hand"}));
  CHECK(unknown == "cannot skip the saga 'c-1': its journal has no step 'sign#7', or it is stuck");
  co_await admin.skip("c-1", "sign#1", 5, {"ada", "signed by hand"});
  o.is_broken = false;
  o.cannot_undo = true;
  (void)co_await engine.run_due();
  co_await sleep_for(2h);
  (void)co_await engine.run_due();
  auto info = (co_await admin.show("c-1")).info;
  CHECK(info.state == saga::saga_state::stuck);
  CHECK(info.reason == "'sign#1' cannot be undone: ink");
  CHECK(o.lines == desk::lines{"sign 1", "sign 13", "unsign 1"});
  co_await admin.mark_undone("c-1", "sign#1", {"ada", "torn up, see photo 7"});
  (void)co_await engine.run_due();
  const auto why = co_await test::error_of(started.result());
  CHECK(why == "the saga 'c-1' went back: the step 'sign' was refused: unlucky");
  CHECK(o.lines.size() == 3);
}

ASYNC_TEST("a pivot that an operator says has happened leaves no way back") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  desk::office o;
  o.is_cold = true;
  desk::define_office(engine, o);
  saga::admin admin(db);
  const saga::start_options within{.deadline = 30min};
  auto started = co_await engine.start("d-1", desk::deed, 2, within);
  co_await sleep_for(1s);
  auto info = (co_await admin.show("d-1")).info;
  CHECK(info.reason == "'seal#1': the wax is cold");
  CHECK(!info.has_pivoted);
  co_await admin.skip("d-1", "seal#1", 5, {"ada", "sealed at the notary's"});
  info = (co_await admin.show("d-1")).info;
  CHECK(info.has_pivoted);
  const auto cancelled = co_await test::error_of(engine.cancel("d-1", "no"));
  CHECK(cancelled == "the saga 'd-1' is past its pivot: it cannot be cancelled");
  const auto undone = co_await test::error_of(admin.compensate("d-1", {"ada", "no"}));
  CHECK(undone == "cannot compensate the saga 'd-1': it is past its pivot");
  co_await sleep_for(2h);  // its deadline is over
  (void)co_await engine.run_due();
  co_await sleep_for(2h);
  (void)co_await engine.run_due();
  const auto sum = co_await started.result();
  CHECK(sum == 8);
  CHECK(o.lines == desk::lines{"sign 1", "seal 2", "sign 3"});
}

ASYNC_TEST("a saga can be paused, made to go back without its body, and given up") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  desk::office o;
  desk::define_office(engine, o);
  saga::admin admin(db);
  (void)co_await engine.start("c-1", desk::contract, 2);
  (void)co_await engine.start("c-2", desk::contract, 2);
  co_await sleep_for(1s);
  co_await admin.pause("c-1", {"ada", "lunch"});
  co_await admin.abandon("c-2", {"ada", "nobody wants it"});
  co_await sleep_for(2h);
  const auto taken = co_await engine.run_due();
  CHECK(taken == 0);
  auto info = (co_await admin.show("c-1")).info;
  CHECK(info.state == saga::saga_state::paused);
  co_await admin.compensate("c-1", {"ada", "too late"});
  (void)co_await engine.run_due();
  info = (co_await admin.show("c-1")).info;
  CHECK(info.state == saga::saga_state::compensated);
  CHECK(o.lines == desk::lines{"sign 1", "sign 1", "unsign 1"});
  const auto gone = co_await test::error_of(engine.find<int>("c-2").result());
  CHECK(gone == "the saga 'c-2' was given up: abandoned by an operator");
}

ASYNC_TEST("a verb that is refused leaves no entry, not even at the instant of one that was not") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  desk::office o;
  desk::define_office(engine, o);
  saga::admin admin(db);
  (void)co_await engine.start("c-1", desk::contract, 2);
  co_await sleep_for(1s);
  co_await admin.pause("c-1", {"ada", "lunch"});
  const auto again = co_await test::error_of(admin.pause("c-1", {"bob", "lunch, too"}));
  CHECK(again == "cannot pause the saga 'c-1': it is paused");
  const auto history = co_await admin.show("c-1");
  CHECK(std::ranges::count(history.entries, "operated", &saga::saga_entry::kind) == 1);
}

ASYNC_TEST("a saga that is moved acts in one place") {
  database from = co_await database::open("sqlite::memory:"), to = co_await database::open("sqlite::memory:");
  saga::engine here = co_await saga::engine::open(from), there = co_await saga::engine::open(to);
  desk::office o;
  desk::define_office(here, o);
  desk::define_office(there, o);
  saga::admin source(from), target(to);
  (void)co_await here.start("c-1", desk::contract, 2);
  co_await sleep_for(1s);
  const saga::decision d("ada", "a new office");
  co_await source.pause("c-1", d);
  const auto history = co_await source.export_history("c-1");
  co_await target.import_history(history);
  const auto work = [&]() -> awaitable<void> {
    co_await sleep_for(2h);
    (void)co_await here.run_due();
    (void)co_await there.run_due();
  };
  co_await work();
  CHECK(o.lines == desk::lines{"sign 1"});  // paused in both
  co_await source.abandon("c-1", d);
  co_await target.resume("c-1", d);
  co_await work();
  const auto sum = co_await there.find<int>("c-1").result();
  CHECK(sum == 3);
  CHECK(o.lines == desk::lines{"sign 1", "sign 2"});
  const auto left = co_await source.show("c-1");
  CHECK(left.info.state == saga::saga_state::abandoned);
}

ASYNC_TEST("a saga moves to another database and goes on there") {
  database from = co_await database::open("sqlite::memory:"), to = co_await database::open("sqlite::memory:");
  desk::office o;
  nlohmann::json history;
  {
    saga::engine engine = co_await saga::engine::open(from);
    desk::define_office(engine, o);
    (void)co_await engine.start("c-1", desk::contract, 2);
    co_await sleep_for(1s);
    saga::admin admin(from);
    history = co_await admin.export_history("c-1");
  }
  saga::engine engine = co_await saga::engine::open(to);
  desk::define_office(engine, o);
  saga::admin admin(to);
  const auto text = history.dump();
  co_await admin.import_history(nlohmann::json::parse(text));
  co_await sleep_for(2h);
  (void)co_await engine.run_due();
  const auto sum = co_await engine.find<int>("c-1").result();
  CHECK(sum == 3);
  CHECK(o.lines == desk::lines{"sign 1", "sign 2"});
  const auto twice = co_await test::error_of(admin.import_history(nlohmann::json::parse(text)));
  CHECK(twice == "the saga 'c-1' is there already, or its history has a signal twice");
  auto damaged = nlohmann::json::parse(text);
  damaged["id"] = "c-2";
  damaged["journal"][1]["payload"] = "{";
  const auto bad = co_await test::error_of(admin.import_history(damaged));
  CHECK(bad == "the saga 'c-2': entry 2 is no JSON");
  damaged.erase("epoch");
  const auto missing = co_await test::error_of(admin.import_history(damaged));
  CHECK(missing == "the history of the saga 'c-2': epoch is missing");
}

ASYNC_TEST("a damaged journal stops the saga and names the entry; nothing is lost") {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  desk::office o;
  desk::define_office(engine, o);
  saga::admin admin(db);
  struct damaged {
    std::string payload, place;
  };
  const std::vector<damaged> all{
      {"{", "entry 1 is no JSON"},
      {"[]", "entry 1 ('intent' of 'sign#1') is damaged"},
      {"{\"arguments\":7}", "at 'sign#1' it now does 'sign' with [1], where the journal has 'sign' with 7"},
      {"\xff", "entry 1 is no JSON"}};
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto& [damage, place] = all[i];
    const std::string id = "c-" + std::to_string(i);
    (void)co_await engine.start(id, desk::contract, 2);
    co_await sleep_for(1s);
    batch b;
    b.execute("update cofferdam_saga_journal set payload = $2 where saga = $1 and seq = 1", id, damage);
    co_await db.commit(std::move(b));
    co_await admin.retry_now(id, {"ada", "go on"});
    (void)co_await engine.run_due();
    const rows found = co_await db.query("select state, reason from cofferdam_sagas where id = $1", id);
    INFO(damage << " " << found.front().get<std::string>(1));
    CHECK(found.front().get<int>(0) == static_cast<int>(saga::saga_state::stuck));
    const auto reason = found.front().get<std::string>(1);
    CHECK(reason.find(place) != std::string::npos);
    if (place.starts_with("entry")) CHECK(reason.starts_with("the saga '" + id + "': "));
  }
}
