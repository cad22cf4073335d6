// What travels with a command or query beside its own content.
#pragma once

#include <cofferdam/eventsourcing/event.hpp>
#include <cofferdam/storage/database.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// How far the event store was when a command had happened: give it to a query, and the answer knows of the command.
struct consistency_token {
  std::uint64_t position = 0;
};

namespace detail {
struct command_identity;
}

/// Names who wants what and why. Deadline and cancellation need no place here: they come with the coroutine.
/// Thread safety: none; one for each command.
class command_context {
 public:
  /// Sending a command twice with the same key is sending it once; see `command_bus::once`.
  command_context& idempotency_key(std::string key) & { return key_ = std::move(key), *this; }
  command_context& tenant(std::string name) & { return tenant_ = std::move(name), *this; }
  /// Who asks; for `authorise`.
  command_context& principal(std::string name) & { return principal_ = std::move(name), *this; }
  command_context& correlation(std::string id) & { return correlation_ = std::move(id), *this; }
  command_context& causation(std::string id) & { return causation_ = std::move(id), *this; }

  [[nodiscard]] const std::string& idempotency_key() const noexcept { return key_; }
  [[nodiscard]] const std::string& tenant() const noexcept { return tenant_; }
  [[nodiscard]] const std::string& principal() const noexcept { return principal_; }
  [[nodiscard]] const std::string& correlation() const noexcept { return correlation_; }
  [[nodiscard]] const std::string& causation() const noexcept { return causation_; }

  // --- for handlers
  /// Commits the command's batch. With an idempotency key the command, its result and its token become part of it, so
  /// that the command happens once, whatever crashes when. With a key a handler must commit so, even an empty batch
  /// where there is nothing to do.
  /// Errors: as `database::commit`.
  template <class Result> [[nodiscard]] awaitable<receipt> commit(database& db, batch b, const Result& result) {
    if (identity_ == nullptr) return db.commit(std::move(b));
    return commit_once(db, std::move(b), nlohmann::json(result).dump());
  }
  /// For a command without a result.
  [[nodiscard]] awaitable<receipt> commit(database& db, batch b) { return commit(db, std::move(b), nullptr); }
  /// What `e` belongs to, and what led to it, as far as it does not say so itself.
  void mark(event& e) const {
    if (e.correlation().empty()) e.correlation(correlation_);
    if (e.causation().empty()) e.causation(causation_);
  }
  /// The store was at `position` (of an `appended`) when the command had happened.
  void reached(std::uint64_t position) noexcept { token_.position = std::max(token_.position, position); }

  // --- for who sent it
  [[nodiscard]] consistency_token token() const noexcept { return token_; }

 private:
  friend class command_bus;
  awaitable<receipt> commit_once(database& db, batch b, std::string result);

  std::string key_, tenant_, principal_, correlation_, causation_;
  consistency_token token_;
  std::shared_ptr<detail::command_identity> identity_;  // with a key, on a bus that heeds it
};

}  // namespace cofferdam::inline COFFERDAM_ABI
