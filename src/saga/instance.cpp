// The life of one saga: its journal, its way forward and back, and how it leaves.
#include "instance.hpp"

#include "engine_state.hpp"

#include <algorithm>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {
namespace {

std::string reason_of(const std::exception_ptr& error) {
  const auto why = failure::thrown(error);
  return why.message();
}

}  // namespace

instance::instance(std::shared_ptr<engine_state> engine, std::string id)
    : engine_(std::move(engine)), id_(std::move(id)) {}

instance::instance(std::shared_ptr<engine_state> engine, std::string id, const definition& what, nlohmann::json input)
    : engine_(std::move(engine)), id_(std::move(id)), definition_(&what), input_(std::move(input)) {}

instance::instance(std::shared_ptr<engine_state> engine, const definition& what, const row& found)
    : engine_(std::move(engine)),
      id_(found.get<std::string>("id")),
      definition_(&what),
      seq_(found.get<std::uint64_t>("seq")),
      epoch_(found.get<std::uint64_t>("epoch")),
      signals_(found.get<std::int64_t>("signals")),
      is_inserted_(true),
      has_pivoted_(found.get<std::int64_t>("pivoted") != 0),
      claims_(found.get<std::uint32_t>("claims")),
      reason_(found.get<std::optional<std::string>>("reason").value_or("")),
      cancel_reason_(found.get<std::optional<std::string>>("cancel_reason").value_or("")) {
  input_ = found.get<std::string>("input");  // parsed by load(), where an error can be reported
  report_birth(true);
}

std::int64_t instance::now() const { return to_microseconds(engine_->timers->date()); }

void instance::publish(saga_event::kind what, std::string key, std::uint32_t attempt, std::string message) {
  if (!engine_->events.has_listeners()) return;
  engine_->events.publish(
      {what, id_, definition_ ? definition_->name : std::string(), std::move(key), attempt, std::move(message)});
}

// ------------------------------------------------------------------------------------------------------------- birth

void instance::report_birth(std::optional<bool> is_new, failure why) {
  std::vector<cofferdam::detail::parked_reference> expecting;
  {
    const std::lock_guard lock(birth_mutex_);
    if (birth_) return;
    if (is_new) {
      birth_.emplace(*is_new);
    } else {
      birth_.emplace(std::move(why));
    }
    expecting.swap(expecting_);
  }
  for (const auto& each : expecting) each->wake(wake_reason::woken);
}

awaitable<bool> instance::wait_until_born() {
  for (;;) {
    const auto is_over = [this] { return birth_.has_value(); };
    const auto woken = co_await park(never, cofferdam::detail::wait_among(expecting_, birth_mutex_, is_over));
    const std::lock_guard lock(birth_mutex_);
    if (birth_) co_return birth_->value();
    if (woken == wake_reason::cancelled) failure::cancelled().raise();
  }
}

// ----------------------------------------------------------------------------------------------------------- control

void instance::start(const net::any_io_executor& executor) {
  strand_ = cofferdam::detail::own_strand(executor);
  const auto run = [](std::shared_ptr<instance> self) { return self->live(); };
  running_.emplace(spawn(*strand_, run, shared_from_this()));
}

void instance::leave(leave_reason why, std::string text) {
  if (leaving_ != leave_reason::none) return;
  leaving_ = why;
  leaving_text_ = std::move(text);
  wake_waits();
}

void instance::wake_waits() {
  const auto waiting = std::exchange(waiting_, {});
  for (const auto& each : waiting) each->wake(wake_reason::woken);
}

void instance::leave_soon(leave_reason why, bool at_once) {
  if (!strand_) return;
  net::dispatch(*strand_, [self = shared_from_this(), why, at_once] {
    if (self->has_aborted_ && why == leave_reason::goes_back) return;
    self->leave(why, why == leave_reason::goes_back ? self->cancel_reason_ : std::string());
    if (at_once && self->running_) self->running_->cancel();
  });
}

void instance::look_again() {
  if (!strand_) return;
  net::dispatch(*strand_, [self = shared_from_this()] { self->wake_waits(); });
}

