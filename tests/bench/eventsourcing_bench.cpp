// Appending and reading events beside the same rows through SQLite's own C functions, on files, `synchronous=FULL`.
// Compare items per second within one run: a disk has good and bad minutes.
#include "../support/real_time.hpp"
#include "../support/temporary_directory.hpp"

#include <cofferdam/core/workers.hpp>
#include <cofferdam/eventsourcing/event_store.hpp>

#include <benchmark/benchmark.h>
#include <sqlite3.h>

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <string>

using namespace cofferdam;

namespace {

const std::string payload(256, 'x');

void require_ok(int result) {
  if (result != SQLITE_OK && result != SQLITE_DONE && result != SQLITE_ROW)
    throw std::runtime_error(sqlite3_errstr(result));
}

/// The store's tables, and what an append does to them, without the store.
class raw_store {
 public:
  explicit raw_store(const std::string& path) {
    require_ok(sqlite3_open(path.c_str(), &db_));
    run("pragma journal_mode = wal");
    run("pragma synchronous = full");
    run("pragma wal_autocheckpoint = 10000");
    run("pragma cache_size = -16384");  // as the store has it
    prepare(&begin_, "begin immediate");
    prepare(&commit_, "commit");
    prepare(&stream_, "select id, first_version, is_deleted from cofferdam_streams where name = ?");
    prepare(&version_, "select version from cofferdam_events where stream = ? order by version desc limit 1");
    prepare(&insert_,
            "insert into cofferdam_events(stream, version, id, type, schema_version, recorded_at, digest, data) "
            "values(?, ?, randomblob(16), 'benchmarked', 1, 0, 0, ?)");
    prepare(
        &page_,
        "select e.position, s.name, e.version, e.id, e.type, e.schema_version, e.recorded_at, e.data, e.tags, "
        "e.correlation, e.causation, e.metadata from cofferdam_events e join cofferdam_streams s on s.id = e.stream "
        "where e.position >= ? order by e.position limit 1000");
    prepare(&of_stream_,
            "select version, type, data from cofferdam_events where stream = ? and version >= 1 order by version");
    prepare(&whole_,
            "select position, version, id, type, schema_version, recorded_at, data, tags, correlation, causation, "
            "metadata from cofferdam_events where stream = ? and version >= 1 order by version");
  }
  ~raw_store() {
    for (auto* s : {begin_, commit_, stream_, version_, insert_, page_, of_stream_, whole_}) sqlite3_finalize(s);
    sqlite3_close(db_);
  }
  raw_store(const raw_store&) = delete;
  raw_store& operator=(const raw_store&) = delete;

