// Histories of sagas, changed at random: bytes of the text, members, the order of entries, entries that are missing. An
// import either refuses one with the saga and what is wrong in it, or the saga ends, waits, or is stuck with a reason;
// where its journal cannot be read, that names saga and entry. To compare one with the code reports the same.
// Arguments: seed, number of histories.
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/saga/admin.hpp>
#include <cofferdam/saga/engine.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

// --- sagas whose journals have entries of every kind

awaitable<int> build(saga::step_context& context, int n) {
  if (n == 13) throw saga::refused("unlucky", "thirteen");
  if (n == 7 && context.attempt() == 1) {
    co_await context.heartbeat("half");
    throw std::runtime_error("once more");
  }
  co_return n;
}
awaitable<void> tear_down(saga::step_context& context, int /*made*/, int n) {
  if (n == 5 && context.attempt() == 1) throw std::runtime_error("not yet");
  if (n == 11) throw saga::cannot_undo("it is for ever");
  co_return;
}
awaitable<void> open_gates(saga::step_context&) { co_return; }
constexpr auto build_it = saga::step<"build", &build, &tear_down>.undo_attempts(3);
constexpr auto open_it = saga::pivot<"open", &open_gates>;

saga::task<int> side(saga::scope& s, int n) { co_return co_await s.run(build_it, n); }
saga::task<int> slow_side(saga::scope& s, int n) {
  co_await s.sleep(1min);
  co_return co_await s.run(build_it, n);
}
saga::task<int> unlucky(saga::scope& s, int n) {
  (void)co_await s.run(build_it, n);
  co_return co_await s.run(build_it, 13);
}

/// Ends well below 10, goes back from there on, and never gets back from 11.
saga::task<int> town(saga::scope& s, int n) {
  co_await s.lock("site");
  int sum = co_await s.run(build_it, 7);
  const auto both = co_await s.all(s.branch<"left">(side, 1), s.branch<"right">(side, n)).undo_in_parallel();
  sum += std::get<0>(both) + std::get<1>(both);
  const auto race = co_await s.any(s.branch<"slow">(slow_side, 2), s.branch<"quick">(side, 3));
  sum += static_cast<int>(race.index());
  try {
    sum += co_await s.nested<"part">(unlucky, 5);
  } catch (const saga::aborted&) {
    ++sum;
  }
  sum += co_await s.call<"suburb">(side, 4);
  const auto word = co_await s.wait_signal<std::string>("word", 1h);
  if (word) sum += static_cast<int>(word->size());
  co_await s.sleep(1h);
  (void)co_await s.wait_signal<int>("number", 1s);
  if (n >= 10) s.fail("too large");
  co_await s.run(open_it);
  co_return sum;
}

void define(saga::engine& engine) {
  engine.define("town", town, build_it, open_it);
  engine.define("side", side, build_it);
}

/// One that goes on, one that ended, one that went back, one that is stuck on its way back.
awaitable<std::vector<nlohmann::json>> good_histories() {
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db);
  define(engine);
  saga::admin desk(db);
  const std::map<std::string, int> sagas{{"t-1", 1}, {"t-2", 10}, {"t-3", 11}};
  const saga::decision again("ada", "once more");
  std::vector<nlohmann::json> made;
  for (const auto& [id, n] : sagas) {
    (void)co_await engine.start(id, town, n);
    for (int i = 0; i < 3; ++i) {
      co_await sleep_for(2min);
      (void)co_await engine.run_due();
    }
    const std::string word = "go";
    co_await engine.signal(id, "word", word, "message-1");
    (void)co_await engine.run_due();
    made.push_back(co_await desk.export_history(id));
    for (int i = 0; i < 3; ++i) {
      co_await sleep_for(1h);
      (void)co_await engine.run_due();
    }
    if (n == 11) co_await desk.retry_now(id, again);
    made.push_back(co_await desk.export_history(id));
  }
  co_return made;
}

// --- what is done to them

class mutator {
 public:
  explicit mutator(std::uint64_t seed) : random_(seed) {}

  /// Not always JSON any more.
  std::string operator()(const nlohmann::json& good) {
    nlohmann::json history = good;
    if (random_() % 4 == 0) return with_other_bytes(history.dump());
    for (std::uint64_t changes = 1 + random_() % 3; changes > 0; --changes) change(history);
    return history.dump();
  }

