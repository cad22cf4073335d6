#include <cofferdam/chaos/service.hpp>
#include <cofferdam/core/sleep.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

/// A request as the service holds it. Outlives its client if that gives up.
struct simulated_service::job final : detail::counted, timer_entry {
  job(simulated_service& s, std::uint64_t of) noexcept : service(s), call(of) {
    on_due = [](timer_entry& entry) noexcept {
      const detail::reference<job> mine(static_cast<job*>(&entry));
      mine->service.finish(*mine);
    };
    on_shutdown = [](timer_entry& entry) noexcept { static_cast<job&>(entry).release(); };
  }
  simulated_service& service;
  std::uint64_t call;
  detail::parked_reference client;  // empty once it has gone or was answered
  bool failed = false;
};

simulated_service::simulated_service(net::io_context& context, const service_spec& spec, std::uint64_t seed)
    : executor_(context.get_executor()),
      timers_(timers_of(context)),
      spec_(spec),
      random_(random_source::split(seed, "service/" + spec.name)),
      workers_(spec.workers),
      failed_(failure::thrown(std::make_exception_ptr(service_error(spec.name + " failed")))),
      overloaded_(failure::thrown(std::make_exception_ptr(overloaded_error(spec.name + " is overloaded")))) {}

simulated_service::~simulated_service() = default;

duration simulated_service::draw_time() {
  const auto mean = static_cast<double>(spec_.latency.mean.count());
  const double spread = spec_.latency.spread;
  double time = mean;
  switch (spec_.latency.kind) {
    case distribution::constant:
      break;
    case distribution::exponential:
      time = random_.exponential(mean);
      break;
    case distribution::uniform:
      time = mean * (1 + spread * (2 * random_.uniform() - 1));
      break;
    case distribution::lognormal:
      time = mean * std::exp(spread * random_.normal() - spread * spread / 2);
      break;
  }
  time = time * slowdown_ + static_cast<double>(add_.count());
  if (jitter_ > duration::zero()) time += random_.uniform() * static_cast<double>(jitter_.count());
  // Slow faults multiply, so that even modest ones may pass what 64 bits of nanoseconds hold.
  return duration(static_cast<std::int64_t>(std::clamp(time, 1.0, 9e18)));
}

awaitable<outcome<void>> simulated_service::request(std::uint64_t call) {
  ++stats_.requests;
  if (hang_rate_ > 0 && random_.uniform() < hang_rate_) {
    co_await sleep_until(never);
  }
  if (spec_.queue_limit && busy_ >= workers_ && queue_.size() >= *spec_.queue_limit) {
    ++stats_.overloaded;
    co_await sleep_for(spec_.refusal_latency);
    co_return overloaded_;
  }
  const detail::reference<job> mine(new job(*this, call));
  const auto enlist = [&](const detail::parked_reference& self) {
    mine->client = self;
    queue_.push_back(mine);
    start_work();
    stats_.max_queue = std::max(stats_.max_queue, queue_.size());
  };
  const wake_reason reason = co_await park(never, enlist);
  if (reason == wake_reason::cancelled) {
    mine->client = {};
    co_return failure::cancelled();
  }
  if (mine->failed) co_return failed_;
  co_return outcome<void>();
}

void simulated_service::start_work() {
  while (busy_ < workers_ && !queue_.empty()) {
    const bool newest = spec_.order == queue_order::lifo;
    detail::reference<job> next = std::move(newest ? queue_.back() : queue_.front());
    newest ? queue_.pop_back() : queue_.pop_front();
    if (spec_.drop_expired && !next->client) {
      ++stats_.dropped;
      continue;
    }
    ++busy_;
    next->failed = error_rate_ > 0 && random_.uniform() < error_rate_;
    next->add_reference();  // the timer service's
    timers_.schedule(*next, timers_.now() + draw_time(), executor_);
  }
}

void simulated_service::finish(job& j) {
  --busy_;
  if (!j.failed) take_effect(j.call);
  if (j.client) {
    ++(j.failed ? stats_.failed : stats_.answered);
    std::exchange(j.client, {})->wake(wake_reason::woken);
  } else {
    ++stats_.wasted;
  }
  start_work();
}

void simulated_service::take_effect(std::uint64_t call) {
  if (effects_.size() <= call) effects_.resize(std::max<std::size_t>(call + 1, 2 * effects_.size()));
  auto& times = effects_[call];
  if (times == 0 || (!spec_.idempotent && times < std::numeric_limits<std::uint16_t>::max())) ++times;
  if (listen_) listen_(call);
}

void simulated_service::set_workers(std::size_t workers) {
  workers_ = workers;
  start_work();
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
