// The PostgreSQL driver: one thread serves a pool of connections, each a coroutine that takes what waits. Batches that
// came together go out in one flight, each a transaction and a synchronisation point of its own.
#if defined(COFFERDAM_HAS_POSTGRES)
#include "postgres_connection.hpp"

#include <cofferdam/core/backoff.hpp>
#include <cofferdam/storage/detail/driver.hpp>

#include <algorithm>
#include <array>
#include <deque>
#include <random>
#include <thread>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::postgres {
namespace {

using detail::counted;
using detail::parked_reference;
using detail::reference;

/// A call that waits for a connection to do its work.
class call : public counted {
 public:
  bool begin() noexcept { return move_on(state::running); }
  bool withdraw() noexcept { return move_on(state::withdrawn); }
  void finish() noexcept { waiter->wake(wake_reason::woken); }

  parked_reference waiter;  // set before the call is given to anybody

 private:
  enum class state : std::uint8_t { waiting, running, withdrawn };
  bool move_on(state to) noexcept {
    state expected = state::waiting;
    return state_.compare_exchange_strong(expected, to, std::memory_order_acq_rel);
  }
  std::atomic<state> state_{state::waiting};
};

struct write_call final : call {
  explicit write_call(batch b) noexcept : work(std::move(b)) {}
  batch work;
  std::optional<outcome<receipt>> result;
};

/// A cursor's connection. The driver's thread only.
struct open_query {
  open_query(statement q, std::size_t rows_per_page) noexcept : query(std::move(q)), page(rows_per_page) {}
  statement query;
  std::size_t page;
  std::unique_ptr<connection> own;
  bool has_begun = false, has_ended = false;
};

struct read_call final : call {
  explicit read_call(std::vector<statement> q) noexcept : queries(std::move(q)) {}
  explicit read_call(std::shared_ptr<open_query> c) noexcept : cursor(std::move(c)) {}
  std::vector<statement> queries;
  std::shared_ptr<open_query> cursor;  // empty: ordinary queries
  std::vector<rows> found;             // of each
  failure why;
  connection* running_on = nullptr;  // the driver's thread
  bool is_cancelled = false;         // the driver's thread
  std::size_t cancels = 0;           // under way, the driver's thread
};

class driver;

/// What `park` is given: hands the call over once the caller is safely suspended.
template <class Call> struct hand_over {
  driver* to;
  Call* which;  // the caller's frame keeps it

  void operator()(const parked_reference& self) const;
  [[nodiscard]] bool may_leave() const;
};

failure as_failure(storage_error e) { return failure::thrown(std::make_exception_ptr(std::move(e))); }

/// From the first word on: without the space, the comments, of which some hold others, and the `;` before it.
std::string_view without_beginning(std::string_view sql) {
  std::size_t depth = 0;  // of comments
  while (!sql.empty()) {
    if (sql.starts_with("/*")) {
      ++depth;
      sql.remove_prefix(2);
    } else if (depth > 0) {
      const bool is_end = sql.starts_with("*/");
      if (is_end) --depth;
      sql.remove_prefix(is_end ? 2 : 1);
    } else if (sql.starts_with("--")) {
      sql.remove_prefix(std::min(sql.find_first_of("\r\n"), sql.size()));
    } else if (std::string_view(" \t\r\n\f\v;").find(sql.front()) != std::string_view::npos) {
      sql.remove_prefix(1);
    } else {
      break;
    }
  }
  return sql;
}

bool controls_transaction(std::string_view sql) {
  static constexpr std::array<std::string_view, 9> words{"commit", "rollback", "begin",     "end",    "abort",
                                                         "start",  "prepare",  "savepoint", "release"};
  std::string word;
  for (const char c : without_beginning(sql)) {
    const char lower = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    if (lower < 'a' || lower > 'z') break;
    word += lower;
  }
  return std::ranges::find(words, word) != words.end();
}

/// The batch's locks as one statement: advisory ones, in the order of their keys, the one of everything before all.
/// A statement of its own, since only the next one sees what others committed while this one waited.
statement locks_of(const batch& work) {
  constexpr std::uint64_t family = 0xCFE6ULL << 48U, of_hash = (1ULL << 48U) - 1;
  constexpr std::size_t most = 100;  // the server's table of locks is shared and small
  constexpr std::size_t few = 4;     // one by one is faster, and few enough texts to be prepared
  const bool is_all = work.locks_everything() || work.locks().size() > most;
  std::map<std::int64_t, bool> sorted;  // whether shared; two names may share a key: the stronger mode counts
  sorted.emplace(static_cast<std::int64_t>(family), !is_all);
  for (const auto& [hash, mode] : work.locks()) {
    if (is_all) break;
    const auto key = static_cast<std::int64_t>(family | (static_cast<std::uint64_t>(hash) & of_hash));
    const auto [at, is_new] = sorted.emplace(key, mode == lock_mode::shared);
    at->second = at->second && mode == lock_mode::shared;
  }
  if (sorted.size() <= few) {
    std::string sql = "select";
    std::vector<value> keys;
    for (const auto& [key, is_shared] : sorted) {
      keys.emplace_back(key);
      sql += keys.size() > 1 ? ", " : " ";
      sql += is_shared ? "pg_advisory_xact_lock_shared($" : "pg_advisory_xact_lock($";
      sql += std::to_string(keys.size()) + "::bigint)";
    }
    statement one_by_one(std::move(sql));
    for (auto& key : keys) one_by_one.bind(std::move(key));
    return one_by_one;
  }
  std::string keys = "{", shared = "{";
  for (const auto& [key, is_shared] : sorted) {
    if (keys.size() > 1) keys += ',', shared += ',';
    keys += std::to_string(key);
    shared += is_shared ? 't' : 'f';
  }
  return statement(
      "select count(case when shared then pg_advisory_xact_lock_shared(key)::text else "
      "pg_advisory_xact_lock(key)::text "
      "end) from unnest($1::bigint[], $2::boolean[]) as locks(key, shared)",
      keys + "}", shared + "}");
}

/// Errors: `storage_error` for what cannot be part of a batch.
unit unit_of(const batch& work) {
  unit made;
  // The program's own statements may ask for a transaction in so many words: "lock table" does.
  made.is_implicit = std::ranges::all_of(
      work.steps(), [](const auto& step) { return std::holds_alternative<std::shared_ptr<operation>>(step); });
  if (!made.is_implicit) made.steps.push_back({"begin"});
  if (work.locks_everything() || !work.locks().empty()) made.add(locks_of(work), unit::none);
  for (std::size_t part = 0; part < work.steps().size(); ++part) {
    const auto& step = work.steps()[part];
    if (const auto* own = std::get_if<statement>(&step)) {
      if (controls_transaction(own->sql())) {
        throw storage_error(errc::invalid_statement, "a batch is a transaction already; in: " + own->sql());
      }
      made.steps.push_back({own->sql(), own, part});
    } else if (const auto* condition = std::get_if<batch::requirement>(&step)) {
      const std::string& sql = condition->query.sql();
      made.steps.push_back(
          {condition->is_change ? changing_condition_sql(sql) : condition_sql(sql), &condition->query, part});
    } else {
      for (auto& s : std::get<std::shared_ptr<operation>>(step)->statements()) made.add(std::move(s), part);
    }
  }
  if (!made.is_implicit) made.steps.push_back({"commit"});
  return made;
}

/// Where cancellations report to; outlives the driver when they do.
struct cancel_link {
  explicit cancel_link(net::io_context* io) noexcept : to(io) {}
  std::mutex mutex;
  net::io_context* to;
};

/// The time in which the server cannot be reached. The driver's thread.
struct outage {
  static constexpr backoff_options pace{
      .base = std::chrono::milliseconds(50), .jitter = jitter_kind::equal, .cap = std::chrono::seconds(1)};

