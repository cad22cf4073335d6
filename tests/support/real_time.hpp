// Runs a coroutine on an io_context in real time, for tests that talk to threads, files and servers.
#pragma once

#include <cofferdam/core/detail/child.hpp>
#include <cofferdam/core/net.hpp>
#include <cofferdam/core/outcome.hpp>
#include <cofferdam/core/task.hpp>

#include <optional>
#include <stdexcept>
#include <utility>

namespace cofferdam::test {

/// Runs `task(args...)` and everything it started to the end. Errors: what the task throws.
template <class F, class... Args> auto run_in_real_time(F&& task, Args&&... args) {
  using value = task_value_t<F, Args...>;
  net::io_context context(1);
  std::optional<outcome<value>> result;
  const auto supervise = [&]() -> awaitable<void> {
    auto ended = co_await detail::run_child<value, detail::reporting>(detail::child_options(), std::forward<F>(task),
                                                                      std::forward<Args>(args)...);
    result.emplace(std::move(ended));
  };
  net::co_spawn(context, supervise, net::detached);
  context.run();
  if (!result) throw std::logic_error("the task never ended");
  return std::move(*result).value();
}

}  // namespace cofferdam::test
