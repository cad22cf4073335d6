// Deadlines travel with the executor: a coroutine under a time limit runs on an executor that knows the limit, so that
// everything it awaits or spawns inherits it without a word in any signature.
#pragma once

#include <cofferdam/core/net.hpp>
#include <cofferdam/core/time.hpp>

#include <memory>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {
namespace detail {

/// An executor that forwards to another one and carries a deadline. Small enough for any_io_executor to hold in place;
/// a property that changes nothing costs nothing.
class deadline_executor {
 public:
  deadline_executor(net::any_io_executor inner, time_point deadline)
      : deadline_executor(content{std::move(inner), deadline, false}) {}

  [[nodiscard]] const net::any_io_executor& inner() const noexcept { return shared_->inner; }
  [[nodiscard]] time_point deadline() const noexcept { return shared_->deadline; }

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
    return a.shared_ == b.shared_ || (a.deadline() == b.deadline() && a.inner() == b.inner());
  }
  friend bool operator!=(const deadline_executor& a, const deadline_executor& b) noexcept { return !(a == b); }

 private:
  struct content {
    net::any_io_executor inner;
    time_point deadline;
    bool never_blocks;
  };
  explicit deadline_executor(content c)
      : shared_(std::allocate_shared<const content>(net::recycling_allocator<void>(), std::move(c))) {}
  [[nodiscard]] deadline_executor with(net::any_io_executor inner, bool never_blocks) const {
    return deadline_executor(content{std::move(inner), shared_->deadline, never_blocks});
  }

  std::shared_ptr<const content> shared_;
};

/// The context's own executor under strands and deadlines: where housekeeping runs that belongs to no call.
[[nodiscard]] net::any_io_executor base_executor(const net::any_io_executor& executor);
/// `executor` without the deadline around it.
[[nodiscard]] inline const net::any_io_executor& without_deadline(const net::any_io_executor& executor) noexcept {
  const auto* limited = target_of<deadline_executor>(executor);
  return limited ? limited->inner() : executor;
}
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
