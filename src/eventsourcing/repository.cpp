#include <cofferdam/eventsourcing/repository.hpp>

namespace cofferdam::inline COFFERDAM_ABI::detail {

awaitable<found_snapshot> load_snapshot(database& db, std::string stream, std::uint32_t schema) {
  const rows found =
      co_await db.query("select version, data from cofferdam_snapshots where stream = $1 and schema_version = $2",
                        std::move(stream), schema);
  found_snapshot newest;
  if (!found.empty()) {
    newest.version = found.front().get<std::uint64_t>(0);
    newest.data = found.front().get<std::string>(1);
  }
  co_return newest;
}

awaitable<void> save_snapshot(database& db, std::string stream, std::uint32_t schema, std::uint64_t version,
                              std::string data) {
  batch b;
  b.lock("stream/" + stream, lock_mode::shared);
  b.require("'" + stream + "' was not removed meanwhile",
            "select count(*) > 0 from cofferdam_streams where name = $1 and first_version <= $2 and not is_deleted",
            stream, version);
  b.execute(
      "insert into cofferdam_snapshots(stream, schema_version, version, data) values($1, $2, $3, $4) on "
      "conflict(stream, schema_version) do update set version = $3, data = $4 where cofferdam_snapshots.version < $3",
      std::move(stream), schema, version, std::move(data));
  (void)co_await db.try_commit(std::move(b));
}

void raise_unknown(const recorded_event& e) {
  throw storage_error(errc::event_undecodable, "'" + e.type + "', version " + std::to_string(e.version) + " of '" +
                                                   e.stream + "', is of a type that the aggregate does not have");
}

awaitable<std::uint64_t> removed_version(database& db, std::string stream) {
  const rows found = co_await db.query("select removed_to from cofferdam_streams where name = $1", std::move(stream));
  co_return found.empty() ? 0 : found.front().get<std::uint64_t>(0);
}

void raise_missing(const std::string& stream, std::uint64_t first_version) {
  throw storage_error(errc::events_missing,
                      "'" + stream + "' begins at version " + std::to_string(first_version) +
                          ", and no snapshot of this form has what was before; keep snapshots where old events go, or "
                          "set begins_with_summary where the first event left says it all");
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
