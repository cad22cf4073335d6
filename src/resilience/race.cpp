#include <cofferdam/resilience/detail/race.hpp>

namespace cofferdam::inline COFFERDAM_ABI::detail {

race_base::race_base(const net::any_io_executor& home, hedge_scope& hedges, bool leave, signals s) noexcept
    : home_(home),
      timers_(timers_of(home)),
      hedges_(hedges),
      max_(hedges.max_attempts()),
      leave_(leave),
      signals_(std::move(s)) {
  on_due = [](timer_entry& entry) noexcept {
    reference<race_base> self(static_cast<race_base*>(&entry));
    const net::any_io_executor executor = self->home_;
    net::dispatch(executor, [self = std::move(self)] { self->on_delay(); });
  };
  on_shutdown = [](timer_entry& entry) noexcept { static_cast<race_base&>(entry).release(); };
}

void race_base::start_attempt() {
  const time_point present = timers_.now();
  const std::uint32_t index = started_++;
  if (index == 0) began_ = present;
  ++running_;
  try {
    launch(index, signals_[index].slot());
  } catch (...) {
    if (!home_) return;  // without memory Asio destroyed its end uncalled
    // Never complete from within an initiation.
    net::post(home_, [end = attempt_end(*this, index), error = std::current_exception()]() mutable { end(error); });
  }
  // An attempt may end before it is launched, so to speak; its failure has then started others.
  if (started_ == index + 1) await_next_attempt(present);
}

void race_base::start_next_attempt() {
  if (winner_ != nobody || started_ == max_ || no_more_ || cancelled_) return;
  no_more_ = !hedges_.may_start(timers_);
  if (!no_more_) start_attempt();
}

void race_base::await_next_attempt(time_point present) {
  if (winner_ != nobody || started_ == max_ || no_more_ || cancelled_) return;
  const duration delay = hedges_.delay_before(started_ + 1, present);
  if (delay == duration::max()) return;
  if (delay <= duration::zero()) {
    start_next_attempt();
    return;
  }
  add_reference();  // the timer service's
  timers_.schedule(*this, saturating_add(present, delay), home_);
}

void race_base::stop_waiting() noexcept {
  if (timers_.cancel(*this)) release();
}

void race_base::on_delay() {
  if (winner_ == nobody) start_next_attempt();
}

void race_base::forward_cancellation(net::cancellation_type type) {
  if (type == net::cancellation_type::none || !home_) return;
  net::dispatch(home_, [self = reference<race_base>::share(*this), type] {
    if (self->winner_ != nobody) return;  // the losers have been told
    self->cancelled_ = true;
    self->stop_waiting();
    for (std::uint32_t i = 0; i < self->started_; ++i) self->signals_[i].emit(type);
  });
}

bool race_base::judge(std::uint32_t index, const outcome_view& outcome) {
  if (winner_ != nobody) return false;
  const auto judgement = hedges_.judge(outcome);
  if (judgement == hedge_scope::judgement::wins || judgement == hedge_scope::judgement::ends) {
    decide(index, judgement);
    return true;
  }
  if (judgement == hedge_scope::judgement::fails) {
    stop_waiting();
    start_next_attempt();
  }
  return index == 0;  // if all fail, the first one's answer counts
}

void race_base::on_ended(std::uint32_t index, const std::exception_ptr& not_started) {
  if (not_started) fail(index, failure::thrown(not_started));  // cancelled before its first step
  --running_;
  if (running_ == 0 && winner_ == nobody) decide(0, hedge_scope::judgement::fails);
  if (winner_ == nobody || completed_ || (running_ > 0 && !leave_)) return;
  completed_ = true;
  complete();
}

void race_base::decide(std::uint32_t index, hedge_scope::judgement why) {
  winner_ = index;
  stop_waiting();
  hedges_.decided(index + 1, why, began_, timers_);
  for (std::uint32_t i = 0; i < started_; ++i) {
    if (i != index) signals_[i].emit(net::cancellation_type::terminal);
  }
}

void race_base::give_up() noexcept {
  // A cancellation slot may keep the block longer than the context lives.
  home_ = {};
  if (!std::exchange(completed_, true)) drop_handler();
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
