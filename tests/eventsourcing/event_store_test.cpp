#include "database_test.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/eventsourcing/event_store.hpp>

#include <algorithm>
#include <tuple>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace store_cases {

event simple(std::string type) { return event(std::move(type), "{}"); }

event numbered(std::uint8_t n, std::string data = "{}") {
  event e("numbered", std::move(data));
  event_id::bytes_type bytes{};
  bytes[15] = n;
  e.id(event_id(bytes));
  return e;
}

awaitable<errc> code_of(awaitable<outcome<appended>> attempt) {
  const auto done = co_await std::move(attempt);
  co_return done ? errc() : static_cast<errc>(done.code().value());
}

awaitable<errc> append_with(event_store& store, std::string stream, expected e) {
  append_request request(std::move(stream), e);
  request.add(simple("tried"));
  return code_of(store.try_append(std::move(request)));
}

}  // namespace store_cases

DATABASE_TEST("events come back as they were appended") {
  event_store store = co_await event_store::open(db);
  event placed("order.placed", std::string("{\"total\": 12}\0\xff", 15));
  placed.schema(3).tag("customer:7").tag("region:eu").tag("customer:7");
  placed.correlation("request-1").causation("command-9").metadata("{\"traceparent\": \"00-1\"}");
  const auto when = std::chrono::system_clock::time_point(std::chrono::microseconds(1'700'000'000'123'456));
  placed.at(when);
  const appended done = co_await store.append("order-42", expected::none(), placed);
  CHECK(done.first_version == 1);
  CHECK(done.last_version == 1);
  CHECK(done.position == 1);
  CHECK_FALSE(done.is_duplicate);

  const slice page = co_await store.read_stream("order-42");
  REQUIRE(page.events.size() == 1);
  CHECK(page.version == 1);
  CHECK(page.is_end);
  const recorded_event& e = page.events[0];
  CHECK(e.position == 1);
  CHECK(e.stream == "order-42");
  CHECK(e.version == 1);
  CHECK(e.type == "order.placed");
  CHECK(e.schema == 3);
  CHECK(e.at == when);
  CHECK(e.data == placed.data());
  CHECK(e.tags == std::vector<std::string>{"customer:7", "region:eu"});
  CHECK(e.correlation == "request-1");
  CHECK(e.causation == "command-9");
  CHECK(e.metadata == placed.metadata());
  const auto found = co_await store.read_event(e.id);
  REQUIRE(found);
  CHECK(found->position == 1);
  const auto nothing = co_await store.read_event(event_id());
  CHECK_FALSE(nothing);

  const auto executor = co_await net::this_coro::executor;
  co_await sleep_for(time.shortened(90s));
  const auto before = timers_of(executor).date();
  co_await store.append("order-43", expected::none(), store_cases::simple("order.placed"));
  const slice dated = co_await store.read_stream("order-43");
  CHECK(dated.events[0].at >= std::chrono::floor<std::chrono::microseconds>(before));
  if (time.is_virtual) CHECK(dated.events[0].at.time_since_epoch() == 90s);
}

// Rows of the table: the state of the stream; columns: what is expected of it.
DATABASE_TEST("an append happens exactly when the stream is as expected") {
  event_store store = co_await event_store::open(db);
  using store_cases::append_with;
  const auto e = store_cases::simple("first");
  for (const char* name : {"live-any", "live-none", "live-exists", "live-exact", "live-wrong", "gone-any", "gone-none",
                           "gone-exists", "gone-exact", "dead-any", "dead-none", "dead-exists", "dead-exact"}) {
    std::string stream = name;
    co_await store.append(stream, expected::none(), e);
    if (stream.starts_with("gone")) co_await store.remove(stream);
    if (stream.starts_with("dead")) co_await store.remove_for_ever(stream);
  }
  const auto never_any = co_await append_with(store, "never-any", expected::any());
  const auto never_none = co_await append_with(store, "never-none", expected::none());
  const auto never_zero = co_await append_with(store, "never-zero", expected::version(0));
  const auto never_one = co_await append_with(store, "never-one", expected::version(1));
  const auto never_exists = co_await append_with(store, "never-exists", expected::exists());
  CHECK(never_any == errc());
  CHECK(never_none == errc());
  CHECK(never_zero == errc());
  CHECK(never_one == errc::version_conflict);
  CHECK(never_exists == errc::version_conflict);

  const auto live_any = co_await append_with(store, "live-any", expected::any());
  const auto live_none = co_await append_with(store, "live-none", expected::none());
  const auto live_exists = co_await append_with(store, "live-exists", expected::exists());
  const auto live_exact = co_await append_with(store, "live-exact", expected::version(1));
  const auto live_wrong = co_await append_with(store, "live-wrong", expected::version(2));
  CHECK(live_any == errc());
  CHECK(live_none == errc::version_conflict);
  CHECK(live_exists == errc());
  CHECK(live_exact == errc());
  CHECK(live_wrong == errc::version_conflict);

  const auto gone_any = co_await append_with(store, "gone-any", expected::any());
  const auto gone_none = co_await append_with(store, "gone-none", expected::none());
  const auto gone_exists = co_await append_with(store, "gone-exists", expected::exists());
  const auto gone_exact = co_await append_with(store, "gone-exact", expected::version(1));
  CHECK(gone_any == errc());
  CHECK(gone_none == errc());
  CHECK(gone_exists == errc::version_conflict);
  CHECK(gone_exact == errc());
  const slice reopened = co_await store.read_stream("gone-none");
  REQUIRE(reopened.events.size() == 1);
  CHECK(reopened.events[0].version == 2);

  for (const auto& wanted : {expected::any(), expected::none(), expected::exists(), expected::version(1)}) {
    const auto dead = co_await append_with(store, "dead-any", wanted);
    CHECK(dead == errc::stream_deleted);
  }
}

DATABASE_TEST("a conflict says what was expected and what is there, with the tail if asked") {
  event_store store = co_await event_store::open(db);
  for (int i = 0; i < 4; ++i) co_await store.append("s", expected::any(), store_cases::simple("e"));
  append_request late("s", expected::version(2));
  late.add(store_cases::simple("late")).with_tail();
  const auto newest_before = co_await store.newest_position();
  bool thrown = false;
  try {
    co_await store.append(late);
  } catch (const append_conflict& c) {
    thrown = true;
    CHECK(c.code() == errc::version_conflict);
    CHECK(c.stream() == "s");
    CHECK(c.wanted() == expected::version(2));
    CHECK(c.actual() == 4);
    REQUIRE(c.tail().size() == 2);
    CHECK(c.tail()[0].version == 3);
    CHECK(std::string(c.what()).find("'s' should have version 2, but has version 4") != std::string::npos);
  }
  CHECK(thrown);
  const appended next = co_await store.append("s", expected::version(4), store_cases::simple("e"));
  CHECK(next.position == newest_before + 1);
}

DATABASE_TEST("the same ids appended again are one append, with the first one's numbers") {
  event_store store = co_await event_store::open(db);
  co_await store.append("other", expected::any(), store_cases::simple("before"));
  std::vector<event> two{store_cases::numbered(1), store_cases::numbered(2)};
  const appended first = co_await store.append("s", expected::none(), two);
  co_await store.append("s", expected::any(), store_cases::simple("after"));
  const appended again = co_await store.append("s", expected::any(), two);
  CHECK(again.is_duplicate);
  CHECK(again.first_version == first.first_version);
  CHECK(again.last_version == first.last_version);
  CHECK(again.position == first.position);
  const appended exact = co_await store.append("s", expected::version(0), two);
  CHECK(exact.is_duplicate);
  const auto version = co_await store.version_of("s");
  CHECK(version == 3);

  const auto attempt = [&](std::string stream, expected e, std::vector<event> events) {
    append_request request(std::move(stream), e);
    request.add(std::move(events));
    return store_cases::code_of(store.try_append(std::move(request)));
  };
  const auto other_place = co_await attempt("s", expected::version(3), two);
  CHECK(other_place == errc::version_conflict);
  const auto other_stream = co_await attempt("t", expected::any(), two);
  CHECK(other_stream == errc::event_id_reused);
  std::vector<event> more = two;
  more.push_back(store_cases::numbered(3));
  const auto prefix = co_await attempt("s", expected::any(), more);
  CHECK(prefix == errc::event_id_reused);
  std::vector<event> reversed{store_cases::numbered(2), store_cases::numbered(1)};
  const auto disorder = co_await attempt("s", expected::any(), reversed);
  CHECK(disorder == errc::event_id_reused);
  std::vector<event> changed{store_cases::numbered(1, "{\"x\": 1}"), store_cases::numbered(2)};
  const auto other_content = co_await attempt("s", expected::any(), changed);
  CHECK(other_content == errc::event_id_reused);
  std::vector<event> twice{store_cases::numbered(9), store_cases::numbered(9)};
  const auto same_twice = co_await attempt("s", expected::any(), twice);
  CHECK(same_twice == errc::event_rejected);
}

DATABASE_TEST("several streams and the user's own rows change together or not at all") {
  event_store store = co_await event_store::open(db);
  batch table;
  table.execute("create table balance(account text primary key, amount integer)");
  co_await db.commit(std::move(table));

  const auto transfer = [&](expected of_b) {
    batch b;
    append_request from("a", expected::any()), to("b", of_b);
    from.add(store_cases::simple("withdrawn"));
    to.add(store_cases::simple("deposited"));
    auto a = store.append(b, std::move(from));
    auto c = store.append(b, std::move(to));
    b.execute(
        "insert into balance(account, amount) values('a', -1) on conflict(account) do update set amount = "
        "balance.amount - 1");
    return std::make_tuple(std::move(b), std::move(a), std::move(c));
  };
  auto [good, a, c] = transfer(expected::none());
  co_await db.commit(std::move(good));
  CHECK(a->last_version == 1);
  CHECK(c->position == 2);
  auto [bad, a2, c2] = transfer(expected::none());
  const auto refused = co_await db.try_commit(std::move(bad));
  CHECK(refused.code() == errc::version_conflict);
  const auto newest = co_await store.newest_position();
  CHECK(newest == 2);
  const rows amount = co_await db.query("select amount from balance");
  CHECK(amount.front().get<int>(0) == -1);
}

DATABASE_TEST("an append without events only checks") {
  event_store store = co_await event_store::open(db);
  co_await store.append("s", expected::any(), store_cases::simple("e"));
  append_request fine("s", expected::version(1)), wrong("s", expected::version(5));
  const appended done = co_await store.append(fine);
  CHECK(done.last_version == 1);
  const auto refused = co_await store.try_append(wrong);
  CHECK(refused.code() == errc::version_conflict);
  const auto newest = co_await store.newest_position();
  CHECK(newest == 1);
}

DATABASE_TEST("a condition over all streams lets in one of two that contradict each other") {
  event_store store = co_await event_store::open(db);
  const auto subscribe = [&](std::string student, std::uint64_t seen) {
    event e("student.subscribed", "{}");
    e.tag("course:c1").tag("student:" + student);
    event_query same_course;
    same_course.item().type("student.subscribed").tag("course:c1");
    append_request request("student-" + student, expected::any());
    request.add(std::move(e)).unless(std::move(same_course), seen);
    return store.try_append(std::move(request));
  };
  const auto seen = co_await store.newest_position();
  const auto first = co_await subscribe("ada", seen);
  CHECK(first.has_value());
  const auto second = co_await subscribe("bob", seen);
  CHECK(second.code() == errc::append_condition_failed);
  const auto informed = co_await subscribe("bob", first->position);
  CHECK(informed.has_value());

  // The same tag with another type, and the same type with another tag, do not count.
  event closed("course.closed", "{}");
  closed.tag("course:c1");
  co_await store.append("course-c1", expected::any(), closed);
  event elsewhere("student.subscribed", "{}");
  elsewhere.tag("course:c2");
  co_await store.append("student-eve", expected::any(), elsewhere);
  const auto undisturbed = co_await subscribe("cid", informed->position);
  CHECK(undisturbed.has_value());
}

DATABASE_TEST("a condition after nothing means uniqueness") {
  event_store store = co_await event_store::open(db);
  const auto claim = [&](std::string stream) {
    event e("name.claimed", "{}");
    e.tag("name:ada");
    event_query taken;
    taken.item().tag("name:ada");
    append_request request(std::move(stream), expected::any());
    request.add(std::move(e)).unless(std::move(taken));
    return store.try_append(std::move(request));
  };
  const auto first = co_await claim("user-1");
  const auto second = co_await claim("user-2");
  CHECK(first.has_value());
  CHECK(second.code() == errc::append_condition_failed);
}

DATABASE_TEST("a stream is read from both ends, in pages") {
  event_store store = co_await event_store::open(db);
  std::vector<event> ten;
  for (int i = 1; i <= 10; ++i) ten.emplace_back("e", std::to_string(i));
  co_await store.append("s", expected::none(), ten);
  const auto versions = [](const slice& page) {
    std::vector<std::uint64_t> found;
    for (const auto& e : page.events) found.push_back(e.version);
    return found;
  };
  using numbers = std::vector<std::uint64_t>;
  const slice first = co_await store.read_stream("s", {.limit = 4});
  CHECK(versions(first) == numbers{1, 2, 3, 4});
  CHECK_FALSE(first.is_end);
  CHECK(first.version == 10);
  const slice last = co_await store.read_stream("s", {.from = 8, .limit = 4});
  CHECK(versions(last) == numbers{8, 9, 10});
  CHECK(last.is_end);
  const slice exactly = co_await store.read_stream("s", {.from = 7, .limit = 4});
  CHECK(exactly.is_end);
  const slice beyond = co_await store.read_stream("s", {.from = 11});
  CHECK(beyond.events.empty());
  CHECK(beyond.version == 10);
  const slice back = co_await store.read_stream("s", {.limit = 3, .order = direction::backward});
  CHECK(versions(back) == numbers{10, 9, 8});
  const slice further = co_await store.read_stream("s", {.from = 2, .order = direction::backward});
  CHECK(versions(further) == numbers{2, 1});
  CHECK(further.is_end);
  const slice heavy = co_await store.read_stream("s", {.max_bytes = 3});
  CHECK(versions(heavy) == numbers{1, 2, 3});
  CHECK_FALSE(heavy.is_end);
  const slice nowhere = co_await store.read_stream("t");
  CHECK(nowhere.events.empty());
  CHECK(nowhere.version == 0);
}

DATABASE_TEST("the whole store is read in one order, filtered by types and tags, and says how far it looked") {
  event_store store = co_await event_store::open(db);
  for (int i = 1; i <= 20; ++i) {
    event e(i % 5 == 0 ? "rare" : "common", "{}");
    e.tag("number:" + std::to_string(i)).tag(i % 2 == 0 ? "even" : "odd");
    co_await store.append("stream-" + std::to_string(i % 3), expected::any(), e);
  }
  const auto positions = [](const slice& page) {
    std::vector<std::uint64_t> found;
    for (const auto& e : page.events) found.push_back(e.position);
    return found;
  };
  using numbers = std::vector<std::uint64_t>;
  const slice all = co_await store.read_all();
  CHECK(all.events.size() == 20);
  CHECK(all.scanned_to == 20);
  CHECK(all.is_end);
  const slice page = co_await store.read_all({.from = 5, .limit = 3});
  CHECK(positions(page) == numbers{5, 6, 7});
  CHECK(page.scanned_to == 7);
  CHECK_FALSE(page.is_end);
  const slice back = co_await store.read_all({.from = 3, .order = direction::backward});
  CHECK(positions(back) == numbers{3, 2, 1});

  event_query rare;
  rare.item().type("rare");
  const slice rares = co_await store.read_all(rare, {.limit = 3});
  CHECK(positions(rares) == numbers{5, 10, 15});
  CHECK(rares.scanned_to == 19);
  const slice rest = co_await store.read_all(rare, {.from = rares.scanned_to + 1});
  CHECK(positions(rest) == numbers{20});

  event_query either;
  either.item().tag("number:3").tag("odd");
  either.item().tag("number:4").tag("odd");
  either.item().type("rare").tag("even");
  const slice by_tags = co_await store.read_all(either);
  CHECK(positions(by_tags) == numbers{3, 10, 20});
  CHECK(by_tags.scanned_to == 20);
  const slice by_tags_back = co_await store.read_all(either, {.limit = 2, .order = direction::backward});
  CHECK(positions(by_tags_back) == numbers{20, 10});
  event_query nothing;
  nothing.item().type("never");
  const slice none = co_await store.read_all(nothing);
  CHECK(none.events.empty());
  CHECK(none.scanned_to == 20);
  const slice beyond = co_await store.read_all({.from = 31});
  CHECK(beyond.events.empty());
  CHECK(beyond.scanned_to == 30);
}

DATABASE_TEST("a search by type alone looks at ten thousand events at once, matching or not") {
  event_store store = co_await event_store::open(db);
  const std::vector<event> common(10'000, store_cases::simple("common"));
  co_await store.append("s", expected::none(), common);
  co_await store.append("s", expected::any(), store_cases::simple("rare"));
  event_query rare, first;
  rare.item().type("rare");
  first.item().type("first");
  const slice looked = co_await store.read_all(rare);
  CHECK(looked.events.empty());
  CHECK(looked.scanned_to == 10'000);
  CHECK_FALSE(looked.is_end);
  const slice found = co_await store.read_all(rare, {.from = looked.scanned_to + 1});
  REQUIRE(found.events.size() == 1);
  CHECK(found.events[0].position == 10'001);
  CHECK(found.is_end);
  const slice back = co_await store.read_all(first, {.order = direction::backward});
  CHECK(back.events.empty());
  CHECK(back.scanned_to == 2);
  CHECK_FALSE(back.is_end);
}

DATABASE_TEST("a truncated stream begins later and counts on") {
  event_store store = co_await event_store::open(db);
  for (int i = 0; i < 5; ++i) co_await store.append("s", expected::any(), store_cases::simple("e"));
  co_await store.truncate("s", 4);
  const slice left = co_await store.read_stream("s");
  REQUIRE(left.events.size() == 2);
  CHECK(left.events[0].version == 4);
  co_await store.truncate("s", 2);  // never back
  const slice still = co_await store.read_stream("s");
  CHECK(still.events.size() == 2);
  co_await store.truncate("s", 100);  // never beyond the next
  const appended next = co_await store.append("s", expected::version(5), store_cases::simple("e"));
  CHECK(next.last_version == 6);
  const slice one = co_await store.read_stream("s");
  CHECK(one.events.size() == 1);
  const slice all = co_await store.read_all();
  CHECK(all.events.size() == 6);
}

DATABASE_TEST("names and events that cannot be stored are refused with the limit") {
  event_store store = co_await event_store::open(db, {.max_events = 2, .max_event_bytes = 10, .max_tags = 2});
  const auto refuse = [&](std::string stream, std::vector<event> events) -> awaitable<std::string> {
    append_request request(std::move(stream), expected::any());
    request.add(std::move(events));
    const auto done = co_await store.try_append(std::move(request));
    co_return done ? "stored" : done.code() == errc::event_rejected ? done.why().message() : "other";
  };
  std::vector<event> one{store_cases::simple("e")};
  const auto empty_name = co_await refuse("", one);
  CHECK(empty_name.find("is empty") != std::string::npos);
  const auto long_name = co_await refuse(std::string(256, 'x'), one);
  CHECK(long_name.find("256 bytes") != std::string::npos);
  const auto nul = co_await refuse(std::string("a\0b", 3), one);
  CHECK(nul.find("UTF-8") != std::string::npos);
  const auto broken = co_await refuse("\xc3(", one);
  CHECK(broken.find("UTF-8") != std::string::npos);
  std::vector<event> three(3, store_cases::simple("e"));
  const auto many = co_await refuse("s", three);
  CHECK(many.find("max_events is 2") != std::string::npos);
  std::vector<event> big{event("e", std::string(11, 'x'))};
  const auto large = co_await refuse("s", big);
  CHECK(large.find("max_event_bytes is 10") != std::string::npos);
  std::vector<event> tagged = one;
  tagged[0].tag("a").tag("b").tag("c");
  const auto tags = co_await refuse("s", tagged);
  CHECK(tags.find("max_tags is 2") != std::string::npos);
  std::vector<event> two_lined = one;
  two_lined[0].tag("a\nb");
  const auto line = co_await refuse("s", two_lined);
  CHECK(line.find("more than one line") != std::string::npos);
  std::vector<event> hostile{event("'; drop table cofferdam_events; --", "{}")};
  const auto sql = co_await refuse("Robert'); --", hostile);
  CHECK(sql == "stored");
  const slice found = co_await store.read_stream("Robert'); --");
  REQUIRE(found.events.size() == 1);
  CHECK(found.events[0].type == "'; drop table cofferdam_events; --");
}

ASYNC_TEST("ids are versions of time and read back from text") {
  random_source random(1);
  const auto at = std::chrono::system_clock::time_point(std::chrono::milliseconds(0x0123456789ab));
  const event_id id = event_id::make(at, random);
  CHECK(id.to_string().substr(0, 15) == "01234567-89ab-7");
  CHECK(event_id::parse(id.to_string()) == id);
  CHECK(event_id::make(at + 1ms, random) > id);
  CHECK_THROWS_WITH(event_id::parse("nonsense"), Catch::Contains("nonsense"));
  CHECK_THROWS(event_id::parse("0123456789ab-7000-8000-0000000000000"));
  co_return;
}
