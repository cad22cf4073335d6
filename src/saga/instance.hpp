// One saga in memory: what its journal knows, what is not written yet, and the life it leads here. Everything happens
// on its own strand, except where said.
#pragma once

#include "journal.hpp"

#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/saga/engine.hpp>

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {

class engine_state;

/// What the journal knows of one key.
struct record {
  enum class outcome : std::uint8_t { open, succeeded, failed };
  std::string key, step;
  nlohmann::json arguments;
  [[nodiscard]] bool has_arguments(const nlohmann::json& now) const;
  /// What it is, for messages.
  [[nodiscard]] std::string shown() const;
  /// For a time, a signal, a lock, or a mark, which waits for nothing.
  [[nodiscard]] bool is_wait() const;
  [[nodiscard]] bool is_mark() const;
  /// Empty: for a time.
  [[nodiscard]] bool is_wait_for(std::string_view signal) const;
  step_settings settings;
  outcome ended = outcome::open;
  nlohmann::json result;  // of a step that succeeded; the signal that was taken
  std::optional<step_failed> why;
  nlohmann::json progress;
  std::int64_t wake_at = 0;   // of a wait
  std::string nested_reason;  // of a part, or of a race that nobody won
  std::string winner;         // of a race: the path of a branch
  struct tries {
    std::uint32_t failed = 0;
    std::int64_t next_at = 0;
  } attempts, undo_attempts;
  bool is_step = false, is_child = false, is_race = false, is_part = false, is_undone = false, is_visited = false;
};

/// The part of a key before the name: "prepare#1/" of "prepare#1/label#2".
[[nodiscard]] std::string_view scope_of(std::string_view key) noexcept;

/// Why a saga leaves this process before its body has ended.
enum class leave_reason : std::uint8_t { none, parked, goes_back, stuck, lost, handed_back };

/// How one attempt of an action or undo ended.
struct attempt_end {
  enum class kind : std::uint8_t { succeeded, refused, ongoing, unsure, impossible, fatal, cancelled };
  kind how = kind::succeeded;
  std::string message, code;
  duration after{};
};

/// As UTF-8.
[[nodiscard]] std::string reason_of(const std::exception_ptr& error);
/// Of the exception that is being handled.
[[nodiscard]] attempt_end end_of_attempt();
/// Of a step that failed.
[[nodiscard]] entry failed_entry(const std::string& key, step_failed::reason why, const attempt_end& end);

/// An action that runs in a race, and may be cancelled when the race is over.
struct racing_attempt {
  const fiber* by;
  std::function<void()> cancel;
};

class instance final : public journal_view, public std::enable_shared_from_this<instance> {
 public:
  /// Without a journal.
  instance(std::shared_ptr<engine_state> engine, std::string id, duration limit);
  /// A new one.
  instance(std::shared_ptr<engine_state> engine, std::string id, const definition& what, nlohmann::json input,
           std::int64_t deadline);
  /// A new one whose row is written by its parent.
  instance(std::shared_ptr<engine_state> engine, std::string id, const definition& what, nlohmann::json input,
           std::int64_t deadline, std::string parent);
  /// One that was claimed; its journal is to be loaded.
  instance(std::shared_ptr<engine_state> engine, const definition& what, const row& found);

  // --- any thread
  [[nodiscard]] const std::string& id() const noexcept { return id_; }
  [[nodiscard]] std::uint64_t epoch() const noexcept { return epoch_; }
  [[nodiscard]] const definition* what() const noexcept { return definition_; }
  [[nodiscard]] const nlohmann::json& input() const override { return input_; }
  /// When it has left: whether its row is somebody else's, or nobody's, for sure.
  [[nodiscard]] bool is_let_go() const noexcept { return is_let_go_; }
  /// Waits for the first commit. False: a saga with this id was there.
  awaitable<bool> wait_until_born();
  /// Leaves at the next boundary; `at_once`: the attempt in flight is cancelled.
  void leave_soon(leave_reason why, bool at_once);
  void start(const net::any_io_executor& executor);
  /// A signal came.
  void look_again();

  // --- its life
  awaitable<void> live();
  awaitable<ending> live_here(branch_base& root);
  /// Walks through a journal with the body of this build; performs nothing, writes nothing. See check.cpp.
  awaitable<std::optional<saga_drift>> rehearse(rows journal, saga_state found, std::optional<nlohmann::json> output);

  // --- operations
  bool replay(step_work& work);
  awaitable<bool> run_step(step_work& work);
  bool replay(wait_operation& wait);
  awaitable<bool> run_wait(wait_operation& wait);
  bool replay(lock_operation& lock);
  awaitable<bool> run_lock(lock_operation& lock);
  bool replay_mark(const std::string& key, bool& answer);
  awaitable<bool> run_mark(const std::string& key);
  awaitable<bool> run_all(const fiber& by, std::span<branch_base* const> branches, bool is_undone_in_parallel,
                          std::exception_ptr& failed);
  awaitable<bool> run_race(race_work& race);
  bool replay(child_work& child);
  awaitable<bool> run_child(child_work& child);
  bool replay_nested(const branch_base& branch, std::optional<aborted>& failed);
  awaitable<bool> run_nested(const fiber& by, branch_base& branch, std::optional<aborted>& failed);
  awaitable<void> heartbeat(const std::string& key, nlohmann::json progress);
  [[nodiscard]] nlohmann::json progress_of(const std::string& key) const;
  [[nodiscard]] const nlohmann::json* result_of(const std::string& key) const override;
  [[nodiscard]] bool has_any(const std::string& prefix) const override;

 private:
  [[nodiscard]] bool has_journal() const noexcept { return definition_ != nullptr; }
  [[nodiscard]] record* find(const std::string& key) const;
  record& add(entry e);
  void apply(entry& e);
  void visit(record& r);
  void visit_part(record& part);
  [[nodiscard]] bool is_beside(std::string_view scope, std::string_view key) const;
  [[nodiscard]] bool has_more_than(std::string_view key) const;
  [[nodiscard]] std::string unvisited_keys(std::string_view key = {}) const;
  [[nodiscard]] bool diverges(const std::string& key);
  [[nodiscard]] bool is_changed(const branch_base& branch, bool is_part);
  [[nodiscard]] bool has_lost_race(const std::string& key) const;
  void leave_changed(std::string place, std::string journal, std::string build, const std::string& advice = {});
  void note(entry e);
  void settle(entry e);
  [[nodiscard]] bool is_pivot(const record& r) const;
  [[nodiscard]] bool is_pivot_in_doubt() const;
  bool must_go_back();
  void leave(leave_reason why, std::string text = {});
  void wake_waits();
  awaitable<bool> wait_until(std::int64_t wake_at, std::int64_t signals_seen);
  awaitable<bool> back_off(entry_kind what, const std::string& key, std::uint32_t attempt, const std::string& message,
                           duration delay, const fiber* by);
  awaitable<bool> wait_for_turn_of(std::int64_t next_at, const fiber* by);

  enum class written : std::uint8_t { yes, lost, refused };
  class turn;
  awaitable<written> flush();
  awaitable<written> flush_with(entry& outcome, batch own);
  awaitable<void> take_turn();
  awaitable<void> end_beats();
  awaitable<written> write(entry* outcome, batch own);
  awaitable<written> blame(written how, bool has_own);
  awaitable<written> commit(const std::function<batch()>& make, std::uint64_t seq, bool has_own = false);
  awaitable<written> commit_again(const std::function<batch()>& make, std::uint64_t seq, bool has_own, failure why);
  [[nodiscard]] std::uint64_t seq_after(const std::vector<entry>& entries) const noexcept;
  void add_entries(batch& b, const std::vector<entry>& entries, std::int64_t at) const;
  awaitable<std::optional<std::int64_t>> count(statement question);
  awaitable<void> load();
  awaitable<rows> look_up(statement query);
  void take_in(const rows& journal);
  [[nodiscard]] saga_drift drift_at(std::string place, std::string journal, std::string build) const;
  [[nodiscard]] std::optional<saga_drift> drift_of_steps() const;
  awaitable<void> finish(saga_state state, std::string reason, nlohmann::json output, std::exception_ptr cause);
  awaitable<void> set_aside(saga_state state, std::string reason, std::optional<std::int64_t> wake_at);

  awaitable<bool> go_forward();
  awaitable<void> go_back();
  /// The prefixes of keys that are undone side by side: of the branches of one `all`.
  using group = std::vector<std::string>;
  [[nodiscard]] static group everything() { return {std::string()}; }
  awaitable<bool> unwind(group prefixes);
  awaitable<bool> unwind_together(const group& prefixes);
  awaitable<void> unwind_branch(const std::string& prefix, std::size_t& undone, std::size_t& left);
  [[nodiscard]] const group* group_of(const std::string& key, const group& within) const;
  awaitable<bool> undo_record(const record& r);
  awaitable<bool> undo_child(const record& r);
  awaitable<bool> undo(past_step& step);
  [[nodiscard]] duration limit_of(duration own) const;
  [[nodiscard]] duration until_deadline() const;
  [[nodiscard]] bool is_retriable(step_kind kind) const noexcept;
  [[nodiscard]] bool can_go_back(const step_work& work) const noexcept;
  [[nodiscard]] duration until_turn(const step_work& work) const;
  [[nodiscard]] time_point attempt_ends_at(duration limit) const;
  awaitable<void> attempt_into(attempt_end& end, duration limit, std::function<awaitable<void>()> call);
  awaitable<void> attempt_in_race(attempt_end& end, const fiber& by, duration limit,
                                  std::function<awaitable<void>()> call);
  awaitable<void> commit_together(attempt_end& end, step_work& work, batch own);
  enum class begun : std::uint8_t { yes, noted, failed, leaves };
  [[nodiscard]] begun begin(step_work& work);
  struct attempts_of_step {
    std::uint32_t n = 1;
    bool is_in_doubt = false;  // a pivot that may have happened
    backoff_state delays;
    const fiber* stops = nullptr;  // who ends it by being stopped; null: nobody, once it is in doubt
  };
  enum class ended : std::uint8_t { succeeded, again, failed, leaves };
  awaitable<ended> end_attempt(step_work& work, attempt_end& end, attempts_of_step& tries);
  void remember(step_work& work);
  bool succeed(step_work& work);
  bool fail(step_work& work, const attempt_end& end);
  struct running_branches;
  class running_guard;
  awaitable<bool> run_side_by_side(const fiber& by, running_branches& all);
  awaitable<void> run_branch(running_branches& all, std::size_t i);
  void stop(branch_base& branch);
  void branch_ends(std::size_t& left);
  void park_if_idle();
  void settle_race(race_work& race, std::span<branch_base* const> branches, std::optional<std::size_t> winner,
                   const std::string& why = {});
  void visit_race(record& race, std::span<branch_base* const> branches, std::optional<std::size_t> winner);
  awaitable<bool> run_child_here(child_work& child);
  awaitable<bool> begin_child(child_work& child);
  awaitable<void> rest(duration d);
  awaitable<std::optional<nlohmann::json>> take_signal(const std::string& name, std::int64_t& seen);
  void publish(saga_event::kind what, std::string_view key = {}, std::uint32_t attempt = 0,
               std::string_view message = {});
  void report_birth(std::optional<bool> is_new, failure why = {});
  [[nodiscard]] std::int64_t now() const;
  [[nodiscard]] random_source& random() const { return random_of(*strand_); }

  std::shared_ptr<engine_state> engine_;
  const std::string id_;
  const definition* definition_ = nullptr;
  nlohmann::json input_;
  std::optional<net::any_io_executor> strand_;
  std::optional<spawned> running_;

  // the journal
  std::list<record> records_;                                  // in the order of their intents
  std::unordered_map<std::string_view, record*> index_;        // by their keys
  std::map<std::string, std::size_t, std::less<>> unvisited_;  // steps and waits of a replay, by scope
  std::vector<const running_branches*> side_by_side_;
  std::vector<entry> buffer_;  // outcomes that go with the next commit
  std::uint64_t seq_ = 0, epoch_ = 1;
  saga_state state_ = saga_state::running;
  bool is_inserted_ = false, is_to_load_ = false, is_writing_ = false, has_pivoted_ = false, has_aborted_ = false;
  int beats_ = 0;             // heartbeats that are being written
  std::uint32_t claims_ = 0;  // takeovers without progress
  std::string reason_, cancel_reason_, parent_;
  std::int64_t deadline_ = for_ever;
  duration limit_ = duration::max();  // without a journal: from its start to its deadline
  std::deque<group> together_;        // an undo refers to one while other branches add theirs
  bool has_locks_ = false, is_let_go_ = false;
  std::vector<std::string> lost_races_;  // prefixes of keys
  std::exception_ptr cause_;
  std::uint64_t noted_ = 0, durable_ = 0;  // entries
  receipt received_;                       // of the last commit
  std::string refusal_;                    // why the database took what the user wrote last for wrong

  // control
  bool is_rehearsal_ = false;
  std::optional<saga_drift> drift_;
  leave_reason leaving_ = leave_reason::none;
  std::string leaving_text_;
  std::size_t busy_ = 1, waits_ = 0;  // fibers
  std::size_t woken_ = 0;             // of those that wait: about to go on
  std::uint64_t wakes_ = 0;
  std::int64_t next_wake_ = 0, signals_seen_ = for_ever;  // by those who wait: the earliest, the fewest
  std::vector<racing_attempt*> racing_;
  std::vector<cofferdam::detail::parked_reference> waiting_;  // fibers, for a signal, time or turn
  std::vector<std::unique_ptr<past_step>> past_;              // without a journal; null: undone
  std::size_t pivots_in_doubt_ = 0;                           // without a journal

  std::mutex birth_mutex_;
  std::optional<outcome<bool>> birth_;
  std::vector<cofferdam::detail::parked_reference> expecting_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
