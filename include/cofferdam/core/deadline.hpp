// Deadlines travel with the executor: a coroutine under a time limit runs on an executor that knows the limit, so that
// everything it awaits or spawns inherits it without a word in any signature.
#pragma once

#include <cofferdam/core/net.hpp>
#include <cofferdam/core/time.hpp>

#include <memory>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {
namespace detail {

/// An executor that forwards everything to another one and carries a deadline.
class deadline_executor {
 public:
  deadline_executor(net::any_io_executor inner, time_point deadline)
      : shared_(std::make_shared<const content>(content{std::move(inner), deadline})) {}

  [[nodiscard]] const net::any_io_executor& inner() const noexcept { return shared_->inner; }
  [[nodiscard]] time_point deadline() const noexcept { return shared_->deadline; }

  template <class Property>
    requires net::can_require<const net::any_io_executor&, Property>::value
  [[nodiscard]] deadline_executor require(const Property& property) const {
    return {net::require(shared_->inner, property), shared_->deadline};
  }
  template <class Property>
    requires net::can_prefer<const net::any_io_executor&, Property>::value
  [[nodiscard]] deadline_executor prefer(const Property& property) const {
    return {net::prefer(shared_->inner, property), shared_->deadline};
  }
  template <class Property>
    requires net::can_query<const net::any_io_executor&, Property>::value
  [[nodiscard]] decltype(auto) query(const Property& property) const {
    return net::query(shared_->inner, property);
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
  };
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
/// `executor` itself where it already orders its handlers, otherwise a new strand on it.
[[nodiscard]] net::any_io_executor ordered(const net::any_io_executor& executor);

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
