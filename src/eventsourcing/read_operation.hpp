// Reading pages of events, on one snapshot each.
#pragma once

#include "event_rows.hpp"

#include <cofferdam/storage/batch.hpp>

#include <optional>
#include <string>

namespace cofferdam::inline COFFERDAM_ABI::detail {

/// Everything a read sees is of one moment.
class snapshot_operation : public operation {
 public:
  void run(sqlite::connection& connection) final;

 private:
  virtual void read(sqlite::connection& connection) = 0;
};

class read_stream_operation final : public snapshot_operation {
 public:
  read_stream_operation(std::string stream, read_options options) noexcept
      : stream_(std::move(stream)), options_(options) {}
  [[nodiscard]] std::vector<statement> statements() override;
  void answered(std::vector<rows> found) override;
  slice result;

  [[nodiscard]] bool is_short() const noexcept override { return true; }

 private:
  void read(sqlite::connection& connection) override;
  std::string stream_;
  read_options options_;
};

class read_all_operation final : public snapshot_operation {
 public:
  read_all_operation(event_query query, read_options options) noexcept : query_(std::move(query)), options_(options) {}
  [[nodiscard]] std::vector<statement> statements() override;
  void answered(std::vector<rows> found) override;
  slice result;

 private:
  void read(sqlite::connection& connection) override;
  void scan(sqlite::connection& connection, std::uint64_t from);
  void look_up(sqlite::connection& connection, std::uint64_t from);
  /// The next page begins at this position.
  void end_before(std::uint64_t position) noexcept;
  /// How many events a search without index looks at.
  [[nodiscard]] std::size_t window() const noexcept;

  static constexpr std::size_t max_scanned = 10'000;  // a page of rare events stays short too
  event_query query_;
  read_options options_;
};

class read_event_operation final : public snapshot_operation {
 public:
  explicit read_event_operation(const event_id& id) noexcept : id_(id) {}
  [[nodiscard]] std::vector<statement> statements() override;
  void answered(std::vector<rows> found) override;
  std::optional<recorded_event> result;

  [[nodiscard]] bool is_short() const noexcept override { return true; }

 private:
  void read(sqlite::connection& connection) override;
  event_id id_;
};

class read_heads_operation final : public snapshot_operation {
 public:
  /// @param stream  may be empty.
  explicit read_heads_operation(std::string stream) noexcept : stream_(std::move(stream)) {}
  [[nodiscard]] std::vector<statement> statements() override;
  void answered(std::vector<rows> found) override;
  std::uint64_t position = 0;
  /// Events stand behind `position` that must not be read yet: one before them may still appear.
  bool has_unsettled = false;
  stream_state found;

  [[nodiscard]] bool is_short() const noexcept override { return true; }

 private:
  void read(sqlite::connection& connection) override;
  std::string stream_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
