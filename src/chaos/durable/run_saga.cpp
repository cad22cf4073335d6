// Runs of a saga scenario: each case once in peace, and once for every point at which its coordinator can be killed.
#include "../run_kinds.hpp"
#include "../simulated_process.hpp"
#include "saga_participants.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/saga/scope.hpp>
#include <cofferdam/saga/task.hpp>
#include <cofferdam/saga/testing.hpp>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI::chaos {
namespace {

/// One saga, whose first coordinator dies at the n-th point, or lives if there is none such.
class saga_run {
 public:
  saga_run(const scenario& s, const saga_spec& spec, const saga_case_spec& of_case, std::size_t dies_at,
           std::uint64_t seed)
      : scenario_(s),
        spec_(spec),
        dies_at_(dies_at),
        participants_(spec, of_case),
        context_(std::make_unique<net::io_context>(1)),
        time_(*context_, seed) {
    record_.of_case = of_case.name;
  }
  ~saga_run() {
    coordinators_.clear();  // what they kept goes before what it refers to
    context_.reset();
  }
  saga_run(const saga_run&) = delete;
  saga_run& operator=(const saga_run&) = delete;

  saga_record run() {
    spawn(*context_, [this] { return open(); });
    time_.run_until(time_point(scenario_.length));
    if (db_) time_.run([this] { return ask_journal(); });
    participants_.sum_up(record_);
    return record_;
  }
  [[nodiscard]] std::uint64_t trace() const { return time_.trace(); }
  [[nodiscard]] bool has_resumed() const noexcept { return has_resumed_; }

 private:
  struct coordinator {
    std::unique_ptr<simulated_process> process;
    std::optional<saga::engine> engine;
    subscription listening;
  };

  awaitable<void> open() {
    if (spec_.journal) {
      database made = co_await database::open("sqlite::memory:");
      db_.emplace(std::move(made));
    }
    begin_coordinator();
    co_await sleep_for(std::chrono::milliseconds(100));
    call(*coordinators_.front());
  }

  void begin_coordinator() {
    auto& made = *coordinators_.emplace_back(std::make_unique<coordinator>());
    made.process = std::make_unique<simulated_process>(*context_);
    spawn(made.process->executor(), [this, &made] { return coordinate(made); });
  }

  awaitable<void> coordinate(coordinator& c) {
    if (spec_.journal) {
      saga::engine_options options;
      options.lease = spec_.lease;
      saga::engine opened = co_await saga::engine::open(*db_, options);
      c.engine.emplace(std::move(opened));
    } else {
      c.engine.emplace();
    }
    define_saga(*c.engine, participants_);
    saga::kill_when(*c.engine, [this, &c](const char* where) { return is_time(c, where); });
    c.listening = c.engine->events().subscribe([this](const saga::saga_event& e) { heard(e); });
    if (spec_.journal) co_await c.engine->run();
  }

  /// At every point at which a coordinator can die.
  bool is_time(coordinator& c, const char* where) {
    if (restarted_) {
      resume();
      return false;
    }
    if (++points_ != dies_at_) return false;
    record_.killed_at = where;
    time_.record(where);
    c.process->stop();
    spawn(*context_, [this] { return restart(); });
    return true;
  }

  awaitable<void> restart() {
    co_await sleep_for(spec_.restart_after);
    restarted_ = time_.elapsed();
    begin_coordinator();
    if (spec_.client_tries_again) {
      co_await sleep_for(std::chrono::milliseconds(10));
      call(*coordinators_.back());
    }
  }

  void resume() {
    if (!has_resumed_) record_.resumed = time_.elapsed() - *restarted_;
    has_resumed_ = true;
  }

  void heard(const saga::saga_event& e) {
    using kind = saga::saga_event::kind;
    const bool is_end = e.what == kind::completed || e.what == kind::compensated || e.what == kind::stuck;
    if (is_end && restarted_) record_.ended = time_.elapsed() - *restarted_;
  }

  /// A client's: in the coordinator's process where that keeps nothing, in another one where it has a journal.
  void call(coordinator& c) {
    const auto executor = spec_.journal ? net::any_io_executor(context_->get_executor()) : c.process->executor();
    spawn(executor, [this, &c] { return call_engine(c); });
  }

  awaitable<void> call_engine(coordinator& c) {
    const auto kinds = kinds_of(spec_);
    failure why;
    try {
      if (spec_.journal) {
        (void)co_await c.engine->start("saga-1", run_steps, kinds);
      } else {
        // Without a journal nobody knows which id it was.
        (void)co_await c.engine->execute("saga-" + std::to_string(coordinators_.size()), run_steps, kinds);
        record_.state = "completed";
      }
    } catch (const std::exception& e) {
      why = failure::current(e);
    }
    if (!spec_.journal && why.code() == errc::saga_compensated) record_.state = "compensated";
  }

  awaitable<void> ask_journal() {
    const rows found = co_await db_->query("select state from cofferdam_sagas where id = 'saga-1'");
    if (!found.empty()) {
      record_.state = std::string(to_string(static_cast<saga::saga_state>(found.front().get<int>(0))));
    }
  }

  const scenario& scenario_;
  const saga_spec& spec_;
  const std::size_t dies_at_;
  saga_participants participants_;
  std::unique_ptr<net::io_context> context_;
  virtual_time time_;
  std::optional<database> db_;
  std::vector<std::unique_ptr<coordinator>> coordinators_;
  saga_record record_;
  std::size_t points_ = 0;
  std::optional<duration> restarted_;
  bool has_resumed_ = false;
};

void check(const saga_record& r, run_result& result) {
  const std::string where =
      " in \"" + r.of_case + "\", killed " + (r.killed_at.empty() ? std::string("never") : r.killed_at);
  const bool is_done = r.state == "completed" && r.steps_done == r.steps;
  const bool is_undone = (r.state == "compensated" || r.state.empty()) && r.steps_done == 0;
  if (!is_done && !is_undone) {
    result.violations.push_back("ends_well: " + (r.state.empty() ? std::string("without a trace") : r.state) + ", " +
                                std::to_string(r.steps_done) + " of " + std::to_string(r.steps) + " steps done" +
                                where);
  }
  if (r.too_many > 0) {
    result.violations.push_back("effects_once: " + std::to_string(r.too_many) + " effects too many" + where);
  }
  if (r.money != 0) result.violations.push_back("money_is_zero: " + std::to_string(r.money) + where);
}

}  // namespace

run_result run_saga(const scenario& s, std::size_t variant, std::uint64_t seed) {
  run_result result;
  result.variant = s.variants[variant].first;
  result.seed = seed;
  const saga_spec& spec = s.variants[variant].second.saga;
  const auto note = [&result](const char* event) { ++result.events[event].count; };
  for (const auto& of_case : spec.cases) {
    for (std::size_t dies_at = 1;; ++dies_at) {
      saga_run one(s, spec, of_case, dies_at, seed);
      result.sagas.push_back(one.run());
      result.trace = result.trace * 31 + one.trace();
      ++result.offered;
      check(result.sagas.back(), result);
      if (result.sagas.back().killed_at.empty()) break;  // there is no such point
      note("coordinator_killed");
      if (one.has_resumed()) note("saga_resumed");
    }
  }
  return result;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
