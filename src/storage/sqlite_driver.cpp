// The SQLite driver: one thread writes, batches that came together share a commit; others read.
#include "sqlite_connection.hpp"
#include "sqlite_watch.hpp"

#include <cofferdam/storage/detail/driver.hpp>

#include <sqlite3.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <functional>
#include <span>
#include <thread>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::sqlite {
namespace {

using detail::counted;
using detail::parked_reference;
using detail::reference;

/// A call that waits for a thread to do its work.
class ticket : public counted {
 public:
  /// For the thread: false when the caller has taken it back.
  bool begin() noexcept { return move_on(state::running); }
  /// For the caller: false when a thread has begun.
  bool withdraw() noexcept { return move_on(state::withdrawn); }
  void finish() noexcept {
    if (waiter) waiter->wake(wake_reason::woken);
  }

  parked_reference waiter;  // set before the ticket is given to anybody

 private:
  enum class state : std::uint8_t { waiting, running, withdrawn };
  bool move_on(state to) noexcept {
    state expected = state::waiting;
    return state_.compare_exchange_strong(expected, to, std::memory_order_acq_rel);
  }
  std::atomic<state> state_{state::waiting};
};

class write_ticket final : public ticket {
 public:
  explicit write_ticket(batch b) noexcept : work(std::move(b)) {}
  batch work;
  std::optional<outcome<receipt>> result;
};

/// Something for a reading thread.
class read_ticket : public ticket {
 public:
  /// On the thread. @param pooled  a connection, for who has none of his own.
  void run(const std::function<std::unique_ptr<owned_connection>()>& open, std::unique_ptr<owned_connection>& pooled) {
    try {
      owned_connection& connection = use(open, pooled);
      const owned_connection::interruptible scope(connection, is_cancelled_);
      read(connection);
    } catch (const storage_error& e) {
      why = e.code() == errc::cancelled ? failure::cancelled() : failure::current(e);
    } catch (...) {
      why = failure::current();
    }
  }
  /// Any thread.
  void interrupt() noexcept { is_cancelled_.store(true, std::memory_order_relaxed); }

  rows found;
  failure why;

 private:
  virtual owned_connection& use(const std::function<std::unique_ptr<owned_connection>()>& open,
                                std::unique_ptr<owned_connection>& pooled) {
    if (!pooled) pooled = open();
    return *pooled;
  }
  virtual void read(owned_connection& connection) = 0;

  std::atomic<bool> is_cancelled_{false};
};

class query_ticket final : public read_ticket {
 public:
  explicit query_ticket(statement q) noexcept : query_(std::move(q)) {}

 private:
  void read(owned_connection& connection) override {
    prepared p = connection.prepare_query(query_.sql());
    p.bind_all(query_);
    found = p.fetch();
  }
  statement query_;
};

class operation_ticket final : public read_ticket {
 public:
  explicit operation_ticket(std::shared_ptr<operation> o) noexcept : operation_(std::move(o)) {}

 private:
  void read(owned_connection& connection) override { operation_->run(connection); }
  std::shared_ptr<operation> operation_;
};

/// A cursor's connection and statement. Shared with the thread that reads for it.
struct open_query {
  open_query(statement q, std::size_t rows_per_page) noexcept : query(std::move(q)), page(rows_per_page) {}
  statement query;
  std::size_t page;
  std::unique_ptr<owned_connection> connection;
  std::optional<prepared> running;  // destroyed before its connection
  bool has_ended = false;
};

class page_ticket final : public read_ticket {
 public:
  explicit page_ticket(std::shared_ptr<open_query> q) noexcept : query_(std::move(q)) {}

 private:
  owned_connection& use(const std::function<std::unique_ptr<owned_connection>()>& open,
                        std::unique_ptr<owned_connection>& /*pooled*/) override {
    if (!query_->connection) query_->connection = open();
    return *query_->connection;
  }
  void read(owned_connection& connection) override {
    if (query_->has_ended) return;  // a further step would begin anew
    if (!query_->running) {
      query_->running.emplace(connection.prepare_query(query_->query.sql()));
      query_->running->bind_all(query_->query);
    }
    found = query_->running->fetch(query_->page);
    query_->has_ended = found.size() < query_->page;
    if (query_->has_ended) query_->running.reset();  // lets the snapshot go
  }
  std::shared_ptr<open_query> query_;
};

class driver;

/// What `park` is given: hands the ticket over once the caller is safely suspended.
template <class Ticket> struct hand_over {
  driver* to;
  Ticket* which;  // the caller's frame keeps it

  void operator()(const parked_reference& self) const;
  [[nodiscard]] bool may_leave() const noexcept {
    if (which->withdraw()) return true;
    if constexpr (std::derived_from<Ticket, read_ticket>) which->interrupt();
    return false;
  }
};

class driver final : public detail::storage_driver {
 public:
  driver(location where, database_options options)
      : where_(std::move(where)), options_(options), name_(where_.path.empty() ? ":memory:" : where_.path) {}

