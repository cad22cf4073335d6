#include "database_test.hpp"
#include "error_of.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/eventsourcing/repository.hpp>

#include <stdexcept>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace bank {

struct opened {
  std::string owner;
};
struct deposited {
  std::int64_t amount = 0;
  std::string currency;
};
struct withdrawn {
  std::int64_t amount = 0;
};
void to_json(nlohmann::json& j, const opened& e) { j = {{"owner", e.owner}}; }
void from_json(const nlohmann::json& j, opened& e) { j.at("owner").get_to(e.owner); }
void to_json(nlohmann::json& j, const deposited& e) { j = {{"amount", e.amount}, {"currency", e.currency}}; }
void from_json(const nlohmann::json& j, deposited& e) {
  j.at("amount").get_to(e.amount);
  j.at("currency").get_to(e.currency);
}
void to_json(nlohmann::json& j, const withdrawn& e) { j = {{"amount", e.amount}}; }
void from_json(const nlohmann::json& j, withdrawn& e) { j.at("amount").get_to(e.amount); }

struct account {
  using event = std::variant<opened, deposited, withdrawn>;
  std::int64_t balance = 0;
  bool is_open = false;
  void apply(const opened& /*e*/) { is_open = true; }
  void apply(const deposited& e) { balance += e.amount; }
  void apply(const withdrawn& e) { balance -= e.amount; }
};
void to_json(nlohmann::json& j, const account& a) { j = {{"balance", a.balance}, {"open", a.is_open}}; }
void from_json(const nlohmann::json& j, account& a) {
  j.at("balance").get_to(a.balance);
  j.at("open").get_to(a.is_open);
}

event_codec codec() {
  event_codec c;
  c.add<opened>("account.opened").add<deposited>("account.deposited", 2).add<withdrawn>("account.withdrawn");
  c.upcast("account.deposited", 1, [](nlohmann::json old) {
    old["currency"] = "EUR";
    return old;
  });
  return c;
}

using events = std::vector<account::event>;
events open_with(std::int64_t amount) { return {opened{"Ada"}, deposited{amount, "EUR"}}; }

}  // namespace bank

ASYNC_TEST("typed events come back as they were encoded") {
  const event_codec codec = bank::codec();
  const event made = codec.encode(bank::deposited{5, "CHF"});
  CHECK(made.type() == "account.deposited");
  CHECK(made.schema() == 2);
  recorded_event e;
  e.type = made.type();
  e.schema = made.schema();
  e.data = made.data();
  const auto back = codec.decode<bank::account::event>(e);
  REQUIRE(back);
  REQUIRE(std::holds_alternative<bank::deposited>(*back));
  CHECK(std::get<bank::deposited>(*back).currency == "CHF");
  CHECK_THROWS_AS(codec.encode(7), std::invalid_argument);
  co_return;
}

ASYNC_TEST("old events are read in the present form, unreadable ones are named") {
  const event_codec codec = bank::codec();
  recorded_event e;
  e.position = 9;
  e.stream = "account-1";
  e.version = 4;
  e.type = "account.deposited";
  e.schema = 1;
  e.data = R"({"amount": 7})";
  const auto old = codec.decode<bank::account::event>(e);
  CHECK(std::get<bank::deposited>(*old).currency == "EUR");

  e.schema = 3;
  CHECK_THROWS_WITH(codec.decode<bank::account::event>(e), Catch::Contains("schema 3") && Catch::Contains("up to 2"));
  e.schema = 2;
  CHECK_THROWS_WITH(codec.decode<bank::account::event>(e),
                    Catch::Contains("currency") && Catch::Contains("version 4 of 'account-1' (position 9)"));
  e.data = "{";
  CHECK_THROWS_WITH(codec.decode<bank::account::event>(e), Catch::Contains("no JSON"));
  e.type = "account.frozen";
  CHECK_FALSE(codec.decode<bank::account::event>(e));

  event_codec renamed = bank::codec();
  renamed.rename("konto.eröffnet", "account.opened");
  e.type = "konto.eröffnet";
  e.schema = 1;
  e.data = R"({"owner": "Ada"})";
  const auto found = renamed.decode<bank::account::event>(e);
  CHECK(std::get<bank::opened>(*found).owner == "Ada");

  event_codec gap;
  gap.add<bank::withdrawn>("account.withdrawn", 3);
  e.type = "account.withdrawn";
  CHECK_THROWS_WITH(gap.decode<bank::account::event>(e), Catch::Contains("nothing leads from schema 1 to 2"));
  CHECK_THROWS_AS(gap.add<bank::withdrawn>("again"), std::invalid_argument);
  CHECK_THROWS_AS(gap.add<bank::opened>("account.withdrawn"), std::invalid_argument);
  co_return;
}