  void append(int events, const std::string& name) {
    step(begin_);
    for (int i = 0; i < events; ++i) {
      sqlite3_bind_text(stream_, 1, name.c_str(), -1, SQLITE_STATIC);
      require_ok(sqlite3_step(stream_));
      const auto id = sqlite3_column_int64(stream_, 0);
      sqlite3_reset(stream_);
      sqlite3_bind_int64(version_, 1, id);
      const bool has_events = sqlite3_step(version_) == SQLITE_ROW;
      const auto version = has_events ? sqlite3_column_int64(version_, 0) : 0;
      sqlite3_reset(version_);
      sqlite3_bind_int64(insert_, 1, id);
      sqlite3_bind_int64(insert_, 2, version + 1);
      sqlite3_bind_blob(insert_, 3, payload.data(), static_cast<int>(payload.size()), SQLITE_STATIC);
      step(insert_);
    }
    step(commit_);
  }
  std::int64_t read_all() {
    std::int64_t read = 0, bytes = 0;
    for (std::int64_t from = 1, found = 1; found > 0;) {
      found = 0;
      sqlite3_bind_int64(page_, 1, from);
      while (sqlite3_step(page_) == SQLITE_ROW) {
        from = sqlite3_column_int64(page_, 0) + 1;
        bytes += sqlite3_column_bytes(page_, 1) + sqlite3_column_bytes(page_, 4) + sqlite3_column_bytes(page_, 7);
        benchmark::DoNotOptimize(sqlite3_column_blob(page_, 7));
        ++found;
      }
      sqlite3_reset(page_);
      read += found;
    }
    benchmark::DoNotOptimize(bytes);
    return read;
  }
  void load(std::int64_t stream) {
    sqlite3_bind_int64(of_stream_, 1, stream);
    while (sqlite3_step(of_stream_) == SQLITE_ROW) {
      benchmark::DoNotOptimize(sqlite3_column_text(of_stream_, 1));
      benchmark::DoNotOptimize(sqlite3_column_blob(of_stream_, 2));
    }
    sqlite3_reset(of_stream_);
  }
  /// Every column, as the store reads them.
  void load_whole(std::int64_t stream) {
    sqlite3_bind_int64(whole_, 1, stream);
    while (sqlite3_step(whole_) == SQLITE_ROW) {
      for (const int column : {0, 1, 4, 5}) benchmark::DoNotOptimize(sqlite3_column_int64(whole_, column));
      for (const int column : {2, 6}) {
        benchmark::DoNotOptimize(sqlite3_column_blob(whole_, column));
        benchmark::DoNotOptimize(sqlite3_column_bytes(whole_, column));
      }
      for (const int column : {3, 7, 8, 9, 10}) {
        benchmark::DoNotOptimize(sqlite3_column_text(whole_, column));
        benchmark::DoNotOptimize(sqlite3_column_bytes(whole_, column));
      }
    }
    sqlite3_reset(whole_);
  }

 private:
  void run(const char* sql) { require_ok(sqlite3_exec(db_, sql, nullptr, nullptr, nullptr)); }
  void prepare(sqlite3_stmt** s, const char* sql) { require_ok(sqlite3_prepare_v2(db_, sql, -1, s, nullptr)); }
  static void step(sqlite3_stmt* s) {
    require_ok(sqlite3_step(s));
    sqlite3_reset(s);
  }

  sqlite3* db_ = nullptr;
  sqlite3_stmt *begin_ = nullptr, *commit_ = nullptr, *stream_ = nullptr, *version_ = nullptr, *insert_ = nullptr,
               *page_ = nullptr, *of_stream_ = nullptr, *whole_ = nullptr;
};

/// A file with a stream for each writer, or with many events.
class event_file {
 public:
  explicit event_file(int events = 1, int streams = 64) {
    const auto fill = [&]() -> awaitable<void> {
      database db = co_await database::open(url());
      event_store store = co_await event_store::open(db);
      for (int s = 0; s < streams; ++s) {
        std::vector<event> all;
        for (int i = 0; i < events; ++i) all.emplace_back("benchmarked", payload);
        co_await store.append("stream-" + std::to_string(s), expected::any(), std::move(all));
      }
    };
    test::run_in_real_time(fill);
  }
  [[nodiscard]] std::string path() const { return directory_.file("events.db"); }
  [[nodiscard]] std::string url() const { return "sqlite:" + path(); }

