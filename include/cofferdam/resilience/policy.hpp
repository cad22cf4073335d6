// What a policy is: two functions. `admit` says whether an attempt may go down, `settle` what becomes of its outcome. A
// pipeline walks a list of policies with one coroutine (see pipeline.hpp); a policy never awaits the task itself.
#pragma once

#include <cofferdam/core/deadline.hpp>
#include <cofferdam/core/net.hpp>
#include <cofferdam/core/outcome.hpp>
#include <cofferdam/core/random.hpp>
#include <cofferdam/core/timer_service.hpp>

#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <typeinfo>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// May this attempt go down?
enum class admission : std::uint8_t {
  go,          ///< yes: `settle` or `abandon` will be called exactly once
  wait,        ///< perhaps: `wait` is awaited and answers
  reject,      ///< no: said by `call::refuse`; nothing further is called
  substitute,  ///< no need: `substitution` gives the answer instead of the task; counts as admitted
};

/// What becomes of the outcome?
enum class verdict : std::uint8_t {
  deliver,     ///< hand it up
  again,       ///< try again below this policy, after the delay said by `call::again`; this policy stays admitted
  substitute,  ///< replace it by `substitution`
};

/// What a caller may say about one call, for the policies that care: `calls.run({.key = tenant, .weight = 3}, fetch)`.
struct call_info {
  std::string_view key{};   // which of many: a tenant, a host; must stay valid until the task has ended
  std::size_t weight = 1;   // how many permits it takes; >= 1
  std::int32_t priority{};  // the higher the more important
};

/// Which attempt of a call this is. A task that takes one as its first parameter is told:
/// `calls.run([](attempt a, const url& u) { return fetch(mirrors[a.number % mirrors.size()], u); }, address)`.
struct attempt {
  std::uint32_t number = 1;  // counted from 1, hedges and retries together
};

/// One run of a pipeline as its policies see it. Lives in the run's coroutine frame.
class call {
 public:
  static constexpr call_info nothing_said{};

  /// @param executor  the caller's; must outlive the call, as must `info`.
  /// What a part of a call below a scope knows of the parts around it.
  struct origin {
    std::uint32_t attempts = 0;    // how often the task has been started before
    const void* booked = nullptr;  // see `open_books`
  };
  explicit call(const net::any_io_executor& executor, const call_info& info = nothing_said,
                const origin& from = {0, nullptr}) noexcept
      : executor_(executor), info_(info), booked_(from.booked), attempts_(from.attempts) {}
  call(const call&) = delete;
  call& operator=(const call&) = delete;

  /// What the caller said about it.
  [[nodiscard]] const call_info& info() const noexcept { return info_; }
  /// How often the task has been started so far.
  [[nodiscard]] std::uint32_t attempts() const noexcept { return attempts_; }
  [[nodiscard]] const net::any_io_executor& executor() const noexcept { return executor_; }
  [[nodiscard]] timer_service& timers() noexcept {
    if (timers_ == nullptr) timers_ = &timers_of(executor_);
    return *timers_;
  }
  /// The present, read once per step of the walk.
  [[nodiscard]] time_point now() noexcept {
    if (now_ == time_point::min()) now_ = timers().now();
    return now_;
  }
  /// A present that may lag by a few milliseconds and costs a quarter.
  [[nodiscard]] time_point coarse_now() noexcept { return now_ != time_point::min() ? now_ : timers().coarse_now(); }
  [[nodiscard]] time_point deadline() const noexcept { return deadline_of(executor_); }
  [[nodiscard]] random_source& random() { return random_of(executor_); }

  // --- for policies
  /// Use as `return c.refuse(...)` in `admit` and `wait`.
  admission refuse(errc code, const shared_name& policy, std::optional<duration> retry_after = std::nullopt,
                   std::exception_ptr cause = nullptr) noexcept {
    return refuse(failure::refused(code, policy, retry_after, std::move(cause)));
  }
  admission refuse(failure&& why) noexcept {
    why_ = std::move(why);
    return admission::reject;
  }
  /// Use as `return c.again(delay)` in `settle`.
  verdict again(duration delay) noexcept {
    delay_ = delay;
    return verdict::again;
  }
  /// Whether the asking policy is to keep the books of `budget`: true for the outermost that draws on it, which says so
  /// again with `close_books` when it is done. What reaches that one, those below need not count.
  [[nodiscard]] bool open_books(const void* budget) noexcept {
    if (booked_ == budget) return false;
    booked_ = budget;
    return true;
  }
  void close_books() noexcept { booked_ = nullptr; }
  /// Turns a bailed-out failure into the error it carries.
  void unwrap_bail() noexcept { why_.unwrap_bail(); }

