#include "metrics.hpp"

#include <algorithm>
#include <cmath>

namespace cofferdam::inline COFFERDAM_ABI::chaos {
namespace {

double seconds_of(duration d) { return static_cast<double>(d.count()) * 1e-9; }

/// How many orders were between two moments of theirs, as steps in time.
class waiting_line {
 public:
  void enter(duration at) { steps_.emplace_back(at, 1); }
  void leave(duration at) { steps_.emplace_back(at, -1); }
  /// Most in [from, to).
  [[nodiscard]] std::int64_t most(duration from, duration to) {
    std::ranges::sort(steps_);
    std::int64_t now = 0, highest = 0;
    for (const auto& [at, change] : steps_) {
      if (at >= to) break;
      if (at > from) highest = std::max(highest, now);  // what stood there when the window opened, too
      now += change;
      if (at >= from) highest = std::max(highest, now);
    }
    return std::max(highest, now);
  }
  /// When there are at most so many, at or after `from`.
  [[nodiscard]] std::optional<duration> at_most(std::int64_t bound, duration from) {
    std::ranges::sort(steps_);
    std::int64_t now = 0;
    duration last = from;
    for (const auto& [at, change] : steps_) {
      if (at > from && now <= bound) return last;
      now += change;
      last = std::max(at, from);
    }
    return now <= bound ? std::optional(last) : std::nullopt;
  }

 private:
  std::vector<std::pair<duration, std::int64_t>> steps_;
};

waiting_line backlog_of(const run_result& run) {
  waiting_line line;
  for (const auto& message : run.messages) {
    if (message.accepted == not_yet) continue;
    line.enter(message.accepted);
    if (message.published != not_yet) line.leave(std::max(message.accepted, message.published));
  }
  return line;
}

std::optional<double> drain_time(const scenario& s, const run_result& run, const fault_spec& fault) {
  auto line = backlog_of(run);
  const duration end = fault.at + fault.length;
  const auto usual = line.most(s.warmup, fault.at);
  const auto drained = line.at_most(usual, end);
  if (!drained) return std::nullopt;
  return seconds_of(*drained - end);
}

/// What one consumer's figure is.
std::optional<double> of_consumer(const scenario& s, const run_result& run, const consumer_record& consumer,
                                  const expectation& e) {
  const std::string& metric = e.subject;
  if (metric == "reordered") return static_cast<double>(consumer.reordered);
  if (metric == "dropped") return static_cast<double>(consumer.dropped);
  if (metric == "in_memory") {
    std::size_t most = 0;
    for (std::size_t i = 0; i < consumer.most_in_memory.size(); ++i) {
      const duration at = s.timeline * static_cast<std::int64_t>(i);
      if (at >= e.from && at < e.to) most = std::max(most, consumer.most_in_memory[i]);
    }
    return static_cast<double>(most);
  }
  double lost = 0, phantom = 0, duplicates = 0, accepted = 0, effects = 0;
  std::vector<duration> deliveries;
  waiting_line waiting;
  for (std::size_t i = 0; i < run.messages.size(); ++i) {
    const auto& message = run.messages[i];
    const auto& effect = consumer.effects[i];
    const bool is_accepted = message.accepted != not_yet, has_effect = effect.times > 0;
    if (has_effect && effect.first >= e.from && effect.first < e.to) ++effects;
    if (is_accepted) waiting.enter(message.accepted);
    if (is_accepted && has_effect) waiting.leave(std::max(message.accepted, effect.first));
    const duration start = run.calls[i].start;
    if (start < e.from || start >= e.to) continue;
    if (effect.times > 1) duplicates += effect.times - 1;
    if (!is_accepted && has_effect) ++phantom;
    if (!is_accepted) continue;
    ++accepted;
    if (!has_effect && !message.parked) ++lost;
    if (has_effect) deliveries.push_back(std::max(effect.first - message.accepted, duration::zero()));
  }
  if (metric == "lost") return lost;
  if (metric == "phantom") return phantom;
  if (metric == "duplicates") return duplicates;
  if (metric == "waiting") return static_cast<double>(waiting.most(e.from, e.to));
  if (metric == "throughput") return accepted == 0 ? std::nullopt : std::optional(effects / accepted);
  if (metric == "delivery_p50") return quantile(std::move(deliveries), 0.5);
  if (metric == "delivery_p99") return quantile(std::move(deliveries), 0.99);
  return std::nullopt;
}

}  // namespace

std::optional<double> measure_messages(const scenario& s, const run_result& run, const expectation& e) {
  if (e.subject == "drain_time") return drain_time(s, run, s.faults[*e.after_fault]);
  if (e.subject == "backlog") return static_cast<double>(backlog_of(run).most(e.from, e.to));
  if (e.subject == "parked")
    return static_cast<double>(std::ranges::count(run.messages, true, &message_record::parked));
  if (e.subject == "repeated") {
    double copies = 0;
    for (const auto& message : run.messages) copies += message.copies > 1 ? message.copies - 1 : 0;
    return copies;
  }
  std::optional<double> worst;
  const bool more_is_better = e.subject == "throughput";
  for (const auto& consumer : run.consumers) {
    if (!e.load.empty() && consumer.name != e.load) continue;
    const auto value = of_consumer(s, run, consumer, e);
    if (!value) return std::nullopt;
    worst = !worst ? *value : more_is_better ? std::min(*worst, *value) : std::max(*worst, *value);
  }
  return worst;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