 private:
  std::string with_other_bytes(std::string text) {
    for (std::uint64_t changes = 1 + random_() % 3; changes > 0 && !text.empty(); --changes) {
      const std::size_t at = random_() % text.size();
      const std::size_t length = std::min<std::size_t>(random_() % 12, text.size() - at);
      switch (random_() % 4) {
        case 0:
          text[at] = static_cast<char>(random_());
          break;
        case 1:
          text[at] = static_cast<char>('0' + random_() % 10);
          break;
        case 2:
          text.erase(at, length);
          break;
        default:
          text.insert(at, text.substr(random_() % text.size(), length));
      }
    }
    return text;
  }

  void change(nlohmann::json& history) {
    auto& journal = history["journal"];
    if (!journal.is_array() || journal.empty()) return change_member(history);
    const auto at = static_cast<std::ptrdiff_t>(random_() % journal.size());
    const auto other = static_cast<std::ptrdiff_t>(random_() % journal.size());
    const bool renumbers = random_() % 4 != 0;  // else an import sees at once that they are out of order
    switch (random_() % 6) {
      case 0:
        journal.erase(journal.begin() + at);
        break;
      case 1:
        std::swap(journal[static_cast<std::size_t>(at)], journal[static_cast<std::size_t>(other)]);
        break;
      case 2: {
        const nlohmann::json copy = journal[static_cast<std::size_t>(at)];
        journal.insert(journal.begin() + other, copy);
        break;
      }
      case 3:
        change_member(journal[static_cast<std::size_t>(at)]);
        break;
      case 4:
        change_payload(journal[static_cast<std::size_t>(at)]);
        break;
      default:
        change_member(history);
    }
    if (renumbers) number(history);
  }
  static void number(nlohmann::json& history) {
    if (!history["journal"].is_array()) return;
    int seq = 0;
    for (auto& entry : history["journal"]) {
      if (entry.is_object()) entry["seq"] = ++seq;
    }
    history["seq"] = seq;
  }

  void change_payload(nlohmann::json& entry) {
    if (!entry.is_object() || !entry.contains("payload") || !entry["payload"].is_string()) return;
    auto payload = nlohmann::json::parse(entry["payload"].get<std::string>(), nullptr, false);
    if (payload.is_object() && !payload.empty()) {
      change_member(payload);
    } else {
      payload = anything();
    }
    entry["payload"] = payload.dump();
  }
  void change_member(nlohmann::json& object) {
    if (!object.is_object() || object.empty()) return;
    auto member = object.begin();
    std::advance(member, static_cast<std::ptrdiff_t>(random_() % object.size()));
    if (random_() % 4 == 0) {
      object.erase(member);
    } else if (member->is_number_integer() && random_() % 2 == 0) {
      *member = member->get<std::int64_t>() + static_cast<std::int64_t>(random_() % 5) - 2;
    } else {
      *member = anything();
    }
  }
  nlohmann::json anything() {
    switch (random_() % 9) {
      case 0:
        return nullptr;
      case 1:
        return static_cast<int>(random_() % 20);
      case 2:
        return -1;
      case 3:
        return std::numeric_limits<std::int64_t>::max() - static_cast<std::int64_t>(random_() % 2);
      case 4:
        return std::numeric_limits<std::uint64_t>::max();
      case 5:
        return "build#1";
      case 6:
        return 0.5;
      case 7:
        return nlohmann::json::array({1, nullptr});
      default:
        return {{"result", {}}};
    }
  }

  random_source random_;
};

// --- what may come of it

struct tally {
  int unreadable = 0, refused = 0, ended = 0, waiting = 0, stuck = 0, damaged = 0, unknown = 0;
};

[[noreturn]] void fail(const std::string& why, const std::string& text) {
  std::printf("%s:\n%s\n", why.c_str(), text.c_str());
  std::exit(1);
}

bool names(const std::string& message, const std::string& part) { return message.find(part) != std::string::npos; }

/// Whether an import, or a comparison, says enough.
bool says_where(const std::string& message, const nlohmann::json& history) {
  const bool has_id = history.is_object() && history.contains("id") && history["id"].is_string();
  if (!has_id || !history.contains("format")) return names(message, "a saga's history");
  return names(message, "a saga's history") || names(message, "'" + history["id"].get<std::string>() + "'");
}

