// Scenarios of calls: services, load, pools, policies.
#include <cofferdam/chaos/scenario.hpp>

#include "scenario_reader.hpp"

namespace cofferdam::inline COFFERDAM_ABI::chaos {
namespace reading {
namespace {

service_spec read_service(reader r) {
  service_spec spec;
  if (!r.is_object()) return spec;
  if (const auto name = r.require("name")) spec.name = name->as_string().value_or("");
  read_work(r, spec);
  r.read("refusal_latency", spec.refusal_latency);
  r.read("idempotent", spec.idempotent);
  r.finish();
  return spec;
}

service_override read_override(reader r) {
  service_override spec;
  if (!r.is_object()) return spec;
  if (const auto workers = r.find("workers")) spec.workers = workers->as_count(1);
  if (auto queue = r.find("queue"); queue && queue->is_object()) {
    read_limit(queue->find("limit"), spec.queue_limit);
    if (const auto order = queue->find("order")) {
      auto value = queue_order::fifo;
      read_order(order, value);
      spec.order = value;
    }
    if (const auto drop = queue->find("drop_expired")) spec.drop_expired = drop->as_bool();
    queue->finish();
  }
  if (const auto idempotent = r.find("idempotent")) spec.idempotent = idempotent->as_bool();
  r.finish();
  return spec;
}

load_spec read_load(reader r, const scenario& s) {
  load_spec spec;
  spec.to = s.length;
  if (!r.is_object()) return spec;
  if (const auto target = r.require("target")) spec.target = target->as_string().value_or("");
  spec.name = spec.target;
  r.read("name", spec.name);
  r.read("pool", spec.pool);
  read_arrivals(r, s, spec);
  r.finish();
  return spec;
}

void read_pool(reader r, scenario& s) {
  pool_spec spec;
  if (!r.is_object()) return;
  if (const auto name = r.require("name")) spec.name = name->as_string().value_or("");
  if (const auto limit = r.require("limit")) spec.limit = limit->as_count(1).value_or(1);
  r.finish();
  add_named(s.pools, std::move(spec), r);
}

fault_policy_spec read_fault_policy(reader r, const scenario& s, bool is_choice = false);

std::vector<fault_policy_spec> read_choices(const reader& r, const scenario& s) {
  std::vector<fault_policy_spec> choices;
  const auto items = r.items();
  choices.reserve(items.size());
  for (const auto& item : items) choices.push_back(read_fault_policy(item, s, true));
  if (items.empty()) r.problem("must be a list of at least one fault");
  if (std::ranges::count(choices, "outcome", &fault_policy_spec::kind) > 1) r.problem("at most one may be an outcome");
  return choices;
}

/// @param is_choice  of a weighted one, which has a weight and decides on the rest.
fault_policy_spec read_fault_policy(reader r, const scenario& s, bool is_choice) {
  fault_policy_spec spec;
  if (!r.is_object()) return spec;
  auto kinds = known_fault_policies();
  if (is_choice) std::erase(kinds, "weighted");
  if (const auto kind = r.require("kind")) {
    if (const auto index = kind->as_word(kinds)) spec.kind = kinds[*index];
  }
  if (is_choice) {
    r.read("weight", spec.weight, 1e-6, 1e6);
  } else {
    if (const auto rate = r.require("rate")) spec.rate = rate->as_number(0, 1).value_or(0);
    if (const auto keys = r.find("keys")) {
      const auto loads = names_in(s.loads);
      for (const auto& key : keys->items()) {
        if (const auto index = key.as_word(loads)) spec.keys.push_back(loads[*index]);
      }
      if (keys->value().empty()) keys->problem("must name at least one load");
    }
  }
  if (spec.kind == "latency") {
    if (const auto add = r.require("add")) spec.add = add->as_duration().value_or(duration());
    r.read("jitter", spec.jitter);
  }
  if (spec.kind == "weighted") {
    if (const auto choices = r.require("choices")) spec.choices = read_choices(*choices, s);
  }
  if (!spec.kind.empty()) r.finish();  // which keys there are depends on the kind
  return spec;
}

std::optional<any_policy_spec> read_any_policy(reader r, const scenario& s) {
  if (r.value().is_object() && r.value().size() == 1) {
    if (const auto options = r.find("fault")) return read_fault_policy(*options, s);
    if (const auto options = r.find("fallback")) {
      if (options->is_object()) options->finish();
      return fallback_spec{};
    }
  }
  auto policy = cofferdam::detail::read_policy(r, {"fallback", "fault"});
  if (!policy) return std::nullopt;
  if (const auto* budget = budget_of(*policy); budget != nullptr && !budget->shared.empty()) {
    r.problem("scenarios have no shared budgets; give a ratio such as 0.1, or an object");
  }
  return any_policy_spec(std::move(*policy));
}

void check_service(const scenario& s, const std::string& name, const reader& r) {
  const auto names = names_in(s.services);
  if (std::ranges::find(names, name) == names.end()) {
    r.problem("no service is called \"" + name + "\"" + cofferdam::detail::nearest_hint(name, names));
  }
}

void check_shedders(const reader& list, const std::vector<any_policy_spec>& policies) {
  bool has_load = false;  // of what is further in
  for (auto policy = policies.rbegin(); policy != policies.rend(); ++policy) {
    const auto* spec = std::get_if<policy_spec>(&*policy);
    if (spec == nullptr) continue;
    has_load = has_load || tells_load(*spec);
    if (std::holds_alternative<priority_shedder_spec>(*spec) && !has_load) {
      list.problem("a priority_shedder has no load to go by; put a bulkhead or an adaptive_limiter below it");
    }
  }
}

void read_overrides(reader& root, scenario& s) {
  const auto overrides = root.find("overrides");
  if (!overrides) return;
  for (const auto& [name, services] : overrides->members()) {
    const auto found = std::ranges::find(s.variants, name, &std::pair<std::string, variant_spec>::first);
    if (found == s.variants.end()) {
      services.problem("no variant has this name" + cofferdam::detail::nearest_hint(name, names_of_variants(s)));
      continue;
    }
    for (const auto& [service, changes] : services.members()) {
      check_service(s, service, changes);
      found->second.overrides[service] = read_override(changes);
    }
  }
}

void read_policies(reader& root, scenario& s) {
  const auto policies = root.require("policies");
  if (!policies) return;
  for (const auto& [name, services] : policies->members()) {
    variant_spec variant;
    for (const auto& [service, list] : services.members()) {
      check_service(s, service, list);
      auto& all = variant.policies[service];
      for (const auto& item : list.items()) {
        if (auto policy = read_any_policy(item, s)) all.push_back(std::move(*policy));
      }
      check_shedders(list, all);
    }
    s.variants.emplace_back(name, std::move(variant));
  }
  if (s.variants.empty()) policies->problem("needs at least one variant");
}

void check_references(const reader& root, const scenario& s) {
  for (std::size_t i = 0; i < s.loads.size(); ++i) {
    const reader at(root.value()["load"][i], "/load/" + std::to_string(i), *root.problems());
    check_service(s, s.loads[i].target, at);
    const auto& pool = s.loads[i].pool;
    if (!pool.empty() && std::ranges::find(s.pools, pool, &pool_spec::name) == s.pools.end()) {
      at.problem("no pool is called \"" + pool + "\"");
    }
  }
  for (std::size_t i = 0; i < s.faults.size(); ++i) {
    const auto& fault = s.faults[i];
    const reader at = fault_at(root, i);
    if (fault.kind != fault_kind::load) {
      check_service(s, fault.target, at);
    } else if (std::ranges::find(s.loads, fault.target, &load_spec::name) == s.loads.end()) {
      at.problem("no load is called \"" + fault.target + "\"");
    }
  }
}

}  // namespace

void read_calls(reader& root, scenario& s) {
  read_list(root, "services", true, [&](const reader& r) { add_named(s.services, read_service(r), r); });
  read_list(root, "pools", false, [&](const reader& r) { read_pool(r, s); });
  read_list(root, "load", true, [&](const reader& r) { add_named(s.loads, read_load(r, s), r); });
  read_policies(root, s);
  read_overrides(root, s);
  read_faults(root, s, {"slow", "latency", "error", "hang", "capacity", "load", "kill_switch"});
  check_references(root, s);
}

}  // namespace reading

const std::vector<std::string>& known_fault_policies() {
  static const std::vector<std::string> names{"latency",     "error",     "hang",    "outcome",
                                              "lost_answer", "duplicate", "weighted"};
  return names;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
