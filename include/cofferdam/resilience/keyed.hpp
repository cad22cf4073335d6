// One policy for each key: a circuit breaker for each host, a rate limiter for each tenant. Bounded, and careful about
// what it forgets.
//
//     keyed hosts{"hosts", [](std::string_view host) { return std::make_shared<circuit_breaker>(std::string(host)); }};
//     auto page = co_await hosts.run({.key = url.host}, fetch, url);
#pragma once

#include <cofferdam/resilience/pipeline.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

struct keyed_options {
  std::size_t max_keys = 10'000;  // >= 1
  double max_tripped_share = 1;   // of keys, in [0, 1]: while more than that, and more than one, refuse, none does
  friend bool operator==(const keyed_options&, const keyed_options&) = default;
};

[[nodiscard]] std::vector<std::string> validate(const keyed_options& options);

struct keyed_stats {
  std::size_t keys = 0, tripped = 0;
  std::uint64_t evicted = 0;      // keys forgotten to make room
  std::uint64_t overflowed = 0;   // calls that met the policy of all keys for which there was no room
  std::uint64_t failed_open = 0;  // calls that passed a refusal, since too many keys refuse
};

/// Calls meet the policy of their `call_info::key`, made when the key is first seen. When there are too many keys, the
/// one used longest ago is forgotten among those that are idle: no call in flight, and a state that a new one would
/// have (an open circuit, a used rate, a window with failures are not forgotten). Where nothing can be forgotten,
/// further keys share one policy.
///
/// `max_tripped_share` is for breakers of many interchangeable hosts: if most of them seem down, more likely something
/// else is wrong, and refusing everything would make it worse (Envoy's maximum ejection percentage). Errors of calls:
/// those of the policies. What `make` throws is the call's failure. Thread safety:   any thread; `make` is called under
/// a lock, once per key, and must not use this object.
class keyed final : public runnable_policy<keyed> {
 public:
  static constexpr bool may_repeat = true;  // nobody knows what is made
  using factory = std::function<std::shared_ptr<policy>(std::string_view key)>;

  /// @param make  must not return null, nor a policy with a scope of its own (timeout, hedging) or a fallback.
  /// Errors: `invalid_options_error`.
  keyed(std::string name, factory make, const keyed_options& options = {});
  ~keyed() override;
  keyed(const keyed&) = delete;
  keyed& operator=(const keyed&) = delete;

  /// The policy of a key; null when there is none, or it is of another type.
  template <class Policy> [[nodiscard]] std::shared_ptr<Policy> find(std::string_view key) const {
    return std::dynamic_pointer_cast<Policy>(find_policy(key));
  }
  [[nodiscard]] std::string_view name() const noexcept { return *name_; }
  [[nodiscard]] keyed_stats stats() const;

  // --- the policy
  [[nodiscard]] admission admit(call& c, policy_slot& slot) noexcept override;
  [[nodiscard]] awaitable<admission> wait(call& c, policy_slot& slot) override;
  [[nodiscard]] verdict settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept override;
  void abandon(policy_slot& slot) noexcept override;
  [[nodiscard]] std::string describe() const override;

 private:
  struct entry;
  struct table;
  struct visit;

  [[nodiscard]] std::shared_ptr<policy> find_policy(std::string_view key) const;

  shared_name name_;
  keyed_options options_;
  factory make_;
  std::unique_ptr<table> table_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
