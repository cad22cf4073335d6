// A coroutine run as another's child: own cancellation signal, own executor, optional time limit. The machinery under
// with_timeout and spawn_on: one operation over one shared block, which the task's end and the deadline race to settle.
#pragma once

#include <cofferdam/core/deadline.hpp>
#include <cofferdam/core/detail/reference.hpp>
#include <cofferdam/core/net.hpp>
#include <cofferdam/core/task.hpp>
#include <cofferdam/core/timer_service.hpp>

#include <optional>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// What a time limit does to work that is still running.
enum class on_timeout : std::uint8_t {
  cancel,  ///< cancel it and wait for its end: nothing dangles
  detach,  ///< cancel it, do not wait: it ends in the background and must own everything it touches
};

namespace detail {

struct child_options {
  net::any_io_executor home;  // orders everything that happens to the child
  time_point limit = never;   // when our own timer fires
  on_timeout mode = on_timeout::cancel;
  shared_name name;  // for the timeout's error
};

/// All but the types. Every member function runs on `home`, except those called by the timer service and by the
/// caller's cancellation slot, which dispatch there.
class child_base : public counted, private timer_entry {
 protected:
  explicit child_base(child_options options);

  void start(awaitable<void> body);
  void forward_cancellation(net::cancellation_type type);
  /// Drops the result's claim to be delivered: the first of task and deadline wins.
  [[nodiscard]] bool settle() noexcept { return !std::exchange(settled_, true); }
  [[nodiscard]] bool gave_up_by_our_timer() const noexcept { return expired_ && !cancelled_by_caller_; }
  [[nodiscard]] failure timeout() const { return failure::refused(errc::timed_out, options_.name); }
  [[nodiscard]] bool detaches() const noexcept { return options_.mode == on_timeout::detach; }

 private:
  class completion;

  virtual void deliver_result() = 0;
  virtual void deliver(failure reason) = 0;
  virtual void drop_handler() noexcept = 0;
  void on_deadline();
  void on_done();

  child_options options_;
  timer_service& timers_;
  net::cancellation_signal signal_;
  bool settled_ = false, expired_ = false, cancelled_by_caller_ = false;
};

/// Where the child leaves what became of it.
template <class T> class child_result : public child_base {
 public:
  value_box<T> box;
  failure why;

 protected:
  using child_base::child_base;

  [[nodiscard]] outcome<T> take() {
    // A value that arrived in the race is kept. Our timer's cancellation is a timeout, anybody else's is not.
    if (why.is_cancellation() && gave_up_by_our_timer()) return timeout();
    if (why) return std::move(why);
    if constexpr (std::is_void_v<T>) {
      return {};
    } else {
      return std::move(*box.value);
    }
  }
};

template <class T, class Handler> class child final : public child_result<T> {
 public:
  child(Handler handler, child_options options)
      : child_result<T>(std::move(options)),
        work_(net::prefer(net::get_associated_executor(handler), net::execution::outstanding_work.tracked)),
        handler_(std::move(handler)) {}

  void start(awaitable<void> body) {
    if (auto slot = net::get_associated_cancellation_slot(*handler_); slot.is_connected()) {
      slot.assign(
          [self = reference<child>::share(*this)](net::cancellation_type type) { self->forward_cancellation(type); });
    }
    child_base::start(std::move(body));
  }

 private:
  void deliver_result() override { complete(this->take()); }
  void deliver(failure reason) override { complete(outcome<T>(std::move(reason))); }
  void drop_handler() noexcept override {
    const auto dropped = std::exchange(handler_, std::nullopt);
    work_ = {};
  }
  void complete(outcome<T> result) {
    Handler handler = std::move(*handler_);
    handler_.reset();
    const auto executor = std::move(work_);
    net::dispatch(executor, [handler = std::move(handler), result = std::move(result)]() mutable {
      std::move(handler)(std::move(result));
    });
  }

  net::any_io_executor work_;
  std::optional<Handler> handler_;
};

template <class T, class F, class... Args> awaitable<void> run_task(child_result<T>& result, F& task, Args&... args) {
  try {
    if constexpr (std::is_void_v<T>) {
      if constexpr (plain_task<F, Args...>) {
        std::invoke(task, args...);
      } else {
        co_await start_task(task, args...);
      }
      result.box.value = true;
    } else {
      if constexpr (plain_task<F, Args...>) {
        result.box.value.emplace(std::invoke(task, args...));
      } else {
        result.box.value.emplace(co_await start_task(task, args...));
      }
    }
  } catch (const std::exception& e) {
    result.why = failure::current(e);
  } catch (...) {
    result.why = failure::current();
  }
}

template <class T, class F, class... Args>
awaitable<void> run_owned_task(child_result<T>& result, F task, Args... args) {
  co_await run_task<T>(result, task, args...);
}

/// Starts the child within the caller's frame: the task and its arguments stay there.
template <class T> struct initiate_child {
  template <class Handler, class F, class... Args>
  void operator()(Handler handler, child_options* options, F* task, Args*... args) const {
    const bool detach = options->mode == on_timeout::detach;
    reference<child<T, Handler>> self(new child<T, Handler>(std::move(handler), std::move(*options)));
    if (detach) {
      self->start(run_owned_task<T>(*self, std::move(*task), std::move(*args)...));
    } else {
      self->start(run_task<T>(*self, *task, *args...));
    }
  }
};

/// Runs `task(args...)` as a child and yields what became of it. `options`, task and arguments live in the caller's
/// frame.
template <class T, class F, class... Args>
awaitable<outcome<T>> run_child(child_options& options, F& task, Args&... args) {
  return net::async_initiate<const net::use_awaitable_t<>&, void(outcome<T>)>(initiate_child<T>{}, net::use_awaitable,
                                                                              &options, &task, &args...);
}

}  // namespace detail
}  // namespace cofferdam::inline COFFERDAM_ABI