  ~driver() override {
    stop();
    if (writer_.joinable()) writer_.join();
    for (auto& reader : readers_) reader.join();
  }

  /// Opens the file, on the thread that will write to it.
  awaitable<void> start() {
    reference<write_ticket> opening(new write_ticket(batch()));
    const auto begin = [this, &opening](const parked_reference& self) {
      opening->waiter = self;
      if (where_.threads) {
        writer_ = std::thread([this, opening] { write_loop(opening); });
      } else {
        open_for(*opening);
      }
    };
    co_await park(never, begin);
    if (!*opening->result) opening->result->why().raise();
  }

  awaitable<outcome<receipt>> commit(batch b) override {
    if (b.empty()) co_return receipt();
    const reference<write_ticket> written(new write_ticket(std::move(b)));
    const hand_over<write_ticket> enlist{this, &*written};
    const wake_reason reason = co_await park(never, enlist);
    if (reason == wake_reason::cancelled) co_return failure::cancelled();
    co_return *std::move(written->result);
  }

  awaitable<outcome<rows>> query(statement q) override {
    const reference<query_ticket> asked(new query_ticket(std::move(q)));
    const hand_over<query_ticket> enlist{this, &*asked};
    const wake_reason reason = co_await park(never, enlist);
    if (reason == wake_reason::cancelled) co_return failure::cancelled();
    if (asked->why) co_return std::move(asked->why);
    co_return std::move(asked->found);
  }

  awaitable<outcome<void>> read(std::shared_ptr<operation> o) override {
    if (o->is_short()) {
      const auto executor = co_await net::this_coro::executor;
      if (read_at_once(*o, timers_of(executor))) {
        co_await net::post(net::use_awaitable);  // who reads and reads must not keep others from their turn
        co_return outcome<void>();
      }
    }
    const reference<operation_ticket> asked(new operation_ticket(std::move(o)));
    const hand_over<operation_ticket> enlist{this, &*asked};
    const wake_reason reason = co_await park(never, enlist);
    if (reason == wake_reason::cancelled) co_return failure::cancelled();
    if (asked->why) co_return std::move(asked->why);
    co_return outcome<void>();
  }

  awaitable<outcome<std::unique_ptr<detail::storage_cursor>>> open_cursor(statement q, std::size_t page) override;

  awaitable<outcome<void>> check_health() override {
    batch b;
    b.require("the database answers", "select 1");
    const auto written = co_await commit(std::move(b));
    if (!written) co_return written.why();
    const auto read = co_await query(statement("select count(*) from sqlite_schema"));
    if (!read) co_return read.why();
    co_return outcome<void>();
  }

  awaitable<void> close() override {
    stop();
    const auto enlist = detail::wait_among(closing_, mutex_, [this] { return threads_ == 0; });
    co_await park(never, enlist);
  }

  void hear_others() override {
    if (!where_.threads) return;
    const std::lock_guard lock(watch_mutex_);
    if (!watch_) watch_ = std::make_unique<commit_watch>(where_, changes);
  }

  [[nodiscard]] std::string migration_lock() const override { return {}; }
  [[nodiscard]] const std::string& name() const noexcept override { return name_; }
  [[nodiscard]] database_stats stats() const override {
    const std::lock_guard lock(mutex_);
    database_stats s = stats_;
    s.waiting_batches = writes_.size();
    return s;
  }

  /// Called when the caller is suspended; does the work at once where there are no threads.
  void accept(reference<write_ticket> written) {
    {
      const std::lock_guard lock(mutex_);
      if (const errc refusal = refusal_locked(writes_.size()); refusal != errc()) {
        written->result = refused(refusal);
      } else if (where_.threads) {
        writes_.push_back(std::move(written));
        has_writes_.store(true, std::memory_order_relaxed);
        if (writer_sleeps_) work_to_write_.notify_one();
        return;
      }
    }
    if (!written->result) {
      const std::lock_guard alone(inline_mutex_);
      written->begin();
      write(std::span(&written, 1));
      tend_log();
    } else {
      written->finish();
    }
  }