  void wake() {
    is_probed = false;
    for (auto* timer : std::exchange(waiting, {})) timer->cancel();
  }
  void end() {
    failures = 0;
    state = {};
    wake();
  }

  std::uint32_t failures = 0;
  bool is_probed = false;
  time_point until{};
  std::string why;
  backoff_state state;
  random_source random{std::random_device{}()};
  std::vector<net::steady_timer*> waiting;
};

class driver final : public detail::storage_driver {
 public:
  driver(std::string url, database_options options)
      : options_(options),
        name_(name_of(url)),
        group_(std::move(url), options),
        alive_(io_, forever),
        notifier_(io_, forever),
        watch_(io_, forever) {
    alive_.async_wait([](const net::asio_error_code&) {});
    const std::size_t writers = std::max<std::size_t>(1, options_.connections);
    const std::size_t readers = std::max<std::size_t>(1, options_.readers);
    workers_ = writers + readers;
    stats_.connections = workers_;
    for (std::size_t i = 0; i < writers; ++i) start(&driver::write_loop);
    for (std::size_t i = 0; i < readers; ++i) start(&driver::read_loop);
    start(&driver::notify_loop);
    start(&driver::watch_loop);
    thread_ = std::thread([this] { io_.run(); });
  }

  ~driver() override {
    stop();
    net::post(io_, [this] { may_end(); });
    thread_.join();
    const std::lock_guard lock(cancels_->mutex);
    cancels_->to = nullptr;
  }

