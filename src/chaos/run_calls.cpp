#include <cofferdam/chaos/fault_policy.hpp>
#include <cofferdam/chaos/service.hpp>
#include <cofferdam/chaos/weighted_fault.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/fallback.hpp>
#include <cofferdam/resilience/timeout.hpp>

#include "faults_in_force.hpp"
#include "run_kinds.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <span>

namespace cofferdam::inline COFFERDAM_ABI::chaos {
namespace {

enum class answer : std::uint8_t { fresh, degraded };

/// Everything of one run. Members are ordered so that the context goes first: it destroys coroutines that use the rest.
class simulation_of_calls {
 public:
  simulation_of_calls(const scenario& s, std::size_t variant, std::uint64_t seed)
      : scenario_(s), variant_(s.variants[variant].second) {
    result_.variant = s.variants[variant].first;
    result_.seed = seed;
    context_ = std::make_unique<net::io_context>(1);
    time_.emplace(*context_, seed);
    for (const auto& spec : s.services) add_service(spec);
    for (const auto& pool : s.pools) free_slots_[pool.name] = pool.limit;
    for (const auto& load : s.loads) {
      loads_.push_back({&load, random_source(random_source::split(seed, "load/" + load.name)), 1.0});
    }
    result_.in_flight.resize(static_cast<std::size_t>(s.length / s.timeline) + 1);
  }
  ~simulation_of_calls() { context_.reset(); }
  simulation_of_calls(const simulation_of_calls&) = delete;
  simulation_of_calls& operator=(const simulation_of_calls&) = delete;

  run_result run() {
    for (std::size_t i = 0; i < loads_.size(); ++i) start(arrivals(i));
    for (const auto& fault : scenario_.faults) start(strike(fault));
    result_.jumps = time_->run_until(time_point(scenario_.length));
    // Calls under way get a grace as long as anything may take; what has not ended then never will.
    result_.jumps += time_->run_until(time_point(scenario_.length + std::chrono::hours(1)));
    collect();
    return std::move(result_);
  }

 private:
  struct load_state {
    const load_spec* spec;
    random_source random;
    double surge;
  };
  /// A service with the policies its callers use.
  struct target {
    std::unique_ptr<simulated_service> service;
    fault_switch faults;  // those among the policies
    std::optional<pipeline> calls;
    std::vector<std::shared_ptr<bulkhead>> bulkheads;
    std::vector<std::shared_ptr<fallback>> fallbacks;
    std::vector<std::shared_ptr<retry>> retries;
    std::size_t inside = 0;  // requests below all policies
  };

  void start(awaitable<void> body) { net::co_spawn(*context_, std::move(body), net::detached); }

  // ------------------------------------------------------------------------------------------------------ building

  void add_service(service_spec spec) {
    if (const auto changes = variant_.overrides.find(spec.name); changes != variant_.overrides.end()) {
      const auto& o = changes->second;
      spec.workers = o.workers.value_or(spec.workers);
      if (o.queue_limit) spec.queue_limit = o.queue_limit;
      spec.order = o.order.value_or(spec.order);
      spec.drop_expired = o.drop_expired.value_or(spec.drop_expired);
      spec.idempotent = o.idempotent.value_or(spec.idempotent);
    }
    target& t = targets_[spec.name];
    t.service = std::make_unique<simulated_service>(*context_, spec, result_.seed);
    std::vector<std::shared_ptr<policy>> policies;
    if (const auto specs = variant_.policies.find(spec.name); specs != variant_.policies.end()) {
      policies.resize(specs->second.size());
      for (std::size_t i = policies.size(); i-- > 0;) {  // from the inside out: a shedder watches what is below it
        policies[i] = make_policy(specs->second[i], spec.name, t, std::span(policies).subspan(i + 1));
      }
    }
    t.calls.emplace(spec.name, std::move(policies));
  }

