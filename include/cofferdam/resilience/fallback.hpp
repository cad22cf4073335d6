// Fallback: another answer where there would be none.
#pragma once

#include <cofferdam/resilience/detail/substitutions.hpp>
#include <cofferdam/resilience/pipeline.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

struct fallback_stats {
  std::uint64_t used = 0;     // calls it was asked to answer, those it refused not included
  std::uint64_t failed = 0;   // of these: calls that no function had an answer for
  std::uint64_t refused = 0;  // calls over the limit
  std::size_t active = 0;     // right now
};

/// Replaces failures of everything below it. Cancelled calls are not replaced.
///
///     auto calls = fallback(ask_mirror).then([](const failure&) { return price::unknown(); }) | breaker;
///
/// Errors:        what the last function of the chain throws is the call's failure; `bulkhead_full_error` over the
///                limit, with the failure that it would have replaced as its cause.
/// Cancellation:  reaches the function that is running; the next one is not tried.
/// Thread safety: any thread, once set up.
class fallback final : public runnable_policy<fallback> {
 public:
  /// @param function  of nothing or of the `failure`, returning T or awaitable<T>, for calls that yield exactly T.
  template <class F> explicit fallback(F function) { then(std::move(function)); }
  fallback(fallback&&) noexcept = default;

  /// The next one to try, when those before it for the same type of value have failed. It is told the failure of the
  /// one before.
  template <class F> fallback& then(F function) & {
    add(std::move(function));
    return *this;
  }
  template <class F> fallback then(F function) && { return std::move(then(std::move(function))); }
  /// A further function, for another type of value; replaces all there are for that type.
  template <class F> fallback& otherwise(F function) & {
    std::erase_if(chains_, [](const entry& e) { return *e.type == typeid(value_of<F>); });
    add(std::move(function));
    return *this;
  }
  template <class F> fallback otherwise(F function) && { return std::move(otherwise(std::move(function))); }
  /// Which failures are replaced. Default: all but cancellations. One that throws says yes.
  fallback& when(std::function<bool(const failure&)> predicate) & { return when_ = std::move(predicate), *this; }
  fallback when(std::function<bool(const failure&)> predicate) && { return std::move(when(std::move(predicate))); }
  /// How many calls it answers at once; further ones are refused, so that what stands in is not overrun when everything
  /// fails. Default: no limit. Errors: `invalid_options_error` for 0.
  /// @param name  for the errors.
  fallback& max_concurrent(std::size_t calls, std::string name = "fallback") &;
  fallback max_concurrent(std::size_t calls, std::string name = "fallback") && {
    return std::move(max_concurrent(calls, std::move(name)));
  }

  /// How often it was asked to answer.
  [[nodiscard]] std::uint64_t used() const noexcept { return stats().used; }
  [[nodiscard]] fallback_stats stats() const noexcept;

  [[nodiscard]] admission admit(call&, policy_slot&) noexcept override { return admission::go; }
  [[nodiscard]] verdict settle(call& c, policy_slot& slot, const outcome_view& outcome) noexcept override;
  [[nodiscard]] const void* substitution(const std::type_info& type) const noexcept override;
  [[nodiscard]] bool is_idle(time_point) const noexcept override { return stats().active == 0; }
  [[nodiscard]] std::string describe() const override;

 private:
  /// Stays where it is when the policy moves.
  struct state {
    shared_name name;
    std::size_t limit = std::numeric_limits<std::size_t>::max();
    std::atomic<std::size_t> active{0};
    std::atomic<std::uint64_t> used{0}, failed{0}, refused{0};

    /// What a call over the limit is told.
    [[nodiscard]] failure refusal(const failure& why) noexcept;
  };
  /// One call that is being answered. Errors: `bulkhead_full_error`.
  class permit {
   public:
    permit(state& s, const failure& why);
    permit(const permit&) = delete;
    permit& operator=(const permit&) = delete;
    ~permit() { state_.active.fetch_sub(1, std::memory_order_relaxed); }

   private:
    state& state_;
  };

  template <class T> struct chain {
    std::vector<substitute_function<T>> links;
    substitute_function<T> whole;  // what the engine calls
  };
  struct entry {
    const std::type_info* type;
    std::shared_ptr<void> functions;  // a chain<T>
    const void* whole;                // its whole
  };
  template <class F> using value_of = typename detail::substitute_value<detail::substitute_result_t<const F>>::type;

  template <class F> void add(F function);
  template <class T> static awaitable<T> answer(state& s, const chain<T>& functions, failure why);

  std::unique_ptr<state> state_ = std::make_unique<state>();
  std::vector<entry> chains_;
  std::function<bool(const failure&)> when_;
};

template <class F> void fallback::add(F function) {
  using T = value_of<F>;
  chain<T>* functions = nullptr;
  for (const auto& e : chains_) {
    if (*e.type == typeid(T)) functions = static_cast<chain<T>*>(e.functions.get());
  }
  if (functions == nullptr) {
    const auto made = std::make_shared<chain<T>>();
    functions = made.get();
    functions->whole = [s = state_.get(), functions](failure why) { return answer<T>(*s, *functions, std::move(why)); };
    chains_.push_back({&typeid(T), made, &functions->whole});
  }
  functions->links.push_back(
      [function = std::move(function)](failure why) { return detail::call_substitute<T>(function, std::move(why)); });
}

template <class T> awaitable<T> fallback::answer(state& s, const chain<T>& functions, failure why) {
  const permit held(s, why);
  for (const auto& link : functions.links) {
    try {
      if constexpr (std::is_void_v<T>) {
        co_await link(why);
        co_return;
      } else {
        co_return co_await link(why);
      }
    } catch (const std::exception& e) {
      why = failure::current(e);
    } catch (...) {
      why = failure::current();
    }
    if (why.is_cancellation()) why.raise();
  }
  s.failed.fetch_add(1, std::memory_order_relaxed);
  why.raise();
}

}  // namespace cofferdam::inline COFFERDAM_ABI
