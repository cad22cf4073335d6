// The priority shedder: under load it refuses the least important calls first, and more of them as load rises.
//
//     priority_shedder shedder{"api", {{.priority_below = 1, .above = 0.7}, {.priority_below = 5, .above = 0.9}},
//                              utilisation_of(pool)};
//     auto calls = shedder | pool;
//     auto page = co_await calls.run({.priority = 3}, render, url);
#pragma once

#include <cofferdam/core/random.hpp>
#include <cofferdam/resilience/adaptive_limiter.hpp>
#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/pipeline.hpp>

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

/// How busy something is: 0 is idle, 1 is full, more is a queue. Called from any thread; must not block.
using load_signal = std::function<double()>;

/// Calls that are running or waiting, for each permit. The policy must outlive the signal.
[[nodiscard]] load_signal utilisation_of(const bulkhead& pool);
[[nodiscard]] load_signal utilisation_of(const adaptive_limiter& limiter);
/// What a delay says: 1 when it is `full`, such as the longest that a queue may take.
/// Errors: `invalid_options_error` when `full` is not positive.
[[nodiscard]] load_signal utilisation_of(std::function<duration()> delay, duration full);

/// Which calls are refused at which load.
struct shed_level {
  std::int32_t priority_below = 1;  // for calls of lower priority than this
  double above = 0.8;               // load up to which all of them pass; >= 0
  double all_at = 1.0;              // load from which on none passes; > above
  friend bool operator==(const shed_level&, const shed_level&) = default;
};

struct priority_shedder_options {
  double steepness = 3.0;  // between `above` and `all_at`: share = progress ^ steepness; 1 = a line; in [1, 10]
  duration sample_interval = std::chrono::milliseconds(10);  // how often the load is looked at; 0 = at every call
  duration smoothing = std::chrono::milliseconds(100);       // time constant of its moving average; 0 = none
  duration retry_after{};                                    // what refused calls are told; 0 = nothing
  friend bool operator==(const priority_shedder_options&, const priority_shedder_options&) = default;
};

/// Of both together.
[[nodiscard]] std::vector<std::string> validate(const std::vector<shed_level>& levels,
                                                const priority_shedder_options& options);

struct shed_level_stats {
  std::int32_t priority_below = 0;
  double share = 0;        // of its calls that is refused now
  std::uint64_t shed = 0;  // since construction
};

struct priority_shedder_stats {
  double load = 0;         // smoothed, when last looked at
  std::uint64_t shed = 0;  // of all levels
  std::vector<shed_level_stats> levels;
};

/// A call belongs to the first level whose `priority_below` is above its priority; calls of higher priority than all
/// levels always pass. Of each level a share of the calls is refused that grows from 0 at `above` to 1 at `all_at`,
/// gently at first, so that load is shed no faster than it must be. Together with the smoothing this does not flap: a
/// little more load sheds a little more, and what was shed makes room for the rest.
///
/// Put it outside of what its signal looks at. Calls say their priority by `call_info`; the default is 0.
///
/// Errors of calls: `overload_error` (`shed`), with `retry_after` where the options have one.
/// Thread safety:   any thread, once set up.
/// Source:          Netflix's prioritized load shedding (cubic share of each priority); Google SRE, criticality.
class priority_shedder final : public runnable_policy<priority_shedder> {
 public:
  /// @param levels  by rising `priority_below`; `above` and `all_at` must not fall.
  /// @param signal  the load. One that throws or is no finite number says nothing.
  /// Errors: `invalid_options_error`, also for a null signal.
  priority_shedder(std::string name, std::vector<shed_level> levels, load_signal signal,
                   const priority_shedder_options& options = {});

  /// A further signal; the highest counts. Errors: `invalid_options_error` for a null one.
  priority_shedder& watch(load_signal signal);

  [[nodiscard]] std::string_view name() const noexcept { return *name_; }
  [[nodiscard]] priority_shedder_stats stats() const;

  // --- the policy
  [[nodiscard]] admission admit(call& c, policy_slot& slot) noexcept override;
  [[nodiscard]] verdict settle(call&, policy_slot&, const outcome_view&) noexcept override { return verdict::deliver; }
  [[nodiscard]] bool is_idle(time_point now) const noexcept override;
  [[nodiscard]] std::string describe() const override;

 private:
  struct level {
    shed_level rule;
    std::atomic<std::uint64_t> shed{0};
  };

  [[nodiscard]] level* level_of(std::int32_t priority) noexcept;
  [[nodiscard]] double share_of(const shed_level& rule, double load) const noexcept;
  [[nodiscard]] double load_at(time_point now) noexcept;
  void look(time_point now) noexcept;

  shared_name name_;
  priority_shedder_options options_;
  std::vector<level> levels_;
  std::vector<load_signal> signals_;
  std::atomic<double> load_{0};
  std::atomic<std::int64_t> looked_at_{INT64_MIN};
};

}  // namespace cofferdam::inline COFFERDAM_ABI
