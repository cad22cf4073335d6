#include <cofferdam/core/units.hpp>
#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>
#include <cofferdam/resilience/configuration.hpp>
#include <cofferdam/resilience/detail/json_reader.hpp>
#include <cofferdam/resilience/rate_limiter.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <span>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

using detail::json_reader;
using nlohmann::json;

struct pipeline_spec {
  std::vector<policy_spec> policies;  // from the outside in
};
struct document_spec {
  std::map<std::string, retry_budget_options> budgets;
  std::map<std::string, pipeline_spec> pipelines;
};

std::string all_of(const std::string& source, const std::vector<std::string>& problems) {
  std::string text = source + ":";
  for (const auto& problem : problems) text += "\n  " + problem;
  return text;
}

template <class Map> std::vector<std::string> keys_of(const Map& map) {
  std::vector<std::string> keys;
  keys.reserve(map.size());
  for (const auto& [key, value] : map) keys.push_back(key);
  return keys;
}

json parse_file(const std::string& path) {
  try {
    return detail::read_json_file(path);
  } catch (const std::runtime_error& e) {
    throw configuration_error(path, {e.what()});
  }
}

// ---------------------------------------------------------------------------------- what policies say about each other

template <class Spec> const Spec* as(const policy_spec& spec) { return std::get_if<Spec>(&spec); }

/// Looks at one pipeline from the outside in.
class cross_check {
 public:
  cross_check(const pipeline_spec& pipeline, std::string path, std::vector<std::string>& problems,
              std::vector<std::string>& warnings)
      : policies_(pipeline.policies), path_(std::move(path)), problems_(problems), warnings_(warnings) {}

  void run() {
    for (std::size_t i = 0; i < policies_.size(); ++i) {
      if (const auto* limit = as<timeout_spec>(policies_[i])) check_timeout(i, *limit);
      if (const auto* retry = as<retry_spec>(policies_[i])) check_retry(i, *retry);
      if (const auto* hedging = as<hedging_spec>(policies_[i])) check_hedging(i, *hedging);
      if (const auto* breaker = as<circuit_breaker_options>(policies_[i])) check_breaker(i, *breaker);
      if (as<priority_shedder_spec>(policies_[i]) != nullptr) check_shedder(i);
    }
  }

 private:
  [[nodiscard]] std::string at(std::size_t index, const char* field = "") const {
    return path_ + "/" + std::to_string(index) + "/" + kind_of(policies_[index]) + (*field != '\0' ? "/" : "") + field;
  }
  void wrong(const std::string& where, const std::string& text) { problems_.push_back(where + ": " + text); }
  void odd(const std::string& where, const std::string& text) { warnings_.push_back(where + ": " + text); }
  /// The next policy of a kind below `index`.
  template <class Spec> [[nodiscard]] std::optional<std::size_t> below(std::size_t index) const {
    for (std::size_t i = index + 1; i < policies_.size(); ++i) {
      if (as<Spec>(policies_[i]) != nullptr) return i;
    }
    return std::nullopt;
  }
  [[nodiscard]] duration limit_of(std::size_t index) const { return as<timeout_spec>(policies_[index])->limit; }

  void check_timeout(std::size_t i, const timeout_spec& outer) {
    const auto inner = below<timeout_spec>(i);
    if (!inner || limit_of(*inner) < outer.limit) return;
    wrong(at(*inner), "never comes true, since the timeout of " + to_string(outer.limit) + " at " + at(i) +
                          " ends the call first; make it shorter than that");
  }

  void check_retry(std::size_t i, const retry_spec& retry) {
    if (const auto again = below<retry_spec>(i)) {
      odd(at(*again), "a retry within a retry multiplies the attempts; keep one of them");
    }
    const auto attempt = below<timeout_spec>(i);
    if (!attempt) {
      odd(at(i), "attempts that hang are never retried; put a timeout below the retry");
      return;
    }
    for (std::size_t outer = 0; outer < i; ++outer) {
      const auto* total = as<timeout_spec>(policies_[outer]);
      if (total == nullptr || retry.options.max_attempts == retry_forever) continue;
      if (limit_of(*attempt) > total->limit / std::int64_t{retry.options.max_attempts}) {
        odd(at(i, "max_attempts"), "so many attempts of " + to_string(limit_of(*attempt)) + " do not fit into the " +
                                       to_string(total->limit) + " at " + at(outer));
      }
    }
  }

