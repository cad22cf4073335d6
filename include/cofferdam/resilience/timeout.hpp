// The timeout policy: a time limit on everything below it in a pipeline. For a single task see core/timeout.hpp.
#pragma once

#include <cofferdam/resilience/pipeline.hpp>

#include <functional>
#include <memory>
#include <string>

namespace cofferdam::inline COFFERDAM_ABI {

/// Limits the time of one walk through the policies below it and the task. Outside of a retry it bounds the whole call,
/// inside each attempt. Refuses with `errc::timed_out`; semantics as `with_timeout`.
/// Thread safety: any thread, once set up.
class timeout final : public runnable_policy<timeout>, public timeout_scope {
 public:
  /// @param limit  not positive: no limit.
  explicit timeout(duration limit, on_timeout mode = on_timeout::cancel) : limit_(limit), mode_(mode) {}

  /// Name used in errors and `describe()`. Default "timeout".
  timeout& named(std::string name) & { return name_ = std::make_shared<const std::string>(std::move(name)), *this; }
  timeout named(std::string name) && { return std::move(named(std::move(name))); }
  /// The limit of each call from a function; not positive or `duration::max()` means none.
  timeout& generated(std::function<duration(call&)> generator) & { return generator_ = std::move(generator), *this; }
  timeout generated(std::function<duration(call&)> generator) && { return std::move(generated(std::move(generator))); }

  [[nodiscard]] admission admit(call&, policy_slot&) noexcept override { return admission::go; }
  [[nodiscard]] verdict settle(call&, policy_slot&, const outcome_view&) noexcept override { return verdict::deliver; }
  [[nodiscard]] scope* as_scope() noexcept override { return this; }
  [[nodiscard]] std::string describe() const override;

  [[nodiscard]] duration limit(call& c) const override { return generator_ ? generator_(c) : limit_; }
  [[nodiscard]] on_timeout mode() const noexcept override { return mode_; }
  [[nodiscard]] const shared_name& name() const noexcept override { return name_; }

 private:
  duration limit_;
  on_timeout mode_;
  shared_name name_ = std::make_shared<const std::string>("timeout");
  std::function<duration(call&)> generator_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