namespace aggregates {
/// Has no JSON.
struct photo {
  std::vector<unsigned char> pixels;
};
}  // namespace aggregates

ASYNC_TEST("a type may be stored in a form of its own, beside those in JSON") {
  using aggregates::photo;
  database db = co_await database::open("sqlite::memory:");
  event_store store = co_await event_store::open(db);
  const auto encode = [](const photo& p) { return std::string(p.pixels.begin(), p.pixels.end()); };
  const auto decode = [](std::string_view bytes, std::uint32_t schema) {
    if (schema > 1) throw std::runtime_error("too new");
    return photo{std::vector<unsigned char>(bytes.begin(), bytes.end())};
  };
  event_codec codec, json_only;
  codec.add<photo>("photo", encode, decode);
  json_only.add<photo>("photo");
  const photo taken{{0, 255, 128, 0}};
  CHECK_THROWS_WITH(json_only.encode(taken), Catch::Contains("add it with functions that encode and decode"));
  event made = codec.encode(taken);
  co_await store.append("album", expected::none(), made);
  made.schema(2);
  co_await store.append("album", expected::any(), made);
  const slice page = co_await store.read_stream("album");
  const auto back = codec.decode<std::variant<photo>>(page.events[0]);
  REQUIRE(back);
  CHECK(std::get<photo>(*back).pixels == taken.pixels);
  CHECK_THROWS_WITH(codec.decode<std::variant<photo>>(page.events[1]),
                    Catch::Contains("'photo', version 2 of 'album'") && Catch::Contains("too new"));
}

DATABASE_TEST("decisions follow each other on the state that their events add up to") {
  event_store store = co_await event_store::open(db);
  const event_codec codec = bank::codec();
  repository<bank::account> accounts(store, codec, "account-");
  const auto open = [](const bank::account&) { return bank::open_with(10); };
  const auto opened = co_await accounts.decide("ada", open);
  CHECK(opened.version == 2);
  CHECK(opened.state.balance == 10);
  const auto withdraw = [](const bank::account& a) -> bank::events {
    if (a.balance < 4) throw std::runtime_error("not enough money");
    return {bank::withdrawn{4}};
  };
  co_await accounts.decide("ada", withdraw);
  co_await accounts.decide("ada", withdraw);
  std::string message;
  try {
    co_await accounts.decide("ada", withdraw);
  } catch (const std::runtime_error& e) {
    message = e.what();
  }
  CHECK(message == "not enough money");
  const auto present = co_await accounts.load("ada");
  CHECK(present.state.balance == 2);
  CHECK(present.version == 4);
  const auto nothing = [](const bank::account&) { return bank::events(); };
  const auto same = co_await accounts.decide("ada", nothing);
  CHECK(same.version == 4);
  const auto nobody = co_await accounts.load("eve");
  CHECK(nobody.version == 0);
  CHECK_FALSE(nobody.state.is_open);
}

TEST_CASE("a decision that meets a conflict is made again on what came in between") {
  const test::temporary_directory directory;
  const std::string url = "sqlite:" + directory.file("bank.db");
  const event_codec codec = bank::codec();
  const auto deposit_elsewhere = [&]() -> awaitable<void> {
    database db = co_await database::open(url + "?threads=0");
    event_store store = co_await event_store::open(db);
    const event made = codec.encode(bank::deposited{1, "EUR"});
    co_await store.append("account-ada", expected::exists(), made);
  };
  const auto body = [&]() -> awaitable<void> {
    database db = co_await database::open(url);
    event_store store = co_await event_store::open(db);
    repository<bank::account> accounts(store, codec, "account-", {.max_attempts = 3});
    const auto open = [](const bank::account&) { return bank::open_with(10); };
    co_await accounts.decide("ada", open);

    std::vector<std::int64_t> seen;
    int rivals = 2;
    const auto withdraw_all = [&](const bank::account& a) -> bank::events {
      seen.push_back(a.balance);
      if (rivals-- > 0) test::run_in_real_time(deposit_elsewhere);
      return {bank::withdrawn{a.balance}};
    };
    const auto emptied = co_await accounts.decide("ada", withdraw_all);
    CHECK(seen == std::vector<std::int64_t>{10, 11, 12});
    CHECK(emptied.state.balance == 0);
    CHECK(emptied.version == 5);

    rivals = 3;  // one too many
    errc code = errc();
    try {
      co_await accounts.decide("ada", withdraw_all);
    } catch (const append_conflict& c) {
      code = static_cast<errc>(c.code().value());
    }
    CHECK(code == errc::version_conflict);
    const auto present = co_await accounts.load("ada");
    CHECK(present.state.balance == 3);
    CHECK(present.version == 8);
  };
  test::run_in_real_time(body);
}

