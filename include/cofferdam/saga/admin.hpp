// What an operator can do: look at sagas, and decide what no program can. Needs the database only, not the code of the
// sagas. Everything done here is an entry in the saga's journal, with who did it and why.
//
//     saga::admin desk(db);
//     for (const auto& s : co_await desk.list({.state = saga::saga_state::stuck})) std::cout << s.id << s.reason;
//     co_await desk.retry_now("order-42", {"ada", "the warehouse is back"});
#pragma once

#include <cofferdam/saga/engine.hpp>
#include <cofferdam/storage/database.hpp>

#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::saga {

struct saga_info {
  std::string id, definition;
  std::uint32_t version = 1;
  saga_state state = saga_state::running;
  std::string reason;  ///< of what it is stuck, or why it went back
  std::uint64_t epoch = 0;
  bool is_owned = false;  ///< in the memory of a worker
  bool has_pivoted = false;
  std::string parent;  ///< the saga that called it
  std::optional<std::chrono::system_clock::time_point> wake_at, deadline;
  std::chrono::system_clock::time_point created_at, updated_at;
};

struct saga_entry {
  std::uint64_t seq = 0, epoch = 0;
  std::string kind, key, step;
  nlohmann::json payload;
  std::chrono::system_clock::time_point at;
};

struct saga_history {
  saga_info info;
  nlohmann::json input, output;
  std::vector<saga_entry> entries;
};

struct saga_filter {
  std::optional<saga_state> state;
  std::string_view definition{};  ///< its name; empty: any. Refers to the caller's text
  duration unchanged_for{};       ///< those to which nothing has happened for so long
  std::size_t limit = 100;
};

/// Who decides, and why. Both are kept.
struct decision {
  decision(std::string by, std::string reason) : who(std::move(by)), why(std::move(reason)) {}
  std::string who, why;
};

/// Thread safety: as the database, which must outlive it. Every verb takes the saga from whoever runs it, who finds out
/// with its next commit, and lets any worker go on with it.
/// Errors: `saga_error` (`saga_not_found`, `saga_wrong_state`, `saga_past_pivot`), `storage_error`.
class admin {
 public:
  explicit admin(database& db) noexcept : db_(&db) {}

  /// Most recently changed first.
  [[nodiscard]] awaitable<std::vector<saga_info>> list(saga_filter filter = {});
  [[nodiscard]] awaitable<saga_history> show(std::string id);

  /// Lets a saga that is stuck, or rests between attempts, go on at once.
  [[nodiscard]] awaitable<void> retry_now(std::string id, decision d);
  /// Makes a saga go back, also one whose code has changed: its body is not asked.
  [[nodiscard]] awaitable<void> compensate(std::string id, decision d);
  /// As `engine::cancel`: a saga that runs or waits goes back.
  [[nodiscard]] awaitable<void> cancel(std::string id, decision d);
  /// Says that a step has happened, with this result, however its action ended.
  [[nodiscard]] awaitable<void> skip(std::string id, std::string key, nlohmann::json result, decision d);
  /// Says that a step is undone: somebody has done it by hand. `why` is the evidence.
  [[nodiscard]] awaitable<void> mark_undone(std::string id, std::string key, decision d);
  /// Lets nothing more begin until `resume`.
  [[nodiscard]] awaitable<void> pause(std::string id, decision d);
  [[nodiscard]] awaitable<void> resume(std::string id, decision d);
  /// Gives the saga up as it is. What it did stays.
  [[nodiscard]] awaitable<void> abandon(std::string id, decision d);

  /// Deletes the sagas that ended before `then`, with their journals and signals, and workers that are long dead; the
  /// children of a saga go after it. Returns how many sagas it were. A saga that is forgotten can be started again.
  [[nodiscard]] awaitable<std::size_t> forget_before(std::chrono::system_clock::time_point then);

  /// All of a saga as one JSON object. Only looks: to move a saga, so that no two of it act, `pause` it, export, import
  /// it there, `abandon` it here, `resume` it there.
  [[nodiscard]] awaitable<nlohmann::json> export_history(std::string id);
  /// Brings it into another database, where it goes on unless it was paused. Errors: `saga_conflict` when the id is
  /// there; `saga_undecodable` naming what is wrong.
  [[nodiscard]] awaitable<void> import_history(nlohmann::json history);

 private:
  struct verb;
  awaitable<void> operate(std::string id, verb what);
  static batch batch_of(const std::string& id, const verb& what, std::uint64_t epoch, std::int64_t now);
  [[noreturn]] static void raise_refusal(const saga_info& info, const verb& what);
  database* db_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
