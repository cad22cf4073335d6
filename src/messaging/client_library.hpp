// What living with client libraries of brokers takes, which are C and wait in their calls.
#pragma once

#include <cofferdam/core/net.hpp>
#include <cofferdam/core/outcome.hpp>
#include <cofferdam/core/parked.hpp>

#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::detail {

template <class T, void (*Destroy)(T*)> struct destroyed_by {
  void operator()(T* object) const noexcept { Destroy(object); }
};
/// Owns what the library made.
template <class T, void (*Destroy)(T*)> using c_pointer = std::unique_ptr<T, destroyed_by<T, Destroy>>;

/// Messages that were sent together; whoever sent them is woken once, when all have ended. Guarded by its client's
/// mutex.
template <class Answer> struct wave final : counted {
  explicit wave(std::size_t count) : answers(count) {}
  std::vector<Answer> answers;
  std::size_t open = 0;  // on their way
  bool is_abandoned = false;
  parked_reference waiting;

  /// One of them. Returns whom to wake.
  [[nodiscard]] parked_reference end() { return --open == 0 ? std::exchange(waiting, {}) : parked_reference(); }
  /// Nobody waits any more, and the answers stay as they are.
  void abandon() {
    waiting = {};
    is_abandoned = true;
  }
};

/// Errors: the caller's cancellation.
template <class Answer> awaitable<void> wait_for(reference<wave<Answer>> w, std::mutex& mutex) {
  const auto enlist = [&w, &mutex](const parked_reference& self) {
    {
      const std::lock_guard lock(mutex);
      if (w->open > 0) {
        w->waiting = self;
        return;
      }
    }
    self->wake(wake_reason::woken);
  };
  const auto woken = co_await park(never, enlist);
  if (woken == wake_reason::cancelled) failure::cancelled().raise();
}

/// Where calls run that wait. Lives as long as the program, since whoever comes back from it may be its last user.
[[nodiscard]] net::thread_pool& blocking_calls();

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