awaitable<void> instance::rest(duration d) {
  const auto until = saturating_add(engine_->timers != nullptr ? engine_->timers->now() : time_point(), d);
  (void)co_await park(until, [this](const cofferdam::detail::parked_reference& self) { waiting_.push_back(self); });
}

// ------------------------------------------------------------------------------------------------------- the journal

record* instance::find(const std::string& key) {
  const auto it = index_.find(key);
  return it == index_.end() ? nullptr : &records_[it->second];
}

const nlohmann::json* instance::result_of(const std::string& key) const {
  const auto it = index_.find(key);
  if (it == index_.end() || records_[it->second].ended != record::outcome::succeeded) return nullptr;
  return &records_[it->second].result;
}

nlohmann::json instance::progress_of(const std::string& key) const {
  const auto it = index_.find(key);
  return it == index_.end() ? nlohmann::json() : records_[it->second].progress;
}

std::string_view scope_of(std::string_view key) noexcept {
  const auto slash = key.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : key.substr(0, slash + 1);
}

void instance::apply(const entry& e) {
  const bool begins =
      e.kind == entry_kind::intent || e.kind == entry_kind::waiting || e.kind == entry_kind::nested_aborted;
  record* r = find(e.key);
  if (begins && r == nullptr) {
    index_.emplace(e.key, records_.size());
    r = &records_.emplace_back();
    r->key = e.key;
    r->step = e.step;
  }
  if (e.kind == entry_kind::aborted) {
    has_aborted_ = true;
    reason_ = e.payload.value("why", "");
    return;
  }
  if (e.kind == entry_kind::operated && r == nullptr) return;
  if (r == nullptr) {
    throw saga_error(errc::saga_undecodable, "the saga '" + id_ + "': an entry '" + std::string(to_string(e.kind)) +
                                                 "' is about '" + e.key + "', which never began");
  }
  switch (e.kind) {
    case entry_kind::intent:
      r->is_step = true;
      r->arguments = e.payload.at("arguments").dump();
      if (e.payload.contains("undo")) {
        r->settings.undo_attempts = e.payload["undo"].value("attempts", std::uint32_t{0});
        r->settings.undo_timeout = duration(e.payload["undo"].value("timeout_ns", std::int64_t{0}));
      }
      break;
    case entry_kind::succeeded:
    case entry_kind::signalled:
      r->ended = record::outcome::succeeded;
      r->why.reset();
      r->result = e.payload;
      break;
    case entry_kind::failed:
      r->ended = record::outcome::failed;
      r->why.emplace(r->step, static_cast<step_failed::reason>(e.payload.at("reason").get<int>()),
                     e.payload.at("message").get<std::string>(), e.payload.value("code", ""));
      break;
    case entry_kind::waiting:
      r->wake_at = e.payload.at("wake_at").get<std::int64_t>();
      break;
    case entry_kind::timed_out:
      r->ended = record::outcome::failed;
      break;
    case entry_kind::undone:
      r->is_undone = true;
      break;
    case entry_kind::progress:
      r->progress = e.payload;
      break;
    case entry_kind::nested_aborted:
      r->nested_reason = e.payload.value("why", "");
      break;
    case entry_kind::nested_failed:
      r->ended = record::outcome::failed;
      break;
    case entry_kind::operated:
      if (e.payload.value("verb", "") == "mark_undone") r->is_undone = true;
      if (e.payload.value("verb", "") == "skip") {
        r->ended = record::outcome::succeeded;
        r->result = e.payload.at("result");
      }
      break;
    case entry_kind::aborted:
      break;
  }
}