  std::shared_ptr<policy> make_policy(const any_policy_spec& spec, const std::string& name, target& t,
                                      std::span<const std::shared_ptr<policy>> below) {
    if (const auto* p = std::get_if<policy_spec>(&spec)) {
      auto made = cofferdam::make_policy(
          name, *p, [](const budget_spec& budget) { return std::make_shared<retry_budget>(budget.own); }, below);
      if (const auto breaker = std::dynamic_pointer_cast<circuit_breaker>(made)) {
        breaker->on(circuit_event_kind::opened, [this](const circuit_event&) { note("circuit_opened"); });
        breaker->on(circuit_event_kind::closed, [this](const circuit_event&) { note("circuit_closed"); });
        breaker->on(circuit_event_kind::half_opened, [this](const circuit_event&) { note("circuit_half_opened"); });
      }
      if (auto pool = std::dynamic_pointer_cast<bulkhead>(made)) t.bulkheads.push_back(std::move(pool));
      if (auto again = std::dynamic_pointer_cast<retry>(made)) t.retries.push_back(std::move(again));
      return made;
    }
    if (std::holds_alternative<fallback_spec>(spec)) {
      t.fallbacks.push_back(std::make_shared<fallback>([] { return answer::degraded; }));
      return t.fallbacks.back();
    }
    const auto& fault = std::get<fault_policy_spec>(spec);
    return with_fault(fault, [&](auto made) -> std::shared_ptr<fault_policy> {
      made->obey(t.faults).on_injected([this](const injection&) { note("fault_injected"); });
      if (!fault.keys.empty()) made->only_for(fault.keys);
      return made;
    });
  }

  /// `use` of the fault, as its own type.
  template <class Use> static std::shared_ptr<fault_policy> with_fault(const fault_policy_spec& spec, Use use) {
    if (spec.kind == "latency") return use(std::make_shared<latency_fault>(spec.rate, spec.add, spec.jitter));
    if (spec.kind == "error") return use(std::make_shared<error_fault>(spec.rate));
    if (spec.kind == "hang") return use(std::make_shared<hang_fault>(spec.rate));
    if (spec.kind == "lost_answer") return use(std::make_shared<lost_answer_fault>(spec.rate));
    if (spec.kind == "duplicate") return use(std::make_shared<duplicate_fault>(spec.rate));
    if (spec.kind == "weighted") {
      std::vector<weighted_choice> choices;
      choices.reserve(spec.choices.size());
      for (const auto& choice : spec.choices) choices.push_back({choice.weight, make_choice(choice)});
      return use(std::make_shared<weighted_fault>(spec.rate, std::move(choices)));
    }
    return use(std::make_shared<outcome_fault>(spec.rate, [] { return answer::degraded; }));
  }

  static std::shared_ptr<fault_policy> make_choice(const fault_policy_spec& spec) {
    return with_fault(spec, [](std::shared_ptr<fault_policy> made) { return made; });
  }

  // ------------------------------------------------------------------------------------------------------- running

  [[nodiscard]] duration present() const { return time_->elapsed(); }

  void note(const std::string& event) {
    auto& record = result_.events[event];
    if (record.count++ == 0) record.first = present();
    record.last = present();
    time_->record(event);
  }

  awaitable<void> arrivals(std::size_t index) {
    load_state& load = loads_[index];
    co_await sleep_until(time_point(load.spec->from));
    for (;;) {
      start(one_call(index));
      const double mean = 1e9 / (load.spec->rate * load.surge);
      const double gap = load.spec->poisson ? load.random.exponential(mean) : mean;
      const auto next = present() + duration(static_cast<std::int64_t>(std::max(gap, 1.0)));
      if (next >= load.spec->to) co_return;
      co_await sleep_until(time_point(next));
    }
  }

  awaitable<void> one_call(std::size_t index) {
    const load_spec& load = *loads_[index].spec;
    call_record record;
    record.start = present();
    record.load = static_cast<std::uint16_t>(index);
    record.id = result_.offered++;
    attempts_.push_back(0);
    enter();
    if (load.pool.empty() || free_slots_[load.pool] > 0) {
      if (!load.pool.empty()) --free_slots_[load.pool];
      co_await through_policies(load, record);
      if (!load.pool.empty()) ++free_slots_[load.pool];
    } else {
      record.ending = call_ending::rejected;
    }
    --under_way_;
    record.latency = present() - record.start;
    result_.calls.push_back(record);
  }

