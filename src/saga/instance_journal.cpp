// What a saga knows and writes: entries, commits, the last of them.
#include "instance.hpp"

#include "engine_state.hpp"

#include <algorithm>
#include <functional>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {
namespace {

/// What a batch that moves a saga on requires.
constexpr const char* ownership = "cofferdam: a saga is ours";

/// Whether a batch failed for other reasons than what is in it.
bool is_trouble(const failure& why) noexcept {
  constexpr errc troubles[] = {errc::database_busy,    errc::database_overloaded, errc::database_unavailable,
                               errc::outcome_unknown,  errc::database_full,       errc::database_io_error,
                               errc::database_corrupt, errc::schema_mismatch,     errc::database_closed};
  return why.is_cancellation() || std::ranges::any_of(troubles, [&](errc each) { return why.code() == each; });
}

/// "prepare#1/label#2" belongs to the step "label".
bool is_key_of(std::string_view key, std::string_view step) noexcept {
  const auto mark = key.rfind('#');
  return mark != std::string_view::npos && key.substr(0, mark).ends_with(step);
}

}  // namespace

std::string record::shown() const {
  if (is_step || is_child) return "'" + step + "' with " + arguments.dump();
  if (is_race) return "a race";
  if (is_part) return "a part that went back";
  if (is_lock(key, step)) return "a lock";
  if (is_mark()) return "a question to patched()";
  return step.empty() ? "a time to wait for" : "a wait for the signal '" + step + "'";
}

bool record::is_wait() const { return !is_step && !is_child && !is_race && !is_part; }
bool record::is_mark() const { return is_wait() && step == mark_step && !is_wait_for(step); }
bool record::is_wait_for(std::string_view signal) const {
  const std::string name = signal.empty() ? "sleep" : "signal:" + std::string(signal);
  return is_wait() && step == signal && is_key_of(key, name);
}

/// As the journal has them: there, what JSON cannot say is null.
bool record::has_arguments(const nlohmann::json& now) const {
  return arguments == now || arguments.dump() == now.dump();
}

record* instance::find(const std::string& key) const {
  const auto it = index_.find(key);
  return it == index_.end() ? nullptr : it->second;
}

const nlohmann::json* instance::result_of(const std::string& key) const {
  const record* r = find(key);
  const bool is_there = r != nullptr && r->ended == record::outcome::succeeded && !has_lost_race(key);
  return is_there ? &r->result : nullptr;
}

bool instance::has_any(const std::string& prefix) const {
  return std::ranges::any_of(records_, [&prefix](const record& r) { return r.key.starts_with(prefix); });
}

nlohmann::json instance::progress_of(const std::string& key) const {
  const record* r = find(key);
  return r == nullptr ? nlohmann::json() : r->progress;
}

std::string_view scope_of(std::string_view key) noexcept {
  const auto slash = key.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : key.substr(0, slash + 1);
}