  awaitable<outcome<receipt>> commit(batch b) override {
    if (b.empty()) co_return receipt();
    const reference<write_call> written(new write_call(std::move(b)));
    const hand_over<write_call> enlist{this, &*written};
    const wake_reason reason = co_await park(never, enlist);
    if (reason == wake_reason::cancelled) co_return failure::cancelled();
    co_return *std::move(written->result);
  }

  awaitable<outcome<rows>> query(statement q) override {
    std::vector<statement> one;
    one.push_back(std::move(q));
    const reference<read_call> asked(new read_call(std::move(one)));
    return ask_one(asked);
  }

  awaitable<outcome<void>> read(std::shared_ptr<operation> o) override {
    const reference<read_call> asked(new read_call(o->statements()));
    auto found = co_await ask(asked);
    if (!found) co_return found.why();
    o->answered(*std::move(found));
    co_return outcome<void>();
  }

  awaitable<outcome<std::unique_ptr<detail::storage_cursor>>> open_cursor(statement q, std::size_t page) override;

  awaitable<outcome<void>> check_health() override {
    batch b;
    b.require("the database answers", "select 1");
    const auto written = co_await commit(std::move(b));
    if (!written) co_return written.why();
    statement one("select 1");
    const auto answered = co_await query(std::move(one));
    if (!answered) co_return answered.why();
    co_return outcome<void>();
  }

  awaitable<void> close() override {
    stop();
    const auto enlist = detail::wait_among(closing_, mutex_, [this] { return workers_ == 0; });
    co_await park(never, enlist);
  }

  void hear_others() override {
    if (!is_listening_.exchange(true)) net::post(io_, [this] { start(&driver::listen_loop); });
  }

  [[nodiscard]] std::string migration_lock() const override {
    return "select pg_advisory_xact_lock(hashtext('cofferdam_migrations'))";
  }
  [[nodiscard]] const std::string& name() const noexcept override { return name_; }
  [[nodiscard]] database_stats stats() const override {
    const std::lock_guard lock(mutex_);
    database_stats s = stats_;
    s.waiting_batches = writes_.size();
    s.open_connections = group_.open.load(std::memory_order_relaxed);
    s.busy_connections = group_.busy.load(std::memory_order_relaxed);
    s.connects = group_.connects.load(std::memory_order_relaxed);
    s.failed_connects = group_.failed_connects.load(std::memory_order_relaxed);
    s.lost_connections = group_.lost.load(std::memory_order_relaxed);
    return s;
  }

  awaitable<outcome<std::vector<rows>>> ask(reference<read_call> asked) {
    const hand_over<read_call> enlist{this, &*asked};
    const wake_reason reason = co_await park(never, enlist);
    if (reason == wake_reason::cancelled) co_return failure::cancelled();
    if (asked->why) co_return std::move(asked->why);
    co_return std::move(asked->found);
  }
  awaitable<outcome<rows>> ask_one(reference<read_call> asked) {
    auto found = co_await ask(std::move(asked));
    if (!found) co_return found.why();
    co_return found->empty() ? rows() : std::move(found->front());
  }

  void accept(reference<write_call> written) {
    {
      const std::lock_guard lock(mutex_);
      if (is_closing_) {
        written->result = refused(errc::database_closed);
      } else if (writes_.size() >= options_.max_waiting_batches) {
        written->result = refused(errc::database_overloaded);
      } else {
        writes_.push_back(std::move(written));
        return wake_locked();
      }
    }
    written->finish();
  }

  void accept(reference<read_call> asked) {
    {
      const std::lock_guard lock(mutex_);
      if (!is_closing_) {
        reads_.push_back(std::move(asked));
        ++stats_.queries;
        return wake_locked();
      }
      asked->why = refused(errc::database_closed);
    }
    asked->finish();
  }

