// A process among several in one program: what runs in it can be stopped as by SIGSTOP, and goes on later, or never.
#pragma once

#include <cofferdam/core/net.hpp>

#include <deque>
#include <memory>
#include <type_traits>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

/// What the executors of a simulated process share.
struct process_state {
  struct job {
    virtual ~job() = default;
    virtual void post(const std::shared_ptr<process_state>& owner) = 0;
  };
  explicit process_state(net::any_io_executor i) : inner(std::move(i)) {}

  const net::any_io_executor inner;
  bool is_stopped = false, is_gone = false;
  std::deque<std::unique_ptr<job>> kept;
};

/// Runs a function, unless the process was stopped since it became ready: then it is kept, while there is a process.
template <class F> class process_handler {
 public:
  process_handler(std::shared_ptr<process_state> owner, F function)
      : owner_(std::move(owner)), function_(std::move(function)) {}
  void operator()() {
    if (owner_->is_gone) return;
    if (owner_->is_stopped) {
      owner_->kept.push_back(std::make_unique<kept>(std::move(function_)));
    } else {
      std::move(function_)();
    }
  }

 private:
  struct kept final : process_state::job {
    explicit kept(F f) : function(std::move(f)) {}
    void post(const std::shared_ptr<process_state>& owner) override {
      net::post(owner->inner, process_handler(owner, std::move(function)));
    }
    F function;
  };

  std::shared_ptr<process_state> owner_;
  F function_;
};

/// Forwards to the context's executor what the process may run.
class process_executor {
 public:
  explicit process_executor(std::shared_ptr<process_state> state, bool never_blocks = false) noexcept
      : state_(std::move(state)), never_blocks_(never_blocks) {}

  [[nodiscard]] decltype(auto) query(net::execution::context_t property) const {
    return net::query(state_->inner, property);
  }
  [[nodiscard]] process_executor require(net::execution::blocking_t::never_t) const noexcept {
    return process_executor(state_, true);
  }
  [[nodiscard]] process_executor prefer(net::execution::blocking_t::possibly_t) const noexcept {
    return process_executor(state_, false);
  }
  template <class Function> void execute(Function&& function) const {
    process_handler<std::decay_t<Function>> ready(state_, std::forward<Function>(function));
    if (state_->is_stopped) {
      ready();
    } else if (never_blocks_) {
      net::post(state_->inner, std::move(ready));
    } else {
      net::dispatch(state_->inner, std::move(ready));
    }
  }
  friend bool operator==(const process_executor& a, const process_executor& b) noexcept {
    return a.state_ == b.state_ && a.never_blocks_ == b.never_blocks_;
  }
  friend bool operator!=(const process_executor& a, const process_executor& b) noexcept { return !(a == b); }

 private:
  std::shared_ptr<process_state> state_;
  bool never_blocks_;
};

/// Coroutines started on its executor belong to it. While it is stopped none of them goes on: what would resume them is
/// kept, in order. Time goes on meanwhile. Thread safety: none; one io_context, run by one thread.
class simulated_process {
 public:
  explicit simulated_process(net::io_context& context)
      : state_(std::make_shared<process_state>(net::any_io_executor(context.get_executor()))) {}
  simulated_process(const simulated_process&) = delete;
  simulated_process& operator=(const simulated_process&) = delete;
  /// What it still kept is destroyed, and what would resume later is dropped.
  ~simulated_process() {
    state_->is_gone = state_->is_stopped;
    const auto kept = std::exchange(state_->kept, {});
  }

  [[nodiscard]] net::any_io_executor executor() const { return process_executor(state_); }
  void stop() noexcept { state_->is_stopped = true; }
  void go_on() {
    state_->is_stopped = false;
    for (auto kept = std::exchange(state_->kept, {}); !kept.empty(); kept.pop_front()) kept.front()->post(state_);
  }

 private:
  std::shared_ptr<process_state> state_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