/// Takes what it keeps out of the payload.
/// Errors: std::invalid_argument, or one of nlohmann::json, where the journal is damaged.
void instance::apply(entry& e) {
  const bool begins = e.kind == entry_kind::intent || e.kind == entry_kind::waiting ||
                      e.kind == entry_kind::nested_aborted || e.kind == entry_kind::called || e.kind == entry_kind::won;
  if (e.kind == entry_kind::branched) {
    together_.push_back(e.payload.at("undone_together").get<group>());
    return;
  }
  record* r = find(e.key);
  if (begins) {
    if (r != nullptr) throw std::invalid_argument("it began before");
    r = &records_.emplace_back();
    r->key = e.key;
    r->step = e.step;
    index_.emplace(r->key, r);
  }
  if (e.kind == entry_kind::aborted) {
    has_aborted_ = true;
    reason_ = e.payload.value("why", "");
    return;
  }
  if (e.kind == entry_kind::operated && e.payload.value("verb", "") == "retry") {
    for (record& each : records_) each.attempts.next_at = each.undo_attempts.next_at = 0;
  }
  if (e.kind == entry_kind::operated && r == nullptr) return;
  if (r == nullptr) throw std::invalid_argument("it never began");
  const auto require = [&r](bool holds) {
    if (holds) return;
    throw std::invalid_argument(r->is_step    ? "that is a step"
                                : r->is_child ? "that is a child saga"
                                              : "that is no step");
  };
  // With `succeeded` or `failed`; other waits and parts end in their own ways.
  const bool may_fail = r->is_step || r->is_child || is_lock(r->key, r->step);
  switch (e.kind) {
    case entry_kind::intent:
      if (!is_key_of(e.key, e.step)) throw std::invalid_argument("it belongs to the step '" + e.step + "'");
      r->is_step = true;
      r->arguments = std::move(e.payload.at("arguments"));
      if (e.payload.contains("undo")) {
        r->settings.undo_attempts = e.payload["undo"].value("attempts", std::uint32_t{0});
        r->settings.undo_timeout = duration(e.payload["undo"].value("timeout_ns", std::int64_t{0}));
      }
      break;
    case entry_kind::called:
      r->is_child = true;
      r->arguments = std::move(e.payload.at("input"));
      break;
    case entry_kind::won:
      r->is_race = true;
      r->winner = e.payload.at("winner").get<std::string>();
      r->nested_reason = e.payload.value("why", "");
      for (const auto& each : e.payload.at("losers")) lost_races_.push_back(each.get<std::string>() + '/');
      break;
    case entry_kind::race_over:
      require(r->is_race);
      r->ended = record::outcome::succeeded;
      break;
    case entry_kind::attempted:
    case entry_kind::undo_attempted: {
      require(r->is_step);
      auto& tries = e.kind == entry_kind::attempted ? r->attempts : r->undo_attempts;
      tries = {e.payload.at("attempt").get<std::uint32_t>(), e.payload.at("next_at").get<std::int64_t>()};
      break;
    }
    case entry_kind::succeeded:
      require(may_fail);
      r->ended = record::outcome::succeeded;
      r->why.reset();
      r->result = std::move(e.payload);
      break;
    case entry_kind::signalled:
      require(!may_fail);
      (void)e.payload.at("payload");
      (void)e.payload.at("message_id").get_ref<const std::string&>();
      r->ended = record::outcome::succeeded;
      r->result = std::move(e.payload);
      break;
    case entry_kind::failed: {
      require(may_fail);
      const int why = e.payload.at("reason").get<int>();
      if (why != static_cast<int>(step_failed::reason::refused) &&
          why != static_cast<int>(step_failed::reason::exhausted)) {
        throw std::invalid_argument("it failed for the unknown reason " + std::to_string(why));
      }
      r->ended = record::outcome::failed;
      r->why.emplace(r->step, static_cast<step_failed::reason>(why), e.payload.at("message").get<std::string>(),
                     e.payload.value("code", ""));
      break;
    }
    case entry_kind::waiting:
      has_locks_ = has_locks_ || is_lock(r->key, r->step);
      r->wake_at = e.payload.at("wake_at").get<std::int64_t>();
      break;
    case entry_kind::timed_out:
    case entry_kind::nested_failed:
      require(!may_fail);
      r->ended = record::outcome::failed;
      break;
    case entry_kind::undone:
      require(r->is_step || r->is_child);
      r->is_undone = true;
      break;
    case entry_kind::progress:
      require(r->is_step);
      r->progress = std::move(e.payload);
      break;
    case entry_kind::nested_aborted:
      r->is_part = true;
      r->nested_reason = e.payload.value("why", "");
      break;
    case entry_kind::operated:
      if (e.payload.value("verb", "") == "mark_undone") r->is_undone = true;
      if (e.payload.value("verb", "") == "skip") {
        require(r->is_step || r->is_child);
        r->ended = record::outcome::succeeded;
        r->result = std::move(e.payload.at("result"));
        has_pivoted_ = has_pivoted_ || is_pivot(*r);
      }
      break;
    case entry_kind::aborted:
    case entry_kind::branched:
      break;
  }
}

bool instance::has_lost_race(const std::string& key) const {
  return std::ranges::any_of(lost_races_, [&key](const std::string& prefix) { return key.starts_with(prefix); });
}

awaitable<void> instance::load() {
  const statement journal(
      "select seq, kind, key, step, payload from cofferdam_saga_journal where saga = $1 order by seq", id_);
  const rows found = co_await look_up(journal);
  take_in(found);
}

