#include <cofferdam/core/random.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/saga/testing.hpp>

#include "engine_state.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>

namespace cofferdam::inline COFFERDAM_ABI::saga {
namespace {

/// Dies at the n-th point; 0: never.
struct mortality {
  std::size_t at = 0, passed = 0;
  std::string where;
};

void make_mortal(engine& e, const std::shared_ptr<mortality>& fate) {
  kill_when(e, [fate](const char* where) {
    if (++fate->passed != fate->at) return false;
    fate->where = where;
    return true;
  });
}

awaitable<std::size_t> count_unfinished(database& db) {
  const rows found = co_await db.query("select count(*) from cofferdam_sagas where state not in (3, 4, 7)");
  co_return found.front().get<std::size_t>(0);
}

/// Begins and works until all has ended, or the process dies.
awaitable<void> live_and_work(engine& e, database& db, const std::function<awaitable<void>(engine&)>& begin,
                              bool may_die) {
  const auto start = [&begin, &e] { return begin(e); };
  const spawned beginning = spawn(
      e.state()->executor,
      [](auto how) -> awaitable<void> {
        try {
          co_await how();
        } catch (const std::exception&) {  // its saga is looked at in the end
        }
      },
      start);
  constexpr int patience = 10'000;
  for (int i = 0; i < patience; ++i) {
    co_await sleep_for(std::chrono::milliseconds(1));
    if (may_die && e.state()->dead) break;
    (void)co_await e.run_due();
    const std::size_t left = co_await count_unfinished(db);
    if (left == 0 && i > 0) break;
    // What is nobody's is due at its time, what a dead process left when its lease is over, and a signal at once.
    const std::uint64_t seen = db.changes();
    const rows next = co_await db.query(
        "select min(case when owner is null then wake_at end), count(owner) from cofferdam_sagas where state not in "
        "(3, 4, 7)");
    const auto due = next.front().get<std::optional<std::int64_t>>(0);
    const bool is_owned = next.front().get<std::int64_t>(1) > 0;
    const std::int64_t now = detail::to_microseconds(e.state()->timers->date());
    constexpr std::int64_t day = 86'400'000'000;
    duration pause = is_owned || !due ? e.state()->options.lease : std::chrono::hours(24);
    if (due) pause = std::min<duration>(pause, std::chrono::microseconds(std::clamp<std::int64_t>(*due - now, 0, day)));
    (void)co_await db.wait_for_change(seen, pause);
  }
  beginning.cancel();
  while (e.active() > 0) co_await sleep_for(std::chrono::milliseconds(1));
}

}  // namespace

void kill(engine& e) { e.state()->dead = true; }
void kill_at(engine& e, std::size_t point) {
  const auto fate = std::make_shared<mortality>();
  fate->at = point;
  make_mortal(e, fate);
}
bool is_dead(const engine& e) { return e.state()->dead; }

awaitable<std::size_t> replay_histories(engine& e, std::string path) {
  std::vector<std::filesystem::path> files;
  if (std::filesystem::is_directory(path)) {
    for (const auto& each : std::filesystem::directory_iterator(path)) {
      if (each.path().extension() == ".json") files.push_back(each.path());
    }
    std::ranges::sort(files);
  } else if (std::filesystem::exists(path)) {
    files.emplace_back(path);
  }
  if (files.empty()) {
    throw std::runtime_error(path + ": there is no history here, no file and no directory with *.json");
  }
  for (const auto& file : files) {
    std::ifstream in(file);
    const auto history = nlohmann::json::parse(in, nullptr, false);
    if (history.is_discarded()) throw std::runtime_error(file.string() + ": is no JSON");
    std::string wrong;
    try {
      const auto drift = co_await e.check(history);
      if (drift) wrong = drift->message();
    } catch (const saga_error& damaged) {
      wrong = damaged.what();
    }
    if (!wrong.empty()) throw std::runtime_error(file.string() + ": " + wrong);
  }
  co_return files.size();
}
void kill_when(engine& e, std::function<bool(const char* where)> is_time) { e.state()->crash = std::move(is_time); }

awaitable<std::size_t> crash_explorer::run_once(std::size_t first, std::size_t second) {
  if (reset_) reset_();
  database db = co_await database::open("sqlite::memory:");
  std::string where;
  std::size_t deaths = 0;
  for (const std::size_t at : {first, second, std::size_t{0}}) {
    const bool is_last = at == 0;
    engine e = co_await engine::open(db, options_);
    prepare_(e);
    const auto fate = std::make_shared<mortality>();
    fate->at = at;
    make_mortal(e, fate);
    co_await live_and_work(e, db, begin_, !is_last);
    const bool died = e.state()->dead;
    if (is_last || !died) break;
    ++deaths;
    where += (where.empty() ? "" : ", then ") + fate->where + " (point " + std::to_string(at) + ")";
  }
  const rows left = co_await db.query("select id, reason from cofferdam_sagas where state not in (3, 4, 7)");
  if (!left.empty()) {
    throw std::logic_error("the saga '" + left.front().get<std::string>(0) + "' does not end after a crash " + where +
                           ": " + left.front().get<std::optional<std::string>>(1).value_or(""));
  }
  co_await check_(db, where);
  co_return deaths;
}

awaitable<crash_explorer::result> crash_explorer::run() {
  result explored;
  random_source random(seed_);
  // Steps of one to twice as many but one: `one_of_` on average.
  const auto step = [&] { return 1 + static_cast<std::size_t>(random() % (2 * one_of_ - 1)); };
  for (std::size_t first = 1;; ++first) {
    const std::size_t deaths = co_await run_once(first, 0);
    ++explored.runs;
    if (deaths == 0) break;
    ++explored.points;
    for (std::size_t second = one_of_ > 0 ? step() : 0; second > 0; second += step()) {
      const std::size_t both = co_await run_once(first, second);
      ++explored.runs;
      if (both < 2) break;
    }
  }
  co_return explored;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