  void accept(reference<read_ticket> asked) {
    {
      const std::lock_guard lock(mutex_);
      if (const errc refusal = is_closing_ ? errc::database_closed : errc(); refusal != errc()) {
        asked->why = refused(refusal);
      } else if (where_.threads) {
        reads_.push_back(std::move(asked));
        ++stats_.queries;
        work_to_read_.notify_one();
        return;
      } else {
        ++stats_.queries;
      }
    }
    if (!asked->why) {
      const std::lock_guard alone(inline_mutex_);
      asked->begin();
      asked->run({}, writing_);
    }
    asked->finish();
  }

  bool open_one_cursor() {
    const std::lock_guard lock(mutex_);
    if (stats_.open_cursors >= options_.max_cursors) return false;
    ++stats_.open_cursors;
    return true;
  }
  void cursor_closed() noexcept {
    const std::lock_guard lock(mutex_);
    --stats_.open_cursors;
  }
  [[nodiscard]] failure refused(errc code) const {
    const std::string text = code == errc::database_closed ? "'" + name_ + "' was closed"
                                                           : "'" + name_ + "' has as many waiting as its options allow";
    return failure::thrown(std::make_exception_ptr(storage_error(code, text)));
  }

 private:
  [[nodiscard]] errc refusal_locked(std::size_t waiting) const noexcept {
    if (is_closing_) return errc::database_closed;
    return waiting >= options_.max_waiting_batches ? errc::database_overloaded : errc();
  }

  // --- threads

  void open_for(write_ticket& opening) {
    try {
      const auto busy = std::chrono::ceil<std::chrono::milliseconds>(options_.busy_timeout).count();
      writing_ = std::make_unique<owned_connection>(where_, options_.create ? access::create : access::write, busy);
      sqlite3_wal_hook(writing_->handle(), &driver::on_log_grown, this);
      prepared size = writing_->prepare("pragma page_size");
      if (size.step()) page_bytes_ = static_cast<std::uint64_t>(size.integer(0));
      if (where_.threads) start_readers();
      opening.result.emplace(receipt());
    } catch (...) {
      opening.result.emplace(failure::current());
    }
    opening.finish();
  }

  /// What takes microseconds is not worth two changes of threads, each of which takes longer. False when it turns out
  /// to take more, or fails: a reader's thread then does it from the start.
  bool read_at_once(operation& o, const timer_service& timers) {
    constexpr duration budget = std::chrono::microseconds(250);
    std::unique_ptr<owned_connection> connection;
    {
      const std::lock_guard lock(mutex_);
      if (is_closing_ || spare_.empty()) return false;
      connection = std::move(spare_.back());
      spare_.pop_back();
      ++stats_.queries;
    }
    bool is_done = false;
    try {
      const owned_connection::interruptible scope(*connection, timers, timers.now() + budget);
      o.run(*connection);
      is_done = true;
    } catch (...) {  // NOLINT(bugprone-empty-catch): it will happen there again
    }
    const std::lock_guard lock(mutex_);
    if (!is_done) --stats_.queries;
    if (!is_closing_ && !connection->in_transaction()) spare_.push_back(std::move(connection));
    return is_done;
  }

  void start_readers() {
    // For reads in the calling thread, which must not wait there for anybody.
    for (std::size_t i = 0; i < options_.readers; ++i) {
      spare_.push_back(std::make_unique<owned_connection>(where_, access::read, 0));
    }
    const std::lock_guard lock(mutex_);
    threads_ = 1 + std::max<std::size_t>(1, options_.readers);
    stats_.connections = threads_;
    for (std::size_t i = 1; i < threads_; ++i) readers_.emplace_back([this] { read_loop(); });
  }

  void write_loop(const reference<write_ticket>& opening) {
    open_for(*opening);
    if (!writing_) return;
    std::vector<reference<write_ticket>> group;
    while (take_writes(group)) {
      write(group);
      group.clear();
      tend_log();
    }
    checkpoint(SQLITE_CHECKPOINT_TRUNCATE);
    writing_.reset();
    thread_ended();
  }

  /// Who awaits one commit after another comes back within some microseconds, less than it takes to fall asleep and be
  /// woken. Yields: others that are ready to run go first.
  void linger() const noexcept {
    constexpr int looks = 50;
    for (int i = 0; i < looks && !has_writes_.load(std::memory_order_relaxed); ++i) std::this_thread::yield();
  }

