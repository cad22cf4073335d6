// Several coroutines side by side under one parent, which goes on when all have ended.
#pragma once

#include <cofferdam/core/detail/reference.hpp>
#include <cofferdam/core/net.hpp>

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::detail {

template <class Handler> class worker_group final : public counted {
 public:
  worker_group(Handler handler, std::size_t count)
      : handler_(std::move(handler)), running_(count), signals_(new net::cancellation_signal[count]), count_(count) {}

  void cancel(net::cancellation_type type) {
    for (std::size_t i = 0; i < count_; ++i) signals_[i].emit(type);
  }

  template <class Make> void start(Make& make) {
    const net::any_io_executor executor = net::get_associated_executor(*handler_);
    if (auto slot = net::get_associated_cancellation_slot(*handler_); slot.is_connected()) {
      slot.assign([self = reference<worker_group>::share(*this)](net::cancellation_type type) { self->cancel(type); });
    }
    for (std::size_t i = 0; i < count_; ++i) {
      net::co_spawn(executor, make(), net::bind_cancellation_slot(signals_[i].slot(), completion(*this)));
    }
  }

 private:
  /// Destroyed uncalled, with its context, it takes the parent's coroutine along.
  class completion {
   public:
    explicit completion(worker_group& self) noexcept : self_(reference<worker_group>::share(self)) {}
    completion(completion&&) noexcept = default;
    completion& operator=(completion&&) = delete;
    ~completion() {
      if (self_) const auto dropped = std::exchange(self_->handler_, std::nullopt);
    }
    void operator()(const std::exception_ptr&) {
      const auto self = std::exchange(self_, {});
      if (--self->running_ > 0) return;
      Handler handler = std::move(*self->handler_);
      self->handler_.reset();
      std::move(handler)();
    }

   private:
    reference<worker_group> self_;
  };

  std::optional<Handler> handler_;
  std::size_t running_;
  std::unique_ptr<net::cancellation_signal[]> signals_;
  std::size_t count_;
};

struct initiate_workers {
  template <class Handler, class Make>
  void operator()(Handler handler, std::size_t count, Make make, std::function<void()>* cancel) const {
    const reference<worker_group<Handler>> group(new worker_group<Handler>(std::move(handler), count));
    if (cancel != nullptr) *cancel = [group] { group->cancel(net::cancellation_type::terminal); };
    group->start(make);
  }
};

/// Runs `count` (at least one) coroutines made by `make()` on the caller's executor, which must order its handlers.
/// What they throw is dropped: they report otherwise. Cancellation: forwarded to each; all are waited for.
/// @param cancel  set to what cancels them from elsewhere on that executor; must outlive the call.
template <class Make>
awaitable<void> run_workers(std::size_t count, Make make, std::function<void()>* cancel = nullptr) {
  return net::async_initiate<const net::use_awaitable_t<>&, void()>(initiate_workers{}, net::use_awaitable, count, make,
                                                                    cancel);
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
