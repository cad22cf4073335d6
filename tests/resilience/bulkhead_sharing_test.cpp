// How calls share a bulkhead's permits: weights, priorities, partitions. Who may use them, and who is next.
#include "async_test.hpp"
#include "harness.hpp"
#include "tasks.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/resilience/adaptive_limiter.hpp>
#include <cofferdam/resilience/bulkhead.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <random>
#include <string>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

namespace {

/// What became of calls, in the order in which it did: "+a" began, "-a" was refused or gave up.
using history = std::vector<std::string>;

/// Starts the call `id`, of which `info` is said.
auto enter(const net::any_io_executor& executor, bulkhead& pool, history& events, const char* id, call_info info,
           duration d = 10ms) {
  return spawn(executor, [&pool, &events, id, info, d]() -> awaitable<void> {
    const auto task = [&]() -> awaitable<void> {
      events.push_back(std::string("+") + id);
      co_await sleep_for(d);
    };
    const auto result = co_await pool.try_run(info, task);
    if (!result) events.push_back(std::string("-") + id);
  });
}

call_info weighing(std::size_t weight, std::string_view key = {}) {
  call_info info;
  info.weight = weight;
  info.key = key;
  return info;
}
call_info important(std::int32_t priority) {
  call_info info;
  info.priority = priority;
  return info;
}
call_info of(std::string_view key) { return weighing(1, key); }

}  // namespace

// ------------------------------------------------------------------------------------------------------------ weights

ASYNC_TEST("a call takes as many permits as it weighs, and gives all of them back", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 4});
  history events;
  const auto executor = co_await net::this_coro::executor;
  enter(executor, pool, events, "a", weighing(3));
  enter(executor, pool, events, "b", weighing(2));
  enter(executor, pool, events, "c", weighing(0));  // as one
  co_await sleep_for(1ms);
  CHECK(events == history{"+a", "-b", "+c"});
  CHECK(pool.active_count() == 4);
  CHECK(pool.stats().rejected == 1);
  co_await sleep_for(10ms);
  CHECK(pool.active_count() == 0);
}

ASYNC_TEST("a call that needs more permits than there are is refused at once", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 2, .max_queue = 10});
  for (const std::size_t weight : {std::size_t{3}, unlimited}) {
    const call_info info = weighing(weight);
    const auto refused = co_await pool.try_run(info, lasting, 1ms);
    CHECK(refused.why().is_refusal(errc::weight_too_large));
  }
  const call_info whole = weighing(2);
  const int passes = co_await pool.run(whole, lasting, 1ms);
  CHECK(passes == 1);
  CHECK(pool.active_count() == 0);
}

ASYNC_TEST("light calls do not pass by a heavy one that waits", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 2, .max_queue = 10});
  history events;
  const auto executor = co_await net::this_coro::executor;
  enter(executor, pool, events, "long", weighing(1), 30ms);
  enter(executor, pool, events, "short", weighing(1), 5ms);
  enter(executor, pool, events, "heavy", weighing(2));
  for (const char* light : {"light", "lighter", "lightest"}) {
    enter(executor, pool, events, light, weighing(1));
    co_await sleep_for(5ms);
  }
  CHECK(pool.active_count() == 1);  // a permit is free, and kept for the heavy call
  CHECK(pool.pending_count() == 4);
  co_await sleep_for(1s);
  CHECK(events == history{"+long", "+short", "+heavy", "+light", "+lighter", "+lightest"});
}

ASYNC_TEST("when a heavy call gives up waiting, those behind it go on at once", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 2, .max_queue = 10, .max_wait = 5ms});
  history events;
  const auto executor = co_await net::this_coro::executor;
  enter(executor, pool, events, "long", weighing(1), 30ms);
  const auto heavy = enter(executor, pool, events, "heavy", weighing(2));
  enter(executor, pool, events, "first", weighing(1), 1ms);
  co_await sleep_for(1ms);
  heavy.cancel();
  co_await sleep_for(0ms);
  CHECK(events.back() == "+first");
  co_await sleep_for(2ms);
  enter(executor, pool, events, "heavy", weighing(2));
  co_await sleep_for(4ms);
  enter(executor, pool, events, "second", weighing(1));
  co_await sleep_for(2ms);  // the heavy one has waited for 5 ms
  CHECK(events == history{"+long", "-heavy", "+first", "-heavy", "+second"});
  co_await sleep_for(1s);
  CHECK(pool.active_count() == 0);
}