  void interrupt(reference<read_call> asked) {
    net::post(io_, [this, asked] { cancel(asked); });
  }

  bool open_one_cursor() {
    const std::lock_guard lock(mutex_);
    if (stats_.open_cursors >= options_.max_cursors) return false;
    ++stats_.open_cursors;
    return true;
  }
  void cursor_closed(std::shared_ptr<open_query> q) {
    {
      const std::lock_guard lock(mutex_);
      --stats_.open_cursors;
    }
    net::post(io_, [held = std::move(q)] { held->own.reset(); });
  }
  [[nodiscard]] failure refused(errc code) const {
    const std::string text = code == errc::database_closed ? "'" + name_ + "' was closed"
                                                           : "'" + name_ + "' has as many waiting as its options allow";
    return as_failure({code, text});
  }

 private:
  static constexpr auto forever = net::steady_timer::time_point::max();
  static constexpr std::size_t max_flight = 16;  // batches that one connection has under way

  /// Without user and password.
  static std::string name_of(const std::string& url) {
    const std::unique_ptr<PQconninfoOption, decltype(&PQconninfoFree)> parsed(PQconninfoParse(url.c_str(), nullptr),
                                                                              &PQconninfoFree);
    // What libpq says may quote the password.
    if (!parsed) throw storage_error(errc::database_unavailable, "libpq does not understand the database's URL");
    std::string host, port, database;
    for (const auto* option = parsed.get(); option->keyword != nullptr; ++option) {
      const std::string_view keyword = option->keyword;
      const std::string text = option->val == nullptr ? "" : option->val;
      if (keyword == "host") host = text;
      if (keyword == "port") port = ":" + text;
      if (keyword == "dbname") database = text;
    }
    return "postgresql://" + host + (port == ":" ? "" : port) + "/" + database;
  }

  void start(awaitable<void> (driver::*loop)()) { net::co_spawn(io_, (this->*loop)(), net::detached); }

  void wake_locked() {
    if (!std::exchange(is_wake_posted_, true)) net::post(io_, [this] { wake_idle(); });
  }
  void wake_idle() {
    {
      const std::lock_guard lock(mutex_);
      is_wake_posted_ = false;
    }
    for (auto* idle : std::exchange(idle_, {})) idle->cancel();
  }
  awaitable<void> idle(net::steady_timer& timer) {
    timer.expires_at(forever);
    idle_.push_back(&timer);
    co_await timer.async_wait(net::as_tuple(net::use_awaitable));
  }

  void stop() {
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
    wake_locked();
  }
  [[nodiscard]] bool is_closing() const {
    const std::lock_guard lock(mutex_);
    return is_closing_;
  }

  void worker_ended() {
    std::vector<parked_reference> woken;
    {
      const std::lock_guard lock(mutex_);
      stats_.connections = --workers_;
      if (workers_ > 0) return;
      woken.swap(closing_);
    }
    for (const auto& waiter : woken) waiter->wake(wake_reason::woken);
    end_helpers();
  }
  /// What only listens and notifies goes when the work is done.
  void end_helpers() {
    notifier_.cancel();
    watch_.cancel();
    if (listening_ != nullptr) listening_->abandon();
  }
  void may_end() { alive_.cancel(); }

  // --- writing

  std::vector<reference<write_call>> take_writes() {
    std::vector<reference<write_call>> group;
    const std::lock_guard lock(mutex_);
    const std::size_t writers = std::max<std::size_t>(1, options_.connections);
    // A fair share, so that the others have something to do meanwhile.
    const std::size_t share = std::min({(writes_.size() + writers - 1) / writers, max_flight,
                                        std::max<std::size_t>(1, options_.max_batches_per_commit)});
    while (!writes_.empty() && group.size() < share) {
      if (writes_.front()->begin()) group.push_back(std::move(writes_.front()));
      writes_.pop_front();
    }
    return group;
  }

  awaitable<void> write_loop() {
    connection own(io_.get_executor(), group_);
    net::steady_timer timer(io_);
    for (;;) {
      auto group = take_writes();
      if (group.empty()) {
        if (is_closing() && !has_writes()) break;
        if (!has_writes()) co_await idle(timer);
        continue;
      }
      while (!group.empty()) group = co_await write(own, std::move(group));
    }
    own.close();
    worker_ended();
  }
  [[nodiscard]] bool has_writes() const {
    const std::lock_guard lock(mutex_);
    return !writes_.empty();
  }

