#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/resilience/detail/validation.hpp>
#include <cofferdam/resilience/health_check.hpp>

#include <mutex>

namespace cofferdam::inline COFFERDAM_ABI {

struct detail::health_watch {
  health_check_options options;
  std::function<awaitable<outcome<void>>()> check;
  std::function<void(const failure&)> on_failed;
  std::recursive_mutex mutex;  // a listener of the breaker may stop the check
  circuit_breaker* breaker;    // null once stopped
  health_check_stats stats;

  /// False when it has been stopped.
  bool report(const outcome<void>& answer) {
    const std::lock_guard lock(mutex);
    if (breaker == nullptr) return false;
    if (answer) {
      ++stats.good;
      stats.bad_in_a_row = 0;
      ++stats.good_in_a_row;
      if (options.healthy_after > 0 && stats.good_in_a_row >= options.healthy_after) breaker->end_break();
    } else {
      ++stats.bad;
      stats.good_in_a_row = 0;
      ++stats.bad_in_a_row;
      try {
        if (on_failed) on_failed(answer.why());
      } catch (...) {
        // A listener does not decide.
      }
      if (breaker != nullptr && options.unhealthy_after > 0 && stats.bad_in_a_row >= options.unhealthy_after) {
        breaker->open();
      }
    }
    return breaker != nullptr;
  }
};

namespace {

awaitable<void> keep_asking(std::shared_ptr<detail::health_watch> watch) {
  for (;;) {
    const auto ask = [&] { return watch->check(); };
    const auto answer = co_await try_with_timeout(watch->options.timeout, ask);
    if (!watch->report(answer ? *answer : outcome<void>(answer.why()))) co_return;
    co_await sleep_for(watch->options.interval);
  }
}

}  // namespace

std::vector<std::string> validate(const health_check_options& options) {
  std::vector<std::string> problems;
  if (options.interval <= duration::zero()) problems.emplace_back("interval: must be positive");
  if (options.timeout <= duration::zero()) problems.emplace_back("timeout: must be positive");
  return problems;
}

health_check::health_check(circuit_breaker& breaker, const health_check_options& options,
                           std::function<awaitable<outcome<void>>()> check)
    : watch_(std::make_shared<detail::health_watch>()) {
  detail::require_valid("health_check of '" + std::string(breaker.name()) + "'", validate(options));
  watch_->options = options;
  watch_->check = std::move(check);
  watch_->breaker = &breaker;
}

health_check& health_check::on_failed(std::function<void(const failure&)> listen) {
  watch_->on_failed = std::move(listen);
  return *this;
}

void health_check::start(const net::any_io_executor& executor) { job_.emplace(spawn(executor, keep_asking, watch_)); }

void health_check::stop() noexcept {
  {
    const std::lock_guard lock(watch_->mutex);
    watch_->breaker = nullptr;
  }
  if (job_) job_->cancel();
}

health_check_stats health_check::stats() const {
  const std::lock_guard lock(watch_->mutex);
  return watch_->stats;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
