// Pipelines from JSON: by name, checked as a whole, reloadable while calls are running.
//
//     configuration config = configuration::load("resilience.json");
//     auto payments = config.at("payments");
//     auto receipt = co_await payments.run(charge, order);
//     config.reload_file("resilience.json");   // all or nothing; calls in flight end on what they began with
#pragma once

#include <cofferdam/core/event_channel.hpp>
#include <cofferdam/resilience/pipeline.hpp>
#include <cofferdam/resilience/policy_spec.hpp>

#include <nlohmann/json_fwd.hpp>

#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

/// Every mistake of a configuration, one a line, each with its JSON path.
class configuration_error : public std::runtime_error {
 public:
  configuration_error(const std::string& source, std::vector<std::string> problems);
  [[nodiscard]] const std::vector<std::string>& problems() const noexcept { return problems_; }

 private:
  std::vector<std::string> problems_;
};

namespace detail {

/// What a configured pipeline is at present. Replaced as a whole.
class current_policies {
 public:
  explicit current_policies(std::shared_ptr<const policy_list> policies) : policies_(std::move(policies)) {}
  [[nodiscard]] std::shared_ptr<const policy_list> get() const {
    const std::lock_guard lock(mutex_);
    return policies_;
  }
  void set(std::shared_ptr<const policy_list> policies) {
    const std::lock_guard lock(mutex_);
    policies_.swap(policies);  // the old list goes when the lock has
  }

 private:
  // Not std::atomic<std::shared_ptr>: GCC 12's orders its readers before a later writer by a relaxed store only.
  mutable std::mutex mutex_;
  std::shared_ptr<const policy_list> policies_;
};

}  // namespace detail

/// A pipeline of a configuration. A copy is the same pipeline. It may outlive the configuration, and its policies live
/// as long as calls use them.
class configured_pipeline : public runnable<configured_pipeline> {
 public:
  configured_pipeline(std::string name, std::shared_ptr<detail::current_policies> policies)
      : name_(std::move(name)), policies_(std::move(policies)) {}

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] std::string describe() const;
  /// The policies of a type, as they are now: `payments.all<circuit_breaker>()`.
  template <class Policy> [[nodiscard]] std::vector<std::shared_ptr<Policy>> all() const {
    std::vector<std::shared_ptr<Policy>> found;
    for (const auto& policy : policies_->get()->policies()) {
      if (auto cast = std::dynamic_pointer_cast<Policy>(policy)) found.push_back(std::move(cast));
    }
    return found;
  }
  /// For the engine.
  [[nodiscard]] detail::dynamic_stages stages() const { return {policies_->get(), 0}; }

 private:
  std::string name_;
  std::shared_ptr<detail::current_policies> policies_;
};

struct configuration_event {
  bool accepted = false;              // whether the new configuration is in force; the old one is otherwise
  std::string source;                 // file name, or what `reload` was told
  std::vector<std::string> problems;  // of a refused one
  std::vector<std::string> warnings;  // of an accepted one
};

/// Thread safety: `at`, `reload`, `reload_file` and `subscribe` from any thread.
class configuration {
 public:
  /// Errors: `configuration_error` naming every mistake.
  explicit configuration(const nlohmann::json& document, const std::string& source = "configuration");
  /// Errors: `configuration_error`, also for a file that cannot be read and for malformed JSON (with line and column).
  [[nodiscard]] static configuration load(const std::string& path);
  configuration(configuration&&) noexcept;
  configuration& operator=(configuration&&) noexcept;
  ~configuration();

  /// Errors: `configuration_error` for an unknown name, with the nearest one.
  [[nodiscard]] configured_pipeline at(std::string_view name) const;
  [[nodiscard]] std::vector<std::string> names() const;
  /// Combinations that work and probably not as meant.
  [[nodiscard]] std::vector<std::string> warnings() const;

  /// Puts another configuration in force, or keeps the old one as it is. Policies that have not changed go on with
  /// their state; a circuit breaker goes on with other options; a bulkhead of which only the limit has changed is
  /// resized, a rate limiter of which only the rate has changed goes on with it; others begin anew. Every pipeline
  /// there was must still be there: somebody may hold it. Errors: `configuration_error`.
  void reload(const nlohmann::json& document, const std::string& source = "configuration");
  void reload_file(const std::string& path);
  /// Tells of every reload, also of refused ones.
  [[nodiscard]] subscription subscribe(std::function<void(const configuration_event&)> listen);

  /// The configuration in force; reading it again gives the same.
  [[nodiscard]] nlohmann::json to_json() const;
  /// A JSON Schema (draft 7) for editors.
  [[nodiscard]] static nlohmann::json schema();

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