awaitable<void> instance::load() {
  const std::string text = input_.get<std::string>();
  input_ = parse_stored(id_, "its input", text);
  const rows found = co_await engine_->db->query(
      "select seq, kind, key, step, payload from cofferdam_saga_journal where saga = $1 order by seq", id_);
  for (const row r : found) {
    const auto seq = r.get<std::uint64_t>(0);
    const entry e = parse_entry(id_, seq, r.get<std::int64_t>(1), r.get<std::string>(2), r.get<std::string>(3),
                                r.get<std::string>(4));
    try {
      apply(e);
    } catch (const nlohmann::json::exception& wrong) {
      throw saga_error(errc::saga_undecodable, "the saga '" + id_ + "': entry " + std::to_string(seq) + " ('" +
                                                   std::string(to_string(e.kind)) + "' of '" + e.key +
                                                   "') is damaged: " + wrong.what());
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

/// True where the body does something new before it did what the journal says it did: the code has changed.
bool instance::diverges(const std::string& key) {
  const auto it = unvisited_.find(scope_of(key));
  if (it == unvisited_.end()) return false;
  std::string expected;
  for (const record& r : records_) {
    if (!r.is_visited && scope_of(r.key) == scope_of(key)) expected += (expected.empty() ? "'" : ", '") + r.key + "'";
  }
  leave(leave_reason::stuck, "the body has changed: it now does '" + key + "', where the journal has " + expected +
                                 ". Ask patched() for what was added, or compensate the saga");
  return true;
}

void instance::note(entry e) {
  ++noted_;
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
  const bool is_ours = co_await flush();
  if (!is_ours) failure::cancelled().raise();
}

/// Writes what is noted. False: this saga is no longer ours.
awaitable<bool> instance::flush() {
  const std::uint64_t mine = noted_;
  co_await take_turn();
  if (leaving_ == leave_reason::lost) co_return false;
  if (durable_ >= mine) co_return true;  // another branch's commit took it along
  is_writing_ = true;
  const std::uint64_t upto = noted_;
  auto entries = std::exchange(buffer_, {});
  const written how = co_await write(std::move(entries), {});
  is_writing_ = false;
  if (how == written::yes) durable_ = upto;
  wake_waits();
  co_return how == written::yes;
}

/// Writes what is noted, `outcome`, and `own`, in one commit. `refused`: none of it is written, since the database
/// refuses `own`.
awaitable<instance::written> instance::flush_with(entry outcome, batch own) {
  co_await take_turn();
  if (leaving_ == leave_reason::lost) co_return written::lost;
  is_writing_ = true;
  auto entries = std::exchange(buffer_, {});
  const auto before = entries;
  entries.push_back(outcome);
  const std::uint64_t upto = noted_;
  const written how = co_await write(std::move(entries), std::move(own));
  is_writing_ = false;
  if (how == written::yes) {
    apply(outcome);
    durable_ = upto;
  } else if (how == written::refused) {
    buffer_.insert(buffer_.begin(), before.begin(), before.end());
  }
  wake_waits();
  co_return how;
}

awaitable<void> instance::take_turn() {
  while (is_writing_) co_await rest(duration::max());
}

std::uint64_t instance::seq_after(const std::vector<entry>& entries) const noexcept {
  return seq_ + std::max<std::size_t>(entries.size(), 1);
}
/// For a batch whose update moved the saga on to `after`, if it was still ours.
void instance::add_guard(batch& b, std::uint64_t after) const {
  b.require("the saga '" + id_ + "' is ours",
            "select count(*) > 0 from cofferdam_sagas where id = $1 and epoch = $2 and seq = $3", id_, epoch_, after);
}
void instance::add_entries(batch& b, const std::vector<entry>& entries, std::int64_t at) const {
  std::uint64_t seq = seq_;
  for (const entry& e : entries) insert_entry(b, id_, ++seq, epoch_, at, e);
}

awaitable<instance::written> instance::write(std::vector<entry> entries, batch own) {
  if (engine_->is_dead("before a commit")) {
    leave(leave_reason::lost);
    co_return written::lost;
  }
  const std::uint64_t after = seq_after(entries);
  const std::int64_t at = now();
  batch b;
  if (is_inserted_) {
    b.execute(
        "update cofferdam_sagas set seq = $4, state = $5, pivoted = $6, updated_at = $7, claims = 0 where id = $1 and "
        "epoch = $2 and seq = $3",
        id_, epoch_, seq_, after, static_cast<std::int64_t>(state_), has_pivoted_ ? 1 : 0, at);
    add_guard(b, after);
  } else {
    b.execute(
        "insert into cofferdam_sagas(id, definition, version, state, epoch, owner, seq, signals, claims, pivoted, "
        "input, created_at, updated_at) values($1, $2, $3, $4, $5, $6, $7, 0, 0, $8, $9, $10, $10)",
        id_, definition_->name, definition_->version, static_cast<std::int64_t>(state_), epoch_, engine_->worker, after,
        has_pivoted_ ? 1 : 0, input_.dump(), at);
  }
  add_entries(b, entries, at);
  const bool has_own = !own.empty();
  b.add(std::move(own));
  engine_->beat(b);
  const written how = co_await commit(std::move(b), after);
  engine_->beaten(how == written::yes);
  if (how == written::yes && !is_inserted_) {
    is_inserted_ = true;
    publish(saga_event::kind::started);
    report_birth(true);
  }
  if (how == written::yes) seq_ = after;
  const bool is_users = how == written::refused && has_own;
  if (how == written::refused && !has_own && !is_inserted_) report_birth(false);
  if (how != written::yes && !is_users) {
    publish(saga_event::kind::lost);
    leave(leave_reason::lost);
  }
  if (engine_->is_dead("after a commit")) {
    leave(leave_reason::lost);
    co_return written::lost;
  }
  co_return how;
}

/// Tries until the database says what has become of it.
awaitable<instance::written> instance::commit(batch b, std::uint64_t seq) {
  bool may_be_there = false;
  duration pause = std::chrono::milliseconds(50);
  for (;;) {
    batch copy = b;
    const auto done = co_await engine_->db->try_commit(std::move(copy));
    if (done) co_return written::yes;
    const auto code = done.code();
    const bool is_refusal = code == errc::condition_failed || code == errc::constraint_violated ||
                            code == errc::invalid_statement || code == errc::type_mismatch;
    if (is_refusal || code == errc::outcome_unknown) {
      const bool look = may_be_there || code == errc::outcome_unknown;
      may_be_there = true;
      if (look) {
        const bool is_there = co_await is_written(seq);
        if (is_there) co_return written::yes;
      }
      if (code == errc::condition_failed) co_return written::lost;
      if (is_refusal) co_return written::refused;
    } else if (!storage_error::is_retryable(code)) {
      if (!birth_) report_birth(std::nullopt, done.why());
      co_return written::lost;
    }
    co_await rest(pause);
    pause = std::min<duration>(pause * 2, std::chrono::seconds(5));
    if (leaving_ == leave_reason::lost || leaving_ == leave_reason::handed_back) co_return written::lost;
  }
}

awaitable<bool> instance::is_written(std::uint64_t seq) {
  const rows found = co_await engine_->db->query(
      "select count(*) from cofferdam_sagas where id = $1 and epoch = $2 and seq = $3 and owner = $4", id_, epoch_, seq,
      engine_->worker);
  co_return found.front().get<std::int64_t>(0) > 0;
}

// --------------------------------------------------------------------------------------------------------------- ends

/// The last commit.
awaitable<void> instance::finish(saga_state state, std::string reason, nlohmann::json output,
                                 std::exception_ptr cause) {
  if (engine_->is_dead("before a commit")) co_return;
  const auto entries = std::exchange(buffer_, {});
  const std::uint64_t after = seq_after(entries);
  const std::int64_t at = now();
  batch b;
  if (is_inserted_) {
    b.execute(
        "update cofferdam_sagas set seq = $4, state = $5, reason = $6, output = $7, owner = null, wake_at = null, "
        "updated_at = $8, claims = 0, pivoted = $9 where id = $1 and epoch = $2 and seq = $3",
        id_, epoch_, seq_, after, static_cast<std::int64_t>(state), reason, output.dump(), at, has_pivoted_ ? 1 : 0);
    add_guard(b, after);
  } else {  // it ended without a step
    b.execute(
        "insert into cofferdam_sagas(id, definition, version, state, reason, epoch, seq, signals, claims, pivoted, "
        "input, output, created_at, updated_at) values($1, $2, $3, $4, $5, $6, $7, 0, 0, 0, $8, $9, $10, $10)",
        id_, definition_->name, definition_->version, static_cast<std::int64_t>(state), reason, epoch_, after,
        input_.dump(), output.dump(), at);
  }
  add_entries(b, entries, at);
  const written how = co_await commit(std::move(b), after);
  if (how != written::yes) {
    if (how == written::refused && !is_inserted_) report_birth(false);
    publish(saga_event::kind::lost);
    co_return;
  }
  if (engine_->is_dead("after a commit")) co_return;
  seq_ = after;
  state_ = state;
  report_birth(true);
  publish(state == saga_state::completed ? saga_event::kind::completed : saga_event::kind::compensated, {}, 0, reason);
  engine_->complete(id_, {state, std::move(reason), std::move(output), std::move(cause)});
}

/// Lets the saga go from this process: to wait, or for another owner.
awaitable<void> instance::set_aside(saga_state state, std::string reason, std::optional<std::int64_t> wake_at) {
  if (engine_->is_dead("before a commit")) co_return;
  if (!is_inserted_) {
    note({entry_kind::operated, "", "", {{"verb", "set_aside"}}});
    const bool is_there = co_await flush();
    if (!is_there) co_return;
  }
  const auto entries = std::exchange(buffer_, {});
  const std::uint64_t after = seq_after(entries);
  const std::int64_t at = now();
  batch b;
  // A signal that came since the saga looked makes it due at once.
  b.execute(
      "update cofferdam_sagas set seq = $4, state = $5, reason = $6, owner = null, wake_at = case when signals = $7 "
      "then cast($8 as bigint) else 0 end, updated_at = $9, claims = 0 where id = $1 and epoch = $2 and seq = $3",
      id_, epoch_, seq_, after, static_cast<std::int64_t>(state), reason, signals_, wake_at, at);
  add_guard(b, after);
  add_entries(b, entries, at);
  const written how = co_await commit(std::move(b), after);
  if (how != written::yes || engine_->is_dead("after a commit")) co_return;
  report_birth(true);
  if (state == saga_state::stuck) publish(saga_event::kind::stuck, {}, 0, reason);
  if (state == saga_state::waiting) publish(saga_event::kind::parked);
}

// --------------------------------------------------------------------------------------------------------------- life

bool instance::is_pivot_in_doubt() const {
  return std::ranges::any_of(records_, [this](const record& r) {
    const auto* step = r.is_step ? definition_->find(r.step) : nullptr;
    return step != nullptr && step->kind == step_kind::pivot && r.ended == record::outcome::open;
  });
}

/// True when the saga has ended, or left; false when it has to go back.
awaitable<bool> instance::go_forward() {
  std::unique_ptr<branch_base> root;
  std::string broken;
  try {
    root = definition_->begin(*this, input_);
  } catch (const std::exception& e) {
    broken = "its input cannot be read: " + std::string(e.what());
  }
  if (!root) {
    co_await set_aside(saga_state::stuck, broken, std::nullopt);
    co_return true;
  }
  bool has_ended = false;
  try {
    const auto body = root->start();
    has_ended = co_await drive(root->control(), body);
  } catch (const std::exception& e) {
    if (!failure::current(e).is_cancellation()) leave(leave_reason::stuck, e.what());
  }
  co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
  if (has_ended) {
    std::exception_ptr error = root->take();
    nlohmann::json output;
    if (!error && !unvisited_.empty()) {
      leave(leave_reason::stuck,
            "the body has changed: it ended, but the journal has more of '" + unvisited_.begin()->first + "'");
    } else if (!error) {
      try {
        output = definition_->output(*root);
        (void)output.dump();
      } catch (const std::exception& e) {
        leave(leave_reason::stuck, "what the body returned cannot be stored: " + std::string(e.what()));
      }
    } else if (has_pivoted_) {
      leave(leave_reason::stuck, "failed past its pivot: " + reason_of(error));
    } else {
      cause_ = error;
      leave(leave_reason::goes_back, reason_of(error));
    }
    root.reset();
    if (leaving_ == leave_reason::none) {
      co_await finish(saga_state::completed, {}, std::move(output), nullptr);
      co_return true;
    }
  }
  root.reset();  // frames end before the saga is anybody else's
  switch (leaving_) {
    case leave_reason::goes_back:
      co_return false;
    case leave_reason::parked:
      co_await set_aside(saga_state::waiting, {}, next_wake_);
      break;
    case leave_reason::stuck:
      co_await set_aside(saga_state::stuck, leaving_text_, std::nullopt);
      break;
    case leave_reason::handed_back:
    case leave_reason::none:  // cancelled with its context
      co_await set_aside(state_, {}, 0);
      break;
    case leave_reason::lost:
      break;
  }
  co_return true;
}

awaitable<void> instance::live() {
  const auto engine = engine_;
  const auto self = shared_from_this();
  std::string broken;
  try {
    if (is_inserted_) co_await load();
  } catch (const saga_error& e) {
    broken = e.what();
  }
  if (broken.empty() && claims_ > engine_->options.max_claims) {
    broken = "taken over " + std::to_string(claims_) + " times without getting on: its process seems to die of it";
  }
  if (!broken.empty()) {
    co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
    co_await set_aside(saga_state::stuck, broken, std::nullopt);
  } else {
    bool goes_back = has_aborted_;
    if (!goes_back && !cancel_reason_.empty() && !has_pivoted_ && !is_pivot_in_doubt()) {
      goes_back = true;
      leave(leave_reason::goes_back, cancel_reason_);
    }
    if (!goes_back) {
      const bool is_over = co_await go_forward();
      goes_back = !is_over;
    }
    if (goes_back) {
      co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
      co_await go_back();
    }
  }
  report_birth(std::nullopt, failure::refused(errc::database_unavailable));
  engine->exit(*this);
}

/// From the decision, which is durable before the first undo, to the last one.
awaitable<void> instance::go_back() {
  if (!has_aborted_) {
    reason_ = leaving_text_;
    has_aborted_ = true;
    state_ = saga_state::compensating;
    note({entry_kind::aborted, "", "", {{"why", reason_}}});
    publish(saga_event::kind::aborted, {}, 0, reason_);
    leaving_ = leave_reason::none;
    const bool is_durable = co_await flush();
    if (!is_durable) co_return;
  }
  state_ = saga_state::compensating;
  const bool is_back = co_await unwind({});
  if (is_back) {
    co_await finish(saga_state::compensated, reason_, nullptr, cause_);
    co_return;
  }
  if (leaving_ == leave_reason::stuck) co_await set_aside(saga_state::stuck, leaving_text_, std::nullopt);
  if (leaving_ == leave_reason::handed_back) co_await set_aside(saga_state::compensating, reason_, 0);
}

awaitable<ending> instance::live_here(branch_base& root) {
  const auto executor = co_await net::this_coro::executor;
  if (engine_->timers == nullptr) engine_->timers = &timers_of(executor);
  strand_ = executor;
  bool has_ended = false;
  std::exception_ptr error;
  try {
    const auto body = root.start();
    has_ended = co_await drive(root.control(), body);
  } catch (...) {
    error = std::current_exception();
  }
  if (has_ended) error = root.take();
  if (has_ended && !error) co_return ending{saga_state::completed, {}, {}, nullptr};
  if (leaving_ == leave_reason::stuck) co_return ending{saga_state::stuck, leaving_text_, {}, error};
  co_await net::this_coro::reset_cancellation_state(net::disable_cancellation());
  ending how{saga_state::compensated, error ? reason_of(error) : leaving_text_, {}, error};
  if (has_pivoted_) {
    how.state = saga_state::stuck;
    how.reason = "failed past its pivot: " + how.reason;
  } else {
    leaving_ = leave_reason::none;
    has_aborted_ = true;
    publish(saga_event::kind::aborted, {}, 0, how.reason);
    const bool is_back = co_await unwind({});
    if (!is_back) how.state = saga_state::stuck;
    if (!is_back) how.reason += "; and then: " + leaving_text_;
    if (is_back) publish(saga_event::kind::compensated, {}, 0, how.reason);
  }
  co_await net::this_coro::reset_cancellation_state();
  co_return how;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
