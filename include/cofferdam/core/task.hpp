// What can be protected. A task is (a) a callable returning awaitable<T>, with or without arguments, (b) an
// awaitable<T>, (c) a plain callable, (d) an Asio operation: deferred, or a callable that takes a completion token.
#pragma once

#include <cofferdam/core/detail/gcc12_guard.hpp>
#include <cofferdam/core/net.hpp>
#include <cofferdam/core/outcome.hpp>

#include <concepts>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {
namespace detail {

template <class T> struct awaitable_value {};
template <class T> struct awaitable_value<awaitable<T>> {
  using type = T;
};

template <class T>
concept any_awaitable = requires { typename awaitable_value<std::remove_cvref_t<T>>::type; };

// First match wins: a generic lambda would satisfy several.
template <class F, class... Args>
concept coroutine_task = std::invocable<F&, Args&...> && any_awaitable<std::invoke_result_t<F&, Args&...>>;
template <class F, class... Args>
concept plain_task = !coroutine_task<F, Args...> && std::invocable<F&, Args&...>;
template <class F, class... Args>
concept operation_task =
    sizeof...(Args) == 0 && !std::invocable<F&> && std::invocable<F, const net::use_awaitable_t<>&> &&
    any_awaitable<std::invoke_result_t<F, const net::use_awaitable_t<>&>>;

template <class F, class... Args> struct task_value {};
template <any_awaitable F> struct task_value<F> : awaitable_value<F> {};
template <class F, class... Args>
  requires coroutine_task<F, Args...>
struct task_value<F, Args...> : awaitable_value<std::remove_cvref_t<std::invoke_result_t<F&, Args&...>>> {};
template <class F, class... Args>
  requires plain_task<F, Args...>
struct task_value<F, Args...> {
  using type = std::remove_cvref_t<std::invoke_result_t<F&, Args&...>>;
};
template <operation_task F>
struct task_value<F> : awaitable_value<std::remove_cvref_t<std::invoke_result_t<F, const net::use_awaitable_t<>&>>> {};

}  // namespace detail

/// Something `fire`, `run` or `with_timeout` can protect, with its arguments.
template <class F, class... Args>
concept task_with = requires { typename detail::task_value<std::decay_t<F>, std::decay_t<Args>...>::type; };

/// What the task yields.
template <class F, class... Args>
using task_value_t = typename detail::task_value<std::decay_t<F>, std::decay_t<Args>...>::type;

namespace detail {
template <class T> struct without_outcome {
  using type = T;
};
template <class T> struct without_outcome<outcome<T>> {
  using type = T;
};
}  // namespace detail

/// What a run of the task under policies yields: T for a task that yields T or outcome<T>.
template <class F, class... Args> using run_value_t = typename detail::without_outcome<task_value_t<F, Args...>>::type;

/// True for tasks that can be started again: what retry and hedging need. An awaitable is one run, already begun.
template <class F> inline constexpr bool repeatable_task = !detail::any_awaitable<F>;

namespace detail {

/// Where a running task leaves its value; a box because T may be void, move-only or without default constructor.
template <class T> struct value_box {
  std::optional<T> value;
  [[nodiscard]] const void* address() const noexcept { return value ? &*value : nullptr; }
};
template <> struct value_box<void> {
  bool value = false;
  [[nodiscard]] const void* address() const noexcept { return nullptr; }
};

/// Starts a task; only for kinds (a), (b) and (d), which suspend. The task and its arguments must outlive the result.
template <class F, class... Args> auto start_task(F& task, Args&... args) {
  if constexpr (any_awaitable<F>) {
    return std::move(task);
  } else if constexpr (coroutine_task<F, Args...>) {
    return std::invoke(task, args...);
  } else if constexpr (std::copy_constructible<F>) {
    return F(task)(net::use_awaitable);
  } else {
    return std::move(task)(net::use_awaitable);
  }
}

/// Runs a task of any kind to its end, whatever that is. The task and its arguments must outlive the result.
template <class F, class... Args> awaitable<outcome<run_value_t<F, Args...>>> outcome_of(F& task, Args&... args) {
  try {
    if constexpr (std::is_void_v<task_value_t<F, Args...>>) {
      if constexpr (plain_task<F, Args...>) {
        std::invoke(task, args...);
      } else {
        co_await start_task(task, args...);
      }
      co_return outcome<void>();
    } else if constexpr (plain_task<F, Args...>) {
      co_return std::invoke(task, args...);
    } else {
      co_return co_await start_task(task, args...);
    }
  } catch (const std::exception& e) {
    co_return failure::current(e);
  } catch (...) {
    co_return failure::current();
  }
}

}  // namespace detail
}  // namespace cofferdam::inline COFFERDAM_ABI
