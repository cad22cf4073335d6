#include "order_book.hpp"

#include <algorithm>
#include <charconv>
#include <stdexcept>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

std::uint64_t order_of(const std::string& payload) {
  std::uint64_t order = 0;
  const auto [end, error] = std::from_chars(payload.data(), payload.data() + payload.size(), order);
  if (error != std::errc()) throw std::runtime_error("a message that tells of no order: " + payload);
  return order;
}

order_book::order_book(const scenario& s, const variant_spec& variant, net::io_context& context)
    : scenario_(s), timers_(timers_of(context)), start_(timers_.now()) {
  const auto steps = static_cast<std::size_t>(s.length / s.timeline) + 1;
  for (const auto& consumer : variant.outbox.consumers) {
    auto& record = result.consumers.emplace_back();
    record.name = consumer.name;
    record.most_in_memory.resize(steps);
    last_effects_.emplace_back(variant.outbox.producer.keys);
  }
}

void order_book::note(const std::string& event) {
  auto& record = result.events[event];
  if (record.count++ == 0) record.first = present();
  record.last = present();
}

std::uint64_t order_book::begin(std::uint32_t key) {
  keys_.push_back(key);
  result.messages.emplace_back();
  for (auto& consumer : result.consumers) consumer.effects.emplace_back();
  auto& call = result.calls.emplace_back();
  call.start = present();
  call.id = result.offered;
  call.latency = not_yet;
  return result.offered++;
}

void order_book::ended(std::uint64_t order, bool is_accepted) {
  auto& call = result.calls[order];
  call.latency = present() - call.start;
  call.ending = is_accepted ? call_ending::ok : call_ending::failed;
}

void order_book::kept(std::uint64_t order) {
  auto& message = result.messages[order];
  if (message.copies++ == 0) message.published = present();
}

void order_book::in_memory(std::size_t consumer, std::size_t messages) {
  auto& steps = result.consumers[consumer].most_in_memory;
  auto& most = steps[std::min(static_cast<std::size_t>(present() / scenario_.timeline), steps.size() - 1)];
  most = std::max(most, messages);
}

void order_book::effect(std::size_t consumer, std::uint64_t order) {
  auto& record = result.consumers[consumer];
  auto& effect = record.effects[order];
  if (effect.times++ == 0) effect.first = present();
  auto& last = last_effects_[consumer][keys_[order]];
  if (order + 1 < last) ++record.reordered;
  last = std::max(last, order + 1);
}

void order_book::close() {
  const auto violated = [this](const std::string& invariant, std::uint64_t times, const char* what) {
    if (times > 0) result.violations.push_back(invariant + ": " + std::to_string(times) + what);
  };
  violated("no_lost_call", static_cast<std::uint64_t>(std::ranges::count(result.calls, not_yet, &call_record::latency)),
           " orders have no answer");
  for (const auto& consumer : result.consumers) {
    std::uint64_t lost = 0, repeated = 0;
    for (std::size_t i = 0; i < consumer.effects.size(); ++i) {
      const auto& message = result.messages[i];
      if (message.accepted != not_yet && !message.parked && consumer.effects[i].times == 0) ++lost;
      if (consumer.effects[i].times > 1) ++repeated;
    }
    const std::string where = " at " + consumer.name;
    violated("no_lost_message", lost, (" messages never took effect" + where).c_str());
    violated("effects_once", repeated, (" messages took effect more than once" + where).c_str());
    violated("order_per_key", consumer.reordered, (" effects after a later one of their key" + where).c_str());
  }
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