 private:
  test::temporary_directory directory_;
};

void raw_append(benchmark::State& state) {
  const event_file file;
  raw_store raw(file.path());
  const int together = static_cast<int>(state.range(0));
  for (auto _ : state) raw.append(together, "stream-1");
  state.SetItemsProcessed(state.iterations() * together);
}
BENCHMARK(raw_append)->Arg(1)->Arg(64)->UseRealTime()->Unit(benchmark::kMicrosecond);

/// So many coroutines that append one event after another; an iteration is one event of each.
void store_append(benchmark::State& state) {
  const event_file file;
  const auto writers = static_cast<std::size_t>(state.range(0));
  const auto body = [&]() -> awaitable<void> {
    database db = co_await database::open(file.url());
    event_store store = co_await event_store::open(db);
    std::size_t next = 0;
    // Every coroutine appends until the first one, which keeps the time, says that it is enough.
    bool is_enough = false;
    std::int64_t done = 0;
    const auto write = [&]() -> awaitable<void> {
      const std::string stream = "stream-" + std::to_string(next++);
      const bool keeps_time = stream == "stream-0";
      while (!is_enough) {
        if (keeps_time && !state.KeepRunning()) {
          is_enough = true;
          break;
        }
        event e("benchmarked", payload);
        co_await store.append(stream, expected::any(), std::move(e));
        ++done;
      }
    };
    co_await detail::run_workers(writers, [&] { return write(); });
    state.SetItemsProcessed(done);
    const auto stats = db.stats();
    state.counters["events_per_commit"] = static_cast<double>(stats.batches) / static_cast<double>(stats.commits);
  };
  test::run_in_real_time(body);
}
BENCHMARK(store_append)->Arg(1)->Arg(64)->UseRealTime()->Unit(benchmark::kMicrosecond);

void raw_read_all(benchmark::State& state) {
  const event_file file(1'000, 100);
  raw_store raw(file.path());
  std::int64_t read = 0;
  for (auto _ : state) read += raw.read_all();
  state.SetItemsProcessed(read);
}
BENCHMARK(raw_read_all)->UseRealTime()->Unit(benchmark::kMillisecond);

void store_read_all(benchmark::State& state) {
  const event_file file(1'000, 100);
  const auto body = [&]() -> awaitable<void> {
    database db = co_await database::open(file.url());
    event_store store = co_await event_store::open(db);
    std::int64_t read = 0;
    while (state.KeepRunning()) {
      read_options options;
      options.from = 1;
      for (slice page; !page.is_end; options.from = page.scanned_to + 1) {
        page = co_await store.read_all(options);
        read += static_cast<std::int64_t>(page.events.size());
      }
    }
    state.SetItemsProcessed(read);
  };
  test::run_in_real_time(body);
}
BENCHMARK(store_read_all)->UseRealTime()->Unit(benchmark::kMillisecond);

void raw_load_100(benchmark::State& state) {
  const event_file file(100, 100);
  raw_store raw(file.path());
  std::int64_t stream = 0;
  for (auto _ : state) raw.load(stream++ % 100 + 1);
}
BENCHMARK(raw_load_100)->UseRealTime()->Unit(benchmark::kMicrosecond);

void raw_load_100_whole(benchmark::State& state) {
  const event_file file(100, 100);
  raw_store raw(file.path());
  std::int64_t stream = 0;
  for (auto _ : state) raw.load_whole(stream++ % 100 + 1);
}
BENCHMARK(raw_load_100_whole)->UseRealTime()->Unit(benchmark::kMicrosecond);

void store_load_100(benchmark::State& state) {
  const event_file file(100, 100);
  const auto body = [&]() -> awaitable<void> {
    database db = co_await database::open(file.url());
    event_store store = co_await event_store::open(db);
    std::int64_t stream = 0;
    while (state.KeepRunning()) {
      const slice all = co_await store.read_stream("stream-" + std::to_string(stream++ % 100));
      benchmark::DoNotOptimize(all.events.size());
    }
  };
  test::run_in_real_time(body);
}
BENCHMARK(store_load_100)->UseRealTime()->Unit(benchmark::kMicrosecond);

// ---------------------------------------------------------------------------------------------------------- growth

/// A store with so many events, in streams of 100, made once for all that ask for it.
/// COFFERDAM_GROWTH_EVENTS is the larger size, 200 thousand unless said (5 million is what the limits speak of).
class grown_file {
 public:
  static const grown_file& of(std::int64_t events) {
    static std::map<std::int64_t, std::unique_ptr<grown_file>> made;
    auto& found = made[events];
    if (!found) found.reset(new grown_file(events));
    return *found;
  }
  [[nodiscard]] std::string url() const { return "sqlite:" + directory_.file("grown.db"); }

 private:
  explicit grown_file(std::int64_t events) {
    const auto fill = [&]() -> awaitable<void> {
      database db = co_await database::open(url());
      event_store store = co_await event_store::open(db);
      for (std::int64_t done = 0; done < events;) {
        batch b;
        for (int s = 0; s < 50 && done < events; ++s, done += 100) {
          append_request request("stream-" + std::to_string(done / 100), expected::none());
          for (int i = 0; i < 100; ++i) request.add(event("benchmarked", payload));
          (void)store.append(b, std::move(request));
        }
        co_await db.commit(std::move(b));
      }
    };
    test::run_in_real_time(fill);
  }
  test::temporary_directory directory_;
};

void growth_sizes(benchmark::internal::Benchmark* b) {
  const char* const text = std::getenv("COFFERDAM_GROWTH_EVENTS");
  b->Arg(50'000)->Arg(text == nullptr ? 200'000 : std::strtoll(text, nullptr, 10));
}

/// One batch of 64 events for 64 streams of a store of this size.
void append_to_grown(benchmark::State& state) {
  const grown_file& file = grown_file::of(state.range(0));
  const auto body = [&]() -> awaitable<void> {
    database db = co_await database::open(file.url());
    event_store store = co_await event_store::open(db);
    std::uint64_t next = 1;
    const auto streams = static_cast<std::uint64_t>(state.range(0) / 100);
    while (state.KeepRunning()) {
      batch b;
      for (int i = 0; i < 64; ++i) {
        next = next * 6'364'136'223'846'793'005U + 1'442'695'040'888'963'407U;
        append_request request("stream-" + std::to_string((next >> 33) % streams), expected::any());
        request.add(event("benchmarked", payload));
        (void)store.append(b, std::move(request));
      }
      co_await db.commit(std::move(b));
    }
    state.SetItemsProcessed(state.iterations() * 64);
  };
  test::run_in_real_time(body);
}
BENCHMARK(append_to_grown)->Apply(growth_sizes)->UseRealTime()->Unit(benchmark::kMicrosecond);

void load_from_grown(benchmark::State& state) {
  const grown_file& file = grown_file::of(state.range(0));
  const auto body = [&]() -> awaitable<void> {
    database db = co_await database::open(file.url());
    event_store store = co_await event_store::open(db);
    std::uint64_t next = 1;
    const auto streams = static_cast<std::uint64_t>(state.range(0) / 100);
    while (state.KeepRunning()) {
      next = next * 6'364'136'223'846'793'005U + 1'442'695'040'888'963'407U;
      const slice all = co_await store.read_stream("stream-" + std::to_string((next >> 33) % streams));
      benchmark::DoNotOptimize(all.events.size());
    }
  };
  test::run_in_real_time(body);
}
BENCHMARK(load_from_grown)->Apply(growth_sizes)->UseRealTime()->Unit(benchmark::kMicrosecond);

/// What a read of everything adds to the memory that the program holds, without the file's pages that it looks at.
void memory_of_read_all(benchmark::State& state) {
  const grown_file& file = grown_file::of(state.range(0));
  const auto resident = [] {
    std::ifstream statm("/proc/self/statm");
    double pages = 0, of_files = 0;
    statm >> pages >> pages >> of_files;
    return (pages - of_files) * static_cast<double>(::sysconf(_SC_PAGESIZE)) / 1e6;
  };
  const auto body = [&]() -> awaitable<void> {
    database db = co_await database::open(file.url());
    event_store store = co_await event_store::open(db);
    while (state.KeepRunning()) {
      const double before = resident();
      double most = before;
      read_options options;
      options.from = 1;
      for (slice page; !page.is_end; options.from = page.scanned_to + 1) {
        page = co_await store.read_all(options);
        most = std::max(most, resident());
      }
      state.counters["added_MB"] = most - before;
    }
  };
  test::run_in_real_time(body);
}
BENCHMARK(memory_of_read_all)->Apply(growth_sizes)->Iterations(1)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
