// Random sagas in simulation, with everything that can go wrong at once: refusals, lost answers, hanging calls, workers
// that die at any boundary, takeovers, signals, cancellations, an operator who meddles. A plain interpreter of the same
// programs, which knows nothing of engines and journals, says how each may end and what must then be true of the world.
// COFFERDAM_SAGA_RANDOM: how many sagas; COFFERDAM_SAGA_SEED: where to begin.
#include "async_test.hpp"
#include "count_from.hpp"

#include <cofferdam/core/random.hpp>
#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/saga/admin.hpp>
#include <cofferdam/saga/barrier.hpp>
#include <cofferdam/saga/chain.hpp>
#include <cofferdam/saga/testing.hpp>

#include <array>
#include <cstdio>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::saga::literals;
using namespace std::chrono_literals;

namespace randomly {

using json = nlohmann::json;

// ----------------------------------------------------------------------------------------------------------- the world

/// What lies outside of the sagas. Remembers by idempotency key.
struct world {
  std::map<std::string, int> effects, attempts, undo_attempts;
  std::set<std::string> barred;  // undone, so that what comes late has no effect
  int hanging = 0;

  void act(const std::string& key, int amount) {
    if (!barred.contains(key)) effects.emplace(key, amount);
  }
  void undo(const std::string& key) {
    barred.insert(key);
    effects.erase(key);
  }
};

std::string key_undone_by(const saga::step_context& context) {
  const auto key = context.idempotency_key();
  return key.substr(0, key.size() - std::string("!undo").size());
}

/// "lost:2" goes wrong in this way for the first two attempts; "dead" always.
bool goes_wrong(const std::string& plan, const char* how, int attempt) {
  const auto colon = plan.find(':');
  if (plan.substr(0, colon) != how) return false;
  return colon == std::string::npos || attempt <= std::stoi(plan.substr(colon + 1));
}

/// What comes before the effect.
awaitable<int> begin_action(saga::step_context& context, std::string plan) {
  auto& w = context.get<world>();
  const int n = ++w.attempts[context.idempotency_key()];
  co_await sleep_for(std::chrono::milliseconds(n % 3));
  if (goes_wrong(plan, "refused", n)) throw saga::refused("no", "refused");
  if (goes_wrong(plan, "away", n) || goes_wrong(plan, "dead", n)) throw std::runtime_error("is away");
  if (goes_wrong(plan, "ongoing", n)) throw saga::ongoing(10ms);
  if (goes_wrong(plan, "fatal", n)) throw saga::fatal("is broken");
  if (goes_wrong(plan, "beats", n)) {
    const json progress(n);
    co_await context.heartbeat(progress);
    throw std::runtime_error("is away");
  }
  if (goes_wrong(plan, "hang", n)) co_await sleep_for(1h);
  co_return n;
}

awaitable<int> act(saga::step_context& context, int amount, std::string plan) {
  const int n = co_await begin_action(context, plan);
  context.get<world>().act(context.idempotency_key(), amount);
  if (goes_wrong(plan, "lost", n) || goes_wrong(plan, "vanish", n)) throw std::runtime_error("the answer was lost");
  co_return amount;
}
awaitable<void> undo(saga::step_context& context, int, std::string) {
  auto& w = context.get<world>();
  const auto key = key_undone_by(context);
  const int n = ++w.undo_attempts[key];
  co_await sleep_for(1ms);
  const std::size_t luck = std::hash<std::string>()(key);
  if (luck % 40 == 0 && n == 1) throw saga::cannot_undo("not by me");
  if (static_cast<std::size_t>(n) <= luck % 3) throw std::runtime_error("undo is away");
  w.undo(key);
}
awaitable<void> undo_maybe(saga::step_context& context, std::optional<int> amount, int given, std::string plan) {
  if (amount && *amount != given) throw saga::cannot_undo("the result is not the action's");
  return undo(context, given, std::move(plan));
}
awaitable<void> undo_known(saga::step_context& context, const int& amount, int given, std::string plan) {
  if (amount != given) throw saga::cannot_undo("the result is not the action's");
  return undo(context, given, std::move(plan));
}
awaitable<int> watch(saga::step_context& context, int, std::string plan) {
  const int n = co_await begin_action(context, plan);
  if (goes_wrong(plan, "lost", n) || goes_wrong(plan, "vanish", n)) throw std::runtime_error("the answer was lost");
  co_return 0;
}
awaitable<int> act_together(saga::step_context& context, batch& b, int amount, std::string plan) {
  (void)co_await begin_action(context, plan);
  if (plan == "vanish") throw std::runtime_error("is away");  // nothing is written without its outcome
  b.execute("insert into effects(key, amount) values($1, $2)", context.idempotency_key(), amount);
  co_return amount;
}
awaitable<void> undo_together(saga::step_context& context, int, std::string) {
  batch b;
  b.execute("delete from effects where key = $1", key_undone_by(context));
  co_await context.get<database>().commit(std::move(b));
}

/// At a service that knows sagas by its barrier alone: a second time would violate the primary key.
awaitable<int> act_as_guest(saga::step_context& context, int amount, std::string plan) {
  const int n = co_await begin_action(context, plan);
  const saga::participant_call call(context);
  batch work;
  work.execute("insert into effects(key, amount) values($1, $2)", context.idempotency_key(), amount);
  const auto answer = co_await context.get<saga::barrier>().act(call, std::move(work), amount);
  if (!answer.result) throw std::runtime_error("comes too late");
  if (goes_wrong(plan, "lost", n) || goes_wrong(plan, "vanish", n)) throw std::runtime_error("the answer was lost");
  co_return *answer.result;
}
awaitable<void> undo_as_guest(saga::step_context& context, std::optional<int>, int, std::string) {
  const saga::participant_call call(context);
  batch work;
  work.execute("delete from effects where key = $1", key_undone_by(context));
  (void)co_await context.get<saga::barrier>().undo(call, std::move(work));
}

constexpr auto blind = saga::step<"blind", &act, &undo>;
constexpr auto maybe = saga::step<"maybe", &act, &undo_maybe>;
constexpr auto known = saga::step<"known", &act, &undo_known>;
constexpr auto together = saga::step<"together", &act_together, &undo_together>;
constexpr auto guest = saga::step<"guest", &act_as_guest, &undo_as_guest>;
constexpr auto give = saga::step<"give", &act, &undo>;
constexpr auto give_for_good = saga::pivot<"give for good", &act>;
constexpr auto give_together = saga::pivot<"give together", &act_together>;
constexpr auto tell = saga::retriable<"tell", &act>;
constexpr auto look = saga::read_only<"look", &watch>;

// --------------------------------------------------------------------------------------------------------- the program

struct script {
  json ops;
};
void to_json(json& text, const script& s) { text = s.ops; }
void from_json(const json& text, script& s) { s.ops = text; }

/// A chain with rounds, each with a plan of its own, and a race that the second step wins, if it is asked for.
constexpr auto rounds =
    saga::start<script>("rounds") |
    saga::repeat<"round">(
        [](const auto& s) { return s["round"_s] < s.input().ops.at("plans").size(); },
        saga::step<"again">([](const auto& s) {
          return act(s.context(), 3, s.input().ops.at("plans").at(s["round"_s] - 1).template get<std::string>());
        }).undo([](const auto& s, const std::optional<int>& amount) { return undo_maybe(s.context(), amount, 3, ""); }),
        saga::pause(5ms)) |
    saga::when([](const auto& s) { return s.input().ops.at("races").template get<bool>(); },
               saga::any<"first">(saga::step<"dear">([](const auto& s) { return act(s.context(), 9, "refused"); }),
                                  saga::step<"cheap">([](const auto& s) {
                                    return act(s.context(), 2, "lost:1");
                                  }).undo([](const auto& s, const std::optional<int>& amount) {
                                    return undo_maybe(s.context(), amount, 2, "");
                                  })));

saga::task<int> play(saga::scope& s, script program);

template <class Step> saga::task<int> play_step(saga::scope& s, const Step& step, json op, int amount) {
  const std::string plan = op.at("plan");
  if (!op.value("caught", false)) co_return co_await s.run(step, amount, plan);
  int done = 0;
  try {
    done = co_await s.run(step, amount, plan);
  } catch (const saga::step_failed&) {  // then without it
  }
  co_return done;
}

/// @param sum  what was moved so far.
saga::task<int> play_one(saga::scope& s, json op, int sum) {
  const std::string what = op.at("do");
  const int amount = op.value("amount", 0);
  if (what == "blind") co_return co_await play_step(s, blind, op, amount);
  if (what == "maybe") co_return co_await play_step(s, maybe, op, amount);
  if (what == "known") co_return co_await play_step(s, known, op, amount);
  if (what == "together") co_return co_await play_step(s, together, op, amount);
  if (what == "guest") co_return co_await play_step(s, guest, op, amount);
  if (what == "give") co_return co_await play_step(s, give, op, -sum);
  if (what == "give for good") co_return co_await play_step(s, give_for_good, op, -sum);
  if (what == "give together") co_return co_await play_step(s, give_together, op, -sum);
  if (what == "tell") co_return co_await play_step(s, tell, op, 0);
  if (what == "look") co_return co_await play_step(s, look, op, 0);
  if (what == "fail") s.fail("so it is");
  if (what == "sleep") co_await s.sleep(std::chrono::milliseconds(amount));
  if (what == "signal") {
    const std::string name = op.at("name");
    const bool is_sent = op.at("is_sent"), is_needed = op.at("is_needed");
    const duration limit = is_sent ? duration::max() : duration(100ms);
    const auto got = co_await s.wait_signal<int>(name, limit);
    if (!got && is_needed) s.fail("nobody said " + name);
  }
  if (what == "all") {
    const script left{op.at("left")}, right{op.at("right")};
    auto both = s.all(s.branch<"left">(play, left), s.branch<"right">(play, right));
    if (op.at("is_undone_together")) std::move(both).undo_in_parallel();
    const auto pair = co_await std::move(both);
    co_return std::get<0>(pair) + std::get<1>(pair);
  }
  if (what == "race") {
    const script left{op.at("left")}, right{op.at("right")};
    int moved = 0;
    try {
      const auto won = co_await s.any(s.branch<"left">(play, left), s.branch<"right">(play, right));
      moved = won.index() == 0 ? std::get<0>(won) : std::get<1>(won);
    } catch (const saga::aborted&) {  // then without it
    }
    co_return moved;
  }
  if (what == "call") {
    const script part{op.at("ops")};
    int moved = 0;
    try {
      moved = co_await s.call<"child">(play, part);
    } catch (const saga::step_failed&) {  // then without it
    }
    co_return moved;
  }
  if (what == "rounds") {
    const script input{op};
    int moved = 0;
    try {
      (void)co_await s.call<"child">(rounds, input);
      moved = static_cast<int>(3 * op.at("plans").size()) + (op.at("races") ? 2 : 0);
    } catch (const saga::step_failed&) {  // then without it
    }
    co_return moved;
  }
  if (what == "lock") {
    const std::string resource = op.at("what");
    const duration limit = op.at("is_hurried") ? duration(5ms) : duration::max();
    try {
      co_await s.lock(resource, limit);
    } catch (const saga::step_failed&) {  // then without it
      if (limit == duration::max()) throw;
    }
  }
  if (what == "try") {
    for (const json& ops : op.at("parts")) {
      const script part{ops};
      try {
        co_return co_await s.nested<"try">(play, part);
      } catch (const saga::aborted&) {  // the next one
      }
    }
  }
  if (what == "nested") {
    const script part{op.at("ops")};
    int moved = 0;
    try {
      moved = co_await s.nested<"part">(play, part);
    } catch (const saga::aborted&) {  // then without it
    }
    co_return moved;
  }
  co_return 0;
}

saga::task<int> play(saga::scope& s, script program) {
  int sum = 0;
  for (const json& op : program.ops) sum += co_await play_one(s, op, sum);
  co_return sum;
}

class author {
 public:
  explicit author(std::uint64_t seed) : random_(seed) {}

