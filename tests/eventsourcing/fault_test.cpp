// Disks that fail: every read, write, sync, truncation and opening in turn, under appends and a projection.
#include "catch.hpp"
#include "count_from.hpp"
#include "fault_vfs.hpp"
#include "real_time.hpp"
#include "temporary_directory.hpp"

#include <cofferdam/eventsourcing/projection.hpp>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

using namespace cofferdam;
using test::fault_vfs;

namespace faulty {

/// What a run was told, by the number of each event.
struct account {
  std::set<int> acknowledged, unknown;
  std::map<std::string, int> errors;
};

constexpr int events = 24;

awaitable<void> make_table(database& db) {
  batch b;
  b.execute("create table if not exists seen(n integer primary key)");
  co_await db.commit(std::move(b));
}

awaitable<void> open_and_work(std::string url, account& told) {
  database_options options;
  options.checkpoint_pages = 8;  // so that the log is moved into the database in the middle of it
  database db = co_await database::open(url, options);
  event_store store = co_await event_store::open(db);
  co_await make_table(db);
  projection follower(store, "seen");
  follower.apply(
      [](batch& b, const recorded_event& e) { b.execute("insert into seen(n) values($1)", std::stoi(e.data)); });
  // One that fails is told of, and the database goes on: the next one is tried all the same.
  for (int n = 1; n <= events; ++n) {
    event e("numbered", std::to_string(n));
    e.tag("n:" + std::to_string(n)).metadata(std::string(2'000, 'm'));
    append_request request("s" + std::to_string(n % 3), expected::any());
    request.add(std::move(e));
    const auto done = co_await store.try_append(std::move(request));
    if (done) told.acknowledged.insert(n);
    if (!done && done.code() == errc::outcome_unknown) told.unknown.insert(n);
    if (!done) ++told.errors[done.code().message()];
    if (n % 6 != 0) continue;
    try {
      (void)co_await follower.catch_up();
    } catch (const storage_error& error) {
      ++told.errors[error.code().message()];
    }
  }
  (void)co_await follower.catch_up();  // by now the fault is over
}

/// What a run left, looked at on a disk that works.
awaitable<void> check(std::string path, const account& told) {
  database db = co_await database::open("sqlite:" + path + "?threads=0");
  const rows sound = co_await db.query("pragma integrity_check");
  CHECK(sound.front().get<std::string>(0) == "ok");
  event_store store = co_await event_store::open(db);
  co_await make_table(db);
  std::set<int> found;
  std::map<std::string, std::uint64_t> versions;
  const slice all = co_await store.read_all();
  for (const auto& e : all.events) {
    CHECK(found.insert(std::stoi(e.data)).second);
    CHECK(e.version == ++versions[e.stream]);
    CHECK(e.metadata.size() == 2'000);
    event_query tagged;
    tagged.item().tag("n:" + e.data);
    const slice by_tag = co_await store.read_all(tagged);
    CHECK(by_tag.events.size() == 1);
  }
  for (const int n : told.acknowledged) CHECK(found.contains(n));
  for (const int n : found) CHECK((told.acknowledged.contains(n) || told.unknown.contains(n)));
  projection follower(store, "seen");
  follower.apply(
      [](batch& b, const recorded_event& e) { b.execute("insert into seen(n) values($1)", std::stoi(e.data)); });
  (void)co_await follower.catch_up();
  const rows seen = co_await db.query("select count(*) from seen");
  CHECK(seen.front().get<std::size_t>(0) == found.size());
}

/// Fails the first call of the kind, then the second, and so on, until a run gets through without a failure. Returns
/// how many there were; checks every one.
std::uint64_t fail_each(fault_vfs::call what, const std::string& more, std::uint64_t step,
                        std::map<std::string, int>& errors) {
  fault_vfs& disk = fault_vfs::instance();
  for (std::uint64_t n = 1;; n += step) {
    const test::temporary_directory directory;
    const std::string path = directory.file("faults.db");
    account told;
    disk.plan(what, n);
    try {
      test::run_in_real_time(open_and_work, "sqlite:" + path + "?vfs=faults" + more, std::ref(told));
    } catch (const storage_error& error) {
      ++told.errors[error.code().message()];  // opening, or the last look
    }
    const bool has_fired = disk.fired() > 0;
    disk.heal();
    INFO("call " << n);
    if (told.acknowledged.empty() && told.unknown.empty() && !std::filesystem::exists(path)) continue;
    test::run_in_real_time(check, path, std::cref(told));
    for (const auto& [code, count] : told.errors) errors[code] += count;
    if (!has_fired) {
      CHECK(told.acknowledged.size() == events);
      CHECK(told.errors.empty());
      return n - 1;
    }
  }
}

/// Each so-many-th read and write fails; 1 is all of them.
std::uint64_t every() { return test::count_from("COFFERDAM_FAULT_STEP", 29); }

}  // namespace faulty

TEST_CASE("whatever call to the disk fails, nothing acknowledged is lost, and the database goes on", "[torture]") {
  std::map<std::string, int> errors;
  using call = fault_vfs::call;
  const std::uint64_t syncs =
      faulty::fail_each(call::sync, "&threads=0", std::min<std::uint64_t>(faulty::every(), 5), errors);
  const std::uint64_t truncations = faulty::fail_each(call::truncate, "&threads=0", 1, errors);
  const std::uint64_t opened = faulty::fail_each(call::open, "&threads=0", 1, errors);
  const std::uint64_t writes = faulty::fail_each(call::write, "&threads=0", faulty::every(), errors);
  const std::uint64_t reads = faulty::fail_each(call::read, "&threads=0", faulty::every(), errors);
  std::string all;
  for (const auto& [code, count] : errors) all += code + ": " + std::to_string(count) + "\n";
  INFO(all);
  CHECK(syncs > 20);
  CHECK(writes > 50);
  CHECK(reads > 3);
  CHECK(opened >= 2);
  (void)truncations;
  // What the program is told is one of these.
  for (const auto& [code, count] : errors) {
    const bool is_clear = code == make_error_code(errc::database_io_error).message() ||
                          code == make_error_code(errc::outcome_unknown).message() ||
                          code == make_error_code(errc::database_unavailable).message() ||
                          code == make_error_code(errc::database_full).message();
    INFO(code);
    CHECK(is_clear);
  }
}

TEST_CASE("with threads, too, a failing sync is told of and nothing acknowledged is lost") {
  std::map<std::string, int> errors;
  const std::uint64_t syncs = faulty::fail_each(fault_vfs::call::sync, "", 9, errors);
  CHECK(syncs > 20);
  CHECK(errors.contains(make_error_code(errc::outcome_unknown).message()));
}

TEST_CASE("a full disk refuses what does not fit, keeps what was acknowledged, and goes on when there is room") {
  fault_vfs& disk = fault_vfs::instance();
  for (std::uint64_t n = 1; n < 200; n += 11) {
    const test::temporary_directory directory;
    const std::string path = directory.file("full.db");
    faulty::account told;
    test::run_in_real_time(faulty::open_and_work, "sqlite:" + path + "?vfs=faults&threads=0", std::ref(told));
    const auto body = [&]() -> awaitable<void> {
      database db = co_await database::open("sqlite:" + path + "?vfs=faults&threads=0");
      event_store store = co_await event_store::open(db);
      disk.plan(fault_vfs::call::write, n, true);
      int refused = 0;
      for (int i = 100; i < 160; ++i) {
        event e("numbered", std::to_string(i));
        e.tag("n:" + std::to_string(i)).metadata(std::string(2'000, 'm'));
        append_request request("s", expected::any());
        request.add(std::move(e));
        const auto done = co_await store.try_append(std::move(request));
        if (done) told.acknowledged.insert(i);
        if (!done) CHECK(done.code() == errc::database_full);
        if (!done) ++refused;
      }
      CHECK(refused > 0);
      const slice still = co_await store.read_all();  // reading goes on
      CHECK(still.events.size() == told.acknowledged.size());
      disk.heal();
      event last("numbered", "999");
      last.tag("n:999").metadata(std::string(2'000, 'm'));
      co_await store.append("s", expected::any(), last);
      told.acknowledged.insert(999);
    };
    INFO("full after " << n << " writes");
    test::run_in_real_time(body);
    test::run_in_real_time(faulty::check, path, std::cref(told));
  }
}
