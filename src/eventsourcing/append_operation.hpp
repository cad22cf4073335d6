// One append as part of a batch: the checks, then the rows.
#pragma once

#include "event_rows.hpp"

#include <cofferdam/storage/batch.hpp>

#include <cstdint>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::detail {

class append_operation final : public operation {
 public:
  /// Errors: throws `storage_error` (`event_rejected`).
  append_operation(append_request request, const event_store_options& options, random_source& random,
                   std::chrono::system_clock::time_point now);

  void run(sqlite::connection& connection) override;
  [[nodiscard]] std::vector<statement> statements() override;
  void answered(std::vector<rows> found) override;
  [[nodiscard]] std::optional<statement> question(const postgres::complaint& why) const override;
  void refused(const postgres::complaint& why, const rows& found) const override;
  [[nodiscard]] const appended& result() const noexcept { return result_; }

 private:
  /// True when all of it is there already, and `result_` says where.
  bool find_duplicates(sqlite::connection& connection, const stream_state& stream);
  void require_expected(sqlite::connection& connection, const stream_state& stream) const;
  [[noreturn]] void raise_conflict(const stream_state& stream, std::vector<recorded_event> tail) const;
  [[noreturn]] void raise_match(std::uint64_t position, std::uint64_t after, std::uint64_t actual) const;
  void require_conditions(sqlite::connection& connection, const stream_state& stream) const;
  void insert(sqlite::connection& connection, stream_state& stream);
  [[nodiscard]] std::vector<recorded_event> read_tail(sqlite::connection& connection, const stream_state& stream) const;

  static constexpr std::size_t max_tail = 1'000;
  append_request request_;
  std::vector<event_id> ids_;
  std::vector<std::int64_t> digests_;
  std::int64_t now_;
  bool has_given_ids_ = false;
  appended result_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