ASYNC_TEST("a bulkhead that shrinks refuses the waiting calls that have become too heavy", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 4, .max_queue = 10});
  history events;
  const auto executor = co_await net::this_coro::executor;
  enter(executor, pool, events, "first", weighing(4));
  enter(executor, pool, events, "heavy", weighing(3));
  enter(executor, pool, events, "light", weighing(2));
  co_await sleep_for(1ms);
  pool.resize(2);
  co_await sleep_for(1ms);
  CHECK(events == history{"+first", "-heavy"});
  CHECK(pool.pending_count() == 1);
  co_await sleep_for(1s);
  CHECK(events.back() == "+light");
  CHECK(pool.stats().rejected == 1);
}

ASYNC_TEST("an adaptive limiter gives back what its calls weigh", "[adaptive_limiter]") {
  adaptive_limiter limiter("limiter", {.initial_limit = 4, .max_queue = 1});
  const auto executor = co_await net::this_coro::executor;
  const call_info info = weighing(3);
  const auto caller = [&]() -> awaitable<void> { (void)co_await limiter.try_run(info, lasting, 10ms); };
  spawn(executor, caller);
  spawn(executor, caller);
  const auto third = spawn(executor, caller);  // refused
  co_await sleep_for(1ms);
  CHECK(limiter.stats().active == 3);
  CHECK(limiter.stats().queued == 1);
  CHECK(limiter.stats().rejected == 1);
  co_await sleep_for(1s);
  CHECK(limiter.stats().active == 0);
}

// --------------------------------------------------------------------------------------------------------- priorities

ASYNC_TEST("by priority the most important goes first, and among equals the first to come", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 1, .max_queue = 10, .order = queue_order::priority});
  history events;
  const auto executor = co_await net::this_coro::executor;
  enter(executor, pool, events, "running", important(0));
  enter(executor, pool, events, "low", important(-5));
  enter(executor, pool, events, "high", important(9));
  enter(executor, pool, events, "middle", important(0));
  enter(executor, pool, events, "high too", important(9));
  enter(executor, pool, events, "middle too", important(0));
  co_await sleep_for(1s);
  CHECK(events == history{"+running", "+high", "+high too", "+middle", "+middle too", "+low"});
}

ASYNC_TEST("in a full queue the newest of the least important calls makes room for a more important one",
           "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 1, .max_queue = 3, .order = queue_order::priority});
  history events;
  const auto executor = co_await net::this_coro::executor;
  enter(executor, pool, events, "running", important(0));
  for (const char* id : {"a", "b"}) enter(executor, pool, events, id, important(1));
  enter(executor, pool, events, "c", important(2));
  co_await sleep_for(1ms);
  enter(executor, pool, events, "less", important(0));
  enter(executor, pool, events, "equal", important(1));
  enter(executor, pool, events, "more", important(2));
  co_await sleep_for(1ms);
  CHECK(events == history{"+running", "-less", "-equal", "-b"});
  CHECK(pool.stats().rejected == 2);
  CHECK(pool.stats().displaced == 1);
  co_await sleep_for(1s);
  CHECK(events == history{"+running", "-less", "-equal", "-b", "+c", "+more", "+a"});
}

ASYNC_TEST("a displaced call fails as one that found the queue full", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 1, .max_queue = 1, .order = queue_order::priority});
  const auto executor = co_await net::this_coro::executor;
  failure why;
  history events;
  enter(executor, pool, events, "running", important(0));
  const auto waiting = [&]() -> awaitable<void> { why = (co_await pool.try_run(lasting, 1ms)).why(); };
  spawn(executor, waiting);
  enter(executor, pool, events, "important", important(1));
  co_await sleep_for(1s);
  CHECK(why.is_refusal(errc::bulkhead_full));
  CHECK(why.policy() == "pool");
  CHECK(events == history{"+running", "+important"});
}