  awaitable<void> through_policies(const load_spec& load, call_record& record) {
    target& t = targets_[load.target];
    // What a race or a detached time limit leaves behind outlives this call: it owns its copy of the closure.
    const auto request = [this, &t, &load, id = record.id]() -> awaitable<outcome<answer>> {
      ++attempts_[id];
      const inside_guard here(t.inside);
      auto& highest = result_.max_concurrent[load.target];
      highest = std::max(highest, t.inside);
      auto answered = co_await t.service->request(id);
      if (!answered) co_return answered.why();
      co_return answer::fresh;
    };
    const call_info info{.key = load.name};
    const auto result = co_await t.calls->try_run(info, request);
    if (result) {
      record.ending = *result == answer::fresh ? call_ending::ok : call_ending::degraded;
      co_return;
    }
    if (result.why().is_refusal(errc::timed_out)) note("timed_out");
    record.ending = was_rejected(result.why()) ? call_ending::rejected : call_ending::failed;
    record.injected = result.why().is_refusal(errc::injected_fault);
  }

  /// Refused by a policy that protects; a time limit and an injected fault stand for a service that does not answer.
  static bool was_rejected(const failure& why) noexcept {
    return why.is_refusal() && !why.is_refusal(errc::timed_out) && !why.is_refusal(errc::injected_fault);
  }

  struct inside_guard {
    explicit inside_guard(std::size_t& count) noexcept : count_(count) { ++count_; }
    ~inside_guard() { --count_; }
    inside_guard(const inside_guard&) = delete;
    inside_guard& operator=(const inside_guard&) = delete;
    std::size_t& count_;
  };

  void enter() {
    ++under_way_;
    auto& [at, highest] = result_.in_flight[static_cast<std::size_t>(present() / scenario_.timeline)];
    at = present() / scenario_.timeline * scenario_.timeline;
    highest = std::max(highest, under_way_);
  }

  awaitable<void> strike(const fault_spec& fault) {
    co_await sleep_until(time_point(fault.at));
    apply(fault, true);
    co_await sleep_until(time_point(fault.at + fault.length));
    apply(fault, false);
  }

  void apply(const fault_spec& fault, bool on) {
    time_->record(fault.name);
    on ? in_force_.begin(fault) : in_force_.end(fault);
    const auto together = in_force_.of(fault.kind, fault.target);
    if (fault.kind == fault_kind::load) {
      std::ranges::find(loads_, fault.target, [](const load_state& load) { return load.spec->name; })->surge =
          together.factor;
    } else if (fault.kind == fault_kind::kill_switch) {
      auto& faults = targets_[fault.target].faults;
      together.any ? faults.turn_off() : faults.turn_on();
    } else {
      chaos::apply(*targets_[fault.target].service, fault.kind, together);
    }
  }

  // ------------------------------------------------------------------------------------------------------- results

  void count(const std::string& event, std::uint64_t times) {
    if (times > 0) result_.events[event].count += times;
  }

  void collect() {
    for (const auto& [name, t] : targets_) {
      for (const auto& policy : t.retries) count("retry_denied", policy->stats().denied_by_budget);
      for (const auto& f : t.fallbacks) count("fallback_used", f->used());
      count("overloaded", t.service->stats().overloaded);
      for (const auto& b : t.bulkheads) {
        count("bulkhead_rejected", b->stats().rejected);
        if (result_.max_concurrent[name] > b->limit()) {
          result_.violations.push_back("bulkhead_never_exceeded: " + name + " had " +
                                       std::to_string(result_.max_concurrent[name]) + " calls at once, limit " +
                                       std::to_string(b->limit()));
        }
        if (b->active_count() != 0) result_.violations.push_back("bulkhead_never_exceeded: " + name + " lost a permit");
      }
    }
    if (result_.calls.size() != result_.offered) {
      result_.violations.push_back("no_lost_call: " + std::to_string(result_.offered) + " calls began, " +
                                   std::to_string(result_.calls.size()) + " ended");
    }
    for (auto& call : result_.calls) {
      call.attempts = attempts_[call.id];
      call.effects = targets_[scenario_.loads[call.load].target].service->effects_of(call.id);
    }
    result_.trace = time_->trace();
  }

  const scenario& scenario_;
  const variant_spec& variant_;
  run_result result_;
  std::vector<load_state> loads_;
  faults_in_force in_force_;
  std::vector<std::uint32_t> attempts_;  // by call
  std::map<std::string, target> targets_;
  std::map<std::string, std::size_t> free_slots_;
  std::size_t under_way_ = 0;
  std::unique_ptr<net::io_context> context_;
  std::optional<virtual_time> time_;
};

}  // namespace

run_result run_calls(const scenario& s, std::size_t variant, std::uint64_t seed) {
  return simulation_of_calls(s, variant, seed).run();
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
