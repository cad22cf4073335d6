#include <cofferdam/core/detail/child.hpp>

namespace cofferdam::inline COFFERDAM_ABI::detail {

/// Called when the child ended. Destroyed uncalled, with its context, it takes the caller's coroutine along.
class child_base::completion {
 public:
  explicit completion(child_base& self) noexcept : self_(reference<child_base>::share(self)) {}
  completion(completion&&) noexcept = default;
  completion& operator=(completion&&) = delete;
  ~completion() {
    if (!self_) return;
    self_->settled_ = true;
    self_->options_.home = {};  // a cancellation slot may keep this object longer than the context lives
    self_->drop_handler();
  }
  void operator()(const std::exception_ptr&) {
    const auto self = std::exchange(self_, {});
    self->on_done();
  }

 private:
  reference<child_base> self_;
};

child_base::child_base(child_options options) : options_(std::move(options)), timers_(timers_of(options_.home)) {
  on_due = [](timer_entry& entry) noexcept {
    reference<child_base> self(static_cast<child_base*>(&entry));
    net::dispatch(self->options_.home, [self]() mutable { self->on_deadline(); });
  };
  on_shutdown = [](timer_entry& entry) noexcept { static_cast<child_base&>(entry).release(); };
}

void child_base::start(awaitable<void> body) {
  net::any_io_executor executor = options_.home;
  if (options_.limit != never) {
    add_reference();  // the timer service's
    timers_.schedule(*this, options_.limit, options_.home);
    executor = deadline_executor(options_.home, options_.limit);
  }
  net::co_spawn(executor, std::move(body), net::bind_cancellation_slot(signal_.slot(), completion(*this)));
}

void child_base::forward_cancellation(net::cancellation_type type) {
  if (type == net::cancellation_type::none || !options_.home) return;
  net::dispatch(options_.home, [self = reference<child_base>::share(*this), type] {
    self->cancelled_by_caller_ = true;
    self->signal_.emit(type);
  });
}

void child_base::on_deadline() {
  if (settled_) return;
  expired_ = true;
  const bool detach = detaches();
  signal_.emit(net::cancellation_type::terminal);  // may end the child at once
  if (detach && settle()) deliver(timeout());
}

void child_base::on_done() {
  if (timers_.cancel(*this)) release();
  if (settle()) deliver_result();
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
