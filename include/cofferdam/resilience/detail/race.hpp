// The race of a hedged call: attempts side by side, the first good answer wins. One operation over one shared block
// that lives as long as its slowest attempt, while the caller goes on with the winner.
#pragma once

#include <cofferdam/core/detail/reference.hpp>
#include <cofferdam/core/detail/room.hpp>
#include <cofferdam/core/net.hpp>
#include <cofferdam/core/outcome.hpp>
#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/resilience/detail/stages.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>
#include <typeinfo>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::detail {

/// How a race ended. Not an aggregate: GCC 12 would destroy it twice (see gcc12_guard.hpp).
template <class T> struct race_result {
  race_result(outcome<T> o, std::uint32_t n) : result(std::move(o)), started(n) {}
  outcome<T> result;
  std::uint32_t started;
};

/// All but the types. Every member runs on the caller's strand, except those that the timer service and the caller's
/// cancellation slot call: they dispatch there.
class race_base : public counted, private timer_entry {
 protected:
  using signals = std::unique_ptr<net::cancellation_signal[]>;  // of the attempts
  race_base(const net::any_io_executor& home, hedge_scope& hedges, bool leave, signals s) noexcept;

  void begin() { start_attempt(); }
  /// Whether the outcome of attempt `index` is to be kept. Called before it is, and before its end.
  [[nodiscard]] bool judge(std::uint32_t index, const outcome_view& outcome);
  void forward_cancellation(net::cancellation_type type);
  [[nodiscard]] std::uint32_t started() const noexcept { return started_; }

  /// What co_spawn calls when an attempt has ended. Destroyed uncalled, with its context, it takes the caller's
  /// coroutine along.
  class attempt_end {
   public:
    attempt_end(race_base& race, std::uint32_t index) noexcept
        : race_(reference<race_base>::share(race)), index_(index) {}
    attempt_end(attempt_end&&) noexcept = default;
    attempt_end& operator=(attempt_end&&) = delete;
    ~attempt_end() {
      if (race_) race_->give_up();
    }
    void operator()(const std::exception_ptr& not_started) {
      const auto race = std::exchange(race_, {});
      race->on_ended(index_, not_started);
    }

   private:
    reference<race_base> race_;
    std::uint32_t index_;
  };

  [[nodiscard]] const net::any_io_executor& home() const noexcept { return home_; }
  [[nodiscard]] hedge_scope& hedges() const noexcept { return hedges_; }

 private:
  virtual void launch(std::uint32_t index, net::cancellation_slot slot) = 0;
  virtual void fail(std::uint32_t index, failure why) = 0;
  virtual void complete() = 0;
  virtual void drop_handler() noexcept = 0;

  void start_attempt();
  void start_next_attempt();
  void await_next_attempt(time_point present);
  void stop_waiting() noexcept;
  void on_delay();
  void on_ended(std::uint32_t index, const std::exception_ptr& not_started);
  void decide(std::uint32_t index, hedge_scope::judgement why);
  void complete_if_due();
  void give_up() noexcept;

  static constexpr std::uint32_t nobody = ~std::uint32_t{0};

  net::any_io_executor home_;
  timer_service& timers_;
  hedge_scope& hedges_;  // used until the race is decided, and not by the losers
  std::uint32_t max_, started_ = 0, running_ = 0, winner_ = nobody;
  bool leave_, no_more_ = false, cancelled_ = false, completed_ = false;
  time_point began_{};
  signals signals_;
};

template <class T, class Make, class Handler> class race final : public race_base {
 public:
  race(Handler handler, hedge_scope& hedges, bool leave, const Make& make, race_base::signals s) noexcept
      : race_base(net::get_associated_executor(handler), hedges, leave, std::move(s)),
        handler_(std::move(handler)),
        make_(make) {}

  void start() {
    if (auto slot = net::get_associated_cancellation_slot(*handler_); slot.is_connected()) {
      slot.assign(
          [self = reference<race>::share(*this)](net::cancellation_type type) { self->forward_cancellation(type); });
    }
    begin();
  }

 private:
  static awaitable<void> run(race& self, std::uint32_t index, awaitable<outcome<T>> body) {
    auto result = co_await std::move(body);
    self.accept(index, std::move(result));
  }

  void accept(std::uint32_t index, outcome<T> result) {
    const void* value = nullptr;
    if constexpr (!std::is_void_v<T>) value = result.has_value() ? &*result : nullptr;
    if (judge(index, outcome_view(value, typeid(T), result.why()))) result_.emplace(std::move(result));
  }
  void launch(std::uint32_t index, net::cancellation_slot slot) override {
    auto body = run(*this, index, make_(index));
    net::co_spawn(home(), std::move(body), net::bind_cancellation_slot(slot, attempt_end(*this, index)));
  }
  void fail(std::uint32_t index, failure why) override { accept(index, std::move(why)); }
  void complete() override {
    Handler handler = std::move(*handler_);
    handler_.reset();
    std::move(handler)(race_result<T>(*std::move(result_), started()));
  }
  void drop_handler() noexcept override { const auto dropped = std::exchange(handler_, std::nullopt); }

  std::optional<Handler> handler_;
  Make make_;
  std::optional<outcome<T>> result_;  // the winner's, and until there is one the first attempt's
};

template <class T, class Make> struct initiate_race {
  template <class Handler>
  void operator()(Handler handler, room<race, T, Make> taken, hedge_scope* hedges, bool leave, const Make& make,
                  std::unique_ptr<net::cancellation_signal[]> signals) const {
    const reference<race<T, Make, Handler>> self(
        taken.make(std::move(handler), *hedges, leave, make, std::move(signals)));
    self->start();
  }
};

/// Runs the attempts that `make(index)` gives, one after the other as `hedges` says, until one of them decides the
/// race.
/// @param leave  complete with the winner at once; the losers then own what they need.
/// Executor: the caller's, which must order its handlers. Cancellation: reaches all attempts; all are waited for.
template <class T, class Make> auto run_race(hedge_scope& hedges, bool leave, const Make& make) {
  return net::async_initiate<const net::use_awaitable_t<>&, void(race_result<T>)>(
      initiate_race<T, Make>{}, net::use_awaitable, room<race, T, Make>(), &hedges, leave, make,
      std::make_unique<net::cancellation_signal[]>(hedges.max_attempts()));
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