  bool take_writes(std::vector<reference<write_ticket>>& group) {
    linger();
    std::unique_lock lock(mutex_);
    writer_sleeps_ = true;
    work_to_write_.wait(lock, [this] { return is_closing_ || !writes_.empty(); });
    writer_sleeps_ = false;
    while (!writes_.empty() && group.size() < std::max<std::size_t>(1, options_.max_batches_per_commit)) {
      if (writes_.front()->begin()) group.push_back(std::move(writes_.front()));
      writes_.pop_front();
    }
    has_writes_.store(!writes_.empty(), std::memory_order_relaxed);
    return !group.empty() || !is_closing_;
  }

  void read_loop() {
    std::unique_ptr<owned_connection> pooled;
    const auto open = [this] { return std::make_unique<owned_connection>(where_, access::read, busy_milliseconds()); };
    for (;;) {
      std::unique_lock lock(mutex_);
      work_to_read_.wait(lock, [this] { return is_closing_ || !reads_.empty(); });
      if (reads_.empty()) break;
      const auto asked = std::move(reads_.front());
      reads_.pop_front();
      lock.unlock();
      if (!asked->begin()) continue;
      asked->run(open, pooled);
      asked->finish();
    }
    pooled.reset();
    thread_ended();
  }

  [[nodiscard]] std::int64_t busy_milliseconds() const noexcept {
    return std::chrono::ceil<std::chrono::milliseconds>(options_.busy_timeout).count();
  }

  void stop() {
    std::vector<std::unique_ptr<owned_connection>> unused;
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
    unused.swap(spare_);
    work_to_write_.notify_all();
    work_to_read_.notify_all();
  }

  void thread_ended() {
    std::vector<parked_reference> woken;
    {
      const std::lock_guard lock(mutex_);
      if (--threads_ == 0) woken.swap(closing_);
    }
    for (const auto& waiter : woken) waiter->wake(wake_reason::woken);
  }

  // --- writing

  /// What keeps the batches of a transaction apart when one of them fails. A savepoint costs more than many a batch,
  /// and most that fail do so before they have written.
  enum class isolation : std::uint8_t { none, savepoints };
  /// Thrown where there is nothing: one failed halfway.
  struct half_written {};

  void write(std::span<reference<write_ticket>> group) {
    constexpr std::size_t cautious_for = 64;  // groups
    bool has_begun = false;
    failure why;
    try {
      why = write_together(group, caution_ > 0 ? isolation::savepoints : isolation::none, has_begun);
      if (caution_ > 0) --caution_;
    } catch (const half_written&) {
      undo();
      caution_ = cautious_for;
      why = write_together(group, isolation::savepoints, has_begun);
    }
    // One of them may have taken the transaction down with it: alone, each gets its own outcome.
    if (why && has_begun && group.size() > 1) {
      for (auto& alone : group) write(std::span(&alone, 1));
      return;
    }
    std::size_t committed = 0;
    for (const auto& written : group) {
      if (why) written->result.emplace(why);
      if (*written->result) ++committed;
    }
    count(group.size(), committed, why);
    if (committed > 0) changes.raise();
    for (const auto& written : group) written->finish();
    announce(group.size(), committed, why);
  }

  /// Empty when every batch has an outcome of its own; otherwise nothing was written.
  /// Errors: half_written.
  failure write_together(std::span<reference<write_ticket>> group, isolation between, bool& has_begun) {
    bool is_committing = false;
    try {
      run_now("begin immediate");
      has_begun = true;
      bool has_work = false;
      const bool has_company = group.size() > 1;
      for (const auto& written : group) has_work |= run_apart(*written, has_company, between);
      is_committing = true;
      run_now(has_work ? "commit" : "rollback");
      return {};
    } catch (const half_written&) {
      throw;
    } catch (const storage_error& e) {
      // A log that could not be synced may be found whole after a crash, commit and all.
      const bool is_unknown = is_committing && e.code() == errc::database_io_error;
      if (is_unknown) has_begun = false;  // not to be tried again
      failure why = is_unknown ? failure::thrown(std::make_exception_ptr(storage_error(
                                     errc::outcome_unknown, e.what(), e.native(), std::current_exception())))
                               : failure::current(e);
      undo();
      return why;
    } catch (...) {
      failure why = failure::current();
      undo();
      return why;
    }
  }