/// Asks until the database answers. Errors: storage_error that will not pass; cancelled, when the saga is to leave.
awaitable<rows> instance::look_up(statement query) {
  duration pause = std::chrono::milliseconds(50);
  for (;;) {
    failure why;
    try {
      statement copy = query;
      co_return co_await engine_->db->query(std::move(copy));
    } catch (const storage_error& e) {
      why = failure::current(e);
    }
    const bool gives_up = leaving_ == leave_reason::lost || leaving_ == leave_reason::handed_back;
    if (gives_up) failure::cancelled().raise();
    if (!storage_error::is_retryable(why.code())) why.raise();
    co_await rest(pause);
    pause = std::min<duration>(pause * 2, std::chrono::seconds(5));
  }
}

void instance::take_in(const rows& journal) {
  const std::string text = input_.get<std::string>();
  input_ = parse_stored(id_, "its input", text);
  for (const row r : journal) {
    const auto seq = r.get<std::uint64_t>(0);
    entry e = parse_entry(id_, seq, r.get<std::int64_t>(1), r.get<std::string>(2), r.get<std::string>(3),
                          r.get<std::string>(4));
    std::string damage = seq > seq_ ? "it comes after the last one" : "";
    try {
      if (damage.empty()) apply(e);
    } catch (const nlohmann::json::exception& wrong) {
      damage = wrong.what();
    } catch (const std::invalid_argument& wrong) {
      damage = wrong.what();
    }
    if (!damage.empty()) {
      throw saga_error(errc::saga_undecodable, "the saga '" + id_ + "': entry " + std::to_string(seq) + " ('" +
                                                   std::string(to_string(e.kind)) + "' of '" + e.key +
                                                   "') is damaged: " + damage);
    }
  }
  for (const record& r : records_) ++unvisited_[std::string(scope_of(r.key))];
}

void instance::visit(record& r) {
  if (r.is_visited) return;
  r.is_visited = true;
  const auto it = unvisited_.find(scope_of(r.key));
  if (it != unvisited_.end() && --it->second == 0) unvisited_.erase(it);
}

/// Whether the journal has more that is not just beside it. Of branches and parts it has only what is in them, so what
/// is new in one of them, or is one, is compared with all there is.
bool instance::has_more_than(std::string_view key) const {
  return std::ranges::any_of(unvisited_, [&](const auto& each) { return !is_beside(each.first, key); });
}

/// What the journal has more, but for what is beside `key`. For messages: not all of it, where that is much.
std::string instance::unvisited_keys(std::string_view key) const {
  std::string keys;
  std::size_t left = 8;
  for (const record& r : records_) {
    if (r.is_visited || is_beside(scope_of(r.key), key)) continue;
    if (left-- == 0) return keys + " and more";
    keys += (keys.empty() ? "'" : ", '") + r.key + "'";
  }
  return keys;
}

/// True where the body does something new before it did what the journal says it did: the code has changed.
bool instance::diverges(const std::string& key) {
  if (!has_more_than(key)) return false;
  leave_changed({}, unvisited_keys(key), "'" + key + "'", ". Ask patched() for what was added, or compensate the saga");
  return true;
}

void instance::leave_changed(std::string place, std::string journal, std::string build, const std::string& advice) {
  const std::string where = place.empty() ? "" : "at '" + place + "' ";
  leave(leave_reason::stuck,
        "the body has changed: " + where + "it now does " + build + ", where the journal has " + journal + advice);
  if (!drift_) drift_ = drift_at(std::move(place), std::move(journal), std::move(build));
}

void instance::note(entry e) {
  ++noted_;
  e.payload = nullptr;                      // its text is what is written
  if (buffer_.empty()) buffer_.reserve(2);  // as a rule an outcome and the next intent
  buffer_.push_back(std::move(e));
}

record& instance::add(entry e) {
  apply(e);
  record& r = *find(e.key);
  r.is_visited = true;
  note(std::move(e));
  return r;
}

void instance::settle(entry e) {
  apply(e);
  note(std::move(e));
}

