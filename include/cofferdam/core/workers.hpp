// Several coroutines side by side under one parent, which goes on when all have ended.
#pragma once

#include <cofferdam/core/detail/reference.hpp>
#include <cofferdam/core/detail/room.hpp>
#include <cofferdam/core/net.hpp>

#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::detail {

template <class Handler> class worker_group final : public counted {
 public:
  using signals = std::unique_ptr<net::cancellation_signal[]>;
  worker_group(Handler handler, std::size_t count, signals s) noexcept
      : handler_(std::move(handler)), count_(count), signals_(std::move(s)) {}

  void cancel(net::cancellation_type type) {
    for (std::size_t i = 0; i < count_; ++i) signals_[i].emit(type);
  }

  template <class Make> void start(Make& make, std::function<void()>* cancel) noexcept {
    const net::any_io_executor executor = net::get_associated_executor(*handler_);
    completion all(*this);
    try {
      if (cancel != nullptr) {
        *cancel = [self = reference<worker_group>::share(*this)] { self->cancel(net::cancellation_type::terminal); };
      }
      if (auto slot = net::get_associated_cancellation_slot(*handler_); slot.is_connected()) {
        slot.assign(
            [self = reference<worker_group>::share(*this)](net::cancellation_type type) { self->cancel(type); });
      }
      for (std::size_t i = 0; i < count_; ++i) {
        auto worker = make();
        net::co_spawn(executor, std::move(worker), net::bind_cancellation_slot(signals_[i].slot(), completion(*this)));
      }
    } catch (...) {
      error_ = std::current_exception();
    }
    // Never complete from within an initiation.
    running_ > 1 ? all({}) : net::post(executor, [all = std::move(all)]() mutable { all({}); });
  }

 private:
  /// Destroyed uncalled, with its context, it takes the parent's coroutine along.
  class completion {
   public:
    explicit completion(worker_group& self) noexcept : self_(reference<worker_group>::share(self)) { ++self.running_; }
    completion(completion&&) noexcept = default;
    completion& operator=(completion&&) = delete;
    ~completion() {
      if (self_) const auto dropped = std::exchange(self_->handler_, std::nullopt);
    }
    void operator()(const std::exception_ptr&) {
      const auto self = std::exchange(self_, {});
      if (--self->running_ > 0 || !self->handler_) return;
      Handler handler = std::move(*self->handler_);
      self->handler_.reset();
      std::move(handler)(self->error_);
    }

   private:
    reference<worker_group> self_;
  };

  std::optional<Handler> handler_;
  std::size_t running_ = 0, count_;
  signals signals_;
  std::exception_ptr error_;  // why not all were started
};

struct initiate_workers {
  template <class Handler, class Make>
  void operator()(Handler handler, room<worker_group> taken, std::size_t count, Make make,
                  std::function<void()>* cancel, std::unique_ptr<net::cancellation_signal[]> signals) const {
    const reference<worker_group<Handler>> group(taken.make(std::move(handler), count, std::move(signals)));
    group->start(make, cancel);
  }
};

/// Runs `count` (at least one) coroutines made by `make()` on the caller's executor, which must order its handlers.
/// What they throw is dropped: they report otherwise. Cancellation: forwarded to each; all are waited for.
/// Errors: std::bad_alloc, and what `make` throws, when those that were started have ended.
/// @param cancel  set to what cancels them from elsewhere on that executor; must outlive the call.
template <class Make>
awaitable<void> run_workers(std::size_t count, Make make, std::function<void()>* cancel = nullptr) {
  return net::async_initiate<const net::use_awaitable_t<>&, void(std::exception_ptr)>(
      initiate_workers{}, net::use_awaitable, room<worker_group>(), count, make, cancel,
      std::make_unique<net::cancellation_signal[]>(count));
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
