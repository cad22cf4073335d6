// Something that works in the background until it is cancelled: an engine, a relay.
#pragma once

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>

#include <atomic>
#include <functional>
#include <utility>

namespace cofferdam::test {

/// Stop it before what it works on goes.
class working {
 public:
  working(const net::any_io_executor& executor, std::function<awaitable<void>()> job)
      : job_(std::move(job)), running_(spawn(executor, [this] { return work(); })) {}
  working(const working&) = delete;
  working& operator=(const working&) = delete;

  /// Cancels it and waits for its end.
  awaitable<void> stop() {
    running_.cancel();
    while (!has_ended_) co_await sleep_for(std::chrono::milliseconds(1));
  }

 private:
  awaitable<void> work() {
    co_await job_();
    has_ended_ = true;
  }
  std::function<awaitable<void>()> job_;
  std::atomic<bool> has_ended_{false};
  spawned running_;
};

}  // namespace cofferdam::test
