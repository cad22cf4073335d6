#include "end_operation.hpp"

#include <algorithm>

namespace cofferdam::inline COFFERDAM_ABI::detail {

void end_operation::run(sqlite::connection& connection) {
  const auto stream = find_stream(connection, stream_);
  if (stream.is_deleted) throw storage_error(errc::stream_deleted, "'" + stream_ + "'");
  require(stream);
  if (kind_ == kind::remove_for_ever) {
    connection
        .prepare(
            "insert into cofferdam_streams(name, is_deleted) values($1, 1) on conflict(name) do update set "
            "is_deleted = 1")
        .bind(1, stream_)
        .execute();
    return;
  }
  // Never beyond the next event, which must be read when it comes, and never back.
  const std::uint64_t wanted = kind_ == kind::remove ? stream.version + 1 : version_;
  const std::uint64_t first = std::max(stream.first_version, std::min(wanted, stream.version + 1));
  connection.prepare("update cofferdam_streams set first_version = $2 where id = $1")
      .bind(1, stream.id)
      .bind(2, first)
      .execute();
}

void end_operation::require(const stream_state& stream) const {
  const bool is_met = expected_.what() == expected::kind::any ||
                      (expected_.what() == expected::kind::exists && stream.is_live()) ||
                      (expected_.what() == expected::kind::none && !stream.is_live()) ||
                      (expected_.what() == expected::kind::exact && expected_.version() == stream.version);
  if (!is_met) raise_conflict(stream.version);
}

void end_operation::raise_conflict(std::uint64_t actual) const {
  throw append_conflict(
      errc::version_conflict,
      "'" + stream_ + "' should " + expected_.describe() + ", but has version " + std::to_string(actual), stream_,
      expected_, actual, {});
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