ASYNC_TEST("items of a map are not displaced", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 1, .max_queue = 1, .order = queue_order::priority});
  const auto executor = co_await net::this_coro::executor;
  history events;
  std::size_t done = 0;
  const std::vector<int> items{1, 2};
  const auto one = [](int i) -> awaitable<int> {
    co_await sleep_for(10ms);
    co_return i;
  };
  const auto map_all = [&]() -> awaitable<void> { done = (co_await pool.map(items, one)).size(); };
  enter(executor, pool, events, "running", important(0));
  spawn(executor, map_all);
  co_await sleep_for(1ms);
  enter(executor, pool, events, "important", important(1));  // the item has the only place, and keeps it
  co_await sleep_for(1s);
  CHECK(events == history{"+running", "-important"});
  CHECK(done == 2);
}

// --------------------------------------------------------------------------------------------------------- partitions

ASYNC_TEST("what a partition reserves nobody else gets, and what nobody reserves all share", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 5});
  pool.partition("gold", {.reserved = 2}).partition("free", {.reserved = 1, .at_most = 2});
  history events;
  const auto executor = co_await net::this_coro::executor;
  for (const char* id : {"x1", "x2", "x3"}) enter(executor, pool, events, id, of("unknown"));
  co_await sleep_for(1ms);
  CHECK(events == history{"+x1", "+x2", "-x3"});
  for (const char* id : {"g1", "g2", "g3"}) enter(executor, pool, events, id, of("gold"));
  for (const char* id : {"f1", "f2"}) enter(executor, pool, events, id, of("free"));
  co_await sleep_for(1ms);
  CHECK(events == history{"+x1", "+x2", "-x3", "+g1", "+g2", "-g3", "+f1", "-f2"});
  CHECK(pool.active_count() == 5);
  CHECK(pool.stats("gold").active == 2);
  CHECK(pool.stats("gold").limit == 4);
  CHECK(pool.stats("gold").rejected == 1);
  CHECK(pool.stats("free").active == 1);
  CHECK(pool.stats("free").limit == 2);
  CHECK(pool.stats("").active == 2);
  CHECK(pool.stats("").limit == 2);
  CHECK(pool.stats().rejected == 3);
  co_await sleep_for(10ms);
  events.clear();
  for (const char* id : {"f1", "f2", "f3"}) enter(executor, pool, events, id, of("free"));
  for (const char* id : {"g1", "g2", "g3", "g4"}) enter(executor, pool, events, id, of("gold"));
  co_await sleep_for(1ms);
  CHECK(events == history{"+f1", "+f2", "-f3", "+g1", "+g2", "+g3", "-g4"});  // free has one of its own, one of all
  co_await sleep_for(10ms);
  CHECK(pool.active_count() == 0);
  CHECK(pool.stats("gold").active == 0);
}

ASYNC_TEST("a crowd in one partition takes no place in another one's queue", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 2, .max_queue = 2});
  pool.partition("gold", {.reserved = 1});
  history events;
  const auto executor = co_await net::this_coro::executor;
  for (const char* id : {"x1", "x2", "x3", "x4"}) enter(executor, pool, events, id, {});
  for (const char* id : {"g1", "g2"}) enter(executor, pool, events, id, of("gold"));
  co_await sleep_for(1ms);
  CHECK(events == history{"+x1", "+g1", "-x4"});
  CHECK(pool.stats("gold").queued == 1);
  CHECK(pool.stats("").queued == 2);
  co_await sleep_for(10ms);
  CHECK(events == history{"+x1", "+g1", "-x4", "+x2", "+g2"});
  CHECK(pool.clear_queue() == 1);
  co_await sleep_for(1s);
  CHECK(pool.stats("").cleared == 1);
}

