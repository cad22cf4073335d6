#include "database_test.hpp"
#include "error_of.hpp"

#include <cofferdam/core/random.hpp>
#include <cofferdam/eventsourcing/event_file.hpp>
#include <cofferdam/eventsourcing/event_store.hpp>
#include <cofferdam/eventsourcing/event_vault.hpp>

#include <nlohmann/json.hpp>

#include <sstream>
#include <string>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace sealed {

event registered(const std::string& name) {
  nlohmann::json data{{"name", name}, {"age", 36}, {"plan", "basic"}};
  return event("registered", data.dump());
}

}  // namespace sealed

#ifdef COFFERDAM_TEST_SODIUM

DATABASE_TEST("sealed fields open with their key, and are null for ever once it is forgotten") {
  event_store store = co_await event_store::open(db);
  const auto keys = co_await database_key_store::open(db);
  event_vault vault(*keys);
  event ada = sealed::registered("Ada"), bob = sealed::registered("Bob");
  const std::vector<std::string> personal{"name", "age", "no such field"};
  co_await vault.seal(ada, "customer:ada", personal);
  co_await vault.seal(bob, "customer:bob", personal);
  CHECK(ada.data().find("Ada") == std::string::npos);
  CHECK(nlohmann::json::parse(ada.data()).at("plan") == "basic");
  co_await store.append("ada", expected::none(), ada);
  co_await store.append("bob", expected::none(), bob);
  co_await store.append("ada", expected::any(), event("noted", "not even JSON, but a box"));

  slice all = co_await store.read_all();
  std::size_t forgotten = co_await vault.open(all.events);
  CHECK(forgotten == 0);
  CHECK(nlohmann::json::parse(all.events[0].data) == nlohmann::json{{"name", "Ada"}, {"age", 36}, {"plan", "basic"}});
  CHECK(nlohmann::json::parse(all.events[1].data).at("name") == "Bob");
  CHECK(all.events[2].data == "not even JSON, but a box");

  // Forgetting and what follows from it are one batch.
  batch told;
  append_request request("ada", expected::any());
  request.add(event("forgotten", "{}"));
  (void)store.append(told, std::move(request));
  const bool had_key = co_await vault.forget("customer:ada", std::move(told));
  CHECK(had_key);
  const bool again = co_await vault.forget("customer:ada");
  CHECK(!again);
  all = co_await store.read_all();
  CHECK(all.events.size() == 4);
  forgotten = co_await vault.open(all.events);
  CHECK(forgotten == 2);
  CHECK(nlohmann::json::parse(all.events[0].data) ==
        nlohmann::json{{"name", nullptr}, {"age", nullptr}, {"plan", "basic"}});
  CHECK(nlohmann::json::parse(all.events[1].data).at("name") == "Bob");
  const rows left = co_await db.query("select key from cofferdam_subject_keys where subject = 'customer:ada'");
  CHECK(left.front().get<std::string>(0).empty());
  event late = sealed::registered("Ada");
  const std::string refused = co_await test::error_of(vault.seal(late, "customer:ada"));
  CHECK(refused.find("was forgotten") != std::string::npos);
}

DATABASE_TEST("sealing the same event again is the same event; without names every field is sealed") {
  event_store store = co_await event_store::open(db);
  const auto keys = co_await database_key_store::open(db);
  event_vault vault(*keys);
  random_source random(1);
  const event_id id = event_id::make(std::chrono::system_clock::time_point(), random);
  std::string first_data;
  for (int i = 0; i < 2; ++i) {
    event e = sealed::registered("Ada");
    e.id(id);
    co_await vault.seal(e, "ada");
    if (i == 0) first_data = e.data();
    CHECK(e.data() == first_data);
    CHECK(e.data().find("basic") == std::string::npos);
    const auto done = co_await store.append("ada", expected::version(0), e);
    CHECK(done.is_duplicate == (i == 1));
    co_await vault.seal(e, "ada");  // what is sealed stays as it is
    CHECK(e.data() == first_data);
  }
}

ASYNC_TEST("what was moved or changed does not open, and says so") {
  database db = co_await database::open("sqlite::memory:");
  event_store store = co_await event_store::open(db);
  const auto keys = co_await database_key_store::open(db);
  event_vault vault(*keys);
  event ada = sealed::registered("Ada");
  co_await vault.seal(ada, "ada");
  co_await store.append("s", expected::none(), ada);
  slice page = co_await store.read_stream("s");
  const recorded_event original = page.events[0];

  recorded_event moved = original;  // to another event
  random_source random(1);
  moved.id = event_id::make(std::chrono::system_clock::time_point(), random);
  std::string error = co_await test::error_of(vault.open(moved));
  CHECK(error.find("in this place, or was changed since") != std::string::npos);
  CHECK(moved.stream == "s");  // it is left whole

  recorded_event swapped = original;  // between fields
  auto data = nlohmann::json::parse(original.data);
  std::swap(data["name"], data["plan"]);
  swapped.data = data.dump();
  error = co_await test::error_of(vault.open(swapped));
  CHECK(error.find("in this place") != std::string::npos);

  recorded_event flipped = original;
  data = nlohmann::json::parse(original.data);
  auto box = data["name"]["box"].get<std::string>();
  box[40] = box[40] == 'A' ? 'B' : 'A';
  data["name"]["box"] = box;
  flipped.data = data.dump();
  error = co_await test::error_of(vault.open(flipped));
  CHECK(error.find("'name' of 'registered', version 1 of 's'") != std::string::npos);

  recorded_event foreign = original;  // a store whose keys are elsewhere
  data = nlohmann::json::parse(original.data);
  data["name"]["sealed"] = "nobody";
  foreign.data = data.dump();
  error = co_await test::error_of(vault.open(foreign));
  CHECK(error.find("there is no key for 'nobody'") != std::string::npos);

  recorded_event short_box = original;
  data = nlohmann::json::parse(original.data);
  data["name"]["box"] = "AAAA";
  short_box.data = data.dump();
  error = co_await test::error_of(vault.open(short_box));
  CHECK(error.find("in this place") != std::string::npos);

  event text("plain", "no object");
  error = co_await test::error_of(vault.seal(text, "ada"));
  CHECK(error.find("no JSON object") != std::string::npos);
}

ASYNC_TEST("sealed events are exported and imported as they are") {
  database db = co_await database::open("sqlite::memory:"), other = co_await database::open("sqlite::memory:");
  event_store store = co_await event_store::open(db), copy = co_await event_store::open(other);
  const auto keys = co_await database_key_store::open(db);
  event_vault vault(*keys);
  event ada = sealed::registered("Ada");
  co_await vault.seal(ada, "ada");
  co_await store.append("s", expected::none(), ada);
  std::stringstream file;
  (void)co_await export_events(store, file);
  (void)co_await import_events(copy, file);
  slice page = co_await copy.read_stream("s");
  (void)co_await vault.open(page.events);
  CHECK(nlohmann::json::parse(page.events[0].data).at("name") == "Ada");
}

#else

ASYNC_TEST("without libsodium a vault says so") {
  database db = co_await database::open("sqlite::memory:");
  const auto keys = co_await database_key_store::open(db);
  CHECK(!event_vault::is_available());
  CHECK_THROWS_WITH(event_vault(*keys), Catch::Contains("install libsodium-dev"));
}

#endif
