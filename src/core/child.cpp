#include <cofferdam/core/detail/child.hpp>
#include <cofferdam/core/spawn.hpp>

#include <algorithm>

namespace cofferdam::inline COFFERDAM_ABI::detail {

/// Called when the child ended. Destroyed uncalled, with its context, it takes the caller's coroutine along.
class child_base::completion {
 public:
  using executor_type = net::any_io_executor;

  explicit completion(child_base& self) noexcept
      : executor_(without_deadline(self.home_)), self_(reference<child_base>::share(self)) {}
  completion(completion&&) noexcept = default;
  completion& operator=(completion&&) = delete;
  ~completion() {
    if (!self_) return;
    self_->settled_ = true;
    // A cancellation slot may keep the block longer than the context lives.
    self_->home_ = {};
    self_->caller_ = {};
    self_->drop_handler();
  }
  void operator()(const std::exception_ptr& not_started = nullptr) {
    const auto self = std::exchange(self_, {});
    if (not_started) self->why_ = failure::thrown(not_started);  // cancelled before the body's first step
    self->on_done();
  }
  /// For a child on a strand of its own: what `operator()` does if it cannot be started there.
  void launch(awaitable<void> body) {
    const auto self = std::exchange(self_, {});
    try {
      if (self->cancelled_by_caller_) {
        self->why_ = failure::cancelled();
      } else {
        return self->launch(std::move(body));
      }
    } catch (...) {
      self->why_ = failure::current();
    }
    if (!self->is_dropped()) self->on_done();
  }
  [[nodiscard]] const executor_type& get_executor() const noexcept { return executor_; }

 private:
  executor_type executor_;
  reference<child_base> self_;
};

child_base::child_base(const net::any_io_executor& caller) noexcept : home_(caller), timers_(timers_of(caller)) {
  on_due = [](timer_entry& entry) noexcept {
    reference<child_base> self(static_cast<child_base*>(&entry));
    if (self->is_dropped()) return;
    const net::any_io_executor home = self->home_;
    net::dispatch(home, [self = std::move(self)] { self->on_deadline(); });
  };
  on_shutdown = [](timer_entry& entry) noexcept { static_cast<child_base&>(entry).release(); };
}

void child_base::prepare(child_options&& options) {
  const net::any_io_executor caller = home_;
  inherited_ = deadline_of(caller);
  marks_ = options.marks ? std::move(options.marks) : marks_of(caller);
  name_ = std::move(options.name);
  mode_ = options.mode;
  limit_ = options.limit;
  if (options.after != duration::max()) limit_ = std::min(limit_, saturating_add(timers_.now(), options.after));
  if (options.on == nullptr && !is_bare_pool(caller)) return;

  auto strand = own_strand(options.on != nullptr ? *options.on : caller);
  if (inherited_ != never || marks_) {
    strand = with_call(strand, inherited_ != never ? inherited_ : deadline_of(strand), marks_);
  }
  caller_ = net::prefer(caller, net::execution::outstanding_work.tracked);
  home_ = std::move(strand);
}

failure child_base::refuse() const {
  if (limit_ == never && inherited_ == never) return {};
  const auto present = timers_.now();
  if (inherited_ <= present) return failure::refused(errc::deadline_exceeded, name_);
  if (limit_ <= present) return failure::refused(errc::timed_out, name_);
  return {};
}

void child_base::start_refused(failure why) {
  if (is_dropped()) return;
  why_ = std::move(why);
  // Never complete from within an initiation.
  net::post(home_, completion(*this));
}

void child_base::start(awaitable<void> body) {
  if (!caller_) {
    launch(std::move(body));
    return;
  }
  // From here on the child belongs to its own strand.
  net::post(home_, [done = completion(*this), body = std::move(body)]() mutable { done.launch(std::move(body)); });
}

/// Where Asio has no memory to spawn it, the completion is destroyed uncalled.
void child_base::launch(awaitable<void> body) {
  // An enclosing deadline needs a timer of ours, too: its owner may have ended before us, and a body that ignores
  // cancellation does not hand on its owner's.
  net::any_io_executor executor = home_;
  if (limit_ < inherited_ || marks_of(home_) != marks_) {
    executor = with_call(home_, std::min(limit_, inherited_), marks_);
  }
  if (limit_ != never) {
    add_reference();  // the timer service's
    timers_.schedule(*this, std::min(limit_, inherited_), home_);
  }
  net::co_spawn(executor, std::move(body), net::bind_cancellation_slot(signal_.slot(), completion(*this)));
}

void child_base::forward_cancellation(net::cancellation_type type) {
  if (type == net::cancellation_type::none || is_dropped()) return;
  net::dispatch(home_, [self = reference<child_base>::share(*this)] {
    self->cancelled_by_caller_ = true;
    // The caller's filter let it through, so it means us, whatever the body would make of its type.
    self->stop(failure::cancelled());
  });
}

/// Cancels the child. One that may be left behind is done for its caller.
void child_base::stop(failure why) {
  signal_.emit(net::cancellation_type::terminal);  // may end the child at once
  if (!detaches() || !settle()) return;
  why_ = std::move(why);
  deliver();
}

void child_base::on_deadline() {
  if (settled_) return;
  expired_ = true;
  stop(expiry());
}

failure child_base::expiry() const {
  return failure::refused(inherited_ <= limit_ ? errc::deadline_exceeded : errc::timed_out, name_);
}

void child_base::on_done() {
  if (timers_.cancel(*this)) release();
  if (!settle()) return;
  // A value that arrived in the race is kept. What our timer cancelled is a timeout, what anybody else did is not.
  if (why_.is_cancellation() && expired_ && !cancelled_by_caller_) why_ = expiry();
  deliver();
}

void child_base::deliver() {
  if (!caller_) {
    complete();
    return;
  }
  const auto caller = std::move(caller_);
  net::dispatch(caller, [self = reference<child_base>::share(*this)] { self->complete(); });
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