awaitable<void> instance::heartbeat(const std::string& key, nlohmann::json progress) {
  if (!has_journal()) co_return;
  if (find(key) == nullptr || leaving_ != leave_reason::none) failure::cancelled().raise();
  settle({entry_kind::progress, key, {}, std::move(progress)});
  const std::uint64_t mine = noted_;
  // Written by a coroutine of its own: an attempt that is cancelled meanwhile takes nothing back that others wait for.
  const auto write = [](std::shared_ptr<instance> self) -> awaitable<void> {
    try {
      (void)co_await self->flush();
    } catch (const std::exception&) {
      self->leave(leave_reason::lost);
    }
    --self->beats_;
    self->wake_waits();
  };
  net::co_spawn(*strand_, write(shared_from_this()), net::detached);
  ++beats_;
  while (durable_ < mine && leaving_ != leave_reason::lost) co_await rest(duration::max());
  if (durable_ < mine) failure::cancelled().raise();
}

/// The attempts they came from are over.
awaitable<void> instance::end_beats() {
  while (beats_ > 0) co_await rest(duration::max());
}

/// One commit at a time. A turn ends whatever becomes of the commit, and wakes those who wait for theirs.
class instance::turn {
 public:
  explicit turn(instance& of) noexcept : of_(of) { of.is_writing_ = true; }
  turn(const turn&) = delete;
  turn& operator=(const turn&) = delete;
  ~turn() {
    of_.is_writing_ = false;
    of_.wake_waits();
  }

 private:
  instance& of_;
};

/// Writes what is noted.
awaitable<instance::written> instance::flush() { return write(nullptr, batch()); }

/// Writes what is noted, `outcome`, and `own`, in one commit. `refused`: none of it is written, since the database
/// refuses `own`.
awaitable<instance::written> instance::flush_with(entry& outcome, batch own) { return write(&outcome, std::move(own)); }

awaitable<void> instance::take_turn() {
  while (is_writing_) co_await rest(duration::max());
}

std::uint64_t instance::seq_after(const std::vector<entry>& entries) const noexcept {
  return seq_ + std::max<std::size_t>(entries.size(), 1);
}
void instance::add_entries(batch& b, const std::vector<entry>& entries, std::int64_t at) const {
  std::uint64_t seq = seq_;
  for (const entry& e : entries) {
    insert_entry(b, id_, ++seq, epoch_, at, e);
    const bool replaces =
        e.kind == entry_kind::progress || e.kind == entry_kind::attempted || e.kind == entry_kind::undo_attempted;
    if (!replaces) continue;  // else the journal of an action that is tried for days would grow for days
    b.execute("delete from cofferdam_saga_journal where saga = $1 and key = $2 and kind = $3 and seq < $4", id_, e.key,
              static_cast<std::int64_t>(e.kind), seq);
  }
}

awaitable<instance::written> instance::write(entry* outcome, batch own) {
  const std::uint64_t mine = noted_;
  if (is_writing_) co_await take_turn();
  if (leaving_ == leave_reason::lost) co_return written::lost;
  if (outcome == nullptr && durable_ >= mine) co_return written::yes;  // another branch's commit took it along
  const turn ours(*this);
  if (engine_->is_dead("before a commit")) {
    leave(leave_reason::lost);
    co_return written::lost;
  }
  auto entries = std::exchange(buffer_, {});
  if (outcome != nullptr) entries.push_back(*outcome);
  const std::uint64_t upto = noted_, after = seq_after(entries);
  const std::int64_t at = now();
  const bool has_own = !own.empty();
  bool has_beat = false;
  const auto state = static_cast<std::int64_t>(state_);
  const bool passes_pivot =
      outcome != nullptr && outcome->kind == entry_kind::succeeded && is_pivot(*find(outcome->key));
  const int pivoted = has_pivoted_ || passes_pivot ? 1 : 0;  // by now: other branches go on meanwhile
  const auto make = [&] {
    batch b;
    if (is_inserted_) {
      b.require_change(
          ownership,
          "update cofferdam_sagas set seq = $4, state = $5, pivoted = $6, updated_at = $7, claims = 0 where id = $1 "
          "and epoch = $2 and seq = $3",
          id_, epoch_, seq_, after, state, pivoted, at);
    } else {
      b.execute(
          "insert into cofferdam_sagas(id, definition, version, state, epoch, owner, seq, signals, claims, pivoted, "
          "input, deadline, created_at, updated_at) values($1, $2, $3, $4, $5, $6, $7, 0, 0, $8, $9, $10, $11, $11)",
          id_, definition_->name, definition_->version, state, epoch_, engine_->worker, after, pivoted, input_.dump(),
          time_or_null(deadline_), at);
    }
    add_entries(b, entries, at);
    if (has_own) b.add(own);
    has_beat = engine_->beat(b);
    return b;
  };
  const std::function<batch()> again = std::cref(make);
  written how = co_await commit(again, after, has_own);
  if (has_beat && how == written::yes) engine_->beaten();
  if (how == written::yes && !is_inserted_) {
    is_inserted_ = true;
    publish(saga_event::kind::started);
    report_birth(true);
  }
  if (how != written::yes) how = co_await blame(how, has_own);
  if (how == written::yes) seq_ = after;
  if (engine_->is_dead("after a commit")) {
    leave(leave_reason::lost);
    co_return written::lost;
  }
  if (how == written::yes) {
    durable_ = upto;
    if (outcome != nullptr) apply(*outcome);
  } else if (how == written::refused) {
    entries.pop_back();
    buffer_.insert(buffer_.begin(), std::make_move_iterator(entries.begin()), std::make_move_iterator(entries.end()));
  }
  co_return how;
}