ASYNC_TEST("who waits for shared permits is passed by only by those who use their own", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 4, .max_queue = 10});
  pool.partition("gold", {.reserved = 1}).partition("small", {.at_most = 1});
  history events;
  const auto executor = co_await net::this_coro::executor;
  enter(executor, pool, events, "long", of("small"), 30ms);
  enter(executor, pool, events, "heavy", weighing(3));      // has two of the three it needs
  enter(executor, pool, events, "capped", of("small"));     // waits for its like, and keeps nobody from anything
  enter(executor, pool, events, "own", of("gold"), 100ms);  // passes
  enter(executor, pool, events, "shared", of("gold"));      // does not
  co_await sleep_for(29ms);
  CHECK(events == history{"+long", "+own"});
  co_await sleep_for(2ms);
  CHECK(events == history{"+long", "+own", "+heavy"});
  CHECK(pool.active_count() == 4);
  co_await sleep_for(10ms);
  CHECK(events == history{"+long", "+own", "+heavy", "+capped", "+shared"});
  co_await sleep_for(1s);
}

ASYNC_TEST("among partitions, too, the more important call goes first", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 1, .max_queue = 10, .order = queue_order::priority});
  pool.partition("a", {}).partition("b", {});
  history events;
  const auto executor = co_await net::this_coro::executor;
  const auto said = [](std::string_view key, std::int32_t priority) {
    call_info info = important(priority);
    info.key = key;
    return info;
  };
  enter(executor, pool, events, "running", {});
  enter(executor, pool, events, "a0", said("a", 0));
  enter(executor, pool, events, "b1", said("b", 1));
  enter(executor, pool, events, "b0", said("b", 0));
  enter(executor, pool, events, "a1", said("a", 1));
  co_await sleep_for(1s);
  CHECK(events == history{"+running", "+b1", "+a1", "+a0", "+b0"});
}

ASYNC_TEST("a partition can never have more than its cap, or than its own and what is shared", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 5, .max_queue = 10});
  pool.partition("gold", {.reserved = 3}).partition("capped", {.at_most = 1});
  const std::array<call_info, 3> infos{weighing(2, "capped"), weighing(3), weighing(6, "gold")};
  for (const call_info& info : infos) {
    const auto refused = co_await pool.try_run(info, fine);
    CHECK(refused.why().is_refusal(errc::weight_too_large));
  }
  const call_info all = weighing(5, "gold");
  const auto passes = co_await pool.try_run(all, fine);
  CHECK(passes.has_value());
  CHECK(pool.active_count() == 0);
  const std::vector<int> items{1, 2, 3};
  const auto same = [](int i) { return i; };
  const auto mapped = co_await pool.map(items, same);  // of the shared ones
  CHECK(mapped == items);
}

