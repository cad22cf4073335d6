// Substitute answers by the type of value they replace.
#pragma once

#include <cofferdam/resilience/detail/walk.hpp>

#include <functional>
#include <memory>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::detail {

template <class F>
using substitute_result_t =
    typename std::conditional_t<std::is_invocable_v<F&, const failure&>, std::invoke_result<F&, const failure&>,
                                std::invoke_result<F&>>::type;

template <class R> struct substitute_value {
  using type = std::remove_cvref_t<R>;
};
template <any_awaitable R> struct substitute_value<R> : awaitable_value<std::remove_cvref_t<R>> {};

template <class T, class F> awaitable<T> call_substitute(const F& function, failure why) {
  const auto invoke = [&]() -> decltype(auto) {
    if constexpr (std::is_invocable_v<const F&, const failure&>) {
      return function(why);
    } else {
      return function();
    }
  };
  if constexpr (any_awaitable<std::invoke_result_t<decltype(invoke)>>) {
    co_return co_await invoke();
  } else {
    co_return invoke();
  }
}

class substitutions {
 public:
  /// A function of nothing or of `const failure&`, const-callable, returning T or awaitable<T>. Replaces the one for T.
  template <class F> void set(F function) {
    using value = typename substitute_value<substitute_result_t<const F>>::type;
    auto erased = std::make_shared<substitute_function<value>>(
        [function = std::move(function)](failure why) { return call_substitute<value>(function, std::move(why)); });
    std::erase_if(entries_, [](const entry& e) { return *e.type == typeid(value); });
    entries_.push_back({&typeid(value), std::move(erased)});
  }
  [[nodiscard]] const void* find(const std::type_info& type) const noexcept {
    for (const auto& e : entries_) {
      if (*e.type == type) return e.function.get();
    }
    return nullptr;
  }
  [[nodiscard]] bool empty() const noexcept { return entries_.empty(); }

 private:
  struct entry {
    const std::type_info* type;
    std::shared_ptr<const void> function;
  };
  std::vector<entry> entries_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