  /// Returns those that surely have not begun and are to be tried again.
  awaitable<std::vector<reference<write_call>>> write(connection& own, std::vector<reference<write_call>> group) {
    std::vector<unit> units;
    std::vector<reference<write_call>> sent;
    for (auto& w : group) {
      try {
        units.push_back(unit_of(w->work));
        sent.push_back(std::move(w));
      } catch (...) {
        settle(*w, failure::current());
      }
    }
    group.clear();
    if (sent.empty()) co_return group;
    failure why;
    try {
      co_await reconnect(own, false);
      co_await own.run(units);
    } catch (...) {
      why = failure::current();
    }
    if (why) {
      // One that cannot be sent must not fail the others.
      if (sent.size() > 1 && why.code() == errc::invalid_statement) {
        for (auto& alone : sent) {
          std::vector<reference<write_call>> one(1, alone);
          while (!one.empty()) one = co_await write(own, std::move(one));
        }
        co_return group;
      }
      for (const auto& w : sent) settle(*w, why);
      co_return group;
    }
    std::size_t committed = 0;
    std::vector<std::size_t> to_explain;
    bool has_ended = false, has_refused = false;  // the server left, or refused, at one of those before
    for (std::size_t i = 0; i < sent.size(); ++i) {
      // Its "begin" met the failed transaction of one before.
      const bool has_not_begun = has_ended || (has_refused && units[i].answered == 0 && units[i].refusal);
      if (has_not_begun) {
        group.push_back(std::move(sent[i]));
        continue;
      }
      // An implicit transaction ends with its unit, and those behind it may run though nobody hears of them any more.
      const bool holds_up = units[i].refusal && (!units[i].is_implicit || units[i].refusal->state.starts_with("57P"));
      has_refused = has_refused || holds_up;
      has_ended = has_ended || (holds_up && !units[i].is_complete);
      if (units[i].is_complete && refused_operation(sent[i]->work, units[i]) != nullptr) {
        to_explain.push_back(i);
        continue;
      }
      auto result = outcome_of(sent[i]->work, units[i]);
      if (result) ++committed;
      sent[i]->result.emplace(std::move(result));
      count(*sent[i]->result);
    }
    if (committed > 0) {
      changes.raise();
      has_news_ = true;
      notifier_.cancel();
      if (events.has_listeners()) events.publish({database_event::kind::committed, committed, {}});
    }
    for (const auto& w : sent) {
      if (w && w->result) w->finish();
    }
    if (own.in_transaction()) co_await roll_back(own);
    for (const std::size_t i : to_explain) co_await explain(own, *sent[i], units[i]);
    co_return group;
  }

  awaitable<void> roll_back(connection& own) {
    std::vector<unit> undo(1);
    undo[0].steps.push_back({"rollback"});
    co_await own.run(undo);
  }

  outcome<receipt> outcome_of(const batch& work, unit& u) {
    // What the server says after the commit is its farewell.
    if (u.is_committed()) return receipt(rows_by_part(work, u));
    const std::size_t commit = u.is_implicit ? u.steps.size() : u.steps.size() - 1;
    if (!u.refusal || (u.answered == commit && u.refusal->state.starts_with("57P"))) {
      return as_failure({errc::outcome_unknown, "the connection to '" + name_ + "' broke while the batch was under way",
                         u.refusal ? u.refusal->state : ""});
    }
    if (u.is_answered()) return as_failure(to_error(*u.refusal, "commit"));
    if (const std::size_t part = u.steps[u.answered].part; part != unit::none) {
      if (const auto* condition = std::get_if<batch::requirement>(&work.steps()[part])) {
        if (is_condition(*u.refusal)) return as_failure({errc::condition_failed, condition->name});
        return as_failure(to_error(*u.refusal, condition->query.sql()));
      }
    }
    return as_failure(to_error(*u.refusal, u.steps[u.answered].sql));
  }

