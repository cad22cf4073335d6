#include <cofferdam/resilience/detail/validation.hpp>
#include <cofferdam/resilience/policy_spec.hpp>
#include <cofferdam/resilience/standard.hpp>

#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

/// The problems of a part, each under the part's name.
template <class Options> void add(std::vector<std::string>& problems, const char* part, const Options& options) {
  for (const auto& problem : validate(options)) problems.push_back(std::string(part) + "." + problem);
}

template <class Options> void add_limits(std::vector<std::string>& problems, const Options& o) {
  add(problems, "bulkhead", o.bulkhead);
  add(problems, "budget", o.budget);
  add(problems, "circuit", o.circuit);
  if (o.attempt_timeout <= duration::zero()) problems.emplace_back("attempt_timeout: must be positive");
  if (o.total_timeout <= o.attempt_timeout) {
    problems.emplace_back("total_timeout: must be longer than attempt_timeout, which would never come true");
  }
  if (o.circuit.window_calls == 0 && o.circuit.window / 2 < o.attempt_timeout) {
    problems.emplace_back("circuit.window: must be at least twice attempt_timeout, or calls leave it before they end");
  }
}

budget_spec with(const retry_budget_options& options) {
  budget_spec budget;
  budget.own = options;
  return budget;
}

pipeline make(const std::string& name, const std::vector<policy_spec>& specs) {
  const budget_finder own = [](const budget_spec& budget) { return std::make_shared<retry_budget>(budget.own); };
  std::vector<std::shared_ptr<policy>> policies;
  policies.reserve(specs.size());
  for (const auto& spec : specs) policies.push_back(make_policy(name, spec, own));
  return {name, std::move(policies)};
}

}  // namespace

std::vector<std::string> validate(const client_pipeline_options& options) {
  std::vector<std::string> problems;
  add(problems, "retry", options.retry);
  add_limits(problems, options);
  return problems;
}

std::vector<std::string> validate(const hedged_client_pipeline_options& options) {
  std::vector<std::string> problems;
  add(problems, "hedging", options.hedging);
  add_limits(problems, options);
  const duration delay = options.hedging.delay;
  if (delay != only_on_failure && delay >= options.attempt_timeout) {
    problems.emplace_back("hedging.delay: must be less than attempt_timeout, or no hedge starts");
  }
  return problems;
}

std::vector<std::string> validate(const server_pipeline_options& options) {
  std::vector<std::string> problems;
  add(problems, "limiter", options.limiter);
  if (options.timeout <= duration::zero()) problems.emplace_back("timeout: must be positive");
  return problems;
}

pipeline client_pipeline(const std::string& name, const client_pipeline_options& o) {
  detail::require_valid("client_pipeline '" + name + "'", validate(o));
  return make(name, {bulkhead_spec{o.bulkhead, {}}, timeout_spec{o.total_timeout}, retry_spec{o.retry, with(o.budget)},
                     o.circuit, timeout_spec{o.attempt_timeout}});
}

pipeline hedged_client_pipeline(const std::string& name, const hedged_client_pipeline_options& o) {
  detail::require_valid("hedged_client_pipeline '" + name + "'", validate(o));
  return make(name, {bulkhead_spec{o.bulkhead, {}}, timeout_spec{o.total_timeout},
                     hedging_spec{o.hedging, with(o.budget)}, o.circuit, timeout_spec{o.attempt_timeout}});
}

pipeline server_pipeline(const std::string& name, const server_pipeline_options& o) {
  detail::require_valid("server_pipeline '" + name + "'", validate(o));
  return make(name, {o.limiter, timeout_spec{o.timeout}});
}

}  // namespace cofferdam::inline COFFERDAM_ABI