/// A commit that failed: `refused` only where that is for what the user wrote in it.
awaitable<instance::written> instance::blame(written how, bool has_own) {
  bool is_users = how == written::refused && has_own;
  if (is_users && !is_inserted_) {  // or it was the saga's own row: it was started before
    const statement question("select count(*) from cofferdam_sagas where id = $1", id_);
    const auto there = co_await count(question);
    is_users = there == 0;
  }
  if (is_users) co_return written::refused;
  if (how == written::refused && !is_inserted_) report_birth(false);
  publish(saga_event::kind::lost);
  leave(leave_reason::lost);
  co_return written::lost;
}

awaitable<instance::written> instance::commit(const std::function<batch()>& make, std::uint64_t seq, bool has_own) {
  batch b = make();
  auto done = co_await engine_->db->try_commit(std::move(b));
  if (!done) co_return co_await commit_again(make, seq, has_own, done.why());
  received_ = *std::move(done);
  co_return written::yes;
}

/// After `why`: tries until the database says what has become of it. Made anew for every try, since copies cost more
/// than that.
awaitable<instance::written> instance::commit_again(const std::function<batch()>& make, std::uint64_t seq, bool has_own,
                                                    failure why) {
  bool may_be_there = false;
  duration pause = std::chrono::milliseconds(50);
  for (;;) {
    const auto code = why.code();
    const bool is_refusal = code == errc::condition_failed || code == errc::constraint_violated ||
                            code == errc::invalid_statement || code == errc::type_mismatch ||
                            (has_own && !is_trouble(why));
    if (is_refusal || code == errc::outcome_unknown) {
      const bool look = may_be_there || code == errc::outcome_unknown;
      may_be_there = true;
      if (look) {
        const statement question(
            "select count(*) from cofferdam_sagas where id = $1 and epoch = $2 and seq = $3 and owner = $4", id_,
            epoch_, seq, engine_->worker);
        const auto there = co_await count(question);
        if (!there) co_return written::lost;
        if (*there > 0) co_return written::yes;
      }
      if (code == errc::condition_failed && why.message().ends_with(ownership)) co_return written::lost;
      if (is_refusal) {
        refusal_ = as_utf8(why.message());
        co_return written::refused;
      }
    } else if (!storage_error::is_retryable(code)) {
      if (!birth_) report_birth(std::nullopt, why);
      co_return written::lost;
    }
    co_await rest(pause);
    pause = std::min<duration>(pause * 2, std::chrono::seconds(5));
    if (leaving_ == leave_reason::lost || leaving_ == leave_reason::handed_back) co_return written::lost;
    batch b = make();
    auto done = co_await engine_->db->try_commit(std::move(b));
    if (done) {
      received_ = *std::move(done);
      co_return written::yes;
    }
    why = done.why();
  }
}

/// None: the database does not say any more, or the saga is to leave. Then its next owner looks.
awaitable<std::optional<std::int64_t>> instance::count(statement question) {
  try {
    const rows found = co_await look_up(std::move(question));
    co_return found.front().get<std::int64_t>(0);
  } catch (const std::exception&) {
  }
  co_return std::nullopt;
}