  void check_hedging(std::size_t i, const hedging_spec& hedging) {
    if (const auto again = below<hedging_spec>(i)) {
      odd(at(*again), "a hedge within a hedge multiplies the attempts; keep one of them");
    }
    const auto attempt = below<timeout_spec>(i);
    const duration delay = hedging.options.delay;
    if (attempt && delay != only_on_failure && delay >= limit_of(*attempt)) {
      wrong(at(i, "delay"), "no hedge starts, since attempts end after the " + to_string(limit_of(*attempt)) + " at " +
                                at(*attempt) + "; make it shorter, or \"only_on_failure\"");
    }
    if (delay == only_on_failure || hedging.options.percentile > 0) return;
    for (std::size_t outer = 0; outer < i; ++outer) {
      const auto* total = as<timeout_spec>(policies_[outer]);
      if (total == nullptr || delay < total->limit) continue;
      wrong(at(i, "delay"), "no hedge starts, since the call ends after the " + to_string(total->limit) + " at " +
                                at(outer) + "; make it shorter, or \"only_on_failure\"");
    }
  }

  void check_breaker(std::size_t i, const circuit_breaker_options& breaker) {
    if (below<retry_spec>(i)) {
      odd(at(i), "outside of a retry it sees one failure for all attempts; put it below the retry");
    }
    if (const auto attempt = below<timeout_spec>(i);
        attempt && breaker.window_calls == 0 && breaker.window / 2 < limit_of(*attempt)) {
      wrong(at(i, "window"), "must be at least twice the time limit of " + to_string(limit_of(*attempt)) + " at " +
                                 at(*attempt) + ", or calls leave the window before they end");
    }
    if (const auto pool = below<bulkhead_spec>(i)) {
      const bulkhead_options& limits = as<bulkhead_spec>(policies_[*pool])->options;
      if (breaker.probes > limits.max_concurrent + limits.max_queue) {
        wrong(at(i, "probes"), "more than the bulkhead at " + at(*pool) + " lets in: trials would fail for that");
      }
    }
  }

  void check_shedder(std::size_t i) {
    const auto first = policies_.begin() + static_cast<std::ptrdiff_t>(i);
    if (std::any_of(first, policies_.end(), [](const policy_spec& spec) { return tells_load(spec); })) return;
    wrong(at(i), "has no load to go by; put a bulkhead or an adaptive_limiter below it");
  }

  const std::vector<policy_spec>& policies_;
  std::string path_;
  std::vector<std::string>& problems_;
  std::vector<std::string>& warnings_;
};

// ------------------------------------------------------------------------------------------------------------- reading

class document_reader {
 public:
  explicit document_reader(const json& document) : root_(document, "", problems) {}

  document_spec read() {
    document_spec spec;
    if (!root_.is_object()) return spec;
    (void)root_.find("$schema");
    if (const auto version = root_.require("version"); version && version->value() != 1) {
      version->problem("expected 1, the only version there is");
    }
    if (const auto budgets = root_.find("budgets")) {
      for (const auto& [name, budget] : budgets->members()) spec.budgets[name] = detail::read_budget(budget);
    }
    if (const auto pipelines = root_.require("pipelines")) {
      for (const auto& [name, items] : pipelines->members()) spec.pipelines[name] = read_pipeline(items, spec);
    }
    root_.finish();
    return spec;
  }

  std::vector<std::string> problems, warnings;

