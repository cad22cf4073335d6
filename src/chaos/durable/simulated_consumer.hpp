// A consumer: takes messages into its memory, works on them, and has their effect, once where it has an inbox.
#pragma once

#include "../faults_in_force.hpp"
#include "order_book.hpp"

#include <cofferdam/chaos/service.hpp>
#include <cofferdam/outbox/inbox.hpp>
#include <cofferdam/outbox/message.hpp>

#include <deque>
#include <memory>
#include <optional>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

/// Thread safety: none.
class simulated_consumer {
 public:
  simulated_consumer(net::io_context& context, const consumer_spec& spec, std::uint64_t seed, std::size_t index,
                     order_book& book);
  simulated_consumer(const simulated_consumer&) = delete;
  simulated_consumer& operator=(const simulated_consumer&) = delete;

  /// Before anything comes.
  awaitable<void> open();
  /// A message from a broker, which keeps those that must wait.
  void receive(std::uint64_t order);
  /// Works on an order and has its effect. Errors: what is wrong with a poisoned one.
  awaitable<void> handle(std::uint64_t order);

  // --- faults
  void apply(fault_kind kind, const faults_in_force::sum& faults);

 private:
  awaitable<void> take(std::uint64_t order);
  awaitable<void> have_effect(std::uint64_t order);
  void hand_over();
  void tell_memory() { book_.in_memory(index_, in_memory_); }

  net::any_io_executor executor_;
  const consumer_spec& spec_;
  const std::size_t index_;
  order_book& book_;
  std::vector<std::unique_ptr<simulated_service>> workers_;  // each one thing at a time
  std::optional<bulkhead> pool_;
  std::optional<database> db_;
  std::optional<inbox> inbox_;
  std::deque<std::uint64_t> at_broker_;
  std::size_t in_memory_ = 0, poison_every_ = 0;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
