#include "database_test.hpp"
#include "error_of.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/eventsourcing/archive.hpp>
#include <cofferdam/eventsourcing/consumer_group.hpp>
#include <cofferdam/eventsourcing/event_file.hpp>
#include <cofferdam/eventsourcing/projection.hpp>

#include <filesystem>
#include <fstream>
#include <string>

using namespace cofferdam;

namespace archived {

/// 30 events in three streams, tagged; the third stream ends at position 3.
awaitable<void> fill(event_store& store) {
  for (int n = 1; n <= 30; ++n) {
    const std::string stream = n == 3 ? "c" : n % 2 == 0 ? "a" : "b";
    event e("counted", std::to_string(n));
    e.tag("number:" + std::to_string(n));
    co_await store.append(stream, expected::any(), e);
  }
}

std::vector<std::uint64_t> positions(const slice& page) {
  std::vector<std::uint64_t> found;
  for (const auto& e : page.events) found.push_back(e.position);
  return found;
}

}  // namespace archived

DATABASE_TEST("old events are moved into a file, and reads begin after them and say so") {
  const test::temporary_directory directory;
  event_store store = co_await event_store::open(db);
  event_archive archive = co_await event_archive::open(store);
  co_await archived::fill(store);
  auto entries = co_await archive.entries();
  CHECK(entries.empty());
  const std::string file = directory.file("old.ndjson");
  const auto moved = co_await archive.move_out(file, 20);
  CHECK(moved.events == 19);
  CHECK(moved.kept == 1);  // "c" has no newer one

  entries = co_await archive.entries();
  REQUIRE(entries.size() == 1);
  CHECK(entries[0].file == file);
  CHECK(entries[0].events == 19);
  CHECK(entries[0].last_position == 20);
  const auto untouched = co_await archive.entries_after(20);
  CHECK(untouched.empty());

  const slice all = co_await store.read_all();
  CHECK(archived::positions(all) == std::vector<std::uint64_t>{3, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30});
  const slice a = co_await store.read_stream("a");
  CHECK(a.first_version == 11);
  CHECK(a.version == 15);
  CHECK(a.events.front().version == 11);
  const slice c = co_await store.read_stream("c");
  CHECK(c.first_version == 1);
  CHECK(c.events.size() == 1);
  event_query tagged;
  tagged.item().tag("number:20");
  const slice gone = co_await store.read_all(tagged);
  CHECK(gone.events.empty());

  // Versions and positions go on; nothing is given twice.
  const auto done = co_await store.append("c", expected::version(1), event("counted", "31"));
  CHECK(done.position == 31);

  // Another file takes what has become old since; with the first it is everything.
  const std::string second = directory.file("old2.ndjson");
  const auto rest = co_await archive.move_out(second, 25);
  CHECK(rest.events == 6);
  database other = co_await database::open("sqlite::memory:");
  event_store restored = co_await event_store::open(other);
  const std::vector<std::string> files{file, second};
  for (const auto& name : files) {
    std::ifstream in(name);
    (void)co_await import_events(restored, in);
  }
  const slice back = co_await restored.read_all();
  CHECK(back.events.size() == 25);
}

DATABASE_TEST("nothing is moved past what follows, or into a file that is there") {
  const test::temporary_directory directory;
  event_store store = co_await event_store::open(db);
  event_archive archive = co_await event_archive::open(store);
  co_await archived::fill(store);
  projection follower(store, "slow", {.page = 10});
  follower.apply([](batch&, const recorded_event& e) {
    if (e.position == 15) throw std::runtime_error("stuck");
  });
  (void)co_await test::error_of(follower.catch_up());
  std::string error = co_await test::error_of(archive.move_out(directory.file("x"), 20));
  CHECK(error.find("the projection 'slow' is at") != std::string::npos);
  CHECK(!std::filesystem::exists(directory.file("x")));
  std::ofstream(directory.file("taken")) << "precious";
  error = co_await test::error_of(archive.move_out(directory.file("taken"), 5));
  CHECK(error.find("name a new file") != std::string::npos);
  error = co_await test::error_of(archive.move_out(directory.file("no/such/directory"), 5));
  CHECK(error.find("cannot write") != std::string::npos);
  const slice all = co_await store.read_all();
  CHECK(all.events.size() == 30);
  std::ifstream in(directory.file("taken"));
  std::string content;
  in >> content;
  CHECK(content == "precious");
}

DATABASE_TEST("what was put aside is not moved away, and replaying what is gone says so") {
  const test::temporary_directory directory;
  event_store store = co_await event_store::open(db);
  event_archive archive = co_await event_archive::open(store);
  co_await archived::fill(store);
  bool is_broken = true;
  projection table(store, "table", {.parks_failures = true});
  table.apply([&](batch&, const recorded_event& e) {
    if (is_broken && e.position == 28) throw std::runtime_error("cannot");
  });
  (void)co_await table.catch_up();
  std::string error = co_await test::error_of(archive.move_out(directory.file("x"), 30));
  CHECK(error.find("the projection 'table' has put aside the event at 28") != std::string::npos);
  CHECK(!std::filesystem::exists(directory.file("x")));
  consumer_group group(store, "mails", {.max_attempts = 1});
  group.handle([&](const recorded_event& e, batch&) -> awaitable<void> {
    if (is_broken && e.position == 27) throw std::runtime_error("cannot");
    co_return;
  });
  (void)co_await group.run_due();
  error = co_await test::error_of(archive.move_out(directory.file("x"), 27));
  CHECK(error.find("the consumer group 'mails' has put aside the event at 27") != std::string::npos);
  const auto moved = co_await archive.move_out(directory.file("x"), 26);
  CHECK(moved.events == 25);

  // Somebody else's doing: the rows stay until they are given up.
  batch gone;
  gone.execute("delete from cofferdam_events where position in (27, 28)");
  co_await db.commit(std::move(gone));
  is_broken = false;
  error = co_await test::error_of(table.replay("a"));
  CHECK(error.find("the event at position 28, which 'table' has put aside, is not in the store") != std::string::npos);
  error = co_await test::error_of(group.replay("b"));
  CHECK(error.find("the event at position 27, which 'mails' has put aside, is not in the store") != std::string::npos);
  const auto in_table = co_await table.parked();
  REQUIRE(in_table.size() == 2);
  CHECK(in_table[0].event.position == 28);
  CHECK(in_table[0].event.stream == "a");
  CHECK(in_table[0].reason == "cannot");
  const auto in_group = co_await group.parked();
  REQUIRE(in_group.size() == 2);
  CHECK(in_group[0].event.position == 27);
  CHECK(in_group[0].key == "b");
  const std::size_t given_up = co_await table.discard("a");
  CHECK(given_up == 2);
  const std::size_t given_up_too = co_await group.discard("b");
  CHECK(given_up_too == 2);
}
