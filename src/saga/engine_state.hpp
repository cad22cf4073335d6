// What an engine and its sagas share. Every member from any thread, except where said.
#pragma once

#include "instance.hpp"

#include <cofferdam/core/random.hpp>
#include <cofferdam/core/timer_service.hpp>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {

class completion {
 public:
  void set(ending how) {
    std::vector<cofferdam::detail::parked_reference> waiting;
    {
      const std::lock_guard lock(mutex_);
      if (how_) return;
      how_.emplace(std::move(how));
      waiting.swap(waiting_);
    }
    for (const auto& each : waiting) each->wake(wake_reason::woken);
  }
  [[nodiscard]] std::optional<ending> get() {
    const std::lock_guard lock(mutex_);
    return how_;
  }
  awaitable<wake_reason> wait(time_point until) {
    return park(until, cofferdam::detail::wait_among(waiting_, mutex_, [this] { return how_.has_value(); }));
  }

 private:
  std::mutex mutex_;
  std::optional<ending> how_;
  std::vector<cofferdam::detail::parked_reference> waiting_;
};

class engine_state final : public std::enable_shared_from_this<engine_state> {
 public:
  explicit engine_state(engine_options o) : options(o) {}

  const engine_options options;
  database* db = nullptr;
  services registry;
  event_channel<saga_event> events;

  // Set by open().
  net::any_io_executor executor;
  const timer_service* timers = nullptr;
  std::string worker;

  // --- definitions: before anything is started
  std::map<std::pair<std::string, std::uint32_t>, definition> definitions;

  /// The newest version of a coroutine, or of a chain with this name; null when it is not defined.
  [[nodiscard]] const definition* newest(plain_function body, std::string_view chain) const;

  // --- sagas in memory
  [[nodiscard]] bool has_room() { return active() < options.max_active; }
  /// False: one with this id is there already.
  bool enter(const std::shared_ptr<instance>& saga);
  void exit(const instance& saga);
  [[nodiscard]] std::shared_ptr<instance> find(const std::string& id);
  [[nodiscard]] std::size_t active();
  [[nodiscard]] std::shared_ptr<completion> completion_of(const std::string& id);
  void complete(const std::string& id, ending how);
  [[nodiscard]] std::vector<std::shared_ptr<instance>> all();

  // --- sagas that are this worker's in the database, though nobody runs them here
  /// There may be one: its last commit, or the claim to it, failed or nobody knows its outcome. Looked for after a
  /// while.
  void leave_behind();
  /// When to look for them.
  [[nodiscard]] std::optional<std::int64_t> looks_at();
  /// True when it is time: the caller looks.
  [[nodiscard]] bool takes_look(std::int64_t now);

  // --- the worker's sign of life
  /// Adds it to a batch when it is due. True: call `beaten` when the batch is written.
  [[nodiscard]] bool beat(batch& b);
  void beaten();

  /// For tests of crashes: true from the moment on at which this process is to be thought of as dead.
  [[nodiscard]] bool is_dead(const char* where) {
    if (crash && !dead) dead = crash(where);
    return dead;
  }
  std::function<bool(const char*)> crash;
  bool dead = false;

 private:
  std::mutex mutex_;
  std::unordered_map<std::string, std::weak_ptr<instance>> active_;  // kept by the coroutines they live in
  std::unordered_map<std::string, std::weak_ptr<completion>> completions_;
  std::size_t sweep_at_ = 64;  // completions
  std::optional<time_point> beat_at_;
  std::optional<std::int64_t> look_at_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
