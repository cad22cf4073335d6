#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/eventsourcing/archive.hpp>
#include <cofferdam/storage/detail/stored.hpp>

#include "event_lines.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <unordered_set>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

void sync(const std::filesystem::path& path) {
  const int opened = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool is_synced = opened >= 0 && ::fsync(opened) == 0;
  const std::error_code why(errno, std::system_category());
  if (opened >= 0) ::close(opened);
  if (!is_synced) throw std::ios_base::failure("cannot sync '" + path.string() + "'", why);
}

/// A file that has its name when it is whole and on disk, and no name before.
class new_file {
 public:
  explicit new_file(std::string path) : path_(std::move(path)), part_(path_ + ".part"), out_(part_, std::ios::trunc) {
    if (std::filesystem::exists(path_))
      throw std::ios_base::failure("'" + path_ + "' is there already; name a new file");
    if (!out_) throw std::ios_base::failure("cannot write '" + part_ + "'");
  }
  new_file(const new_file&) = delete;
  new_file& operator=(const new_file&) = delete;
  ~new_file() {
    if (part_.empty()) return;
    std::error_code ignored;
    std::filesystem::remove(part_, ignored);
  }

  void add(const std::string& line) {
    out_ << line << '\n';
    if (!out_) throw std::ios_base::failure("cannot write '" + part_ + "'");
  }
  void finish() {
    out_.close();
    if (!out_) throw std::ios_base::failure("cannot write '" + part_ + "'");
    sync(part_);
    std::filesystem::rename(part_, path_);
    part_.clear();
    const auto directory = std::filesystem::absolute(path_).parent_path();
    sync(directory);
  }

 private:
  std::string path_, part_;
  std::ofstream out_;
};

}  // namespace

awaitable<event_archive> event_archive::open(event_store& store) {
  const auto executor = co_await net::this_coro::executor;
  std::vector<migration> history;
  history.push_back({1,
                     "archives",
                     {"create table cofferdam_archives(file text not null primary key, events bigint not null, "
                      "first_position bigint not null, last_position bigint not null, at bigint not null)"}});
  co_await store.storage().migrate("archives", std::move(history));
  co_return event_archive(store, timers_of(executor));
}

/// What follows must not find a hole, nor must what is put aside for later.
awaitable<void> event_archive::require_followers_at(std::uint64_t position) {
  const auto refuse = [position](const std::string& what, const row& r, const std::string& why) {
    throw storage_error(errc::condition_failed, "events up to " + std::to_string(position) +
                                                    " cannot be moved out: " + what + " '" + r.get<std::string>(0) +
                                                    "' " + why + " " + std::to_string(r.get<std::uint64_t>(1)));
  };
  database& db = store_->storage();
  const rows projections = co_await db.query(
      "select name, position from cofferdam_projections where position < $1 order by position limit 1", position);
  if (!projections.empty()) refuse("the projection", projections.front(), "is at");
  const rows parked = co_await db.query(
      "select projection, position from cofferdam_parked where position <= $1 order by position limit 1", position);
  if (!parked.empty()) refuse("the projection", parked.front(), "has put aside the event at");
  try {
    const rows groups = co_await db.query(
        "select consumer, position from cofferdam_group_parts where position < $1 order by position limit 1", position);
    if (!groups.empty()) refuse("the consumer group", groups.front(), "is at");
    const rows aside = co_await db.query(
        "select consumer, position from cofferdam_group_parked where position <= $1 order by position limit 1",
        position);
    if (!aside.empty()) refuse("the consumer group", aside.front(), "has put aside the event at");
  } catch (const storage_error& e) {
    if (e.code() != errc::invalid_statement) throw;  // there are no groups in this store
  }
}

awaitable<archive_result> event_archive::move_out(std::string file, std::uint64_t position) {
  archive_result result;
  result.to_position = position;
  co_await require_followers_at(position);
  std::unordered_set<std::uint64_t> newest;
  const rows heads = co_await store_->storage().query(
      "select max(position) from cofferdam_events group by stream having max(position) <= $1", position);
  for (const row r : heads) newest.insert(r.get<std::uint64_t>(0));

  std::vector<std::uint64_t> positions;
  new_file out(file);
  read_options reading;
  reading.from = 1;
  reading.as_stored = true;
  for (slice page; !page.is_end && reading.from <= position; reading.from = page.scanned_to + 1) {
    page = co_await store_->read_all(reading);
    for (const recorded_event& e : page.events) {
      if (e.position > position) break;
      if (newest.contains(e.position)) {
        ++result.kept;
        continue;
      }
      out.add(detail::to_line(e));
      positions.push_back(e.position);
    }
  }
  out.finish();

  constexpr std::size_t most = 1'000;  // events in one commit: others want to write too
  for (std::size_t begin = 0; begin < positions.size(); begin += most) {
    const std::size_t end = std::min(begin + most, positions.size());
    co_await remove(file, positions, begin, end);
    result.events += end - begin;
  }
  co_return result;
}

awaitable<void> event_archive::remove(const std::string& file, const std::vector<std::uint64_t>& positions,
                                      std::size_t begin, std::size_t end) {
  batch b;
  for (std::size_t first = begin; first < end;) {
    std::size_t last = first;  // of a run without holes
    while (last + 1 < end && positions[last + 1] == positions[last] + 1) ++last;
    const std::uint64_t from = positions[first], to = positions[last];
    b.execute(
        "update cofferdam_streams set first_version = coalesce((select e.version from cofferdam_events e where "
        "e.stream "
        "= cofferdam_streams.id and e.position > $2 order by e.version limit 1), first_version) where id in (select "
        "stream from cofferdam_events where position >= $1 and position <= $2) and first_version <= (select "
        "max(e.version) from cofferdam_events e where e.stream = cofferdam_streams.id and e.position <= $2)",
        from, to);
    b.execute("delete from cofferdam_tags where position >= $1 and position <= $2", from, to);
    b.execute("delete from cofferdam_events where position >= $1 and position <= $2", from, to);
    first = last + 1;
  }
  b.execute(
      "insert into cofferdam_archives(file, events, first_position, last_position, at) values($1, $2, $3, $4, $5) on "
      "conflict(file) do update set events = cofferdam_archives.events + $2, last_position = $4",
      file, end - begin, positions[begin], positions[end - 1], detail::to_microseconds(timers_->date()));
  co_await store_->storage().commit(std::move(b));
}

awaitable<std::vector<archive_entry>> event_archive::entries() { return entries_after(0); }

awaitable<std::vector<archive_entry>> event_archive::entries_after(std::uint64_t position) {
  const rows found = co_await store_->storage().query(
      "select file, events, first_position, last_position, at from cofferdam_archives where last_position > $1 order "
      "by "
      "first_position",
      position);
  std::vector<archive_entry> all;
  for (const row r : found) {
    archive_entry& one = all.emplace_back();
    one.file = r.get<std::string>(0);
    one.events = r.get<std::uint64_t>(1);
    one.first_position = r.get<std::uint64_t>(2);
    one.last_position = r.get<std::uint64_t>(3);
    one.at = detail::date_from(r.get<std::int64_t>(4));
  }
  co_return all;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
