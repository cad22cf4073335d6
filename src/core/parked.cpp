#include <cofferdam/core/parked.hpp>

namespace cofferdam::inline COFFERDAM_ABI {
namespace detail {

/// The posted half of a wake-up. Destroyed uncalled, with its context, it takes the coroutine along: otherwise a
/// cancellation slot that outlives the context would keep the frame.
class parked::resumption {
 public:
  explicit resumption(parked& self) noexcept : self_(parked_reference::share(self)) {}
  resumption(resumption&&) noexcept = default;
  resumption& operator=(resumption&&) = delete;
  ~resumption() {
    if (self_) self_->drop();
  }
  void operator()() {
    const auto self = std::exchange(self_, {});
    const auto work = std::exchange(self->executor_, {});
    self->call_handler(std::move(self->error_), self->reason_);
  }

 private:
  parked_reference self_;
};

parked::parked(net::any_io_executor executor) noexcept
    : executor_(net::prefer(executor, net::execution::outstanding_work.tracked)), timers_(timers_of(executor)) {
  on_due = [](timer_entry& entry) noexcept {
    auto& self = static_cast<parked&>(entry);
    const parked_reference of_the_service(&self);
    if (self.claim()) {
      self.reason_ = wake_reason::timed_out;
      self.post_resumption();
    }
  };
  on_shutdown = [](timer_entry& entry) noexcept {
    auto& self = static_cast<parked&>(entry);
    const parked_reference of_the_service(&self);
    if (self.claim()) self.drop();
  };
}

void parked::schedule(time_point until, const net::any_io_executor& executor) {
  if (is_claimed()) return;
  add_reference();  // the timer service's
  timers_.schedule(*this, until, executor);
  // Whoever claimed it in the meantime had no timer to cancel.
  if (is_claimed() && timers_.cancel(*this)) release();
}

bool parked::wake(wake_reason reason) noexcept {
  if (!claim()) return false;
  reason_ = reason;
  resume();
  return true;
}

void parked::fail(std::exception_ptr error) noexcept {
  if (!claim()) return;
  error_ = std::move(error);
  resume();
}

void parked::resume() noexcept {
  if (timers_.cancel(*this)) {
    const parked_reference of_the_service(this);
    post_resumption();
  } else {
    post_resumption();
  }
}

void parked::drop() noexcept {
  executor_ = {};  // a cancellation slot may keep this object longer than the context lives
  drop_handler();
}

void parked::post_resumption() noexcept { net::post(executor_, resumption(*this)); }

}  // namespace detail

}  // namespace cofferdam::inline COFFERDAM_ABI