// --------------------------------------------------------------------------------------------------------------- ends

/// The last commit.
awaitable<void> instance::finish(saga_state state, std::string reason, nlohmann::json output,
                                 std::exception_ptr cause) {
  if (beats_ > 0) co_await end_beats();
  if (engine_->is_dead("before a commit")) co_return;
  const auto entries = std::exchange(buffer_, {});
  const std::uint64_t after = seq_after(entries);
  const std::int64_t at = now();
  std::optional<std::size_t> next;
  const auto make = [&] {
    batch b;
    if (is_inserted_) {
      b.require_change(
          ownership,
          "update cofferdam_sagas set seq = $4, state = $5, reason = $6, output = $7, owner = null, wake_at = null, "
          "updated_at = $8, claims = 0, pivoted = $9 where id = $1 and epoch = $2 and seq = $3",
          id_, epoch_, seq_, after, static_cast<std::int64_t>(state), reason, output.dump(), at, has_pivoted_ ? 1 : 0);
    } else {  // it ended without a step
      b.execute(
          "insert into cofferdam_sagas(id, definition, version, state, reason, epoch, seq, signals, claims, pivoted, "
          "input, output, created_at, updated_at) values($1, $2, $3, $4, $5, $6, $7, 0, 0, 0, $8, $9, $10, $10)",
          id_, definition_->name, definition_->version, static_cast<std::int64_t>(state), reason, epoch_, after,
          input_.dump(), output.dump(), at);
    }
    add_entries(b, entries, at);
    if (!parent_.empty()) wake_saga(b, parent_);
    if (has_locks_) next = let_go_of_locks(b, id_);
    return b;
  };
  const std::function<batch()> again = std::cref(make);
  const written how = co_await commit(again, after);
  if (how != written::yes) {
    if (how == written::refused && !is_inserted_) report_birth(false);
    publish(saga_event::kind::lost);
    co_return;
  }
  if (engine_->is_dead("after a commit")) co_return;
  is_let_go_ = true;
  seq_ = after;
  state_ = state;
  report_birth(true);
  publish(state == saga_state::completed ? saga_event::kind::completed : saga_event::kind::compensated, {}, 0, reason);
  engine_->complete(id_, {state, std::move(reason), std::move(output), std::move(cause)});
  if (const auto parent = parent_.empty() ? nullptr : engine_->find(parent_)) parent->look_again();
  if (!next || received_.size() <= *next) co_return;
  for (const row r : received_[*next]) {
    if (const auto waiting = engine_->find(r.get<std::string>(0))) waiting->look_again();
  }
}

/// Lets the saga go from this process: to wait, or for another owner.
awaitable<void> instance::set_aside(saga_state state, std::string reason, std::optional<std::int64_t> wake_at) {
  if (beats_ > 0) co_await end_beats();
  if (engine_->is_dead("before a commit")) co_return;
  if (!is_inserted_) {
    note({entry_kind::operated, "", "", {{"verb", "set_aside"}}});
    const written kept = co_await flush();
    if (kept != written::yes) co_return;
  }
  const auto entries = std::exchange(buffer_, {});
  const std::uint64_t after = seq_after(entries);
  const std::int64_t at = now();
  batch b;
  // A signal that came since the saga looked makes it due at once.
  b.require_change(
      ownership,
      "update cofferdam_sagas set seq = $4, state = $5, reason = $6, owner = null, wake_at = case when signals <= $7 "
      "then cast($8 as bigint) else 0 end, updated_at = $9, claims = 0, pivoted = $10 where id = $1 and epoch = $2 and "
      "seq = $3",
      id_, epoch_, seq_, after, static_cast<std::int64_t>(state), reason, signals_seen_, wake_at, at,
      has_pivoted_ ? 1 : 0);
  add_entries(b, entries, at);
  const std::function<batch()> again = [&b] { return b; };
  const written how = co_await commit(again, after);
  if (how != written::yes) publish(saga_event::kind::lost);
  if (how != written::yes || engine_->is_dead("after a commit")) co_return;
  is_let_go_ = true;
  report_birth(true);
  if (state == saga_state::stuck) publish(saga_event::kind::stuck, {}, 0, reason);
  if (state == saga_state::waiting) publish(saga_event::kind::parked);
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