  /// Those of statements; operations are given theirs.
  static std::vector<rows> rows_by_part(const batch& work, unit& u) {
    std::vector<rows> results;
    for (std::size_t i = 0; i < u.steps.size();) {
      const std::size_t part = u.steps[i].part;
      const auto* own = part == unit::none ? nullptr : std::get_if<std::shared_ptr<operation>>(&work.steps()[part]);
      if (own == nullptr) {
        if (part != unit::none && std::holds_alternative<statement>(work.steps()[part])) {
          results.push_back(std::move(u.steps[i].found));
        }
        ++i;
        continue;
      }
      std::vector<rows> answers;
      for (; i < u.steps.size() && u.steps[i].part == part; ++i) answers.push_back(std::move(u.steps[i].found));
      (*own)->answered(std::move(answers));
    }
    return results;
  }

  /// The operation that the server's complaint is about; null when it is about something else.
  static const operation* refused_operation(const batch& work, const unit& u) {
    if (!u.refusal || u.is_answered() || u.steps[u.answered].part == unit::none) return nullptr;
    const auto* own = std::get_if<std::shared_ptr<operation>>(&work.steps()[u.steps[u.answered].part]);
    return own == nullptr ? nullptr : own->get();
  }

  /// What became of a batch whose operation was refused, in the operation's own words.
  awaitable<void> explain(connection& own, write_call& w, unit& u) {
    const operation* about = refused_operation(w.work, u);
    failure why = as_failure(to_error(*u.refusal, u.steps[u.answered].sql));
    try {
      rows found;
      if (auto question = about->question(*u.refusal)) {
        std::vector<unit> asked(1);
        asked[0].add(std::move(*question), unit::none);
        co_await own.run(asked);
        found = std::move(asked[0].steps[0].found);
      }
      about->refused(*u.refusal, found);
    } catch (...) {
      why = failure::current();
    }
    settle(w, std::move(why));
  }

  void settle(write_call& w, failure why) {
    w.result.emplace(std::move(why));
    count(*w.result);
    w.finish();
  }

  void count(const outcome<receipt>& result) {
    const std::lock_guard lock(mutex_);
    if (result) {
      ++stats_.commits;
      ++stats_.batches;
    } else if (result.code() == errc::database_unavailable || result.code() == errc::outcome_unknown) {
      ++stats_.failed_commits;
    } else {
      ++stats_.refused_batches;
    }
  }

  // --- reading

  reference<read_call> take_read() {
    const std::lock_guard lock(mutex_);
    while (!reads_.empty()) {
      auto asked = std::move(reads_.front());
      reads_.pop_front();
      if (asked->begin()) return asked;
    }
    return {};
  }

  awaitable<void> read_loop() {
    connection pooled(io_.get_executor(), group_);
    net::steady_timer timer(io_);
    for (;;) {
      auto asked = take_read();
      if (!asked) {
        if (is_closing()) break;
        co_await idle(timer);
        continue;
      }
      co_await read_one(pooled, *asked, timer);
      asked->finish();
    }
    pooled.close();
    worker_ended();
  }

  awaitable<void> read_one(connection& pooled, read_call& asked, net::steady_timer& timer) {
    if (asked.cursor && asked.cursor->has_ended) co_return;
    if (asked.cursor && !asked.cursor->own) {
      asked.cursor->own = std::make_unique<connection>(io_.get_executor(), group_);
    }
    connection& own = asked.cursor ? *asked.cursor->own : pooled;
    try {
      std::vector<unit> units(1);
      if (asked.cursor) {
        describe_page(*asked.cursor, units[0]);
      } else {
        units[0].steps.push_back({"begin read only"});
        for (const auto& q : asked.queries) {
          if (controls_transaction(q.sql())) throw storage_error(errc::invalid_statement, "no query: " + q.sql());
          units[0].steps.push_back({q.sql(), &q});
        }
        units[0].steps.push_back({"commit"});
      }
      if (!asked.cursor || !asked.cursor->has_begun) co_await reconnect(own, true);
      asked.running_on = &own;
      if (asked.is_cancelled) {
        asked.why = failure::cancelled();
      } else {
        co_await own.run(units);
        take_rows(asked, units[0]);
      }
    } catch (...) {
      asked.why = failure::current();
    }
    asked.running_on = nullptr;
    // A cancellation that is still on its way must not meet the next query. The connection is closed then, so that
    // waiting spares the server no more than a new one.
    for (int looks = 0; asked.cancels > 0 && looks < 1'000; ++looks) {
      timer.expires_after(std::chrono::milliseconds(1));
      co_await timer.async_wait(net::as_tuple(net::use_awaitable));
    }
    if (asked.is_cancelled) {
      own.close();
      if (asked.why) asked.why = failure::cancelled();
    }
    if (own.in_transaction() && !asked.cursor) co_await roll_back(own);
    if (asked.cursor && (asked.why || asked.cursor->has_ended)) {
      asked.cursor->has_ended = true;
      own.close();
    }
  }

