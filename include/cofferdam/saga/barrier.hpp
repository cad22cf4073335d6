// For services that take part in sagas: answers what comes twice as it was answered before, lets an undo that comes
// before its action keep the action out, and refuses owners of the past. One table, in the service's own database.
//
//     saga::barrier gate = co_await saga::barrier::open(db);
//     batch b;
//     b.execute("insert into reservations(id, sku) values($1, $2)", id, sku);
//     const reservation made{id};
//     const auto answer = co_await gate.act(call, std::move(b), made);
//     if (answer.how == saga::barrier_verdict::barred) ...  // its undo came first
#pragma once

#include <cofferdam/core/detail/gcc12_guard.hpp>
#include <cofferdam/saga/step_context.hpp>
#include <cofferdam/storage/database.hpp>

#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga {

/// Which step of which saga calls, and as which owner: what a caller sends along, in headers say.
struct participant_call {
  participant_call(std::string saga_id, std::string step_key, std::uint64_t owner_epoch)
      : saga(std::move(saga_id)), key(std::move(step_key)), epoch(owner_epoch) {}
  explicit participant_call(const step_context& context)
      : participant_call(context.saga_id(), context.key(), context.epoch()) {}
  std::string saga, key;
  std::uint64_t epoch;
};

enum class barrier_verdict : std::uint8_t {
  done,      ///< now, and what the batch wrote with it
  repeated,  ///< before; nothing was written, and the answer is that of the first time
  barred,    ///< of an action: its undo came first, so it must never happen; of an undo: there was nothing to undo, and
             ///< from now on its action is barred
  outdated,  ///< refused: the saga has another owner by now, which has called, too
};

template <class R> struct barrier_answer {
  barrier_verdict how = barrier_verdict::done;
  std::optional<R> result;  ///< of an action that is done or repeated
};

/// Thread safety: as the database, which must outlive it.
class barrier {
 public:
  /// Brings the table. Errors: `storage_error`.
  [[nodiscard]] static awaitable<barrier> open(database& db);

  /// An action: `work` and the fact that it happened, in one commit, unless it was there before or its undo was.
  /// Errors: `storage_error`, those of `work` among them.
  template <class R>
  [[nodiscard]] awaitable<barrier_answer<std::decay_t<R>>> act(participant_call call, batch work, R&& result) {
    COFFERDAM_GUARD_TASK(R);
    return typed<std::decay_t<R>>(perform(std::move(call), std::move(work), nlohmann::json(std::forward<R>(result))));
  }
  /// An undo: `work`, if its action happened and this is the first time. Errors: `storage_error`.
  [[nodiscard]] awaitable<barrier_verdict> undo(participant_call call, batch work);

  /// Forgets what was last called before `then`: later than any saga may call again. Returns how many rows it was.
  [[nodiscard]] awaitable<std::size_t> forget_before(std::chrono::system_clock::time_point then);

 private:
  struct answer {
    barrier_verdict how = barrier_verdict::done;
    nlohmann::json result;
  };
  explicit barrier(database& db) noexcept : db_(&db) {}
  awaitable<answer> perform(participant_call call, batch work, nlohmann::json result);
  template <class R> static awaitable<barrier_answer<R>> typed(awaitable<answer> asked) {
    const answer found = co_await std::move(asked);
    barrier_answer<R> made;
    made.how = found.how;
    if (!found.result.is_null()) made.result.emplace(found.result.template get<R>());
    co_return made;
  }
  database* db_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
