// The cancellation harness: runs an operation again and again, cancelling it one step later each time, until it ends
// undisturbed. A step is one jump of virtual time, or what became ready since the last.
#pragma once

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/virtual_time.hpp>

#include <cstddef>
#include <memory>
#include <stdexcept>

namespace cofferdam::test {

/// @param operation  a callable returning awaitable<void>, run on a fresh context each time.
/// @param check      called after each run, when nothing is left running.
/// @return how many steps the undisturbed operation took.
template <class Operation, class Check> std::size_t cancel_at_every_step(Operation operation, Check check) {
  for (std::size_t step = 0; step < 10'000; ++step) {
    bool ended = false, cancelled = false;
    {
      net::io_context context(1);
      virtual_time time(context);
      const auto body = [&]() -> awaitable<void> {
        const auto mark = [&ended](void*) { ended = true; };
        const std::unique_ptr<void, decltype(mark)> at_end(&ended, mark);
        co_await operation();
      };
      const auto job = spawn(context, body);
      for (std::size_t done = 0; done < step && !ended; ++done) {
        context.restart();
        if (context.poll_one() == 0) time.run_next();
      }
      if (!ended) {
        cancelled = true;
        job.cancel();
      }
      time.run();
    }
    if (!ended) throw std::logic_error("the operation did not end after its cancellation");
    check();
    if (!cancelled) return step;
  }
  throw std::logic_error("the operation does not end");
}

}  // namespace cofferdam::test