  static void describe_page(open_query& c, unit& u) {
    if (!c.has_begun) {
      u.steps.push_back({"begin isolation level repeatable read read only"});
      u.steps.push_back({"declare cofferdam_cursor no scroll cursor for " + c.query.sql(), &c.query});
    }
    u.steps.push_back({"fetch " + std::to_string(c.page) + " from cofferdam_cursor"});
  }

  void take_rows(read_call& asked, unit& u) {
    if (u.refusal && !u.is_answered()) {
      asked.why = as_failure(to_error(*u.refusal, u.steps[u.answered].sql));
    } else if (!u.is_answered()) {
      asked.why = as_failure({errc::database_unavailable, "the connection to '" + name_ + "' broke"});
    } else if (asked.cursor) {
      asked.found.push_back(std::move(u.steps.back().found));
      asked.cursor->has_begun = true;
      asked.cursor->has_ended = asked.found[0].size() < asked.cursor->page;
    } else {
      for (std::size_t i = 1; i + 1 < u.steps.size(); ++i) asked.found.push_back(std::move(u.steps[i].found));
    }
  }

  void cancel(const reference<read_call>& asked) {
    asked->is_cancelled = true;
    if (asked->running_on == nullptr) return;
    auto canceller = asked->running_on->canceller();
    if (!canceller) return;
    ++asked->cancels;
    // PQcancel blocks, for ever where the server stands still: a thread of its own, which may outlive the driver.
    std::thread([link = cancels_, asked, canceller] {
      std::array<char, 256> why{};
      const bool is_sent = PQcancel(canceller.get(), why.data(), static_cast<int>(why.size())) != 0;
      const std::lock_guard lock(link->mutex);
      if (link->to == nullptr) return;
      net::post(*link->to, [asked, is_sent] {
        --asked->cancels;
        // No way to stop it: let the connection go, the server will notice.
        if (!is_sent && asked->running_on != nullptr) asked->running_on->abandon();
      });
    }).detach();
  }

  // --- connecting

  [[nodiscard]] time_point now() { return timers_of(io_).now(); }

  /// While the server cannot be reached, one call at a time tries again, later each time; those that come meanwhile
  /// share its fate.
  awaitable<void> reconnect(connection& own, bool is_read_only) {
    if (own.is_alive()) co_return;
    net::steady_timer timer(io_);
    if (outage_.is_probed) {
      timer.expires_at(forever);
      outage_.waiting.push_back(&timer);
      co_await timer.async_wait(net::as_tuple(net::use_awaitable));
      if (outage_.failures > 0) throw storage_error(errc::database_unavailable, outage_.why);
    } else if (outage_.failures > 0) {
      outage_.is_probed = true;
      timer.expires_after(outage_.until - now());
      if (!is_closing()) co_await timer.async_wait(net::as_tuple(net::use_awaitable));
    }
    const std::uint32_t before = outage_.failures;
    try {
      co_await own.ensure_open(is_read_only);
      outage_.end();
    } catch (const storage_error& e) {
      // Those that failed together are one failure.
      if (outage_.failures == before) {
        ++outage_.failures;
        outage_.until = now() + backoff_delay(outage::pace, outage_.failures, outage_.state, outage_.random);
      }
      outage_.why = e.what();
      outage_.wake();
      throw;
    }
  }

  /// Connections on which the server does not answer must not keep their calls, and `close`, for ever.
  awaitable<void> watch_loop() {
    const duration often = std::max<duration>(std::chrono::milliseconds(1), options_.statement_limit / 8);
    while (!has_ended()) {
      watch_.expires_after(often);
      co_await watch_.async_wait(net::as_tuple(net::use_awaitable));
      group_.abandon_silent(now());
    }
  }

  // --- telling and hearing other processes

  /// Whatever was committed while the notification before was under way shares the next.
  awaitable<void> notify_loop() {
    connection own(io_.get_executor(), group_);
    while (!has_ended()) {
      if (!std::exchange(has_news_, false)) {
        notifier_.expires_at(forever);
        co_await notifier_.async_wait(net::as_tuple(net::use_awaitable));
        continue;
      }
      std::vector<unit> units(1);
      units[0].steps.push_back({"set local synchronous_commit = off"});
      units[0].steps.push_back({"select pg_notify('cofferdam_changes', '')"});
      try {
        co_await own.ensure_open(false);
        co_await own.run(units);
      } catch (const storage_error&) {
        has_news_ = false;  // only a hint: those who listen also look now and then
      }
    }
    own.close();
  }

