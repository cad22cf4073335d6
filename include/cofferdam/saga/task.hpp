// saga::task<T>: the body of a saga, or a part of it. It can await nothing but durable operations, so that it takes the
// same way again when it is replayed: awaiting a socket or a timer does not compile.
//
//     saga::task<receipt> place_order(saga::scope& s, order o) {
//       const auto reserved = co_await s.run(reserve_stock, o.sku, o.quantity);
//       const auto paid = co_await s.run(charge_card, o.card, o.total);
//       co_return receipt{reserved.id, paid};
//     }
#pragma once

#include <cofferdam/core/net.hpp>
#include <cofferdam/core/task.hpp>

#include <coroutine>
#include <exception>
#include <type_traits>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga {

template <class T> class task;

namespace detail {

class operation;

/// One line of control of a saga: its body, or a branch of it. What it awaits stands here until it is performed.
struct fiber {
  operation* pending = nullptr;
  std::coroutine_handle<> resume;
  const fiber* outer = nullptr;  // of a branch: whose it is
  bool was_stopped = false;      // another branch failed, or won: no further step begins
  bool races = false;            // with its branches: what it does is undone when another wins

  /// Whether it is, or is a part of, `other`.
  [[nodiscard]] bool is_within(const fiber& other) const noexcept {
    return any([&other](const fiber& f) { return &f == &other; });
  }
  [[nodiscard]] bool is_stopped() const noexcept {
    return any([](const fiber& f) { return f.was_stopped; });
  }
  [[nodiscard]] bool is_racing() const noexcept {
    return any([](const fiber& f) { return f.races; });
  }

 private:
  template <class Holds> [[nodiscard]] bool any(Holds holds) const noexcept {
    for (const fiber* f = this; f != nullptr; f = f->outer) {
      if (holds(*f)) return true;
    }
    return false;
  }
};

/// What a body may await. Lives in the body's frame until it is resumed.
class operation {
 public:
  explicit operation(fiber& by) noexcept : fiber_(&by) {}
  operation(const operation&) = delete;
  operation& operator=(const operation&) = delete;
  virtual ~operation() = default;

  /// True: there is nothing to perform.
  virtual bool await_ready() = 0;
  /// False: the saga leaves this process, or is undone; the frames are to be destroyed, not resumed.
  virtual awaitable<bool> perform() = 0;
  void await_suspend(std::coroutine_handle<> body) noexcept {
    fiber_->pending = this;
    fiber_->resume = body;
  }

 protected:
  [[nodiscard]] fiber& by() const noexcept { return *fiber_; }

 private:
  fiber* fiber_;
};

/// Runs a body or branch to its end. False as `operation::perform`.
awaitable<bool> drive(fiber& f, std::coroutine_handle<> body);

/// An operation whose type only its maker knows.
class erased_operation {
 public:
  erased_operation(operation& awaited, void (*finish)(operation&)) noexcept : awaited_(&awaited), finish_(finish) {}
  bool await_ready() { return awaited_->await_ready(); }
  void await_suspend(std::coroutine_handle<> body) noexcept { awaited_->await_suspend(body); }
  void await_resume() { finish_(*awaited_); }

 private:
  operation* awaited_;
  void (*finish_)(operation&);
};

template <class T> inline constexpr bool is_task = false;
template <class T> inline constexpr bool is_task<task<T>> = true;

/// GCC 12 would move what is awaited into the frame; operations stay where they are.
template <class Awaited> struct borrowed {
  Awaited* awaited;
  bool await_ready() { return awaited->await_ready(); }
  auto await_suspend(std::coroutine_handle<> body) { return awaited->await_suspend(body); }
  decltype(auto) await_resume() { return awaited->await_resume(); }
};

class task_promise_base {
 public:
  std::suspend_always initial_suspend() noexcept { return {}; }
  auto final_suspend() noexcept { return transfer{}; }
  void unhandled_exception() noexcept { error_ = std::current_exception(); }

  template <class A> borrowed<std::remove_reference_t<A>> await_transform(A&& awaited) noexcept {
    using awaited_type = std::remove_cvref_t<A>;
    static_assert(
        std::is_base_of_v<operation, awaited_type> || is_task<awaited_type> ||
            std::is_same_v<awaited_type, erased_operation>,
        "saga: a body may await only durable operations (s.run, s.sleep, s.wait_signal, s.all, ...) and other "
        "saga::tasks; do input and output inside a step");
    return {&awaited};
  }

  void set_continuation(std::coroutine_handle<> next) noexcept { continuation_ = next; }
  [[nodiscard]] const std::exception_ptr& error() const noexcept { return error_; }

 private:
  struct transfer {
    [[nodiscard]] bool await_ready() const noexcept { return false; }
    template <class Promise>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> ended) const noexcept {
      const auto next = ended.promise().continuation_;
      return next ? next : std::noop_coroutine();
    }
    void await_resume() const noexcept {}
  };

  std::coroutine_handle<> continuation_;
  std::exception_ptr error_;
};

template <class T> class task_promise final : public task_promise_base {
 public:
  task<T> get_return_object() noexcept;
  template <class U> void return_value(U&& value) { value_.value.emplace(std::forward<U>(value)); }
  T take() {
    if (error()) std::rethrow_exception(error());
    return *std::move(value_.value);
  }

 private:
  cofferdam::detail::value_box<T> value_;
};
template <> class task_promise<void> final : public task_promise_base {
 public:
  task<void> get_return_object() noexcept;
  void return_void() noexcept {}
  void take() const {
    if (error()) std::rethrow_exception(error());
  }
};

}  // namespace detail

/// Lazy: begins when it is awaited, or started by the engine. Destroyed at any suspension without a trace but its own
/// destructors: do nothing in them that others can see.
template <class T> class [[nodiscard]] task {
 public:
  using promise_type = detail::task_promise<T>;

  explicit task(std::coroutine_handle<promise_type> body) noexcept : body_(body) {}
  task(task&& other) noexcept : body_(std::exchange(other.body_, {})) {}
  task& operator=(task&& other) noexcept {
    std::swap(body_, other.body_);
    return *this;
  }
  ~task() {
    if (body_) body_.destroy();
  }

  [[nodiscard]] bool await_ready() const noexcept { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> caller) noexcept {
    body_.promise().set_continuation(caller);
    return body_;
  }
  T await_resume() { return body_.promise().take(); }

  // --- for the engine
  [[nodiscard]] std::coroutine_handle<> handle() const noexcept { return body_; }
  T take() { return body_.promise().take(); }

 private:
  std::coroutine_handle<promise_type> body_;
};

namespace detail {
template <class T> task<T> task_promise<T>::get_return_object() noexcept {
  return task<T>(std::coroutine_handle<task_promise>::from_promise(*this));
}
inline task<void> task_promise<void>::get_return_object() noexcept {
  return task<void>(std::coroutine_handle<task_promise>::from_promise(*this));
}
}  // namespace detail

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