 private:
  pipeline_spec read_pipeline(const json_reader& items, const document_spec& document) {
    pipeline_spec pipeline;
    const std::size_t before = problems.size();
    for (const auto& item : items.items()) {
      auto policy = detail::read_policy(item);
      if (!policy) continue;
      check_budget(item, *policy, document);
      pipeline.policies.push_back(std::move(*policy));
    }
    if (problems.size() == before) cross_check(pipeline, items.path(), problems, warnings).run();
    return pipeline;
  }

  void check_budget(const json_reader& item, const policy_spec& policy, const document_spec& document) {
    const budget_spec* budget = budget_of(policy);
    if (budget == nullptr || budget->shared.empty() || document.budgets.contains(budget->shared)) return;
    const auto known = keys_of(document.budgets);
    problems.push_back(item.path() + "/" + kind_of(policy) + "/budget: \"" + budget->shared +
                       "\" is none of the \"budgets\"" + detail::nearest_hint(budget->shared, known));
  }

  json_reader root_;
};

}  // namespace

configuration_error::configuration_error(const std::string& source, std::vector<std::string> problems)
    : std::runtime_error(all_of(source, problems)), problems_(std::move(problems)) {}

std::string configured_pipeline::describe() const {
  std::string text;
  for (const auto& policy : policies_->get()->policies()) detail::append_line(text, policy->describe());
  return text;
}

// ---------------------------------------------------------------------------------------------------- what is in force

struct configuration::state {
  struct live_pipeline {
    pipeline_spec spec;
    std::shared_ptr<detail::current_policies> policies;
  };

  mutable std::mutex mutex;
  document_spec document;
  std::map<std::string, live_pipeline, std::less<>> pipelines;
  std::map<std::string, std::shared_ptr<retry_budget>> budgets;
  std::vector<std::string> warnings;
  event_channel<configuration_event> events;

  /// What becomes of policies that stay.
  struct change_plan {
    std::vector<std::function<void()>> changes;
    std::vector<std::function<void()>> news;  // for listeners, who may ask us: told without a lock
  };

  /// Builds everything first, then puts it in force: what throws on the way changes nothing.
  void apply(const json& json_document, const std::string& source) {
    document_reader reader(json_document);
    const auto news = put_in_force(reader.read(), reader, source);
    for (const auto& tell : news) tell();
  }

  std::vector<std::function<void()>> put_in_force(document_spec next, document_reader& reader,
                                                  const std::string& source) {
    const std::lock_guard lock(mutex);
    for (const auto& [name, pipeline] : pipelines) {
      if (!next.pipelines.contains(name)) {
        reader.problems.push_back("/pipelines: lacks \"" + name + "\", which is in use");
      }
    }
    if (!reader.problems.empty()) throw configuration_error(source, std::move(reader.problems));

    auto next_budgets = budgets_for(next);
    const budget_finder find_budget = [&](const budget_spec& spec) {
      return spec.shared.empty() ? std::make_shared<retry_budget>(spec.own) : next_budgets.at(spec.shared);
    };
    std::map<std::string, std::shared_ptr<const detail::policy_list>> lists;
    change_plan plan;
    for (const auto& [name, spec] : next.pipelines) {
      lists[name] =
          std::make_shared<const detail::policy_list>(policies_for(name, spec, next_budgets, find_budget, plan));
    }

    for (const auto& change : plan.changes) change();
    for (auto& [name, list] : lists) {
      auto& live = pipelines[name];
      live.spec = next.pipelines[name];
      if (live.policies) {
        live.policies->set(std::move(list));
      } else {
        live.policies = std::make_shared<detail::current_policies>(std::move(list));
      }
    }
    budgets = std::move(next_budgets);
    document = std::move(next);
    warnings = std::move(reader.warnings);
    return std::move(plan.news);
  }

  void publish_refused(const std::string& source, const std::exception& why) {
    const auto* known = dynamic_cast<const configuration_error*>(&why);
    configuration_event event;
    event.source = source;
    event.problems = known != nullptr ? known->problems() : std::vector<std::string>{why.what()};
    events.publish(std::move(event));
  }