  /// Runs one batch. True when it stands.
  /// Errors: half_written; throws when the whole transaction is lost.
  bool run_apart(write_ticket& written, bool has_company, isolation between) {
    const bool has_savepoint = has_company && between == isolation::savepoints;
    const auto changes_before = writing_->all_changes();
    bool ran_statement = false;  // which may have changed what is not counted: the schema
    if (has_savepoint) run_now("savepoint batch");
    try {
      written.result.emplace(run_batch(written.work, ran_statement));
      if (has_savepoint) run_now("release batch");
      return true;
    } catch (...) {
      written.result.emplace(failure::current());
      if (!writing_->in_transaction()) throw;  // SQLite itself rolled back: disk full, out of memory, I/O
      if (has_savepoint) {
        run_now("rollback to batch");
        run_now("release batch");
      } else if (has_company && (ran_statement || writing_->all_changes() != changes_before)) {
        throw half_written();
      }
      return false;
    }
  }

  receipt run_batch(const batch& work, bool& ran_statement) {
    std::vector<rows> results;
    for (const auto& step : work.steps()) {
      if (const auto* own = std::get_if<statement>(&step)) {
        prepared p = writing_->prepare_statement(own->sql());
        results.push_back(writing_->run(p, *own));
        ran_statement = true;
      } else if (const auto* condition = std::get_if<batch::requirement>(&step)) {
        require(*condition);
      } else {
        std::get<std::shared_ptr<operation>>(step)->run(*writing_);
      }
    }
    return receipt(std::move(results));
  }

  void require(const batch::requirement& condition) {
    bool holds = false;
    if (condition.is_change) {
      prepared p = writing_->prepare_statement(condition.query.sql());
      p.bind_all(condition.query).execute();
      holds = writing_->changed() > 0;
    } else {
      prepared p = writing_->prepare_query(condition.query.sql());
      p.bind_all(condition.query);
      holds = p.step() && p.integer(0) != 0;
    }
    if (holds) return;
    throw storage_error(errc::condition_failed, condition.name);
  }

  void run_now(const char* sql) { writing_->prepare(sql).execute(); }
  void undo() noexcept {
    if (writing_->in_transaction()) sqlite3_exec(writing_->handle(), "rollback", nullptr, nullptr, nullptr);
  }

  void count(std::size_t batches, std::size_t committed, const failure& why) {
    const std::lock_guard lock(mutex_);
    stats_.log_bytes = log_bytes();
    if (why) {
      ++stats_.failed_commits;
      return;
    }
    stats_.commits += committed > 0 ? 1 : 0;
    stats_.batches += committed;
    stats_.refused_batches += batches - committed;
  }

  void announce(std::size_t batches, std::size_t committed, const failure& why) {
    if (!events.has_listeners()) return;
    if (why) events.publish({database_event::kind::commit_failed, batches, why});
    if (committed > 0) events.publish({database_event::kind::committed, committed, {}});
  }

  // --- the write-ahead log

  static int on_log_grown(void* self, ::sqlite3* /*db*/, const char* /*name*/, int pages) {
    static_cast<driver*>(self)->log_pages_ = pages;
    return SQLITE_OK;
  }

  /// As SQLite lays it out: a head, and before each page one of its own.
  [[nodiscard]] std::uint64_t log_bytes() const noexcept {
    constexpr std::uint64_t head = 32, head_of_page = 24;
    return log_pages_ == 0 ? 0 : head + static_cast<std::uint64_t>(log_pages_) * (page_bytes_ + head_of_page);
  }

  /// After a commit, when its callers have gone on.
  void tend_log() {
    if (log_pages_ == 0 || log_pages_ < options_.checkpoint_pages) return;
    bool is_idle = false;
    {
      const std::lock_guard lock(mutex_);
      is_idle = writes_.empty();
    }
    // Truncating waits for readers, so only when nothing else is to be done, and not long.
    checkpoint(is_idle ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_PASSIVE);
  }

  void checkpoint(int mode) {
    sqlite3_busy_timeout(writing_->handle(), 0);
    int left = 0, moved = 0;
    const int result = sqlite3_wal_checkpoint_v2(writing_->handle(), nullptr, mode, &left, &moved);
    sqlite3_busy_timeout(writing_->handle(), static_cast<int>(busy_milliseconds()));
    if (result != SQLITE_OK || left != moved) return;  // a reader still needs the log: next time
    log_pages_ = 0;
    if (mode == SQLITE_CHECKPOINT_TRUNCATE) {
      const std::lock_guard lock(mutex_);
      stats_.log_bytes = 0;
    }
    if (events.has_listeners()) events.publish({database_event::kind::checkpointed, 0, {}});
  }

