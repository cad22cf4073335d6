// A broker as its clients see it: takes time, has an end of its capacity, goes away, loses acknowledgements.
#pragma once

#include "order_book.hpp"

#include <cofferdam/chaos/service.hpp>
#include <cofferdam/core/random.hpp>
#include <cofferdam/outbox/publisher.hpp>

#include <cstdint>
#include <functional>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

/// Keeps a message once its work is done, whether or not the client still waits for the answer. Thread safety: none.
class simulated_broker final : public publisher {
 public:
  /// @param deliver  called for every copy that is kept, at once.
  simulated_broker(net::io_context& context, const service_spec& spec, std::uint64_t seed,
                   std::function<void(std::uint64_t order)> deliver);

  awaitable<void> publish(const message& m) override;

  // --- faults
  /// Connections are refused, and those that there are break.
  void set_down(bool is_down);
  void set_lost_acks(double rate) noexcept { lost_acks_ = rate; }
  [[nodiscard]] simulated_service& service() noexcept { return service_; }

 private:
  simulated_service service_;
  random_source random_;
  bool is_down_ = false;
  std::uint64_t connection_ = 0;
  double lost_acks_ = 0;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