DATABASE_TEST("a snapshot saves reading, and is no more than that") {
  event_store store = co_await event_store::open(db);
  const event_codec codec = bank::codec();
  repository<bank::account> accounts(store, codec, "account-", {.snapshot_every = 3});
  const auto open = [](const bank::account&) { return bank::open_with(10); };
  const auto deposit = [](const bank::account&) { return bank::events{bank::deposited{1, "EUR"}}; };
  co_await accounts.decide("ada", open);
  co_await accounts.decide("ada", deposit);
  const rows made = co_await db.query("select version, data from cofferdam_snapshots");
  REQUIRE(made.size() == 1);
  CHECK(made[0].get<int>("version") == 3);
  co_await accounts.decide("ada", deposit);
  const auto present = co_await accounts.load("ada");
  CHECK(present.state.balance == 12);

  // A state that only the snapshot has: it was read, and the tail after it.
  batch forge;
  forge.execute("update cofferdam_snapshots set data = '{\"balance\": 1000, \"open\": true}'");
  co_await db.commit(std::move(forge));
  const auto forged = co_await accounts.load("ada");
  CHECK(forged.state.balance == 1001);
  repository<bank::account> of_another_form(store, codec, "account-", {.snapshot_every = 3, .snapshot_schema = 2});
  const auto replayed = co_await of_another_form.load("ada");
  CHECK(replayed.state.balance == 12);
  batch break_it;
  break_it.execute("update cofferdam_snapshots set data = 'nonsense'");
  co_await db.commit(std::move(break_it));
  const auto from_events = co_await accounts.load("ada");
  CHECK(from_events.state.balance == 12);
  batch from_the_future;
  from_the_future.execute("update cofferdam_snapshots set version = 99, data = '{\"balance\": 5, \"open\": true}'");
  co_await db.commit(std::move(from_the_future));
  const auto restored = co_await accounts.load("ada");
  CHECK(restored.state.balance == 12);
  CHECK(restored.version == 4);
}

DATABASE_TEST("an event of a type that the aggregate does not have ends loading, unless it is to be ignored") {
  event_store store = co_await event_store::open(db);
  const event_codec codec = bank::codec();
  event frozen("account.frozen", "{}");
  co_await store.append("account-ada", expected::any(), frozen);
  repository<bank::account> strict(store, codec, "account-");
  std::string message;
  try {
    co_await strict.load("ada");
  } catch (const storage_error& e) {
    message = e.what();
  }
  CHECK(message.find("'account.frozen', version 1 of 'account-ada'") != std::string::npos);
  repository<bank::account> lenient(store, codec, "account-", {.ignore_unknown = true});
  const auto loaded = co_await lenient.load("ada");
  CHECK(loaded.version == 1);
}

DATABASE_TEST("a removed aggregate takes its snapshots along, and begins anew when it is brought back") {
  event_store store = co_await event_store::open(db);
  const event_codec codec = bank::codec();
  repository<bank::account> accounts(store, codec, "account-", {.snapshot_every = 2}), plain(store, codec, "account-");
  const auto open = [](const bank::account&) { return bank::open_with(10); };
  const auto snapshots = [&]() -> awaitable<int> {
    const rows found = co_await db.query("select count(*) from cofferdam_snapshots where stream = 'account-ada'");
    co_return found.front().get<int>(0);
  };
  co_await accounts.decide("ada", open);
  co_await accounts.decide("bob", open);
  int kept = co_await snapshots();
  CHECK(kept == 1);
  co_await store.remove("account-ada");
  kept = co_await snapshots();
  CHECK(kept == 0);
  auto removed = co_await accounts.load("ada");
  CHECK_FALSE(removed.state.is_open);
  CHECK(removed.state.balance == 0);
  CHECK(removed.version == 2);
  // One that was under way while the stream was removed.
  co_await detail::save_snapshot(db, "account-ada", 1, 2, R"({"balance": 10, "open": true})");
  removed = co_await accounts.load("ada");
  CHECK_FALSE(removed.state.is_open);

  const auto reopened = co_await plain.decide("ada", open);
  CHECK(reopened.version == 4);
  const auto by_events = co_await plain.load("ada");
  CHECK(by_events.state.balance == 10);
  const auto deposit = [](const bank::account&) { return bank::events{bank::deposited{1, "EUR"}}; };
  co_await accounts.decide("ada", deposit);
  co_await accounts.decide("ada", deposit);
  const auto present = co_await accounts.load("ada");
  CHECK(present.state.balance == 12);
  kept = co_await snapshots();
  CHECK(kept == 1);
  co_await store.remove_for_ever("account-ada");
  kept = co_await snapshots();
  CHECK(kept == 0);
  const auto bob = co_await accounts.load("bob");
  CHECK(bob.state.balance == 10);
}