  /// A whole program: at its end what it moved is given back, so that the money of a completed saga sums to zero.
  json write() {
    json ops = part(0, 0);
    const char* ends[] = {"give", "give for good", "give together"};
    const std::string end = ends[roll(3)];
    ops.push_back({{"do", end}, {"plan", plan(end != "give", false)}});
    if (end != "give") {
      for (std::size_t n = roll(3); n > 0; --n) {
        ops.push_back({{"do", happens(70) ? "tell" : "look"}, {"plan", plan_of_success()}});
      }
    }
    return ops;
  }
  std::size_t roll(std::size_t sides) { return static_cast<std::size_t>(random_() % sides); }
  bool happens(std::size_t percent) { return roll(100) < percent; }

 private:
  std::string plan_of_success() {
    if (happens(60)) return "fine";
    const char* hows[] = {"away", "lost", "ongoing", "hang", "beats", "fatal"};
    const std::size_t how = roll(happens(10) ? 6 : 5);
    return std::string(hows[how]) + ":" + std::to_string(how == 5 ? 1 : 1 + roll(2));
  }
  /// @param must_be_known  what never ends could not be undone with a result, nor be a point of no return.
  std::string plan(bool must_be_known, bool is_caught) {
    if (!happens(12)) return plan_of_success();
    if (must_be_known || happens(50)) return "refused";
    return is_caught || happens(50) ? "dead" : "vanish";
  }
  /// @param depth  of parts.
  /// @param level  of sagas that call sagas.
  json one(std::size_t depth, std::size_t level) {
    const std::size_t kind = roll(depth < 2 ? 20 : 11);
    if (kind < 7) {
      const char* names[] = {"blind", "maybe", "known", "together", "guest", "look"};
      const std::string name = names[roll(6)];
      const bool is_caught = happens(20);
      return {{"do", name},
              {"amount", static_cast<int>(1 + roll(50))},
              {"plan", plan(name == "known", is_caught)},
              {"caught", is_caught}};
    }
    if (kind == 7) return {{"do", "sleep"}, {"amount", static_cast<int>(roll(300))}};
    if (kind == 8 && level == 0) {  // a child gets none
      const bool is_sent = happens(80);
      return {{"do", "signal"},
              {"name", "s" + std::to_string(++signals_)},
              {"is_sent", is_sent},
              {"is_needed", happens(50)}};
    }
    if (kind == 9) {  // one a level: a child must not wait for its parent, nor two sagas for each other
      return {{"do", "lock"}, {"what", "level " + std::to_string(level)}, {"is_hurried", happens(40)}};
    }
    if (kind < 11) return {{"do", happens(10) ? "fail" : "sleep"}, {"amount", 1}};
    if (kind < 13) {
      return {{"do", "all"},
              {"is_undone_together", happens(50)},
              {"left", part(depth + 1, level)},
              {"right", part(depth + 1, level)}};
    }
    if (kind < 15) return {{"do", "nested"}, {"ops", part(depth + 1, level)}};
    if (kind == 15) {  // who wins is known: the right one fails, if it gets that far
      json right = part(depth + 1, level);
      right.push_back({{"do", "sleep"}, {"amount", static_cast<int>(roll(300))}});
      right.push_back({{"do", "fail"}});
      return {{"do", "race"}, {"left", part(depth + 1, level)}, {"right", std::move(right)}};
    }
    if (kind == 16) {
      json parts = json::array();
      for (std::size_t n = 1 + roll(3); n > 0; --n) parts.push_back(part(depth + 1, level));
      return {{"do", "try"}, {"parts", std::move(parts)}};
    }
    if (kind == 17) {
      json plans = json::array();
      for (std::size_t n = roll(4); n > 0; --n) plans.push_back(plan(false, false));
      return {{"do", "rounds"}, {"plans", std::move(plans)}, {"races", happens(50)}};
    }
    return {{"do", "call"}, {"ops", part(depth + 1, level + 1)}};
  }
  json part(std::size_t depth, std::size_t level) {
    json ops = json::array();
    for (std::size_t n = 1 + roll(3); n > 0; --n) ops.push_back(one(depth, level));
    return ops;
  }
  std::mt19937_64 random_;
  int signals_ = 0;
};

void collect_signals(const json& ops, std::vector<std::string>& names) {
  for (const json& op : ops) {
    if (op.at("do") == "signal" && op.at("is_sent")) names.push_back(op.at("name"));
    for (const char* inner : {"left", "right", "ops"}) {
      if (op.contains(inner)) collect_signals(op[inner], names);
    }
    if (op.contains("parts")) {
      for (const json& part : op["parts"]) collect_signals(part, names);
    }
  }
}

// ----------------------------------------------------------------------------------------------------------- the model

/// How a program ends when nobody meddles, and what it leaves in the world.
class interpreter {
 public:
  explicit interpreter(std::string id) : id_(std::move(id)) {}

