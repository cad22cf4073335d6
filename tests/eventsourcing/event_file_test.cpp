#include "database_test.hpp"

#include <cofferdam/eventsourcing/event_file.hpp>

#include <fstream>
#include <limits>
#include <sstream>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace files {

awaitable<std::string> import_error(event_store& store, std::string text) {
  std::istringstream in(text);
  std::string message = "imported";
  try {
    (void)co_await import_events(store, in);
  } catch (const storage_error& e) {
    message = e.what();
  }
  co_return message;
}

std::string line_of(std::string id, std::string rest) {
  return R"({"stream":"s","id":"00000000-0000-0000-0000-0000000000)" + std::move(id) + R"(",)" + std::move(rest) +
         "}\n";
}

}  // namespace files

DATABASE_TEST("what was exported is imported again as it was, and once") {
  database from_db = co_await database::open("sqlite::memory:");
  event_store from = co_await event_store::open(from_db);
  event_store to = co_await event_store::open(db);
  for (int i = 0; i < 1200; ++i) {
    event e("type-" + std::to_string(i % 3),
            i % 5 == 0 ? std::string("\0\xff\x01", 3) : "{\"n\": " + std::to_string(i) + "}");
    e.schema(static_cast<std::uint32_t>(1 + i % 2)).tag("n:" + std::to_string(i));
    if (i % 4 == 0) e.correlation("request \"1\"").causation("a").metadata("{}");
    e.at(std::chrono::system_clock::time_point(std::chrono::milliseconds(1'700'000'000'000 + i)));
    co_await from.append("stream-" + std::to_string(i % 7), expected::any(), std::move(e));
  }
  std::stringstream file;
  const auto written = co_await export_events(from, file);
  CHECK(written == 1200);
  const auto first = co_await import_events(to, file);
  CHECK(first.appended == 1200);
  CHECK(first.duplicates == 0);
  std::istringstream again(file.str());
  const auto second = co_await import_events(to, again);
  CHECK(second.appended == 0);
  CHECK(second.duplicates == 1200);

  const slice was = co_await from.read_all({.limit = 2000});
  const slice is = co_await to.read_all({.limit = 2000});
  REQUIRE(is.events.size() == 1200);
  for (std::size_t i = 0; i < 1200; ++i) {
    const auto &a = was.events[i], &b = is.events[i];
    const bool same = a.position == b.position && a.stream == b.stream && a.version == b.version && a.id == b.id &&
                      a.type == b.type && a.schema == b.schema && a.at == b.at && a.data == b.data &&
                      a.tags == b.tags && a.correlation == b.correlation && a.causation == b.causation &&
                      a.metadata == b.metadata;
    CHECK(same);
  }
  std::ostringstream tail, back;
  const auto rest = co_await export_events(from, tail, 1190);
  CHECK(rest == 10);
  const auto all_back = co_await export_events(to, back);
  CHECK(all_back == 1200);
  CHECK(back.str() == file.str());
}

DATABASE_TEST("a line that cannot be imported is named, and nothing of it is stored") {
  event_store store = co_await event_store::open(db);
  const std::string good = files::line_of("01", R"("type":"t","data":"{}")");
  const auto no_json = co_await files::import_error(store, good + "\n{\"stream\": \"s\", \"id\"");
  CHECK(no_json.find("line 3: is no JSON object") != std::string::npos);
  const auto newest = co_await store.newest_position();
  CHECK(newest == 0);
  const auto no_type = co_await files::import_error(store, files::line_of("02", R"("data":"{}")"));
  CHECK(no_type.find("line 1") != std::string::npos);
  CHECK(no_type.find("type") != std::string::npos);
  const auto no_data = co_await files::import_error(store, files::line_of("02", R"("type":"t")"));
  CHECK(no_data.find("needs one of") != std::string::npos);
  const auto bad_hex = co_await files::import_error(store, files::line_of("02", R"("type":"t","data_hex":"0g")"));
  CHECK(bad_hex.find("hexadecimal") != std::string::npos);
  const auto odd_hex = co_await files::import_error(store, files::line_of("02", R"("type":"t","data_hex":"012")"));
  CHECK(odd_hex.find("odd number") != std::string::npos);
  const auto bad_time =
      co_await files::import_error(store, files::line_of("02", R"("type":"t","data":"","at":9223372036854775807)"));
  CHECK(bad_time.find("out of range") != std::string::npos);
  for (const char* at : {"18446744073709551615", "1e300", "1.5", "-9000000000000001", "\"now\""}) {
    const std::string line = files::line_of("02", R"("type":"t","data":"","at":)" + std::string(at));
    const auto no_time = co_await files::import_error(store, line);
    CHECK(no_time.find("\"at\" is ") != std::string::npos);
  }
  for (const char* schema : {"-1", "1.5", "4294967296", "null"}) {
    const std::string line = files::line_of("02", R"("type":"t","data":"","schema":)" + std::string(schema));
    const auto no_schema = co_await files::import_error(store, line);
    CHECK(no_schema.find("\"schema\" is ") != std::string::npos);
  }
  const auto bad_id = co_await files::import_error(store, R"({"stream":"s","id":"7","type":"t","data":""})");
  CHECK(bad_id.find("'7' is no event id") != std::string::npos);
  const auto wrong_type = co_await files::import_error(store, files::line_of("02", R"("type":7,"data":"{}")"));
  CHECK(wrong_type.find("must be string") != std::string::npos);
  const auto long_name = co_await files::import_error(
      store, files::line_of("02", R"("type":")" + std::string(300, 'x') + R"(","data":"{}")"));
  CHECK(long_name.find("300 bytes") != std::string::npos);
  const auto twice = co_await files::import_error(store, good + files::line_of("01", R"("type":"t","data":"other")"));
  CHECK(twice.find("lines 1 to 2") != std::string::npos);
  CHECK(twice.find("there already") != std::string::npos);
  const auto big = co_await files::import_error(
      store, files::line_of("03", R"("type":"t","data":")" + std::string(1'000'000, 'x') + R"(")"));
  CHECK(big == "imported");
  const auto fine = co_await files::import_error(store, good);
  CHECK(fine == "imported");
}

