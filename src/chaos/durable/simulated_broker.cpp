#include "simulated_broker.hpp"

#include <cofferdam/core/sleep.hpp>

#include <stdexcept>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

simulated_broker::simulated_broker(net::io_context& context, const service_spec& spec, std::uint64_t seed,
                                   std::function<void(std::uint64_t order)> deliver)
    : service_(context, spec, seed), random_(random_source::split(seed, "broker")) {
  service_.on_effect(std::move(deliver));
}

void simulated_broker::set_down(bool is_down) {
  is_down_ = is_down;
  if (is_down) ++connection_;
}

awaitable<void> simulated_broker::publish(const message& m) {
  const std::uint64_t connection = connection_;
  if (is_down_) {
    co_await sleep_for(std::chrono::milliseconds(1));
    throw std::runtime_error("connection refused");
  }
  const auto answered = co_await service_.request(order_of(m.payload()));
  if (!answered) answered.why().raise();
  if (connection != connection_) throw std::runtime_error("connection broke");
  if (lost_acks_ > 0 && random_.uniform() < lost_acks_) throw std::runtime_error("no acknowledgement came");
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