  void run(const json& program) {
    try {
      (void)play(program, "");
    } catch (const gives_up&) {
      ends_well = false;
      effects.clear();
    }
  }
  bool ends_well = true;
  std::map<std::string, int> effects;  // by idempotency key
  std::map<std::string, int> ever;     // those that could be there at any time

 private:
  struct gives_up {};

  std::string key_of(const std::string& scope, const std::string& name) {
    const int n = ++counts_[scope + name];
    return scope + name + '#' + std::to_string(n);
  }
  int play(const json& ops, const std::string& scope) {
    int sum = 0;
    for (const json& op : ops) sum += play_one(op, scope, sum);
    return sum;
  }
  int play_one(const json& op, const std::string& scope, int sum) {
    const std::string what = op.at("do");
    if (what == "sleep" || what == "lock") return 0;
    if (what == "fail") throw gives_up();
    if (what == "signal") {
      if (!op.at("is_sent") && op.at("is_needed")) throw gives_up();
      return 0;
    }
    if (what == "all") return play_branches(op, scope);
    if (what == "nested") return play_part(op.at("ops"), key_of(scope, "part"));
    if (what == "call") return play_part(op.at("ops"), key_of(scope, "child"));
    if (what == "rounds") return play_part(steps_of_rounds(op), key_of(scope, "child"));
    if (what == "scope") return play(op.at("ops"), key_of(scope, op.at("name")) + '/');
    if (what == "try") {
      for (const json& part : op.at("parts")) {
        const int moved = play_part(part, key_of(scope, "try"));
        if (!has_failed_) return moved;
      }
      return 0;
    }
    if (what == "race") {
      (void)play_part(op.at("right"), key_of(scope, "right"));
      return play_part(op.at("left"), key_of(scope, "left"));
    }
    const std::string key = id_ + '/' + key_of(scope, what);
    const std::string plan = op.at("plan");
    const bool is_gift = what.starts_with("give"), has_effect = what != "look";
    const int amount = !has_effect ? 0 : is_gift ? -sum : op.value("amount", 0);
    if (has_effect) ever[key] = amount;
    if (plan != "refused" && plan != "dead" && plan != "vanish") {
      if (has_effect) effects[key] = amount;
      return amount;
    }
    if (!op.value("caught", false)) throw gives_up();
    return 0;
  }
  /// What the chain does.
  static json steps_of_rounds(const json& op) {
    json ops = json::array();
    const auto add = [&ops](const char* scope, const char* step, int amount, const json& plan) {
      json inner = json::array();
      inner.push_back({{"do", step}, {"amount", amount}, {"plan", plan}});
      ops.push_back({{"do", "scope"}, {"name", scope}, {"ops", std::move(inner)}});
    };
    for (const json& plan : op.at("plans")) add("round", "again", 3, plan);
    if (op.at("races")) add("cheap", "cheap", 2, "fine");
    return ops;
  }
  int play_branches(const json& op, const std::string& scope) {
    // Both have their names before either begins.
    const std::string left = key_of(scope, "left"), right = key_of(scope, "right");
    int sum = 0;
    bool fails = false;
    for (const auto& [ops, path] : {std::pair(op.at("left"), left), std::pair(op.at("right"), right)}) {
      try {
        sum += play(ops, path + '/');
      } catch (const gives_up&) {
        fails = true;
      }
    }
    if (fails) throw gives_up();
    return sum;
  }
  int play_part(const json& ops, const std::string& path) {
    try {
      const int moved = play(ops, path + '/');
      has_failed_ = false;
      return moved;
    } catch (const gives_up&) {
      std::erase_if(effects, [&](const auto& each) { return each.first.starts_with(id_ + '/' + path + '/'); });
      has_failed_ = true;
      return 0;
    }
  }
  std::string id_;
  std::map<std::string, int> counts_;
  bool has_failed_ = false;  // the last part
};

// ------------------------------------------------------------------------------------------------------ the simulation

struct tally {
  std::size_t sagas = 0, completed = 0, compensated = 0, abandoned = 0, deaths = 0, takeovers = 0, meddled = 0;
};

struct subject {
  std::string id;
  script program;
  duration deadline = duration::max();
  bool may_go_back = false;   // somebody asked for it
  bool is_abandoned = false;  // given up by an operator
};

saga::engine_options hurried() {
  saga::engine_options o;
  o.lease = 300ms;
  o.step_timeout = 50ms;
  o.backoff.base = 1ms;
  o.backoff.cap = 20ms;
  o.undo_backoff.base = 1ms;
  o.undo_backoff.cap = 20ms;
  return o;
}

/// A worker that dies at a boundary of its own.
struct mortal {
  mortal(saga::engine e, const net::any_io_executor& executor, std::size_t lives)
      : engine(std::move(e)), worker(spawn(executor, [this] { return engine.run(); })) {
    saga::kill_at(engine, lives);
  }
  saga::engine engine;
  spawned worker;
};

class simulation {
 public:
  simulation(std::uint64_t seed, tally& seen) : random_(seed), seen_(seen), seed_(seed) {}

