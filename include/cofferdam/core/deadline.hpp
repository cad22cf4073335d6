// Deadlines travel with the executor: a coroutine under a time limit runs on an executor that knows the limit, so that
// everything it awaits or spawns inherits it without a word in any signature. So does the mark of what a coroutine is
// within, but only to what it awaits.
#pragma once

#include <cofferdam/core/net.hpp>
#include <cofferdam/core/time.hpp>

#include <atomic>
#include <memory>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {
namespace detail {

/// Something that a coroutine runs within, until it has ended: a work item may outlive it and is then free of it.
struct call_mark {
  call_mark(const void* of, std::shared_ptr<const call_mark> around) noexcept : what(of), outer(std::move(around)) {}

  const void* what;
  std::shared_ptr<const call_mark> outer;
  mutable std::atomic<bool> ended{false};
};
using call_marks = std::shared_ptr<const call_mark>;  // the innermost one

/// An executor that forwards to another one and carries a deadline and marks. Small enough for any_io_executor to hold
/// in place; a property that changes nothing costs nothing.
class deadline_executor {
 public:
  explicit deadline_executor(net::any_io_executor inner, time_point deadline, call_marks marks = nullptr)
      : deadline_executor(content{std::move(inner), deadline, std::move(marks), false}) {}

  [[nodiscard]] const net::any_io_executor& inner() const noexcept { return shared_->inner; }
  [[nodiscard]] time_point deadline() const noexcept { return shared_->deadline; }
  [[nodiscard]] const call_marks& marks() const noexcept { return shared_->marks; }

  [[nodiscard]] decltype(auto) query(net::execution::context_t property) const {
    return net::query(shared_->inner, property);
  }
  [[nodiscard]] deadline_executor require(net::execution::blocking_t::never_t property) const {
    return shared_->never_blocks ? *this : with(net::require(shared_->inner, property), true);
  }
  [[nodiscard]] deadline_executor prefer(net::execution::blocking_t::possibly_t property) const {
    return shared_->never_blocks ? with(net::prefer(shared_->inner, property), false) : *this;
  }
  [[nodiscard]] deadline_executor prefer(net::execution::outstanding_work_t::tracked_t property) const {
    return with(net::prefer(shared_->inner, property), shared_->never_blocks);
  }
  [[nodiscard]] deadline_executor prefer(net::execution::outstanding_work_t::untracked_t property) const {
    return with(net::prefer(shared_->inner, property), shared_->never_blocks);
  }
  template <class Function> void execute(Function&& function) const {
    shared_->inner.execute(std::forward<Function>(function));
  }

  friend bool operator==(const deadline_executor& a, const deadline_executor& b) noexcept {
    return a.shared_ == b.shared_ || (a.deadline() == b.deadline() && a.marks() == b.marks() && a.inner() == b.inner());
  }
  friend bool operator!=(const deadline_executor& a, const deadline_executor& b) noexcept { return !(a == b); }

 private:
  struct content {
    net::any_io_executor inner;
    time_point deadline;
    call_marks marks;
    bool never_blocks;
  };
  explicit deadline_executor(content c)
      : shared_(std::allocate_shared<const content>(net::recycling_allocator<void>(), std::move(c))) {}
  [[nodiscard]] deadline_executor with(net::any_io_executor inner, bool never_blocks) const {
    return deadline_executor(content{std::move(inner), shared_->deadline, shared_->marks, never_blocks});
  }

  std::shared_ptr<const content> shared_;
};

/// The context's own executor under strands and deadlines: where housekeeping runs that belongs to no call.
[[nodiscard]] net::any_io_executor base_executor(const net::any_io_executor& executor);
/// `executor` without the deadline and the marks around it.
[[nodiscard]] inline const net::any_io_executor& without_deadline(const net::any_io_executor& executor) noexcept {
  const auto* limited = target_of<deadline_executor>(executor);
  return limited ? limited->inner() : executor;
}
/// What a coroutine on `executor` is within; null when nothing.
[[nodiscard]] inline call_marks marks_of(const net::any_io_executor& executor) noexcept {
  const auto* limited = target_of<deadline_executor>(executor);
  return limited ? limited->marks() : nullptr;
}
/// Whether a coroutine on `executor` is within `what`.
[[nodiscard]] bool is_within(const net::any_io_executor& executor, const void* what) noexcept;
/// Being within something, for as long as it lives.
class [[nodiscard]] passage {
 public:
  passage() noexcept = default;  // through nothing
  /// Errors: std::bad_alloc.
  passage(const void* what, const net::any_io_executor& caller)
      : marks_(std::make_shared<const call_mark>(what, marks_of(caller))) {}
  passage(passage&&) noexcept = default;
  passage& operator=(passage&&) = delete;
  ~passage() {
    if (marks_) marks_->ended.store(true, std::memory_order_relaxed);
  }
  /// Null when through nothing.
  [[nodiscard]] const call_marks& marks() const noexcept { return marks_; }

 private:
  call_marks marks_;
};

/// `executor` with this deadline and these marks around it in place of its own.
[[nodiscard]] net::any_io_executor with_call(const net::any_io_executor& executor, time_point deadline,
                                             call_marks marks);
/// True for a thread pool's bare executor, where two handlers of one coroutine may run at once.
[[nodiscard]] bool is_bare_pool(const net::any_io_executor& executor) noexcept;

}  // namespace detail

/// The deadline a coroutine on `executor` has inherited; `never` when there is none.
[[nodiscard]] inline time_point deadline_of(const net::any_io_executor& executor) noexcept {
  const auto* limited = target_of<detail::deadline_executor>(executor);
  return limited ? limited->deadline() : never;
}

namespace this_coro {

/// `co_await this_coro::deadline()`: the earliest deadline of all enclosing time limits, `never` when there is none.
inline awaitable<time_point> deadline() {
  const auto executor = co_await net::this_coro::executor;
  co_return deadline_of(executor);
}

}  // namespace this_coro
}  // namespace cofferdam::inline COFFERDAM_ABI
