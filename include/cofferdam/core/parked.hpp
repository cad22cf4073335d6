// A parked coroutine: suspended until it is woken, its time comes, or its caller cancels; resumed exactly once, or
// destroyed with its context. Every wait of the library (sleeping, queueing for a permit) is built on it.
#pragma once

#include <cofferdam/core/detail/reference.hpp>
#include <cofferdam/core/detail/room.hpp>
#include <cofferdam/core/net.hpp>
#include <cofferdam/core/timer_service.hpp>

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

enum class wake_reason : std::uint8_t { woken, timed_out, cancelled };

namespace detail {

/// The part without the handler's type. Shared by the timer service, the waker and the coroutine's cancellation slot;
/// the handler, and with it the coroutine, belongs to whichever of them claims it.
class parked : public counted, private timer_entry {
 public:
  /// Resumes the coroutine by a posted handler. False when it was resumed (or destroyed) before. Any thread.
  bool wake(wake_reason reason) noexcept;
  /// As `wake`, for a coroutine that cannot wait: it throws `error`.
  void fail(std::exception_ptr error) noexcept;
  /// Once; nothing to do for a coroutine that was woken before.
  /// @param executor  the coroutine's: our own goes with it when it is resumed.
  void schedule(time_point until, const net::any_io_executor& executor);

 protected:
  explicit parked(net::any_io_executor executor) noexcept;

 private:
  class resumption;

  virtual void call_handler(std::exception_ptr error, wake_reason reason) = 0;
  virtual void drop_handler() noexcept = 0;
  bool claim() noexcept { return !claimed_.exchange(true, std::memory_order_acq_rel); }
  [[nodiscard]] bool is_claimed() const noexcept { return claimed_.load(std::memory_order_acquire); }
  void resume() noexcept;
  void post_resumption() noexcept;
  void drop() noexcept;

  net::any_io_executor executor_;  // tracks work: run() goes on while somebody waits
  timer_service& timers_;
  std::atomic<bool> claimed_{false};
  wake_reason reason_ = wake_reason::woken;  // written by the claimer only, as is the error
  std::exception_ptr error_;
};
using parked_reference = reference<parked>;

template <class Handler> class parked_with final : public parked {
 public:
  explicit parked_with(Handler handler) : parked(net::get_associated_executor(handler)), handler_(std::move(handler)) {}

  /// @param may_leave  asked at a cancellation: false says that the wait will soon end and must not be left.
  template <class MayLeave> void heed_cancellation(MayLeave may_leave) {
    if (auto slot = net::get_associated_cancellation_slot(*handler_); slot.is_connected()) {
      slot.assign([self = reference<parked_with>::share(*this), may_leave](net::cancellation_type type) {
        if (type != net::cancellation_type::none && may_leave()) self->wake(wake_reason::cancelled);
      });
    }
  }

 private:
  void call_handler(std::exception_ptr error, wake_reason reason) override {
    Handler handler = std::move(*handler_);
    handler_.reset();
    std::move(handler)(std::move(error), reason);
  }
  void drop_handler() noexcept override { const auto dropped = std::exchange(handler_, std::nullopt); }

  std::optional<Handler> handler_;
};

template <class Enlist> struct initiate_park {
  template <class Handler>
  void operator()(Handler handler, room<parked_with> taken, time_point until, Enlist enlist) const {
    const net::any_io_executor executor = net::get_associated_executor(handler);
    auto* object = taken.make(std::move(handler));
    const parked_reference self(object);
    try {
      if constexpr (requires { enlist.may_leave(); }) {
        object->heed_cancellation([enlist] { return enlist.may_leave(); });
      } else {
        object->heed_cancellation([] { return true; });
      }
      // The timer comes last: on a thread pool it may resume the coroutine, and end the frame, before we return.
      enlist(self);
      self->schedule(until, executor);
    } catch (...) {
      self->fail(std::current_exception());
    }
  }
};

/// For `park`: puts the coroutine among those who wait, or lets it go on if `is_over` says, under the lock, that there
/// is nothing left to wait for. All must outlive the wait.
template <class Predicate>
auto wait_among(std::vector<parked_reference>& waiting, std::mutex& mutex, Predicate is_over) {
  return [&waiting, &mutex, is_over](const parked_reference& self) {
    {
      const std::lock_guard lock(mutex);
      if (!is_over()) {
        waiting.push_back(self);
        return;
      }
    }
    self->wake(wake_reason::woken);
  };
}

}  // namespace detail

/// Suspends the caller until `until`, its cancellation, or `parked_reference::wake`.
/// @param enlist called once, when the coroutine is safely suspended, with a reference for whoever will wake it.
/// Cancellation: any type; ends the wait with `wake_reason::cancelled`, nothing is thrown. An `enlist` that has a
/// member `bool may_leave() const` is asked first; false lets the wait go on to its end.
/// Errors:       what `enlist` throws; std::bad_alloc. Waking takes a little memory of Asio's: without it the program
/// ends.
template <class Enlist> awaitable<wake_reason> park(time_point until, Enlist enlist) {
  return net::async_initiate<const net::use_awaitable_t<>&, void(std::exception_ptr, wake_reason)>(
      detail::initiate_park<Enlist>{}, net::use_awaitable, detail::room<detail::parked_with>(), until, enlist);
}

}  // namespace cofferdam::inline COFFERDAM_ABI