TEST_CASE("partitions that cannot work are refused, with the field's name", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 4});
  pool.partition("gold", {.reserved = 3});
  const auto refused = [&](const std::string& name, const partition_limits& limits) {
    try {
      pool.partition(name, limits);
    } catch (const invalid_options_error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(refused("gold", {}) == "bulkhead 'pool'.partitions.gold: is there already");
  CHECK(refused("", {}) == "bulkhead 'pool'.partitions: a name must not be empty");
  CHECK(refused("free", {.at_most = 0}) == "bulkhead 'pool'.partitions.free.at_most: must be at least 1");
  CHECK(refused("free", {.reserved = 1, .at_most = 0}).find("free.reserved: must not be more than at_most") !=
        std::string::npos);
  CHECK(refused("free", {.reserved = 2}) ==
        "bulkhead 'pool'.partitions: reserve 5 permits together, but max_concurrent is 4");
  CHECK(refused("free", {.reserved = unlimited}).find("max_concurrent is 4") != std::string::npos);
  CHECK_THROWS_AS(pool.resize(2), invalid_options_error);
  CHECK(pool.describe() == "pool: bulkhead, 4 at once, gold 3 reserved, no queue");
  pool.partition("free", {.reserved = 1, .at_most = 2});
  CHECK(pool.describe() == "pool: bulkhead, 4 at once, free 1 reserved and 2 at most, gold 3 reserved, no queue");
}

// ------------------------------------------------------------------------------------------------------- whatever ends

TEST_CASE("cancelling a heavy, important call of a partition at any step leaks no permit", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 3, .max_queue = 1, .order = queue_order::priority});
  pool.partition("gold", {.reserved = 2});
  const auto operation = [&]() -> awaitable<void> {
    const auto executor = co_await net::this_coro::executor;
    history events;
    call_info info = weighing(3, "gold");
    const auto holder = [&]() -> awaitable<void> { (void)co_await pool.try_run(lasting, 3ms); };
    const auto displaced = [&]() -> awaitable<void> { (void)co_await pool.try_run(info, lasting, 3ms); };
    spawn(executor, holder);
    spawn(executor, displaced);
    co_await sleep_for(1ms);
    call_info more = info;
    more.priority = 1;
    (void)co_await pool.try_run(more, lasting, 2ms);
  };
  const auto steps = test::cancel_at_every_step(operation, [&] {
    CHECK(pool.active_count() == 0);
    CHECK(pool.pending_count() == 0);
    CHECK(pool.stats("gold").active == 0);
  });
  CHECK(steps >= 4);
}

TEST_CASE("all that calls weigh returns when the context is destroyed", "[bulkhead]") {
  bulkhead pool("pool", {.max_concurrent = 6, .max_queue = 10});
  pool.partition("gold", {.reserved = 2});
  {
    net::io_context context(1);
    virtual_time time(context);
    history events;
    for (const char* id : {"a", "b", "c"}) enter(context.get_executor(), pool, events, id, weighing(2));
    for (const char* id : {"g", "h"}) enter(context.get_executor(), pool, events, id, weighing(2, "gold"));
    time.run_for(1ms);
    CHECK(pool.active_count() == 6);
    pool.resize(8);  // one more has its permits, but has not run yet
    CHECK(pool.active_count() == 8);
    CHECK(events.size() == 3);
  }
  CHECK(pool.active_count() == 0);
  CHECK(pool.pending_count() == 0);
  CHECK(pool.stats("gold").active == 0);
}

// -------------------------------------------------------------------------------------------------- against a plain
// list

namespace {

/// The rules of a bulkhead applied to a plain list of calls, one after the other.
class naive_bulkhead {
 public:
  naive_bulkhead(std::int64_t limit, std::size_t max_queue, bool by_priority, bulkhead_partitions partitions)
      : limit_(limit), max_queue_(max_queue), by_priority_(by_priority), partitions_(std::move(partitions)) {}

  void arrive(const call_info& info) {
    const std::size_t id = calls_.size();
    const auto weight = static_cast<std::int64_t>(info.weight);
    calls_.push_back({std::string(info.key), weight, by_priority_ ? info.priority : 0, 'w'});
    if (weight > most_for(calls_[id].key)) calls_[id].state = 'h';
    serve();
    if (calls_[id].state != 'w') return;
    std::size_t waiting = 0;
    std::size_t least = id;
    for (std::size_t other = 0; other < calls_.size(); ++other) {
      if (calls_[other].state != 'w' || part_of(calls_[other].key) != part_of(calls_[id].key)) continue;
      ++waiting;
      if (calls_[other].priority <= calls_[least].priority) least = other;
    }
    if (waiting <= max_queue_) return;
    calls_[by_priority_ ? least : id].state = 'f';
    serve();
  }
  void end(std::size_t id) {
    if (calls_[id].state == 'w') calls_[id].state = 'c';
    if (calls_[id].state == 'r') calls_[id].state = 'e';
    serve();
  }
  void resize(std::int64_t limit) {
    limit_ = limit;
    for (auto& call : calls_) {
      if (call.state == 'w' && call.weight > most_for(call.key)) call.state = 'h';
    }
    serve();
  }
  /// A letter for each call: waits, runs, ended, cancelled while it waited, full, too heavy.
  [[nodiscard]] std::string states() const {
    std::string all;
    for (const auto& call : calls_) all += call.state;
    return all;
  }

