// Scenarios of orders, relays, brokers and consumers.
#include <cofferdam/chaos/scenario.hpp>

#include "scenario_reader.hpp"

namespace cofferdam::inline COFFERDAM_ABI::chaos::reading {
namespace {

producer_spec read_producer(reader r, const scenario& s) {
  producer_spec spec;
  spec.to = s.length;
  if (!r.is_object()) return spec;
  read_arrivals(r, s, spec);
  r.read("keys", spec.keys, 1);
  if (const auto publish = r.find("publish")) {
    const auto word = publish->as_word({"outbox", "after_commit", "before_commit", "only"});
    if (word) spec.publish = static_cast<publish_mode>(*word);
  }
  r.finish();
  return spec;
}

broker_spec read_broker(reader r) {
  broker_spec spec;
  spec.work.name = "broker";
  if (r.value().is_string()) {
    spec.in_process = r.as_word({"in_process"}).has_value();
  } else if (r.is_object()) {
    read_work(r, spec.work);
    r.finish();
  }
  return spec;
}

void read_relay_policy(const reader& r, relay_spec& spec) {
  const auto policy = cofferdam::detail::read_policy(r);
  if (!policy) return;
  if (const auto* again = std::get_if<retry_spec>(&*policy); again != nullptr && !again->budget) {
    spec.retry = again->options;
  } else if (const auto* breaker = std::get_if<circuit_breaker_options>(&*policy)) {
    spec.breaker = *breaker;
  } else if (const auto* timeout = std::get_if<timeout_spec>(&*policy)) {
    spec.timeout = timeout->limit;
  } else {
    r.problem("a relay takes retry (without a budget), circuit_breaker and timeout");
  }
}

relay_spec read_relay(const std::string& name, reader r) {
  relay_spec spec;
  spec.name = name;
  if (!r.is_object()) return spec;
  if (const auto lease = r.find("lease")) spec.lease = lease->as_duration(std::chrono::milliseconds(1));
  r.read("naive", spec.naive);
  if (!spec.naive) {  // it knows nothing else
    if (const auto window = r.find("window")) spec.window = window->as_count(1);
    if (const auto page = r.find("page")) spec.page = page->as_count(1);
    read_list(r, "policies", false, [&](const reader& policy) { read_relay_policy(policy, spec); });
  }
  r.finish();
  return spec;
}

consumer_spec read_consumer(const std::string& name, reader r) {
  consumer_spec spec;
  spec.name = name;
  if (!r.is_object()) return spec;
  r.read("workers", spec.workers, 1);
  if (const auto latency = r.find("latency")) spec.latency = read_latency(*latency);
  r.read("inbox", spec.inbox);
  if (const auto most = r.find("max_unacknowledged")) spec.max_unacknowledged = most->as_count(1);
  if (const auto pool = r.find("bulkhead")) {
    const nlohmann::json policy{{"bulkhead", pool->value()}};
    std::vector<std::string> problems;
    const auto read = cofferdam::detail::read_policy(reader(policy, r.path(), problems));
    r.problems()->insert(r.problems()->end(), problems.begin(), problems.end());
    const auto* found = read ? std::get_if<bulkhead_spec>(&*read) : nullptr;
    if (found != nullptr) spec.bulkhead = found->options;
  }
  r.finish();
  return spec;
}

template <class Spec, class Read>
void read_named(reader& root, const char* key, bool needed, std::vector<Spec>& target, Read read) {
  const auto all = needed ? root.require(key) : root.find(key);
  if (!all) return;
  for (const auto& [name, each] : all->members()) target.push_back(read(name, each));
  if (needed && target.empty()) all->problem("must not be empty");
}

void read_system(reader root, const scenario& s, outbox_spec& spec) {
  if (const auto producer = root.require("producer")) spec.producer = read_producer(*producer, s);
  if (const auto broker = root.require("broker")) spec.broker = read_broker(*broker);
  read_named(root, "relays", spec.producer.publish == publish_mode::outbox, spec.relays, read_relay);
  const auto naive = static_cast<std::size_t>(std::ranges::count(spec.relays, true, &relay_spec::naive));
  if (naive != 0 && naive != spec.relays.size()) root.problem("of the relays all are naive, or none");
  read_named(root, "consumers", true, spec.consumers, read_consumer);
}

/// What may happen to whom.
void check_target(const reader& at, const fault_spec& fault, const std::string& variant, const outbox_spec& spec) {
  using enum fault_kind;
  const auto is_among = [&](std::initializer_list<fault_kind> kinds) {
    return std::ranges::find(kinds, fault.kind) != kinds.end();
  };
  const auto relays = names_in(spec.relays), consumers = names_in(spec.consumers);
  const auto is_of = [&](const std::vector<std::string>& names) {
    return std::ranges::find(names, fault.target) != names.end();
  };
  bool is_possible = false;
  if (fault.target == "producer") {
    is_possible = fault.kind == load;
  } else if (fault.target == "broker") {
    is_possible = is_among({slow, latency, error, hang, capacity, outage, lost_ack, duplicate});
    if (spec.broker.in_process) at.problem("the variant " + variant + " has no broker");
  } else if (is_of(relays)) {
    is_possible = is_among({pause, crash});
  } else if (is_of(consumers)) {
    is_possible = is_among({slow, latency, poison});
    if (fault.kind == poison && !spec.broker.in_process) {
      at.problem("poison needs \"broker\": \"in_process\", which the variant " + variant + " has not");
    }
  } else {
    auto known = relays;
    known.insert(known.end(), consumers.begin(), consumers.end());
    known.insert(known.end(), {"broker", "producer"});
    at.problem("nothing is called \"" + fault.target + "\"" + cofferdam::detail::nearest_hint(fault.target, known));
    return;
  }
  if (!is_possible) at.problem("this does not happen to \"" + fault.target + "\"; see docs/scenarios.md");
}

void read_operator(reader& root, scenario& s) {
  read_list(root, "operator", false, [&](reader r) {
    if (!r.is_object()) return;
    replay_spec spec;
    if (const auto at = r.require("at")) spec.at = at->as_duration().value_or(duration());
    const auto relay = r.require("replay");
    if (relay) spec.relay = relay->as_string().value_or("");
    for (const auto& [name, variant] : s.variants) {
      const auto relays = names_in(variant.outbox.relays);
      if (relay && std::ranges::find(relays, spec.relay) == relays.end()) {
        relay->problem("no relay is called \"" + spec.relay + "\"" +
                       cofferdam::detail::nearest_hint(spec.relay, relays));
        break;
      }
    }
    r.finish();
    s.replays.push_back(std::move(spec));
  });
}

}  // namespace

void read_outbox(reader& root, scenario& s) {
  read_patches(root, s, {"producer", "broker", "relays", "consumers"},
               [&s](const reader& document, variant_spec& variant) { read_system(document, s, variant.outbox); });
  read_faults(root, s,
              {"slow", "latency", "error", "hang", "capacity", "load", "outage", "lost_ack", "duplicate", "pause",
               "crash", "poison"});
  for (std::size_t i = 0; i < s.faults.size(); ++i) {
    const std::size_t before = root.problems()->size();
    for (const auto& [name, variant] : s.variants) {
      if (root.problems()->size() == before) check_target(fault_at(root, i), s.faults[i], name, variant.outbox);
    }
  }
  read_operator(root, s);
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos::reading
