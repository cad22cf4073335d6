// A table that is built anew beside the old one, and takes its place at once when it has caught up.
//
//     blue_green_projection balances(store, "balances", 2);
//     balances.create([](batch& b, const std::string& table) { b.execute("create table " + table + "(...)"); });
//     balances.apply([](batch& b, const recorded_event& e, const std::string& table) { b.execute("...", ...); });
//     co_await balances.run();  // readers: select ... from balances
#pragma once

#include <cofferdam/eventsourcing/projection.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace cofferdam::inline COFFERDAM_ABI {

/// Each version of the projection has a table and a position of its own, `NAME_v1`, `NAME_v2`, ...; readers read the
/// view `NAME`, which shows the active one. A newer version is built while the old one is followed, by whoever does so;
/// when it is as far, one batch moves the view and drops the old table. Who still follows an old version ends with
/// `condition_failed`. Both drivers.
/// Thread safety: as `projection`.
class blue_green_projection {
 public:
  using creator = std::function<void(batch&, const std::string& table)>;
  using handler = std::function<void(batch&, const recorded_event&, const std::string& table)>;

  /// @param name     of the view: letters, digits and `_`. Errors: std::invalid_argument.
  /// @param version  1, 2, ...: a higher one wherever table or handler change.
  blue_green_projection(event_store& store, std::string name, std::uint32_t version, projection_options options = {});

  /// Only these events; the others are passed over.
  blue_green_projection& filter(event_query query);
  /// Makes the table, empty.
  blue_green_projection& create(creator c);
  /// As `projection::apply`.
  blue_green_projection& apply(handler h);

  /// Builds the table, takes the old one's place, and follows the events until it is cancelled.
  /// Errors: as `projection::run`; `schema_mismatch` when a newer version is active.
  [[nodiscard]] awaitable<void> run();
  /// Applies everything there is, and takes the old one's place. Returns how many events that were. Errors: as `run`.
  [[nodiscard]] awaitable<std::size_t> catch_up();

  /// The version that readers see, 0 before the first.
  [[nodiscard]] awaitable<std::uint32_t> active();
  /// As far as readers see, 0 before the first version.
  [[nodiscard]] awaitable<std::uint64_t> position();
  /// Waits until readers see the event at `position` applied, whichever version shows it. False when the time is over
  /// first.
  [[nodiscard]] awaitable<bool> wait_for(std::uint64_t position, duration limit);
  [[nodiscard]] const std::string& table() const noexcept { return table_; }
  /// The one that follows for this version, seen or not: `parked`, `replay`, ...
  [[nodiscard]] projection& follower() noexcept { return follower_; }

 private:
  awaitable<void> begin();
  awaitable<bool> take_over(std::uint32_t from);
  [[nodiscard]] std::string table_of(std::uint32_t version) const { return name_ + "_v" + std::to_string(version); }

  event_store* store_;
  std::string name_;
  std::uint32_t version_;
  std::string table_;
  projection follower_;
  creator create_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
