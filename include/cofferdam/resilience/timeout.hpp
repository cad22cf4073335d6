// The timeout policy: a time limit on everything below it in a pipeline. For a single task see core/timeout.hpp.
#pragma once

#include <cofferdam/resilience/pipeline.hpp>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

namespace detail {
class moving_percentile;
}

/// A time limit from what recent calls took.
struct derived_timeout {
  double percentile = 0.99;                        // of calls, in (0, 1)
  double factor = 2;                               // times as long may a call take; >= 1
  duration least = std::chrono::milliseconds(10);  // never shorter
  duration most = std::chrono::seconds(30);        // never longer
  std::size_t minimum_samples = 50;                // as many calls must be known; the given limit until then
  duration window = std::chrono::seconds(30);      // how long calls are remembered, once to twice
};

[[nodiscard]] std::vector<std::string> validate(const derived_timeout& options);

/// Limits the time of one walk through the policies below it and the task. Outside of a retry it bounds the whole call,
/// inside each attempt. Refuses with `errc::timed_out`; semantics as `with_timeout`.
/// Thread safety: any thread, once set up.
class timeout final : public runnable_policy<timeout>, public timeout_scope {
 public:
  /// @param limit  not positive: no limit.
  explicit timeout(duration limit, on_timeout mode = on_timeout::cancel);
  timeout(timeout&&) noexcept;
  ~timeout() override;

  /// Name used in errors and `describe()`. Default "timeout".
  timeout& named(std::string name) & { return name_ = std::make_shared<const std::string>(std::move(name)), *this; }
  timeout named(std::string name) && { return std::move(named(std::move(name))); }
  /// The limit of each call from a function; not positive or `duration::max()` means none.
  timeout& generated(std::function<duration(call&)> generator) & { return generator_ = std::move(generator), *this; }
  timeout generated(std::function<duration(call&)> generator) && { return std::move(generated(std::move(generator))); }

  /// The limit follows a percentile of calls that succeeded or timed out.
  /// Errors: `invalid_options_error`.
  timeout& derived(const derived_timeout& options) &;
  timeout derived(const derived_timeout& options) && { return std::move(derived(options)); }

  [[nodiscard]] admission admit(call& c, policy_slot& slot) noexcept override {
    if (latencies_) [[unlikely]]
      slot.emplace<time_point>() = c.now();
    return admission::go;
  }
  [[nodiscard]] verdict settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept override {
    if (latencies_) [[unlikely]]
      record(c, slot, outcome);
    return verdict::deliver;
  }
  [[nodiscard]] scope* as_scope() noexcept override { return this; }
  [[nodiscard]] std::string describe() const override;

  [[nodiscard]] duration limit(call& c) const override;
  [[nodiscard]] on_timeout mode() const noexcept override { return mode_; }
  [[nodiscard]] const shared_name& name() const noexcept override { return name_; }

 private:
  void record(call& c, policy_slot& slot, const outcome_view& outcome) noexcept;

  duration limit_;
  on_timeout mode_;
  shared_name name_ = std::make_shared<const std::string>("timeout");
  std::function<duration(call&)> generator_;
  derived_timeout derived_;
  std::unique_ptr<detail::moving_percentile> latencies_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
