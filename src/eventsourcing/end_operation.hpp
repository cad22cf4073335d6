// Moving the beginning of a stream, or ending it, as part of a batch.
#pragma once

#include "event_rows.hpp"

#include <cofferdam/storage/batch.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::detail {

class end_operation final : public operation {
 public:
  enum class kind : std::uint8_t { truncate, remove, remove_for_ever };
  end_operation(std::string stream, expected e, kind what, std::uint64_t version = 0) noexcept
      : stream_(std::move(stream)), expected_(e), kind_(what), version_(version) {}

  void run(sqlite::connection& connection) override;
  [[nodiscard]] std::vector<statement> statements() override;
  void refused(const postgres::complaint& why, const rows& found) const override;

 private:
  void require(const stream_state& stream) const;
  [[noreturn]] void raise_conflict(std::uint64_t actual) const;

  std::string stream_;
  expected expected_;
  kind kind_;
  std::uint64_t version_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