  /// Unchanged budgets go on with their balance.
  [[nodiscard]] std::map<std::string, std::shared_ptr<retry_budget>> budgets_for(const document_spec& next) const {
    std::map<std::string, std::shared_ptr<retry_budget>> result;
    for (const auto& [name, options] : next.budgets) {
      const auto old = document.budgets.find(name);
      const bool same = old != document.budgets.end() && old->second == options;
      result[name] = same ? budgets.at(name) : std::make_shared<retry_budget>(options);
    }
    return result;
  }

  using budget_map = std::map<std::string, std::shared_ptr<retry_budget>>;

  [[nodiscard]] std::vector<std::shared_ptr<policy>> policies_for(const std::string& name, const pipeline_spec& spec,
                                                                  const budget_map& next_budgets,
                                                                  const budget_finder& find_budget,
                                                                  change_plan& plan) const {
    const auto live = pipelines.find(name);
    const auto old_list = live != pipelines.end() ? live->second.policies->get() : nullptr;
    std::vector<std::shared_ptr<policy>> result(spec.policies.size());
    for (std::size_t i = result.size(); i-- > 0;) {  // from the inside out: a shedder watches what is below it
      const auto& wanted = spec.policies[i];
      const auto below = std::span<const std::shared_ptr<policy>>(result).subspan(i + 1);
      std::shared_ptr<policy> kept;
      if (old_list != nullptr) {
        // The n-th of a kind answers to the n-th of that kind there was.
        auto nth = std::count_if(spec.policies.begin(), spec.policies.begin() + static_cast<std::ptrdiff_t>(i),
                                 [&](const auto& outer) { return outer.index() == wanted.index(); });
        const auto& old_specs = live->second.spec.policies;
        for (std::size_t old = 0; old < old_specs.size(); ++old) {
          if (old_specs[old].index() != wanted.index() || nth-- != 0) continue;
          const auto old_below = std::span(old_list->policies()).subspan(old + 1);
          if (may_stay(old_specs[old], wanted, next_budgets) &&
              (as<priority_shedder_spec>(wanted) == nullptr || watched_in(old_below) == watched_in(below))) {
            kept = adapt(old_list->policies()[old], old_specs[old], wanted, plan);
          }
          break;
        }
      }
      result[i] = kept ? std::move(kept) : make_policy(name, wanted, find_budget, below);
    }
    return result;
  }

  /// What a shedder outside of these goes by.
  [[nodiscard]] static std::vector<const policy*> watched_in(std::span<const std::shared_ptr<policy>> policies) {
    std::vector<const policy*> watched;
    for (const auto& each : policies) {
      if (tells_load(*each)) watched.push_back(each.get());
    }
    return watched;
  }

  /// Whether the budget that a policy draws on is still the same object.
  [[nodiscard]] bool may_stay(const policy_spec& old, const policy_spec& wanted, const budget_map& next_budgets) const {
    const budget_spec* before = budget_of(old);
    const budget_spec* after = budget_of(wanted);
    if (before == nullptr || after == nullptr) return before == after;
    if (*before != *after) return false;
    return before->shared.empty() || budgets.at(before->shared) == next_budgets.at(before->shared);
  }

  /// The old policy if it can become the wanted one; a change is noted, not made.
  [[nodiscard]] static std::shared_ptr<policy> adapt(const std::shared_ptr<policy>& present, const policy_spec& old,
                                                     const policy_spec& wanted, change_plan& plan) {
    if (old == wanted) return present;
    if (const auto* pool = as<bulkhead_spec>(wanted)) {
      bulkhead_spec resized = *as<bulkhead_spec>(old);
      resized.options.max_concurrent = pool->options.max_concurrent;
      if (resized != *pool) return nullptr;
      const std::size_t limit = pool->options.max_concurrent;
      plan.changes.emplace_back([pool = std::static_pointer_cast<bulkhead>(present), limit] { pool->resize(limit); });
      return present;
    }
    if (const auto* options = as<circuit_breaker_options>(wanted)) {
      auto breaker = std::static_pointer_cast<circuit_breaker>(present);
      plan.changes.emplace_back([breaker, changed = *options] { breaker->put_in_force(changed); });
      plan.news.emplace_back([breaker] { breaker->tell_of_options(); });
      return present;
    }
    if (const auto* limiter = as<rate_limiter_options>(wanted)) {
      rate_limiter_options changed = *as<rate_limiter_options>(old);
      changed.permits = limiter->permits;
      changed.period = limiter->period;
      changed.burst = limiter->burst;
      if (changed != *limiter) return nullptr;
      plan.changes.emplace_back([limiter = std::static_pointer_cast<rate_limiter>(present), changed] {
        limiter->change_rate(changed.permits, changed.period, changed.burst);
      });
      return present;
    }
    return nullptr;
  }
};