  awaitable<void> listen_loop() {
    connection own(io_.get_executor(), group_);
    net::steady_timer pause(io_);
    listening_ = &own;
    bool was_open = true;
    while (!has_ended()) {
      bool is_open = true;
      try {
        co_await own.ensure_open(true);
        std::vector<unit> units(1);
        units[0].steps.push_back({"listen cofferdam_changes"});
        co_await own.run(units);
        is_open = units[0].is_complete && !units[0].refusal;
      } catch (const storage_error&) {
        is_open = false;
      }
      if (is_open) {
        // Once before the first wait: what happened while nobody listened may be new. The same after every second.
        changes.raise();
        if (!has_ended()) co_await own.wait_for_notification(now_and_then);
      } else {
        pause.expires_after(was_open ? std::chrono::milliseconds(50) : std::chrono::milliseconds(500));
        co_await pause.async_wait(net::as_tuple(net::use_awaitable));
      }
      was_open = is_open;
    }
    listening_ = nullptr;
    own.close();
  }
  static constexpr std::chrono::seconds now_and_then{1};

  [[nodiscard]] bool has_ended() const {
    const std::lock_guard lock(mutex_);
    return workers_ == 0;
  }

  const database_options options_;
  const std::string name_;
  connection_group group_;

  mutable std::mutex mutex_;
  std::deque<reference<write_call>> writes_;
  std::deque<reference<read_call>> reads_;
  std::vector<parked_reference> closing_;
  database_stats stats_;
  std::size_t workers_ = 0;
  bool is_closing_ = false, is_wake_posted_ = false;
  std::atomic<bool> is_listening_{false};

  net::io_context io_{1};
  net::steady_timer alive_;     // keeps the thread running
  net::steady_timer notifier_;  // and what follows, the thread's
  net::steady_timer watch_;
  outage outage_;
  std::vector<net::steady_timer*> idle_;
  connection* listening_ = nullptr;
  bool has_news_ = false;
  const std::shared_ptr<cancel_link> cancels_ = std::make_shared<cancel_link>(&io_);
  std::thread thread_;
};

template <class Call> void hand_over<Call>::operator()(const parked_reference& self) const {
  which->waiter = self;
  to->accept(reference<Call>::share(*which));
}

template <class Call> bool hand_over<Call>::may_leave() const {
  if (which->withdraw()) return true;
  if constexpr (std::same_as<Call, read_call>) to->interrupt(reference<Call>::share(*which));
  return false;
}

class postgres_cursor final : public detail::storage_cursor {
 public:
  postgres_cursor(driver& owner, std::shared_ptr<open_query> q) noexcept : owner_(owner), query_(std::move(q)) {}
  ~postgres_cursor() override { owner_.cursor_closed(std::move(query_)); }
  postgres_cursor(const postgres_cursor&) = delete;
  postgres_cursor& operator=(const postgres_cursor&) = delete;

  awaitable<outcome<rows>> next() override {
    const reference<read_call> asked(new read_call(query_));
    return owner_.ask_one(asked);
  }

 private:
  driver& owner_;
  std::shared_ptr<open_query> query_;
};

awaitable<outcome<std::unique_ptr<detail::storage_cursor>>> driver::open_cursor(statement q, std::size_t page) {
  if (!open_one_cursor()) co_return refused(errc::database_overloaded);
  auto shared = std::make_shared<open_query>(std::move(q), page);
  std::unique_ptr<detail::storage_cursor> made = std::make_unique<postgres_cursor>(*this, std::move(shared));
  co_return made;
}

}  // namespace
}  // namespace cofferdam::inline COFFERDAM_ABI::postgres

namespace cofferdam::inline COFFERDAM_ABI::detail {

awaitable<std::shared_ptr<storage_driver>> open_postgres(std::string url, database_options options) {
  auto made = std::make_shared<postgres::driver>(std::move(url), options);
  statement one("select 1");
  const auto answer = co_await made->query(std::move(one));
  if (!answer) answer.why().raise();
  co_return made;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
#endif