/// What became of a saga after some days.
void judge(const saga::saga_info& found, bool is_defined, const std::string& text, tally& seen) {
  if (saga::is_final(found.state)) {
    ++seen.ended;
  } else if (found.state == saga::saga_state::stuck) {
    if (found.reason.empty()) fail("stuck without a reason", text);
    ++seen.stuck;
    if (!names(found.reason, "damaged")) return;
    const bool says_it = names(found.reason, "the saga '" + found.id + "': entry ");
    if (!says_it) fail("a damaged journal without its entry: " + found.reason, text);
    ++seen.damaged;
  } else if (!is_defined) {
    ++seen.unknown;
  } else if (found.is_owned || (found.wake_at && *found.wake_at <= found.updated_at)) {
    fail("due, and nobody goes on with it: " + std::string(to_string(found.state)), text);
  } else {
    ++seen.waiting;
  }
}

/// Where they are tried, one after the other.
struct workshop {
  database& db;
  saga::engine& engine;
  saga::engine& rehearsal;  // without a database
};

awaitable<void> forget_all(database& db) {
  batch b;
  for (const char* table : {"sagas", "saga_journal", "saga_inbox", "saga_locks"}) {
    b.execute(std::string("delete from cofferdam_") + table);
  }
  co_await db.commit(std::move(b));
}

awaitable<void> try_history(const std::string& text, workshop in, tally& seen) {
  const auto history = nlohmann::json::parse(text, nullptr, false);
  if (history.is_discarded()) {
    ++seen.unreadable;
    co_return;
  }
  co_await forget_all(in.db);
  saga::admin desk(in.db);
  try {
    (void)co_await in.rehearsal.check(history);
  } catch (const saga::saga_error& wrong) {
    if (wrong.code() != errc::saga_undecodable || !says_where(wrong.what(), history)) {
      fail(std::string("another refusal to compare: ") + wrong.what(), text);
    }
  }
  std::string refusal;
  try {
    co_await desk.import_history(history);
  } catch (const saga::saga_error& wrong) {
    const bool is_twice = wrong.code() == errc::saga_conflict && names(wrong.what(), "twice");
    refusal = wrong.what();
    if (wrong.code() != errc::saga_undecodable && !is_twice) fail("another refusal: " + refusal, text);
  }
  const auto there = co_await desk.list();
  if (!refusal.empty()) {
    if (!says_where(refusal, history)) fail("a refusal that does not say of what: " + refusal, text);
    if (!there.empty()) fail("a refused history left a saga", text);
    ++seen.refused;
    co_return;
  }
  for (int i = 0; i < 4; ++i) {
    co_await sleep_for(24h);
    (void)co_await in.engine.run_due();
  }
  const std::string id = history["id"].get<std::string>();
  const auto all = co_await desk.list();
  for (const auto& found : all) {
    const bool is_defined = (found.definition == "town" || found.definition == "side") && found.version == 1;
    if (found.id == id) judge(found, is_defined, text, seen);
  }
}

awaitable<void> try_all(std::uint64_t seed, int histories, tally& seen) {
  mutator mutate(seed);
  const auto good = co_await good_histories();
  database db = co_await database::open("sqlite::memory:");
  saga::engine engine = co_await saga::engine::open(db), rehearsal;
  define(engine);
  define(rehearsal);
  const workshop here{db, engine, rehearsal};
  std::set<int> kinds;
  for (const auto& each : good) {
    for (const auto& entry : each["journal"]) kinds.insert(entry["kind"].get<int>());
    tally whole;
    co_await try_history(each.dump(), here, whole);
    if (whole.refused + whole.damaged > 0) fail("a good history is refused", each.dump());
  }
  if (kinds.size() != 18) fail("only " + std::to_string(kinds.size()) + " of 18 kinds of entries are tried", "");
  for (int i = 0; i < histories; ++i) {
    const std::string text = mutate(good[static_cast<std::size_t>(i) % good.size()]);
    try {
      co_await try_history(text, here, seen);
    } catch (const std::exception& e) {
      fail(std::string("an error that nobody expects: ") + e.what(), text);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
  const int histories = argc > 2 ? std::atoi(argv[2]) : 1000;
  net::io_context context(1);
  virtual_time time(context);
  tally seen;
  time.run(try_all, seed, histories, std::ref(seen));
  std::printf(
      "%d no JSON, %d refused; %d ended, %d waiting, %d stuck, of which %d with a damaged journal; %d of others\n",
      seen.unreadable, seen.refused, seen.ended, seen.waiting, seen.stuck, seen.damaged, seen.unknown);
  return seen.refused > 0 && seen.ended > 0 && seen.stuck > 0 && seen.damaged > 0 ? 0 : 1;
}
