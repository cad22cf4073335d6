// What an action or an undo is told, and the services it works with.
#pragma once

#include <cofferdam/core/net.hpp>
#include <cofferdam/core/time.hpp>

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <typeindex>

namespace cofferdam::inline COFFERDAM_ABI::saga {

namespace detail {
class instance;
}

/// Objects that actions work with, by type: there in every process that may take a saga over. Thread safety: filled
/// before the engine is opened, then read from any thread.
class services {
 public:
  template <class T> void provide(T& service) { found_[typeid(T)] = &service; }
  /// Errors: std::logic_error naming the type.
  template <class T> [[nodiscard]] T& get() const {
    const auto it = found_.find(typeid(T));
    if (it == found_.end()) {
      throw std::logic_error(std::string("a step asks for a service of type '") + typeid(T).name() +
                             "' that nobody gave the engine: call provide() first");
    }
    return *static_cast<T*>(it->second);
  }

 private:
  std::map<std::type_index, void*> found_;
};

/// One attempt of an action or undo. Lives as long as the attempt. Thread safety: none.
class step_context {
 public:
  /// @param key  must outlive it.
  step_context(detail::instance& saga, const services& available, const std::string& key, std::uint32_t attempt,
               bool is_undo, time_point deadline)
      : saga_(&saga), services_(&available), key_(&key), attempt_(attempt), is_undo_(is_undo), deadline_(deadline) {}

  [[nodiscard]] const std::string& saga_id() const noexcept;
  /// The step's place in its saga, such as "reserve#1" or "prepare/label#2".
  [[nodiscard]] const std::string& key() const noexcept { return *key_; }
  /// The same for every attempt of this step of this saga, in every process, for ever: give it to those you call. An
  /// undo has one of its own.
  [[nodiscard]] std::string idempotency_key() const;
  /// 1, 2, 3, ...; goes on in a process that takes the saga over.
  [[nodiscard]] std::uint32_t attempt() const noexcept { return attempt_; }
  [[nodiscard]] bool is_undo() const noexcept { return is_undo_; }
  /// When this attempt is cancelled: its timeout, or before that the saga's deadline; `never` without one. A time of
  /// the executor's timer service. The awaitables of this library inherit it.
  [[nodiscard]] time_point deadline() const noexcept { return deadline_; }
  /// Grows whenever another owner takes the saga: give it to those you call, and let them refuse smaller ones.
  [[nodiscard]] std::uint64_t epoch() const noexcept;
  /// What was provided to the engine. Errors: std::logic_error naming the type.
  template <class T> [[nodiscard]] T& get() const { return services_->get<T>(); }

  /// Keeps how far a long action has got, durably: the next attempt finds it in `progress()`, in another process too.
  /// Errors: `operation_aborted` when the saga belongs to another owner by now: give up.
  [[nodiscard]] awaitable<void> heartbeat(nlohmann::json progress);
  /// What an earlier attempt kept; null when nothing.
  [[nodiscard]] nlohmann::json progress() const;

 private:
  detail::instance* saga_;
  const services* services_;
  const std::string* key_;
  std::uint32_t attempt_;
  bool is_undo_;
  time_point deadline_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
