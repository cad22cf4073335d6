#include <cofferdam/storage/detail/driver.hpp>

#include <algorithm>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::detail {
namespace {

/// Stands among the waiting as long as its coroutine waits.
struct place_in_line {
  std::mutex& mutex;
  std::vector<parked_reference>& waiting;
  parked_reference self;

  place_in_line(std::mutex& m, std::vector<parked_reference>& w) noexcept : mutex(m), waiting(w) {}
  place_in_line(const place_in_line&) = delete;
  place_in_line& operator=(const place_in_line&) = delete;
  ~place_in_line() {
    if (!self) return;
    const std::lock_guard lock(mutex);
    std::erase_if(waiting, [this](const parked_reference& other) { return &*other == &*self; });
  }
};

}  // namespace

void change_signal::raise() noexcept {
  std::vector<parked_reference> woken;
  {
    const std::lock_guard lock(mutex_);
    count_.fetch_add(1, std::memory_order_release);
    woken.swap(waiting_);
  }
  for (const auto& waiter : woken) waiter->wake(wake_reason::woken);
}

awaitable<std::uint64_t> change_signal::wait(std::uint64_t seen, duration limit) {
  const auto executor = co_await net::this_coro::executor;
  place_in_line place(mutex_, waiting_);
  const auto enlist = [this, &place, seen](const parked_reference& self) {
    {
      const std::lock_guard lock(mutex_);
      if (count() == seen) {
        place.self = self;
        waiting_.push_back(self);
        return;
      }
    }
    self->wake(wake_reason::woken);
  };
  if (count() != seen) co_return count();
  const wake_reason reason = co_await park(saturating_add(timers_of(executor).now(), limit), enlist);
  if (reason == wake_reason::cancelled) throw net::asio_system_error(net::error::operation_aborted);
  co_return count();
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