  const location where_;
  const database_options options_;
  const std::string name_;

  mutable std::mutex mutex_;
  std::condition_variable work_to_write_, work_to_read_;
  std::deque<reference<write_ticket>> writes_;
  std::deque<reference<read_ticket>> reads_;
  std::vector<std::unique_ptr<owned_connection>> spare_;
  std::vector<parked_reference> closing_;
  database_stats stats_;
  std::size_t threads_ = 0;
  bool is_closing_ = false, writer_sleeps_ = false;
  std::atomic<bool> has_writes_{false};  // what `writes_` says, without the lock: a hint

  std::mutex inline_mutex_;  // where there are no threads
  std::unique_ptr<owned_connection> writing_;
  std::int64_t log_pages_ = 0;  // the writer's
  std::uint64_t page_bytes_ = 4096;
  std::size_t caution_ = 0;  // the writer's: for how many groups it takes savepoints
  std::thread writer_;
  std::vector<std::thread> readers_;
  std::mutex watch_mutex_;
  std::unique_ptr<commit_watch> watch_;
};

template <class Ticket> void hand_over<Ticket>::operator()(const parked_reference& self) const {
  which->waiter = self;
  using base = std::conditional_t<std::derived_from<Ticket, read_ticket>, read_ticket, write_ticket>;
  to->accept(reference<base>::share(*which));
}

class sqlite_cursor final : public detail::storage_cursor {
 public:
  sqlite_cursor(driver& owner, std::shared_ptr<open_query> q) noexcept : owner_(owner), query_(std::move(q)) {}
  ~sqlite_cursor() override { owner_.cursor_closed(); }
  sqlite_cursor(const sqlite_cursor&) = delete;
  sqlite_cursor& operator=(const sqlite_cursor&) = delete;

  awaitable<outcome<rows>> next() override {
    const reference<page_ticket> asked(new page_ticket(query_));
    const hand_over<page_ticket> enlist{&owner_, &*asked};
    const wake_reason reason = co_await park(never, enlist);
    if (reason == wake_reason::cancelled) co_return failure::cancelled();
    if (asked->why) co_return std::move(asked->why);
    co_return std::move(asked->found);
  }

 private:
  driver& owner_;
  std::shared_ptr<open_query> query_;
};

/// Where there is only one connection, a cursor would see writes come and go: it reads everything first.
class read_ahead_cursor final : public detail::storage_cursor {
 public:
  read_ahead_cursor(driver& owner, rows all, std::size_t page) noexcept
      : owner_(owner), all_(std::move(all)), page_(page) {}
  ~read_ahead_cursor() override { owner_.cursor_closed(); }
  read_ahead_cursor(const read_ahead_cursor&) = delete;
  read_ahead_cursor& operator=(const read_ahead_cursor&) = delete;

  awaitable<outcome<rows>> next() override {
    rows page(all_.columns());
    for (std::size_t end = std::min(all_.size(), at_ + page_); at_ < end; ++at_) {
      for (std::size_t i = 0; i < all_.columns().size(); ++i) page.add_cell(all_[at_][i]);
    }
    co_return page;
  }

 private:
  driver& owner_;
  rows all_;
  std::size_t page_, at_ = 0;
};

awaitable<outcome<std::unique_ptr<detail::storage_cursor>>> driver::open_cursor(statement q, std::size_t page) {
  using opened = std::unique_ptr<detail::storage_cursor>;
  if (!open_one_cursor()) co_return refused(errc::database_overloaded);
  if (where_.threads) {
    auto shared = std::make_shared<open_query>(std::move(q), page);
    opened made = std::make_unique<sqlite_cursor>(*this, std::move(shared));
    co_return made;
  }
  auto all = co_await query(std::move(q));
  if (!all) {
    cursor_closed();
    co_return all.why();
  }
  opened made = std::make_unique<read_ahead_cursor>(*this, *std::move(all), page);
  co_return made;
}

}  // namespace
}  // namespace cofferdam::inline COFFERDAM_ABI::sqlite

namespace cofferdam::inline COFFERDAM_ABI::detail {

awaitable<std::shared_ptr<storage_driver>> open_sqlite(std::string url, database_options options) {
  auto where = sqlite::parse_location(url);
  where.cached_bytes = options.cached_bytes;
  auto made = std::make_shared<sqlite::driver>(std::move(where), options);
  co_await made->start();
  co_return made;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::detail