DATABASE_TEST("an aggregate whose first events are gone is not added up from the rest, unless a snapshot has them") {
  event_store store = co_await event_store::open(db);
  const event_codec codec = bank::codec();
  repository<bank::account> plain(store, codec, "account-"), kept(store, codec, "account-", {.snapshot_every = 2});
  const auto open = [](const bank::account&) { return bank::open_with(10); };
  const auto deposit = [](const bank::account&) { return bank::events{bank::deposited{1, "EUR"}}; };
  co_await kept.decide("ada", open);
  for (int i = 0; i < 4; ++i) co_await kept.decide("ada", deposit);  // a snapshot at 6
  co_await store.truncate("account-ada", 6);
  const auto whole = co_await kept.load("ada");
  CHECK(whole.state.balance == 14);
  co_await kept.decide("ada", deposit);
  co_await store.truncate("account-ada", 7);  // what follows the snapshot is there
  const auto followed = co_await kept.load("ada");
  CHECK(followed.state.balance == 15);

  std::string error = co_await test::error_of(plain.load("ada"));
  CHECK(error.find("'account-ada' begins at version 7") != std::string::npos);
  error = co_await test::error_of(plain.decide("ada", deposit));
  CHECK(error.find("'account-ada' begins at version 7") != std::string::npos);
  repository<bank::account> of_another_form(store, codec, "account-", {.snapshot_every = 2, .snapshot_schema = 2});
  error = co_await test::error_of(of_another_form.load("ada"));
  CHECK(error.find("begins_with_summary") != std::string::npos);

  // The first event that is left sums up the others: for those who say so.
  repository<bank::account> summed(store, codec, "account-", {.begins_with_summary = true});
  const auto rest = co_await summed.load("ada");
  CHECK(rest.state.balance == 1);
  CHECK(rest.version == 7);

  // A second life has a beginning, too.
  co_await store.remove("account-ada");
  co_await plain.decide("ada", open);
  co_await plain.decide("ada", deposit);
  const auto again = co_await plain.load("ada");
  CHECK(again.state.balance == 11);
  co_await store.truncate("account-ada", 9);
  error = co_await test::error_of(plain.load("ada"));
  CHECK(error.find("'account-ada' begins at version 9") != std::string::npos);
}

DATABASE_TEST(
    "an aggregate that was removed when nobody wrote down how far begins anew, one that was truncated does not") {
  event_store store = co_await event_store::open(db);
  const event_codec codec = bank::codec();
  repository<bank::account> kept(store, codec, "account-", {.snapshot_every = 2}), plain(store, codec, "account-");
  const auto open = [](const bank::account&) { return bank::open_with(10); };
  const auto deposit = [](const bank::account&) { return bank::events{bank::deposited{1, "EUR"}}; };
  for (const char* name : {"removed", "short"}) co_await plain.decide(name, open);
  co_await kept.decide("whole", open);
  co_await store.remove("account-removed");
  co_await store.truncate("account-short", 2);
  co_await store.truncate("account-whole", 3);
  // As a store of version 2 would have it.
  batch back;
  back.execute("alter table cofferdam_streams drop column removed_to");
  back.execute("drop table if exists cofferdam_blue_green");
  back.execute("delete from cofferdam_migrations where component = 'events' and version > 2");
  co_await db.commit(std::move(back));

  event_store again = co_await event_store::open(db);
  repository<bank::account> later(again, codec, "account-"),
      with_snapshot(again, codec, "account-", {.snapshot_every = 2});
  auto removed = co_await later.load("removed");
  CHECK(removed.version == 2);
  CHECK_FALSE(removed.state.is_open);
  removed = co_await later.decide("removed", open);
  CHECK(removed.state.balance == 10);
  removed = co_await later.load("removed");
  CHECK(removed.version == 4);
  CHECK(removed.state.balance == 10);
  std::string error = co_await test::error_of(later.load("short"));
  CHECK(error.find("'account-short' begins at version 2") != std::string::npos);
  error = co_await test::error_of(later.load("whole"));
  CHECK(error.find("'account-whole' begins at version 3") != std::string::npos);
  const auto whole = co_await with_snapshot.decide("whole", deposit);
  CHECK(whole.state.balance == 11);

  // A store of version 3 says which streams were removed: none of those that were truncated to nothing.
  co_await again.truncate("account-short", 3);
  batch third;
  third.execute("drop table cofferdam_blue_green");
  third.execute("delete from cofferdam_migrations where component = 'events' and version > 3");
  co_await db.commit(std::move(third));
  event_store newest = co_await event_store::open(db);
  repository<bank::account> last(newest, codec, "account-");
  error = co_await test::error_of(last.load("short"));
  CHECK(error.find("'account-short' begins at version 3") != std::string::npos);
}