  awaitable<void> run(std::size_t count) {
    database db = co_await database::open("sqlite::memory:");
    db_.emplace(std::move(db));
    batch b;
    b.execute("create table effects(key text primary key, amount bigint not null)");
    co_await db_->commit(std::move(b));
    gate_.emplace(co_await saga::barrier::open(*db_));
    for (auto& each : workers_) co_await replace(each);
    for (std::size_t i = 0; i < count; ++i) {
      subjects_.push_back({"r" + std::to_string(seed_) + "-" + std::to_string(i), {random_.write()}});
      if (random_.happens(10)) {
        subjects_.back().deadline = std::chrono::milliseconds(random_.roll(1000));
        subjects_.back().may_go_back = true;
      }
      co_await begin(subjects_.back());
      if (random_.happens(50)) co_await live();
    }
    bool are_all_over = false;
    for (int patience = 0; !are_all_over; ++patience) {
      if (patience > 20'000) throw std::logic_error("they do not end, with the seed " + std::to_string(seed_));
      co_await live();
      const rows left = co_await db_->query("select count(*) from cofferdam_sagas where state not in (3, 4, 7)");
      are_all_over = left.front().get<int>(0) == 0;
    }
    for (auto& each : workers_) co_await each->worker.stop();
    for (auto& each : graves_) co_await each->worker.stop();
    for (const auto& each : subjects_) co_await judge(each);
  }

 private:
  awaitable<void> replace(std::unique_ptr<mortal>& which) {
    saga::engine engine = co_await saga::engine::open(*db_, hurried());
    engine.provide(world_);
    engine.provide(*db_);
    engine.provide(*gate_);
    engine.define("play", play, blind, maybe, known, together, guest, give, give_for_good, give_together, tell, look);
    engine.define(rounds);
    const auto executor = co_await net::this_coro::executor;
    which = std::make_unique<mortal>(std::move(engine), executor, 20 + random_.roll(300));
  }

  /// As a client that tries until it was told.
  awaitable<void> begin(const subject& s) {
    const saga::start_options options{s.deadline};
    for (bool is_there = false; !is_there;) {
      const auto& worker = workers_[random_.roll(workers_.size())];
      try {
        (void)co_await worker->engine.start(s.id, play, s.program, options);
        is_there = true;
      } catch (const std::exception&) {  // it died over it
      }
      if (!is_there) co_await live();
    }
    collect_signals(s.program.ops, unsent_[s.id]);
  }

  /// Some milliseconds, and something that happens in them.
  awaitable<void> live() {
    co_await sleep_for(std::chrono::milliseconds(1 + random_.roll(20)));
    for (auto& each : workers_) {
      if (!saga::is_dead(each->engine)) continue;
      ++seen_.deaths;
      co_await each->worker.stop();
      graves_.push_back(std::move(each));
      co_await replace(each);
    }
    co_await send_one_signal();
    saga::admin desk(*db_);
    const auto stuck = co_await desk.list({.state = saga::saga_state::stuck});
    for (const auto& info : stuck) co_await help(desk, info);
    if (random_.happens(40) && !subjects_.empty()) co_await meddle(desk, subjects_[random_.roll(subjects_.size())]);
  }

  awaitable<void> send_one_signal() {
    for (auto& [id, names] : unsent_) {
      if (names.empty() || !random_.happens(30)) continue;
      const std::string name = names.back();
      const auto& worker = workers_[random_.roll(workers_.size())];
      try {
        co_await worker->engine.signal(id, name, 1, name);
        if (random_.happens(70)) names.pop_back();  // else again, with the same id
      } catch (const saga::saga_error&) {           // it has ended
        names.clear();
      }
      co_return;
    }
  }

  /// What an operator does about a saga that is stuck.
  awaitable<void> help(saga::admin& desk, saga::saga_info info) {
    ++seen_.meddled;
    const saga::decision by("ada", "so it is");
    const auto quote = info.reason.find('\'', 1);
    const std::string key = info.reason.starts_with('\'') ? info.reason.substr(1, quote - 1) : "";
    try {
      if (info.reason.find("cannot be undone") != std::string::npos && random_.happens(50)) {
        world_.undo(info.id + '/' + key);
        co_await desk.mark_undone(info.id, key, by);
      } else if (info.reason.find("is broken") != std::string::npos && random_.happens(30)) {
        const auto history = co_await desk.show(info.id);
        const auto intent =
            std::ranges::find_if(history.entries, [&](const auto& e) { return e.kind == "intent" && e.key == key; });
        const json& arguments = intent->payload.at("arguments");  // a chain's step has none
        const int amount = arguments.is_array() ? arguments.at(0).get<int>() : 3;
        co_await desk.skip(info.id, key, intent->step == "look" ? 0 : amount, by);
        if (intent->step == "look") co_return;
        if (intent->step == "together" || intent->step == "give together" || intent->step == "guest") {
          batch b;
          b.execute("insert into effects(key, amount) values($1, $2)", info.id + '/' + key, amount);
          if (intent->step == "guest") {  // with the service's knowledge, or its undo would find nothing to do
            const saga::participant_call call(info.id, key, history.info.epoch);
            (void)co_await gate_->act(call, std::move(b), amount);
          } else {
            co_await db_->commit(std::move(b));
          }
        } else {
          world_.act(info.id + '/' + key, amount);
        }
      } else {
        co_await desk.retry_now(info.id, by);
      }
    } catch (const saga::saga_error&) {  // somebody was faster
    }
  }

  /// What people do to a saga that did not ask for it.
  awaitable<void> meddle(saga::admin& desk, subject& s) {
    ++seen_.meddled;
    const saga::decision by("eve", "why not");
    try {
      switch (random_.roll(9)) {
        case 0: {
          const auto& worker = workers_[random_.roll(workers_.size())];
          co_await worker->engine.cancel(s.id, "changed my mind");
          s.may_go_back = true;
          break;
        }
        case 1:
          co_await desk.compensate(s.id, by);
          s.may_go_back = true;
          break;
        case 2:
          co_await desk.cancel(s.id, by);
          s.may_go_back = true;
          break;
        case 3:
          co_await desk.pause(s.id, by);
          co_await sleep_for(std::chrono::milliseconds(random_.roll(100)));
          co_await desk.resume(s.id, by);
          break;
        case 4:
          co_await desk.retry_now(s.id, by);
          break;
        case 5:
          if (!random_.happens(20)) break;
          co_await desk.abandon(s.id, by);
          s.is_abandoned = true;
          break;
        default: {  // another owner, while the present one acts
          batch b;
          const std::size_t taken = b.execute(
              "update cofferdam_sagas set epoch = epoch + 1, owner = null, wake_at = 0 where (id = $1 or id like $2) "
              "and state in (0, 2)",
              s.id, s.id + "/%");
          const auto done = co_await db_->commit(std::move(b));
          seen_.takeovers += done[taken].affected();
        }
      }
    } catch (const saga::saga_error&) {  // not in its state
    }
  }

  awaitable<void> judge(const subject& s) {
    ++seen_.sagas;
    interpreter model(s.id);
    model.run(s.program.ops);
    const rows found = co_await db_->query("select state, reason from cofferdam_sagas where id = $1", s.id);
    const auto state = static_cast<saga::saga_state>(found.front().get<int>(0));
    std::map<std::string, int> effects;
    const auto is_its = [&s](const std::string& key) { return key.starts_with(s.id + '/'); };
    for (const auto& [key, amount] : world_.effects) {
      if (is_its(key)) effects.emplace(key, amount);
    }
    const rows written = co_await db_->query("select key, amount from effects");
    for (const row r : written) {
      if (is_its(r.get<std::string>(0))) effects.emplace(r.get<std::string>(0), r.get<int>(1));
    }
    INFO("seed " << seed_ << ", saga " << s.id << ", ended " << to_string(state) << " "
                 << found.front().get<std::optional<std::string>>(1).value_or("") << "\n"
                 << s.program.ops.dump() << "\neffects " << json(effects).dump() << "\nthe model "
                 << (model.ends_well ? "ends well " : "gives up ") << json(model.effects).dump());
    if (state == saga::saga_state::abandoned) {
      ++seen_.abandoned;
      CHECK(s.is_abandoned);
      for (const auto& [key, amount] : effects) {
        const auto known_effect = model.ever.find(key);
        CHECK((known_effect != model.ever.end() && (known_effect->second == amount || key.find("give") != key.npos)));
      }
      co_return;
    }
    const bool is_completed = state == saga::saga_state::completed;
    seen_.completed += is_completed ? 1 : 0;
    seen_.compensated += is_completed ? 0 : 1;
    CHECK((is_completed || state == saga::saga_state::compensated));
    CHECK((is_completed == model.ends_well || (!is_completed && s.may_go_back)));
    int sum = 0;
    for (const auto& [key, amount] : effects) sum += amount;
    CHECK(sum == 0);
    CHECK(effects == (is_completed ? model.effects : std::map<std::string, int>()));
  }

  author random_;
  tally& seen_;
  std::uint64_t seed_;
  std::optional<database> db_;
  std::optional<saga::barrier> gate_;
  world world_;
  std::vector<subject> subjects_;
  std::map<std::string, std::vector<std::string>> unsent_;
  std::array<std::unique_ptr<mortal>, 2> workers_;
  std::vector<std::unique_ptr<mortal>> graves_;
};

awaitable<void> simulate(std::uint64_t seed, std::size_t count, tally* seen) {
  simulation s(seed, *seen);
  co_await s.run(count);
}

}  // namespace randomly

TEST_CASE("random sagas end as a plain interpreter says, whatever goes wrong", "[torture]") {
  const std::uint64_t count = test::count_from("COFFERDAM_SAGA_RANDOM", 200);
  const std::uint64_t first = test::count_from("COFFERDAM_SAGA_SEED", 1);
  constexpr std::size_t at_once = 20;
  randomly::tally seen;
  for (std::uint64_t seed = first; seen.sagas < count; ++seed) {
    net::io_context context(1);
    virtual_time time(context);
    random_of(context.get_executor()).seed(seed);
    time.run(randomly::simulate, seed, at_once, &seen);
  }
  std::printf(
      "seeds from %llu: %zu sagas, %zu completed, %zu compensated, %zu abandoned; %zu deaths, %zu takeovers, "
      "%zu meddlings\n",
      static_cast<unsigned long long>(first), seen.sagas, seen.completed, seen.compensated, seen.abandoned, seen.deaths,
      seen.takeovers, seen.meddled);
  CHECK(seen.completed > seen.sagas / 10);
  CHECK(seen.compensated > seen.sagas / 10);
  CHECK(seen.deaths > 0);
  CHECK(seen.takeovers > 0);
}