DATABASE_TEST("a store's own export may be imported again, removed streams and all") {
  event_store store = co_await event_store::open(db);
  co_await store.append("kept", expected::any(), event("t", "{}"));
  co_await store.append("gone", expected::any(), event("t", "{}"));
  std::stringstream file;
  const auto written = co_await export_events(store, file);
  CHECK(written == 2);
  co_await store.remove_for_ever("gone");
  const auto done = co_await import_events(store, file);
  CHECK(done.appended == 0);
  CHECK(done.duplicates == 2);
}

DATABASE_TEST("what stands before a bad batch of lines stays imported, and the lines are named") {
  event_store store = co_await event_store::open(db);
  std::string text;
  for (int i = 0; i < 600; ++i) {
    const std::string id = "00000000-0000-0000-0000-00000000" + std::to_string(1000 + (i == 599 ? 1 : i));
    text += R"({"stream":"s","id":")" + id + R"(","type":"t","data":")" + std::to_string(i) + "\"}\n";
  }
  const auto message = co_await files::import_error(store, text);
  CHECK(message.find("lines 501 to 600") != std::string::npos);
  const auto newest = co_await store.newest_position();
  CHECK(newest == 500);
}

DATABASE_TEST("a file that cannot be read to its end, or written, is an error") {
  event_store store = co_await event_store::open(db);
  co_await store.append("s", expected::any(), event("t", "{}"));
  std::ifstream missing("/no/such/file");
  bool is_told = false;
  try {
    (void)co_await import_events(store, missing);
  } catch (const std::ios_base::failure&) {
    is_told = true;
  }
  CHECK(is_told);
  std::ofstream full("/dev/full");
  is_told = false;
  try {
    (void)co_await export_events(store, full);
  } catch (const std::ios_base::failure&) {
    is_told = true;
  }
  CHECK(is_told);
  std::ostringstream nothing;
  const auto none = co_await export_events(store, nothing, std::numeric_limits<std::uint64_t>::max());
  CHECK(none == 0);
}

DATABASE_TEST("importing a file again adds no rows of an inline projection a second time") {
  event_store store = co_await event_store::open(db);
  batch table;
  table.execute("create table counts(stream text primary key, n bigint not null)");
  co_await db.commit(std::move(table));
  store.project_inline(event_query(), [](batch& b, const recorded_event& e) {
    b.execute("insert into counts(stream, n) values($1, 1) on conflict(stream) do update set n = counts.n + 1",
              e.stream);
  });
  const auto count = [&]() -> awaitable<int> {
    const rows found = co_await db.query("select n from counts where stream = 's'");
    co_return found.front().get<int>(0);
  };
  const std::string one = files::line_of("01", R"("type":"t","data":"1")"),
                    two = files::line_of("02", R"("type":"t","data":"2")"),
                    three = files::line_of("03", R"("type":"t","data":"3")");
  std::istringstream first(one + two);
  auto done = co_await import_events(store, first);
  CHECK(done.appended == 2);
  std::istringstream again(one + two);
  done = co_await import_events(store, again);
  CHECK(done.appended == 0);
  CHECK(done.duplicates == 2);
  int counted = co_await count();
  CHECK(counted == 2);
  std::istringstream more(two + three + three);
  done = co_await import_events(store, more);
  CHECK(done.appended == 1);
  CHECK(done.duplicates == 2);
  counted = co_await count();
  CHECK(counted == 3);
}