configuration::configuration(const json& document, const std::string& source) : state_(std::make_unique<state>()) {
  state_->apply(document, source);
}
configuration configuration::load(const std::string& path) { return configuration(parse_file(path), path); }
configuration::configuration(configuration&&) noexcept = default;
configuration& configuration::operator=(configuration&&) noexcept = default;
configuration::~configuration() = default;

configured_pipeline configuration::at(std::string_view name) const {
  const std::lock_guard lock(state_->mutex);
  if (const auto found = state_->pipelines.find(name); found != state_->pipelines.end()) {
    return {found->first, found->second.policies};
  }
  const auto known = keys_of(state_->pipelines);
  throw configuration_error("configuration",
                            {"there is no pipeline \"" + std::string(name) + "\"" + detail::nearest_hint(name, known)});
}

std::vector<std::string> configuration::names() const {
  const std::lock_guard lock(state_->mutex);
  return keys_of(state_->pipelines);
}

std::vector<std::string> configuration::warnings() const {
  const std::lock_guard lock(state_->mutex);
  return state_->warnings;
}

void configuration::reload(const json& document, const std::string& source) {
  try {
    state_->apply(document, source);
  } catch (const std::exception& e) {
    state_->publish_refused(source, e);
    throw;
  }
  configuration_event event;
  event.source = source;
  event.accepted = true;
  event.warnings = warnings();
  state_->events.publish(std::move(event));
}

void configuration::reload_file(const std::string& path) {
  json document;
  try {
    document = parse_file(path);
  } catch (const configuration_error& e) {
    state_->publish_refused(path, e);
    throw;
  }
  reload(document, path);
}

subscription configuration::subscribe(std::function<void(const configuration_event&)> listen) {
  return state_->events.subscribe(std::move(listen));
}

json configuration::to_json() const {
  const std::lock_guard lock(state_->mutex);
  json result = {{"version", 1}, {"pipelines", json::object()}};
  for (const auto& [name, options] : state_->document.budgets) result["budgets"][name] = detail::write_budget(options);
  for (const auto& [name, pipeline] : state_->document.pipelines) {
    json policies = json::array();
    for (const auto& spec : pipeline.policies) policies.push_back(cofferdam::to_json(spec));
    result["pipelines"][name] = std::move(policies);
  }
  return result;
}

json configuration::schema() {
  return {{"$schema", "http://json-schema.org/draft-07/schema#"},
          {"title", "Cofferdam pipelines"},
          {"type", "object"},
          {"additionalProperties", false},
          {"required", {"version", "pipelines"}},
          {"properties",
           {{"$schema", {{"type", "string"}}},
            {"version", {{"const", 1}}},
            {"budgets", {{"type", "object"}, {"additionalProperties", budget_schema()}}},
            {"pipelines",
             {{"type", "object"},
              {"additionalProperties",
               {{"type", "array"}, {"description", "from the outside in"}, {"items", policy_schema()}}}}}}},
          {"definitions",
           {{"duration",
             {{"type", "string"},
              {"pattern", "^[0-9]+(\\.[0-9]+)?(ns|us|ms|s|min|h)$"},
              {"description", "a duration such as 500ms"}}}}}};
}

}  // namespace cofferdam::inline COFFERDAM_ABI
