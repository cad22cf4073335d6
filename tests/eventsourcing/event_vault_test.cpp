#include "database_test.hpp"
#include "error_of.hpp"

#include <cofferdam/core/random.hpp>
#include <cofferdam/eventsourcing/consumer_group.hpp>
#include <cofferdam/eventsourcing/event_file.hpp>
#include <cofferdam/eventsourcing/event_store.hpp>
#include <cofferdam/eventsourcing/event_vault.hpp>
#include <cofferdam/eventsourcing/live_projection.hpp>
#include <cofferdam/eventsourcing/projection.hpp>
#include <cofferdam/eventsourcing/repository.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <variant>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace sealed {

event registered(const std::string& name) {
  nlohmann::json data{{"name", name}, {"age", 36}, {"plan", "basic"}};
  return event("registered", data.dump());
}

struct joined {
  std::string name, plan;
};
struct upgraded {
  std::string plan;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(joined, name, plan)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(upgraded, plan)

struct customer {
  using event = std::variant<joined, upgraded>;
  std::string name, plan;
  void apply(const joined& e) { name = e.name, plan = e.plan; }
  void apply(const upgraded& e) { plan = e.plan; }
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(customer, name, plan)

event_codec codec() {
  event_codec made;
  made.add<joined>("joined").add<upgraded>("upgraded");
  return made;
}

/// Keys of another one, and how often they were asked for.
class counting_keys final : public key_store {
 public:
  explicit counting_keys(key_store& under) : under_(&under) {}
  awaitable<found_key> find(std::string subject) override { return ++finds, under_->find(std::move(subject)); }
  awaitable<std::map<std::string, found_key>> find_all(std::vector<std::string> subjects) override {
    return ++looks, under_->find_all(std::move(subjects));
  }
  awaitable<found_key> keep(std::string subject, std::string key) override {
    return under_->keep(std::move(subject), std::move(key));
  }
  awaitable<bool> forget(std::string subject, batch with) override {
    return under_->forget(std::move(subject), std::move(with));
  }
  int finds = 0, looks = 0;