 private:
  struct entry {
    std::string key;
    std::int64_t weight;
    std::int32_t priority;
    char state;
  };

  [[nodiscard]] std::string part_of(const std::string& key) const { return partitions_.contains(key) ? key : ""; }
  [[nodiscard]] partition_limits limits_of(const std::string& key) const {
    const auto found = partitions_.find(key);
    return found != partitions_.end() ? found->second : partition_limits();
  }
  [[nodiscard]] std::int64_t used_by(const std::string& part) const {
    std::int64_t sum = 0;
    for (const auto& call : calls_) sum += call.state == 'r' && part_of(call.key) == part ? call.weight : 0;
    return sum;
  }
  [[nodiscard]] std::int64_t all_reserved() const {
    std::int64_t sum = 0;
    for (const auto& [name, limits] : partitions_) sum += static_cast<std::int64_t>(limits.reserved);
    return sum;
  }
  [[nodiscard]] std::int64_t most_for(const std::string& key) const {
    const auto limits = limits_of(key);
    const std::int64_t all = static_cast<std::int64_t>(limits.reserved) + limit_ - all_reserved();
    return limits.at_most == unlimited ? all : std::min(all, static_cast<std::int64_t>(limits.at_most));
  }
  /// What calls use of the permits that nobody reserves.
  [[nodiscard]] std::int64_t shared_in_use() const {
    std::int64_t sum = used_by("");
    for (const auto& [name, limits] : partitions_) {
      sum += std::max<std::int64_t>(used_by(name) - static_cast<std::int64_t>(limits.reserved), 0);
    }
    return sum;
  }
  void serve() {
    while (serve_one()) {
    }
  }
  bool serve_one() {
    std::vector<std::size_t> order;
    for (std::size_t id = 0; id < calls_.size(); ++id) {
      if (calls_[id].state == 'w') order.push_back(id);
    }
    std::ranges::stable_sort(order, std::greater<>(), [this](std::size_t id) { return calls_[id].priority; });
    std::vector<std::string> seen;
    bool shared_wanted = false;
    for (const std::size_t id : order) {
      auto& call = calls_[id];
      const std::string part = part_of(call.key);
      if (std::ranges::find(seen, part) != seen.end()) continue;
      seen.push_back(part);
      const auto limits = limits_of(call.key);
      const std::int64_t used = used_by(part);
      if (limits.at_most != unlimited && used + call.weight > static_cast<std::int64_t>(limits.at_most)) continue;
      const auto reserve = std::max<std::int64_t>(static_cast<std::int64_t>(limits.reserved) - used, 0);
      const std::int64_t wanted = std::max<std::int64_t>(call.weight - reserve, 0);
      if (wanted > 0 && (shared_wanted || wanted > limit_ - all_reserved() - shared_in_use())) {
        shared_wanted = true;
        continue;
      }
      call.state = 'r';
      return true;
    }
    return false;
  }