  // --- for the engine
  /// For the part of this call whose first attempt is `earlier` attempts after our present one.
  [[nodiscard]] origin part_after(std::uint32_t earlier) const noexcept { return {attempts_ - 1 + earlier, booked_}; }
  void count_attempts(std::uint32_t more = 1) noexcept {
    attempts_ += more;
    forget_time();
  }
  void forget_time() noexcept { now_ = time_point::min(); }
  void fail(failure&& why) noexcept { why_ = std::move(why); }
  [[nodiscard]] const failure& why() const noexcept { return why_; }
  [[nodiscard]] failure take_failure() noexcept { return std::exchange(why_, failure()); }
  /// As `take_failure`, the last thing done to this call.
  [[nodiscard]] failure&& release_failure() noexcept { return std::move(why_); }
  [[nodiscard]] duration delay() const noexcept { return delay_; }

 private:
  const net::any_io_executor& executor_;
  const call_info& info_;
  timer_service* timers_ = nullptr;
  time_point now_ = time_point::min();
  failure why_;
  duration delay_{};
  const void* booked_ = nullptr;
  std::uint32_t attempts_;
};

/// A policy's scratch space for one attempt. Trivially copyable types of up to 32 bytes.
class policy_slot {
 public:
  template <class T> T& emplace() noexcept {
    // NOLINTNEXTLINE(bugprone-sizeof-expression): T may well be a pointer
    static_assert(sizeof(T) <= sizeof(bytes_) && alignof(T) <= alignof(std::uint64_t));
    static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);
    return *new (bytes_) T{};
  }
  template <class T> T& get() noexcept { return *std::launder(reinterpret_cast<T*>(bytes_)); }

 private:
  alignas(std::uint64_t) std::byte bytes_[32];
};

class scope;

/// Base of every policy. Derive from `runnable_policy<Yours>` to get `run` and `|`.
/// Thread safety: `admit`, `settle` and `abandon` of one object may be called by many calls on many threads at once.
class policy {
 public:
  policy() = default;
  policy(const policy&) = default;
  policy(policy&&) = default;
  policy& operator=(const policy&) = default;
  policy& operator=(policy&&) = default;
  virtual ~policy() = default;

  [[nodiscard]] virtual admission admit(call& c, policy_slot& slot) noexcept = 0;
  [[nodiscard]] virtual verdict settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept = 0;
  /// The call was destroyed after `admit` and before `settle`: give back what was taken.
  virtual void abandon(policy_slot& slot) noexcept { (void)slot; }
  /// After `admission::wait`: answers go, reject or substitute. Errors: an exception counts as the attempt's failure.
  [[nodiscard]] virtual awaitable<admission> wait(call& c, policy_slot& slot);
  /// After `substitute`: a `std::function<awaitable<T>(failure)>` for exactly this T, or null.
  [[nodiscard]] virtual const void* substitution(const std::type_info& type) const noexcept {
    (void)type;
    return nullptr;
  }
  /// Set for policies that run everything below them in child coroutines.
  [[nodiscard]] virtual scope* as_scope() noexcept { return nullptr; }
  /// Whether nothing is lost if it is forgotten: a new one would behave alike. For registries.
  [[nodiscard]] virtual bool is_idle(time_point now) const noexcept {
    (void)now;
    return true;
  }
  /// Whether it refuses calls since something is wrong with what it guards. Cheap.
  [[nodiscard]] virtual bool is_tripped() const noexcept { return false; }
  /// The policy in one short line, for `describe()` and error texts.
  [[nodiscard]] virtual std::string describe() const = 0;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