 private:
  key_store* under_;
};

/// One that has nothing but the two functions it must have.
class plain_keys final : public key_store {
 public:
  awaitable<found_key> find(std::string subject) override {
    const auto found = keys.find(subject);
    co_return found == keys.end() ? found_key() : found->second;
  }
  awaitable<found_key> keep(std::string subject, std::string key) override {
    co_return keys.try_emplace(std::move(subject), found_key{std::move(key), false}).first->second;
  }
  awaitable<bool> forget(std::string subject, batch /*with*/) override {
    keys[subject] = {"", true};
    co_return true;
  }
  std::map<std::string, found_key> keys;
};

/// `joined` of everybody in `names`, in streams of their own, the name sealed.
awaitable<void> join(event_store& store, event_vault& vault, std::vector<std::string> names) {
  const event_codec types = codec();
  const std::vector<std::string> personal{"name"};
  for (const std::string& name : names) {
    event e = types.encode(joined{name, "basic"});
    co_await vault.seal(e, "customer:" + name, personal);
    co_await store.append("customer-" + name, expected::none(), e);
  }
}

/// An event that looks sealed and is not: what somebody typed in, or what a store of other keys has.
event look_alike(std::string subject = "customer:nobody") {
  const nlohmann::json data{{"name", {{"sealed", std::move(subject)}, {"box", "AAAA"}}}, {"plan", "basic"}};
  return event("joined", data.dump());
}

void list_name(batch& b, const recorded_event& e) {
  const auto name = nlohmann::json::parse(e.data).at("name");
  const bool is_forgotten = std::ranges::find(e.forgotten, "name") != e.forgotten.end();
  b.execute("insert into names(stream, name) values($1, $2)", e.stream,
            is_forgotten ? std::string("(forgotten)") : name.get<std::string>());
}

awaitable<void> run(database& db, std::string sql) {
  batch b;
  b.execute(std::move(sql));
  co_await db.commit(std::move(b));
}

awaitable<std::vector<std::string>> names_of(database& db) {
  const rows found = co_await db.query("select name from names order by stream");
  std::vector<std::string> all;
  for (const row r : found) all.push_back(r.get<std::string>(0));
  co_return all;
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

DATABASE_TEST("a store with a vault opens what its projections, aggregates and consumers see, by one query a page") {
  event_store store = co_await event_store::open(db);
  const auto tables = co_await database_key_store::open(db);
  sealed::counting_keys keys(*tables);
  event_vault vault(keys);
  const std::vector<std::string> three{"ada", "bob", "cy"};
  co_await sealed::join(store, vault, three);
  (void)co_await vault.forget("customer:bob");
  co_await sealed::run(db, "create table names(stream text primary key, name text)");
  store.unseal_with(vault);
  keys.finds = 0;

  projection names(store, "names");
  names.apply(sealed::list_name);
  const std::size_t applied = co_await names.catch_up();
  CHECK(applied == 3);
  const auto listed = co_await sealed::names_of(db);
  CHECK(listed == std::vector<std::string>{"ada", "(forgotten)", "cy"});
  CHECK(keys.looks == 1);
  CHECK(keys.finds == 0);

  // The same in memory.
  live_projection<std::vector<std::string>> live(store);
  live.apply([](auto& state, const recorded_event& e) { state.push_back(e.forgotten.empty() ? e.stream : "gone"); });
  (void)co_await live.catch_up();
  CHECK(live.state() == std::vector<std::string>{"customer-ada", "gone", "customer-cy"});

  event_subscription all(store, {});
  const recorded_event first = co_await all.next();
  CHECK(nlohmann::json::parse(first.data).at("name") == "ada");

  consumer_group mails(store, "mails");
  std::set<std::string> sent;
  mails.handle([&sent](const recorded_event& e, batch&) -> awaitable<void> {
    sent.insert(nlohmann::json::parse(e.data).at("name").dump());
    co_return;
  });
  (void)co_await mails.run_due();
  CHECK(sent == std::set<std::string>{"\"ada\"", "null", "\"cy\""});

  // By id, and backward; what is stored stays sealed, and so do files.
  const auto by_id = co_await store.read_event(first.id);
  CHECK(by_id.value().data == first.data);
  CHECK(by_id->was_sealed);
  const slice stored = co_await store.read_all({.as_stored = true});
  CHECK(stored.events[0].data.find(R"("name":"ada")") == std::string::npos);
  std::stringstream file;
  (void)co_await export_events(store, file);
  CHECK(file.str().find("basic") != std::string::npos);
  CHECK(file.str().find(R"(\"name\":\"ada)") == std::string::npos);
}

DATABASE_TEST("an aggregate seals what it decides, reads it, and reads a stand-in once it was forgotten") {
  event_store store = co_await event_store::open(db);
  const auto keys = co_await database_key_store::open(db);
  event_vault vault(*keys);
  store.unseal_with(vault);
  event_codec codec = sealed::codec();
  const std::vector<std::string> personal{"name"};
  repository<sealed::customer> customers(store, codec, "customer-", {.snapshot_every = 2});
  customers.seal([&](event& e, const sealed::customer::event& from) -> awaitable<void> {
    if (std::holds_alternative<sealed::joined>(from)) co_await vault.seal(e, "ada", personal);
  });
  const auto join = [](const sealed::customer&) {
    return std::vector<sealed::customer::event>{sealed::joined{"Ada", "basic"}, sealed::upgraded{"plus"}};
  };
  const auto upgrade = [](const sealed::customer&) {
    return std::vector<sealed::customer::event>{sealed::upgraded{"gold"}, sealed::upgraded{"platinum"}};
  };
  const auto joined = co_await customers.decide("1", join);
  CHECK(joined.state.name == "Ada");
  const auto commit = [&db](batch b, const auto&) { return db.commit(std::move(b)); };
  const auto upgraded = co_await customers.decide("1", upgrade, commit);
  CHECK(upgraded.state.plan == "platinum");
  const auto loaded = co_await customers.load("1");
  CHECK(loaded.state.name == "Ada");
  const slice stored = co_await store.read_all({.as_stored = true});
  CHECK(stored.events[0].data.find("Ada") == std::string::npos);
  // A snapshot would remember what shall be forgotten.
  const rows snapshots = co_await db.query("select count(*) from cofferdam_snapshots");
  CHECK(snapshots.front().get<int>(0) == 0);

  (void)co_await vault.forget("ada");
  const std::string error = co_await test::error_of(customers.load("1"));
  CHECK(error.find("its field 'name' was forgotten: say by forgotten()") != std::string::npos);
  codec.forgotten("joined", "name", "(forgotten)");
  const auto after = co_await customers.load("1");
  CHECK(after.state.name == "(forgotten)");
  CHECK(after.state.plan == "platinum");
}

DATABASE_TEST("an event that cannot be opened fails where it is handled, and only there") {
  event_store store = co_await event_store::open(db);
  const auto keys = co_await database_key_store::open(db);
  event_vault vault(*keys);
  const std::vector<std::string> first{"ada"}, last{"zoe"};
  co_await sealed::join(store, vault, first);
  co_await store.append("customer-liar", expected::none(), sealed::look_alike());
  co_await sealed::join(store, vault, last);
  co_await sealed::run(db, "create table names(stream text primary key, name text)");
  store.unseal_with(vault);

  const slice all = co_await store.read_all();
  CHECK(!all.events[0].unopened);
  CHECK(all.events[1].unopened);
  CHECK(all.events[1].data == sealed::look_alike().data());

  projection stops(store, "stops");
  stops.apply(sealed::list_name);
  std::string error = co_await test::error_of(stops.catch_up());
  CHECK(error.find("version 1 of 'customer-liar'") != std::string::npos);
  CHECK(error.find("there is no key for 'customer:nobody'") != std::string::npos);
  co_await sealed::run(db, "delete from names");

  projection parks(store, "parks", {.parks_failures = true});
  parks.apply(sealed::list_name);
  (void)co_await parks.catch_up();
  const auto listed = co_await sealed::names_of(db);
  CHECK(listed == std::vector<std::string>{"ada", "zoe"});
  const auto parked = co_await parks.parked();
  CHECK(parked.size() == 1);
  CHECK(parked.at(0).reason.find("no key for 'customer:nobody'") != std::string::npos);
  error = co_await test::error_of(parks.replay("customer-liar"));
  CHECK(error.find("no key for 'customer:nobody'") != std::string::npos);

  consumer_group mails(store, "mails", {.max_attempts = 1});
  int sent = 0;
  mails.handle([&sent](const recorded_event&, batch&) -> awaitable<void> {
    ++sent;
    co_return;
  });
  (void)co_await mails.run_due();
  CHECK(sent == 2);
  const auto aside = co_await mails.parked();
  CHECK(aside.size() == 1);

  const event_codec codec = sealed::codec();
  repository<sealed::customer> customers(store, codec, "customer-");
  error = co_await test::error_of(customers.load("liar"));
  CHECK(error.find("no key for 'customer:nobody'") != std::string::npos);

  event_subscription news(store, {}, all.events[0].position);
  error = co_await test::error_of(news.next());
  CHECK(error.find("no key for 'customer:nobody'") != std::string::npos);
  CHECK(news.position() == all.events[0].position);

  // One that no database can have a key of spoils nobody else's page.
  const std::string odd("\0odd", 4);
  co_await store.append("customer-odd", expected::none(), sealed::look_alike(odd));
  const slice more = co_await store.read_all();
  CHECK(more.events.back().unopened);
  CHECK(!more.events[0].unopened);

  // Another key than it was sealed with opens nothing.
  const auto made = co_await keys->keep("customer:nobody", std::string(32, 'k'));
  CHECK(made.key.size() == 32);
  error = co_await test::error_of(customers.load("liar"));
  CHECK(error.find("was not sealed for 'customer:nobody'") != std::string::npos);

  // Who was stopped by it looks again, and goes on when there is nothing to open any more.
  error = co_await test::error_of(news.next());
  CHECK(error.find("was not sealed for 'customer:nobody'") != std::string::npos);
  news.seek(all.events[1].position);
  const recorded_event past = co_await news.next();
  CHECK(past.position == all.events[2].position);
  news.seek(all.events[0].position);
  live_projection<int> seen(store);
  seen.apply([](int& count, const recorded_event&) { ++count; });
  error = co_await test::error_of(seen.catch_up());
  CHECK(error.find("was not sealed for 'customer:nobody'") != std::string::npos);
  CHECK(seen.state() == 1);
  CHECK(seen.position() == all.events[0].position);
  (void)co_await vault.forget("customer:nobody");
  const recorded_event next = co_await news.next();
  CHECK(next.stream == "customer-liar");
  CHECK(next.forgotten.size() == 1);
  error = co_await test::error_of(seen.catch_up());  // the odd one, after the last of the others
  CHECK(error.find("'customer-odd'") != std::string::npos);
  CHECK(seen.state() == 3);
}

ASYNC_TEST("a key store needs to know only how to find one key") {
  database db = co_await database::open("sqlite::memory:");
  event_store store = co_await event_store::open(db);
  sealed::plain_keys keys;
  event_vault vault(keys);
  store.unseal_with(vault);
  const std::vector<std::string> both{"ada", "bob"};
  co_await sealed::join(store, vault, both);
  (void)co_await vault.forget("customer:ada");
  const slice all = co_await store.read_all();
  CHECK(all.events[0].forgotten == std::vector<std::string>{"name"});
  CHECK(nlohmann::json::parse(all.events[1].data).at("name") == "bob");
}

#else

ASYNC_TEST("without libsodium a vault says so") {
  database db = co_await database::open("sqlite::memory:");
  const auto keys = co_await database_key_store::open(db);
  CHECK(!event_vault::is_available());
  CHECK_THROWS_WITH(event_vault(*keys), Catch::Contains("install libsodium-dev"));
}

#endif
