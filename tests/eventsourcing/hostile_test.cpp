// What nobody should send, and somebody will: it is stored as it is, or refused with the limit it breaks.
#include "database_test.hpp"
#include "error_of.hpp"

#include <cofferdam/eventsourcing/event_store.hpp>
#include <cofferdam/eventsourcing/projection.hpp>

#include <string>
#include <vector>

using namespace cofferdam;

namespace hostile {

awaitable<std::string> appending(event_store& store, std::string stream, event e) {
  return test::error_of(store.append(std::move(stream), expected::any(), std::move(e)));
}

std::vector<std::string> bad_texts() {
  return {"\xff", "a\xc3", "\xed\xa0\x80", "\xc0\xaf", "\xf4\x90\x80\x80", std::string("zero\0byte", 9)};
}

std::vector<event> events_with(const std::string& bad) {
  event tagged("t", "{}"), marked("t", "{}"), correlated("t", "{}"), caused("t", "{}");
  tagged.tag(bad);
  marked.metadata(bad);
  correlated.correlation(bad);
  caused.causation(bad);
  return {event(bad, "{}"), tagged, marked, correlated, caused};
}

}  // namespace hostile

DATABASE_TEST("an event of 16 MiB is stored whole, one byte more is refused with the limit") {
  event_store store = co_await event_store::open(db);
  constexpr std::size_t most = std::size_t{16} * 1024 * 1024;
  std::string data(most, '\0');
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 31 % 251);
  const std::string error = co_await hostile::appending(store, "large", event("large", data + "!"));
  CHECK(error.find("has 16777217 bytes; max_event_bytes is 16777216") != std::string::npos);
  co_await store.append("large", expected::any(), event("large", data));
  co_await store.append("large", expected::any(), event("small", "{}"));
  const slice page = co_await store.read_stream("large");
  REQUIRE(page.events.size() == 1);  // max_bytes of a page
  CHECK(page.events[0].data == data);
  CHECK(!page.is_end);
  read_options next;
  next.from = 2;
  const slice rest = co_await store.read_stream("large", next);
  CHECK(rest.events.size() == 1);
  CHECK(rest.is_end);
}

DATABASE_TEST("text that is no UTF-8 is refused where text is meant, and kept where bytes are") {
  event_store store = co_await event_store::open(db);
  const auto bad_texts = hostile::bad_texts();
  for (const std::string& bad : bad_texts) {
    const auto bad_events = hostile::events_with(bad);
    for (const event& e : bad_events) {
      const std::string refused = co_await hostile::appending(store, "s", e);
      CHECK(refused.find("UTF-8") != std::string::npos);
    }
    const std::string error = co_await hostile::appending(store, bad, event("t", "{}"));
    CHECK(error.find("the name of the stream is no UTF-8") != std::string::npos);
    co_await store.append("bytes", expected::any(), event("t", bad));
    const slice back = co_await store.read_stream("bytes", {.order = direction::backward});
    CHECK(back.events.front().data == bad);
  }
  const std::uint64_t version = co_await store.version_of("s");
  CHECK(version == 0);
}

DATABASE_TEST("SQL in names is a name") {
  event_store store = co_await event_store::open(db);
  const std::string evil = "x'; drop table cofferdam_events; --\"$1%_";
  event e(evil, evil);
  e.tag(evil).correlation(evil).causation(evil).metadata(evil);
  co_await store.append(evil, expected::none(), e);
  co_await store.append("x", expected::none(), event("t", "{}"));
  const slice page = co_await store.read_stream(evil);
  REQUIRE(page.events.size() == 1);
  CHECK(page.events[0].stream == evil);
  CHECK(page.events[0].metadata == evil);
  event_query q;
  q.item().type(evil).tag(evil).stream_prefix(evil);
  const slice found = co_await store.read_all(q);
  CHECK(found.events.size() == 1);
  projection follower(store, evil);
  int applied = 0;
  follower.filter(q).apply([&](batch&, const recorded_event&) { ++applied; });
  (void)co_await follower.catch_up();
  CHECK(applied == 1);
  const std::uint64_t position = co_await follower.position();
  CHECK(position == 2);
}

DATABASE_TEST("a million tags are refused with the limit; many, where the limit allows them, are all found") {
  event_store store = co_await event_store::open(db), generous = co_await event_store::open(db, {.max_tags = 5'000});
  const auto numbered = [](int n) {
    std::string digits = std::to_string(n);
    return "n:" + std::string(7 - digits.size(), '0') + digits;
  };
  event greedy("greedy", "{}"), many("many", "{}");
  for (int n = 0; n < 1'000'000; ++n) greedy.tag(numbered(n));
  for (int n = 0; n < 5'000; ++n) many.tag(numbered(n));
  const std::string error = co_await hostile::appending(generous, "s", greedy);
  CHECK(error.find("has 1000000 tags; max_tags is 5000") != std::string::npos);
  const std::string fewer = co_await hostile::appending(store, "s", many);
  CHECK(fewer.find("has 5000 tags; max_tags is 1000") != std::string::npos);
  co_await generous.append("s", expected::any(), many);
  const std::vector<int> some{0, 1, 2'500, 4'999};
  for (const int n : some) {
    event_query q;
    q.item().tag(numbered(n));
    const slice found = co_await store.read_all(q);
    REQUIRE(found.events.size() == 1);
    CHECK(found.events[0].tags.size() == 5'000);
  }
}
