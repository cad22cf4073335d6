// What is seen of orders and their messages during a run. The parts of the simulation tell it, verdicts read it.
#pragma once

#include <cofferdam/chaos/runner.hpp>
#include <cofferdam/core/net.hpp>
#include <cofferdam/core/timer_service.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

class order_book {
 public:
  order_book(const scenario& s, const variant_spec& variant, net::io_context& context);

  [[nodiscard]] duration present() const { return timers_.now() - start_; }
  [[nodiscard]] time_point moment(duration since_start) const { return start_ + since_start; }
  /// The run begins now.
  void restart_clock() { start_ = timers_.now(); }
  void note(const std::string& event);

  // --- orders, by number
  [[nodiscard]] std::uint64_t begin(std::uint32_t key);
  void accepted(std::uint64_t order) { result.messages[order].accepted = present(); }
  void ended(std::uint64_t order, bool is_accepted);
  [[nodiscard]] std::uint32_t key_of(std::uint64_t order) const { return keys_[order]; }
  void kept(std::uint64_t order);

  // --- consumers, by index
  void in_memory(std::size_t consumer, std::size_t messages);
  void effect(std::size_t consumer, std::uint64_t order);
  void dropped(std::size_t consumer) { ++result.consumers[consumer].dropped; }

  /// Checks the invariants, when all is over.
  void close();

  run_result result;

 private:
  const scenario& scenario_;
  timer_service& timers_;
  time_point start_;
  std::vector<std::uint32_t> keys_;                       // by order
  std::vector<std::vector<std::uint64_t>> last_effects_;  // by consumer and key: order + 1
};

/// The order that a message tells of.
[[nodiscard]] std::uint64_t order_of(const std::string& payload);

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
