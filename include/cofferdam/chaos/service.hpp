// A simulated service: workers, a queue before them, a distribution of the time its work takes. What a client has given
// up is still worked off, as a real server would.
#pragma once

#include <cofferdam/chaos/service_spec.hpp>
#include <cofferdam/core/detail/reference.hpp>
#include <cofferdam/core/net.hpp>
#include <cofferdam/core/outcome.hpp>
#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/random.hpp>

#include <cstdint>
#include <deque>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

/// The service answered with an error of its own.
struct service_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// The service refused because its queue is full.
struct overloaded_error : service_error {
  using service_error::service_error;
};

struct service_stats {
  std::uint64_t requests = 0, answered = 0, failed = 0, overloaded = 0, wasted = 0, dropped = 0;
  std::size_t max_queue = 0;
};

/// Thread safety: none; one io_context, meant for virtual time.
class simulated_service {
 public:
  simulated_service(net::io_context& context, const service_spec& spec, std::uint64_t seed);
  ~simulated_service();
  simulated_service(const simulated_service&) = delete;
  simulated_service& operator=(const simulated_service&) = delete;

  /// One request: queues, is worked on, and is answered.
  /// @param call  which call it belongs to; requests of one call do the same work. Counted from 0, without large gaps.
  /// Failures, by value: `overloaded_error`, `service_error`. Cancellation: the client leaves; the work stays.
  [[nodiscard]] awaitable<outcome<void>> request(std::uint64_t call);

  // --- faults, effective at once (work under way keeps its time)
  void set_slowdown(double factor) noexcept { slowdown_ = factor; }
  void set_extra_latency(duration add, duration jitter) noexcept { add_ = add, jitter_ = jitter; }
  void set_error_rate(double rate) noexcept { error_rate_ = rate; }
  void set_hang_rate(double rate) noexcept { hang_rate_ = rate; }
  void set_workers(std::size_t workers);
  [[nodiscard]] std::size_t normal_workers() const noexcept { return spec_.workers; }

  /// How often the work of a call took effect: once for each request that was worked off, or once in all where the
  /// service is idempotent.
  [[nodiscard]] std::uint16_t effects_of(std::uint64_t call) const noexcept {
    return call < effects_.size() ? effects_[call] : std::uint16_t{0};
  }

  /// Called whenever the work of a call takes effect.
  void on_effect(std::function<void(std::uint64_t call)> listen) { listen_ = std::move(listen); }

  [[nodiscard]] const service_stats& stats() const noexcept { return stats_; }
  [[nodiscard]] std::size_t queued() const noexcept { return queue_.size(); }

 private:
  struct job;

  void start_work();
  void finish(job& j);
  void take_effect(std::uint64_t call);
  [[nodiscard]] duration draw_time();

  net::any_io_executor executor_;
  timer_service& timers_;
  service_spec spec_;
  random_source random_;
  std::size_t workers_, busy_ = 0;
  double slowdown_ = 1, error_rate_ = 0, hang_rate_ = 0;
  duration add_{}, jitter_{};
  failure failed_, overloaded_;  // made once: exceptions cost more than everything else here
  std::deque<detail::reference<job>> queue_;
  std::vector<std::uint16_t> effects_;  // by call
  std::function<void(std::uint64_t)> listen_;
  service_stats stats_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