  std::int64_t limit_;
  std::size_t max_queue_;
  bool by_priority_;
  bulkhead_partitions partitions_;
  std::vector<entry> calls_;
};

/// Random arrivals, ends, cancellations and changes of size, in a bulkhead and on the list.
awaitable<void> compare_with_list(unsigned seed, bool by_priority, bool partitioned) {
  const auto executor = co_await net::this_coro::executor;
  std::mt19937 random(seed);
  const auto below = [&](unsigned n) { return static_cast<unsigned>(random() % n); };
  bulkhead_partitions partitions;
  if (partitioned) partitions = {{"gold", {.reserved = 3}}, {"free", {.reserved = 1, .at_most = 2}}};
  bulkhead pool(
      "pool", {.max_concurrent = 7, .max_queue = 4, .order = by_priority ? queue_order::priority : queue_order::fifo});
  for (const auto& [name, limits] : partitions) pool.partition(name, limits);
  naive_bulkhead list(7, 4, by_priority, partitions);
  std::string states;
  std::vector<decltype(enter(executor, pool, std::declval<history&>(), "", {}))> jobs;
  const std::array<const char*, 4> keys{"gold", "free", "unknown", ""};
  const auto caller = [&](std::size_t id, call_info info) -> awaitable<void> {
    const auto task = [&]() -> awaitable<int> {
      states[id] = 'r';
      return hanging();
    };
    const auto result = co_await pool.try_run(info, task);
    const failure& why = result.why();
    if (why.is_refusal(errc::bulkhead_full)) {
      states[id] = 'f';
    } else if (why.is_refusal(errc::weight_too_large)) {
      states[id] = 'h';
    } else {
      states[id] = states[id] == 'r' ? 'e' : 'c';
    }
  };
  std::string mismatch;
  for (int step = 0; step < 250 && mismatch.empty(); ++step) {
    const unsigned kind = below(20);
    if (kind < 10 || jobs.empty()) {
      call_info info = weighing(1 + below(below(4) == 0 ? 8 : 2), keys[below(4)]);
      info.priority = static_cast<std::int32_t>(below(4));
      states += 'w';
      jobs.push_back(spawn(executor, caller, states.size() - 1, info));
      list.arrive(info);
    } else if (kind < 19) {
      const std::size_t id = jobs.size() - 1 - below(static_cast<unsigned>(std::min<std::size_t>(jobs.size(), 20)));
      jobs[id].cancel();
      list.end(id);
    } else {
      const unsigned limit = 4 + below(6);
      pool.resize(limit);
      list.resize(limit);
    }
    co_await sleep_for(1ms);
    if (states != list.states()) mismatch = "step " + std::to_string(step) + ": " + states + "\n" + list.states();
  }
  for (const auto& job : jobs) job.cancel();
  co_await sleep_for(1ms);
  CHECK(mismatch == "");
  CHECK(pool.active_count() == 0);
  CHECK(pool.pending_count() == 0);
}

}  // namespace

ASYNC_TEST("a bulkhead does what its rules say of a plain list of calls", "[bulkhead]") {
  for (unsigned seed = 0; seed < 100; ++seed) {
    INFO("seed " << seed);
    co_await compare_with_list(seed, seed % 2 == 1, seed % 4 >= 2);
  }
}

TEST_CASE("on many threads heavy, important and partitioned calls keep to their limits", "[bulkhead][concurrent]") {
  for (const bool partitioned : {false, true}) {
    bulkhead pool("pool", {.max_concurrent = 4, .max_queue = 1000, .order = queue_order::priority});
    if (partitioned) pool.partition("gold", {.reserved = 1}).partition("free", {.reserved = 1, .at_most = 2});
    std::atomic<std::size_t> all{0}, free{0}, done{0};
    std::atomic<bool> exceeded{false};
    const auto caller = [&](unsigned seed) -> awaitable<void> {
      std::mt19937 random(seed);
      const auto executor = co_await net::this_coro::executor;
      for (int i = 0; i < 100; ++i) {
        const bool is_free = random() % 2 == 0;
        call_info info = weighing(1 + random() % 2, is_free ? "free" : "gold");
        info.priority = static_cast<std::int32_t>(random() % 3);
        const auto task = [&]() -> awaitable<void> {
          if ((all += info.weight) > 4) exceeded = true;
          if (is_free && (free += info.weight) > 2 && partitioned) exceeded = true;
          co_await net::post(executor, net::use_awaitable);
          if (is_free) free -= info.weight;
          all -= info.weight;
        };
        const auto result = co_await pool.try_run(info, task);
        if (result) ++done;
      }
    };
    net::thread_pool threads(4);
    for (unsigned i = 0; i < 16; ++i) spawn(threads, caller, i);
    threads.join();
    CHECK_FALSE(exceeded);
    CHECK(done == 16 * 100);
    CHECK(pool.active_count() == 0);
    CHECK(pool.pending_count() == 0);
    CHECK(pool.stats("gold").active == 0);
  }
}
