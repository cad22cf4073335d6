// Personal data that can be forgotten: fields of events are encrypted under a key of the person they are about; without
// the key, wherever copies of the events lie, they are noise. Needs libsodium (`event_vault::is_available`).
//
//     const auto keys = co_await database_key_store::open(key_db);
//     event_vault vault(*keys);
//     const std::vector<std::string> personal{"name", "address"};
//     co_await vault.seal(registered, "customer:7", personal);
//     co_await store.append("customer-7", expected::none(), registered);
//     store.unseal_with(vault);  // for reads, repositories, projections, whoever reads by it
//     co_await vault.forget("customer:7");
#pragma once

#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/eventsourcing/event.hpp>
#include <cofferdam/storage/database.hpp>

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

/// Where the keys of subjects are kept. 32 bytes each.
class key_store {
 public:
  key_store() = default;
  key_store(const key_store&) = delete;
  key_store& operator=(const key_store&) = delete;
  virtual ~key_store() = default;

  struct found_key {
    std::string key;  ///< empty: there is none, or no more
    bool is_forgotten = false;
  };
  [[nodiscard]] virtual awaitable<found_key> find(std::string subject) = 0;
  /// Those of many subjects, by their names; who has none may be left out. One after the other unless said otherwise.
  [[nodiscard]] virtual awaitable<std::map<std::string, found_key>> find_all(std::vector<std::string> subjects);
  /// Keeps `proposed` unless the subject has a key, or had one. Returns what there is then.
  [[nodiscard]] virtual awaitable<found_key> keep(std::string subject, std::string proposed) = 0;
  /// Removes the key for ever. `with` happens together with it, or not at all, where they share a database. False when
  /// there was none.
  [[nodiscard]] virtual awaitable<bool> forget(std::string subject, batch with) = 0;
};

/// Keys in a table, of the events' database or (for backups that forget too) another one. Both drivers.
/// Thread safety: every member from any thread. Refers to the database, and to the execution context that opened it.
class database_key_store final : public key_store {
 public:
  /// Makes or updates the table. Errors: `storage_error`.
  [[nodiscard]] static awaitable<std::unique_ptr<database_key_store>> open(database& db);

  [[nodiscard]] awaitable<found_key> find(std::string subject) override;
  /// By one query.
  [[nodiscard]] awaitable<std::map<std::string, found_key>> find_all(std::vector<std::string> subjects) override;
  [[nodiscard]] awaitable<found_key> keep(std::string subject, std::string proposed) override;
  [[nodiscard]] awaitable<bool> forget(std::string subject, batch with) override;

 private:
  database_key_store(database& db, const timer_service& timers) noexcept : db_(&db), timers_(&timers) {}
  database* db_;
  const timer_service* timers_;
};

/// Thread safety: every member from any thread. Refers to the key store, which must outlive it.
///
/// XChaCha20-Poly1305, bound to the event's id, its type, the field and the subject: a value that was moved elsewhere
/// does not open. The nonce follows from content and place, so sealing the same event twice gives the same event, and
/// appending it again is a duplicate.
class event_vault {
 public:
  /// Whether the library was built with libsodium.
  [[nodiscard]] static bool is_available() noexcept;

  /// Errors: std::logic_error where it is not available.
  explicit event_vault(key_store& keys);

  /// Encrypts these fields of the event's JSON object, those that are there; without names all of them. The event gets
  /// an id if it has none. A first event makes the subject's key.
  /// Errors: `storage_error` (`event_rejected` when the data is no JSON object, or the subject was forgotten).
  [[nodiscard]] awaitable<void> seal(event& e, std::string subject, std::vector<std::string> fields = {});

  /// Decrypts what was sealed. A field whose key was forgotten becomes null, and `recorded_event::forgotten` names it.
  /// Returns how many fields those were.
  /// Errors: `storage_error` (`event_undecodable` naming event and field when it was tampered with, or its key is
  /// missing without having been forgotten).
  [[nodiscard]] awaitable<std::size_t> open(recorded_event& e);
  /// As `open`, each; asks once for all keys.
  [[nodiscard]] awaitable<std::size_t> open(std::vector<recorded_event>& events);
  /// As `open`; an event that cannot be opened says why (`recorded_event::unopened`) and stays as it is.
  [[nodiscard]] awaitable<std::size_t> try_open(std::span<recorded_event> events);

  /// From now on nothing that was sealed for the subject can be opened, by anybody. False when nothing was.
  /// @param with  an event that tells projections to forget too, say: see `key_store::forget`.
  [[nodiscard]] awaitable<bool> forget(std::string subject, batch with = {});

 private:
  key_store* keys_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
