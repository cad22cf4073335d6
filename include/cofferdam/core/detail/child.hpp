// A coroutine run as another's child: own cancellation signal, own executor, optional time limit. The machinery under
// with_timeout and spawn_on: one operation over one shared block, which the task's end and the deadline race to settle.
#pragma once

#include <cofferdam/core/deadline.hpp>
#include <cofferdam/core/detail/reference.hpp>
#include <cofferdam/core/detail/room.hpp>
#include <cofferdam/core/net.hpp>
#include <cofferdam/core/task.hpp>
#include <cofferdam/core/timer_service.hpp>

#include <optional>
#include <tuple>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// What a time limit does to work that is still running.
enum class on_timeout : std::uint8_t {
  cancel,  ///< cancel it and wait for its end: nothing dangles
  detach,  ///< cancel it, do not wait: it ends in the background and must own everything it touches
};

namespace detail {

/// How a child is to run. Has a constructor because GCC 12 destroys aggregate temporaries twice inside co_await.
struct child_options {
  child_options() noexcept {}        // NOLINT(modernize-use-equals-default)
  duration after = duration::max();  // our time limit, counted from the start
  time_point limit = never;          // or as a point in time
  on_timeout mode = on_timeout::cancel;
  const net::any_io_executor* on = nullptr;  // another executor's strand to run on; null: the caller's executor
  shared_name name;                          // for the timeout's error
  call_marks marks;                          // what it is within; null: what the caller is within
};

/// All but the types. Every member runs on the child's home executor, except those that the timer service and the
/// caller's cancellation slot call: they dispatch there.
class child_base : public counted, private timer_entry {
 protected:
  explicit child_base(const net::any_io_executor& caller) noexcept;

  /// Before anything else.
  void prepare(child_options&& options);
  /// Why the child must not start, decided from its limits.
  [[nodiscard]] failure refuse() const;
  void start(awaitable<void> body);
  /// In place of `start`, or after it threw.
  void start_refused(failure why);
  void forward_cancellation(net::cancellation_type type);
  [[nodiscard]] bool detaches() const noexcept { return mode_ == on_timeout::detach; }

 private:
  class completion;

  virtual void complete() = 0;
  virtual void drop_handler() noexcept = 0;
  [[nodiscard]] bool settle() noexcept { return !std::exchange(settled_, true); }
  void launch(awaitable<void> body);
  [[nodiscard]] bool is_dropped() const noexcept { return !home_; }
  void deliver();
  void on_deadline();
  void on_done();
  void stop(failure why);
  [[nodiscard]] failure expiry() const;

  net::any_io_executor home_;
  net::any_io_executor caller_;  // set when the caller is elsewhere; tracks work there
  timer_service& timers_;
  time_point limit_ = never;      // our own
  time_point inherited_ = never;  // of the caller's executor
  call_marks marks_;
  shared_name name_;
  net::cancellation_signal signal_;
  on_timeout mode_ = on_timeout::cancel;
  bool settled_ = false, expired_ = false, cancelled_by_caller_ = false;

 protected:
  failure why_;  // how the child ended, if not with a value
};

template <class T> class child_result : public child_base {
 public:
  using child_base::child_base;
  void fail(failure&& why) noexcept { why_ = std::move(why); }
  value_box<T> box;
};

/// Converts to the value when Asio stores it, which it does only when there is no exception. So T needs no default.
template <class T> struct late_value {
  value_box<T>* box;
  operator T() const { return std::move(*box->value); }  // NOLINT(google-explicit-constructor): that is its purpose
};

struct throwing {
  template <class T> struct signature_of {
    using type = void(std::exception_ptr, T);
  };
  template <class T, class Handler> static void call(Handler& handler, value_box<T>& box, failure& why) {
    if constexpr (std::is_void_v<T>) {
      std::move(handler)(why ? why.exception() : nullptr);
    } else {
      std::move(handler)(why ? why.exception() : nullptr, late_value<T>{&box});
    }
  }
};
template <> struct throwing::signature_of<void> {
  using type = void(std::exception_ptr);
};

struct reporting {
  template <class T> struct signature_of {
    using type = void(outcome<T>);
  };
  template <class T, class Handler> static void call(Handler& handler, value_box<T>& box, failure& why) {
    if (why) {
      std::move(handler)(outcome<T>(std::move(why)));
    } else if constexpr (std::is_void_v<T>) {
      std::move(handler)(outcome<void>());
    } else {
      std::move(handler)(outcome<T>(std::move(*box.value)));
    }
  }
};

template <class T, class Report, class Handler> class child final : public child_result<T> {
 public:
  explicit child(Handler handler)
      : child_result<T>(net::get_associated_executor(handler)), handler_(std::move(handler)) {}

  template <class Body> void start(child_options&& options, Body body) noexcept {
    try {
      try_start(std::move(options), body);
    } catch (...) {
      this->start_refused(failure::current());
    }
  }
  using child_base::detaches;

 private:
  template <class Body> void try_start(child_options&& options, Body& body) {
    this->prepare(std::move(options));
    if (auto slot = net::get_associated_cancellation_slot(*handler_); slot.is_connected()) {
      slot.assign(
          [self = reference<child>::share(*this)](net::cancellation_type type) { self->forward_cancellation(type); });
    }
    if (auto why = this->refuse()) {
      child_base::start_refused(std::move(why));
    } else {
      child_base::start(body(*this));
    }
  }
  void complete() override {
    Handler handler = std::move(*handler_);
    handler_.reset();
    Report::template call<T>(handler, this->box, this->why_);
  }
  void drop_handler() noexcept override { const auto dropped = std::exchange(handler_, std::nullopt); }

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
    } else if constexpr (plain_task<F, Args...>) {
      result.box.value.emplace(std::invoke(task, args...));
    } else {
      result.box.value.emplace(co_await start_task(task, args...));
    }
    if constexpr (is_outcome<T>) {
      // A task that reports instead of throwing has been cancelled all the same, and perhaps by our timer.
      if (result.box.value->why().is_cancellation()) result.fail(failure(result.box.value->why()));
    }
  } catch (const std::exception& e) {
    result.fail(failure::current(e));
  } catch (...) {
    result.fail(failure::current());
  }
}

template <class T, class F, class... Args>
awaitable<void> run_owned_task(child_result<T>& result, F task, Args... args) {
  co_await run_task<T>(result, task, args...);
}

template <class T, class Report> struct initiate_child {
  // The arguments live in the frame of Asio's initiating coroutine, which is suspended until the handler is called: a
  // child that is waited for may refer to them, one that is left behind must not.
  template <class Handler, class F, class... Args>
  void operator()(Handler handler, room<child, T, Report> taken, child_options&& options, F&& task,
                  Args&&... args) const {
    const reference<child<T, Report, Handler>> self(taken.make(std::move(handler)));
    self->start(std::move(options), [&](child_result<T>& result) {
      return self->detaches() ? run_owned_task<T>(result, std::move(task), std::move(args)...)
                              : run_task<T>(result, task, args...);
    });
  }
};

/// Runs `task(args...)` as a child; throws what it throws (`throwing`) or yields an outcome (`reporting`).
template <class T, class Report, class F, class... Args> auto run_child(child_options options, F task, Args... args) {
  return net::async_initiate<const net::use_awaitable_t<>&, typename Report::template signature_of<T>::type>(
      initiate_child<T, Report>{}, net::use_awaitable, room<child, T, Report>(), std::move(options), std::move(task),
      std::move(args)...);
}

}  // namespace detail
}  // namespace cofferdam::inline COFFERDAM_ABI
