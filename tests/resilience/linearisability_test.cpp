// What threads see of permits, rates, budgets and circuits at the same time could also have happened one after the
// other. COFFERDAM_LINEARISABILITY_ROUNDS sets how many histories of each are checked.
#include "catch.hpp"
#include "count_from.hpp"
#include "linearisable.hpp"

#include <cofferdam/resilience/bulkhead.hpp>
#include <cofferdam/resilience/detail/circuit_core.hpp>
#include <cofferdam/resilience/detail/rate_core.hpp>
#include <cofferdam/resilience/retry_budget.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <compare>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

namespace linearisability {
namespace {

constexpr std::size_t threads = 3, operations_each = 5;

template <class Model, class Make, class Act> std::string check(const Model& initial, Make make, Act act) {
  crew workers(threads);
  return first_without_order(workers, test::count_from("COFFERDAM_LINEARISABILITY_ROUNDS", 300), operations_each,
                             initial, make, act);
}

// --------------------------------------------------------------------------------------------------- the check itself

struct counted {
  std::uint64_t before;
};
std::string to_string(const counted& op) { return "counted after " + std::to_string(op.before); }

struct counter_model {
  std::uint64_t count = 0;
  bool apply(const counted& op) { return op.before == count++; }
  friend auto operator<=>(const counter_model&, const counter_model&) = default;
};

}  // namespace

TEST_CASE("a history has an order, or it has none", "[linearisability]") {
  using history = std::vector<observed<counted>>;
  const auto has_order = [](const history& seen) { return is_linearisable(counter_model(), seen); };
  CHECK(has_order({}));
  CHECK(has_order({{{0}, 0, 1}, {{1}, 2, 3}}));
  CHECK(has_order({{{1}, 0, 3}, {{0}, 1, 2}}));        // at the same time: in either order
  CHECK_FALSE(has_order({{{1}, 0, 1}, {{0}, 2, 3}}));  // one after the other: not
  CHECK_FALSE(has_order({{{0}, 0, 3}, {{0}, 1, 2}}));  // an update is lost
  CHECK(has_order({{{2}, 0, 5}, {{0}, 1, 2}, {{1}, 3, 4}}));
  CHECK_FALSE(has_order({{{1}, 0, 5}, {{2}, 1, 2}, {{0}, 3, 4}}));
  CHECK_THROWS_AS(has_order(history(65, {{0}, 0, 1})), std::logic_error);
}

TEST_CASE("threads that lose an update are found out", "[linearisability]") {
  struct torn {
    std::atomic<std::uint64_t> count{0};
  };
  const auto make = [] { return std::make_unique<torn>(); };
  const auto exact = [](torn& object, std::size_t, std::mt19937_64&) { return counted{object.count.fetch_add(1)}; };
  CHECK(check(counter_model(), make, exact).empty());
  const auto careless = [](torn& object, std::size_t thread, std::mt19937_64&) {
    return counted{thread == 0 ? object.count.fetch_add(1) : 0};
  };
  const std::string found = check(counter_model(), make, careless);
  CHECK(found.find("counted after 0") != std::string::npos);
}

// ------------------------------------------------------------------------------------------------------------- permits

namespace {

struct permit_use {
  enum { enter, leave, look } kind;
  std::size_t weight;  // for `look`: permits in use
  bool admitted;
};
std::string to_string(const permit_use& op) {
  const std::string weight = std::to_string(op.weight);
  if (op.kind == permit_use::leave) return "left with " + weight;
  if (op.kind == permit_use::look) return "saw " + weight + " in use";
  return (op.admitted ? "entered with " : "was refused with ") + weight;
}

struct permit_model {
  std::size_t free;
  std::size_t limit;
  bool apply(const permit_use& op) {
    if (op.kind == permit_use::look) return op.weight == limit - free;
    if (op.kind == permit_use::leave) return free += op.weight, true;
    if (op.admitted != (op.weight <= free)) return false;
    if (op.admitted) free -= op.weight;
    return true;
  }
  friend auto operator<=>(const permit_model&, const permit_model&) = default;
};

struct shared_pool {
  explicit shared_pool(bool partitioned) {
    if (partitioned) pool.partition("nobody", {});
  }
  bulkhead pool{"pool", {.max_concurrent = 3}};
  net::io_context context;
  net::any_io_executor executor = context.get_executor();
  std::array<policy_slot, threads> slots;
  std::array<std::size_t, threads> held{};
};

permit_use use_permits(shared_pool& shared, std::size_t thread, std::mt19937_64& random) {
  auto& held = shared.held[thread];
  if (random() % 5 == 0) return {permit_use::look, shared.pool.active_count(), true};
  if (held > 0) {
    shared.pool.abandon(shared.slots[thread]);
    return {permit_use::leave, std::exchange(held, 0), true};
  }
  const call_info info{.weight = 1 + random() % 2};
  call c(shared.executor, info);
  const bool admitted = shared.pool.admit(c, shared.slots[thread]) == admission::go;
  if (admitted) held = info.weight;
  return {permit_use::enter, info.weight, admitted};
}

}  // namespace

TEST_CASE("permits are taken and given back as if one after the other", "[bulkhead][linearisability][concurrent]") {
  for (const bool partitioned : {false, true}) {
    const auto make = [&] { return std::make_unique<shared_pool>(partitioned); };
    CHECK(check(permit_model{3, 3}, make, use_permits) == "");
  }
}

// -------------------------------------------------------------------------------------------------------------- rates

namespace {

struct rate_use {
  bool puts_back;
  bool worked;    // taken, or put back
  duration wait;  // when taken or refused
  std::uint64_t place;
};
std::string to_string(const rate_use& op) {
  if (op.puts_back) return (op.worked ? "put back " : "could not put back ") + std::to_string(op.place);
  return (op.worked ? "took one to wait " : "was refused for ") + std::to_string(op.wait / 1ms) + " ms";
}

/// Two permits a second, all at one time: the n-th counts from a time that n alone decides.
struct rate_model {
  rate_algorithm algorithm;
  duration patience;
  std::size_t taken = 0;
  std::uint64_t changes = 0;

  [[nodiscard]] duration wait() const {
    const auto n = static_cast<std::int64_t>(taken);
    if (algorithm == rate_algorithm::smooth) return n * 500ms;
    if (algorithm == rate_algorithm::token_bucket) return std::max<std::int64_t>(n - 1, 0) * 500ms;
    return n / 2 * 1s;
  }
  bool apply(const rate_use& op) {
    // A bucket tells its places by what was taken before, a window by how often it has changed.
    const bool paces = algorithm == rate_algorithm::smooth || algorithm == rate_algorithm::token_bucket;
    if (op.puts_back) {
      if (op.worked != (op.place == (paces ? taken : changes))) return false;
      if (op.worked) --taken, ++changes;
      return true;
    }
    if (op.wait != wait() || op.worked != (op.wait <= patience)) return false;
    if (op.worked) ++taken, ++changes;
    return !op.worked || op.place == (paces ? taken : changes);
  }
  friend auto operator<=>(const rate_model&, const rate_model&) = default;
};

struct shared_rate {
  explicit shared_rate(rate_algorithm algorithm)
      : core({.permits = 2, .period = 1s, .algorithm = algorithm}),
        paces(algorithm != rate_algorithm::fixed_window && algorithm != rate_algorithm::sliding_window) {}
  detail::rate_core core;
  bool paces;
  std::array<std::optional<detail::rate_core::grant>, threads> waiting;

  static constexpr time_point now{1000s};
  static constexpr duration patience = 2s;
  /// As the model tells them. `change` has counted once when the core was made.
  [[nodiscard]] std::uint64_t place_of(const detail::rate_core::grant& given) const {
    return static_cast<std::uint64_t>(paces ? (given.mark - now.time_since_epoch().count()) / duration(500ms).count()
                                            : given.mark - 1);
  }
};

rate_use use_rate(shared_rate& shared, std::size_t thread, std::mt19937_64& random) {
  auto& waiting = shared.waiting[thread];
  if (waiting && random() % 2 == 0) {
    const auto given = *std::exchange(waiting, std::nullopt);
    const bool worked = shared.core.put_back(given);
    return {true, worked, {}, shared.place_of(given)};
  }
  const auto given = shared.core.take(1, shared_rate::now, shared_rate::patience);
  if (given.given && given.wait > duration::zero()) waiting = given;
  return {false, given.given, given.wait, given.given ? shared.place_of(given) : 0};
}

}  // namespace

TEST_CASE("rates are used as if one after the other", "[rate_limiter][linearisability][concurrent]") {
  for (const auto algorithm : {rate_algorithm::token_bucket, rate_algorithm::smooth, rate_algorithm::fixed_window,
                               rate_algorithm::sliding_window}) {
    const auto make = [&] { return std::make_unique<shared_rate>(algorithm); };
    CHECK(check(rate_model{algorithm, shared_rate::patience}, make, use_rate) == "");
  }
}

// ------------------------------------------------------------------------------------------------------------- budgets

namespace {

struct budget_use {
  enum { withdraw, success, failed, look } kind;
  std::int64_t said;  // whether it was allowed; for `look`: thousandths of a token
};
std::string to_string(const budget_use& op) {
  if (op.kind == budget_use::success) return "success";
  if (op.kind == budget_use::failed) return "failure";
  if (op.kind == budget_use::look) return "saw " + std::to_string(op.said);
  return op.said != 0 ? "withdrew" : "was denied";
}

struct budget_model {
  bool throttles;
  std::int64_t balance = 2000;
  static constexpr std::int64_t most = 2000, earned = 500, cost = 1000;

  bool apply(const budget_use& op) {
    if (op.kind == budget_use::look) return op.said == balance;
    if (op.kind == budget_use::success) return balance = std::min(balance + earned, most), true;
    if (op.kind == budget_use::failed) {
      if (throttles) balance = std::max<std::int64_t>(balance - cost, 0);
      return true;
    }
    const bool allowed = throttles ? balance > most / 2 : balance >= cost;
    if (allowed != (op.said != 0)) return false;
    if (allowed && !throttles) balance -= cost;
    return true;
  }
  friend auto operator<=>(const budget_model&, const budget_model&) = default;
};

budget_use use_budget(retry_budget& budget, std::size_t, std::mt19937_64& random) {
  switch (random() % 5) {
    case 0:
      return budget.on_success(), budget_use{budget_use::success, 0};
    case 1:
      return budget.on_failure(), budget_use{budget_use::failed, 0};
    case 2:
      return {budget_use::look, std::llround(budget.stats().balance * 1000)};
    default:
      return {budget_use::withdraw, budget.try_withdraw(time_point(1s)) ? 1 : 0};
  }
}

}  // namespace

TEST_CASE("a budget is earned and spent as if one after the other", "[budget][linearisability][concurrent]") {
  for (const auto kind : {budget_kind::per_success, budget_kind::throttle}) {
    const retry_budget_options options{.kind = kind, .ratio = 0.5, .max_tokens = 2};
    const auto make = [&] { return std::make_unique<retry_budget>(options); };
    CHECK(check(budget_model{kind == budget_kind::throttle}, make, use_budget) == "");
  }
}

// ------------------------------------------------------------------------------------------------------------ circuits

namespace {

struct circuit_use {
  std::uint32_t call;  // whose entering, leaving, or carrying out what its leaving led to
  enum { enter, leave, decide } kind;
  bool said;  // admitted, or a failure
};
std::string to_string(const circuit_use& op) {
  const std::string call = " (call " + std::to_string(op.call) + ")";
  if (op.kind == circuit_use::enter) return (op.said ? "entered" : "was refused") + call;
  if (op.kind == circuit_use::decide) return "decided" + call;
  return (op.said ? "failed" : "succeeded") + call;
}

/// The last four calls; two failures of at least three calls are a verdict, which stands until somebody who saw one
/// carries it out: the circuit is open for good.
struct circuit_model {
  std::vector<bool> failed;  // the newest last
  bool is_due = false, open = false;

  bool apply(const circuit_use& op) {
    if (op.kind == circuit_use::enter) return op.said != open;
    if (op.kind == circuit_use::decide) return open = open || is_due;
    if (open) return true;  // too late to count
    failed.push_back(op.said);
    if (failed.size() > 4) failed.erase(failed.begin());
    is_due = is_due || (failed.size() >= 3 && std::ranges::count(failed, true) >= 2);
    return true;
  }
  friend auto operator<=>(const circuit_model&, const circuit_model&) = default;
};

struct shared_circuit {
  explicit shared_circuit(bool by_time)
      : decides_at_once(by_time),
        core(std::make_shared<const std::string>("circuit"),
             {.failure_ratio = by_time ? 1e-9 : 0.5,
              .minimum_calls = 3,
              .window = 10s,
              .window_calls = by_time ? std::size_t{0} : std::size_t{4}}) {}

  bool decides_at_once;
  detail::circuit_core core;
  std::array<std::optional<detail::circuit_permit>, threads> permits;
  std::array<bool, threads> decides{};
  std::array<std::uint32_t, threads> calls{};
};

circuit_use use_circuit(shared_circuit& shared, std::size_t thread, std::mt19937_64& random) {
  constexpr time_point now{1000s};
  auto& permit = shared.permits[thread];
  auto& core = shared.core;
  const std::uint32_t number = static_cast<std::uint32_t>(thread) * 100 + shared.calls[thread];
  if (!permit) {
    permit.emplace();
    const bool admitted = !core.admit(*permit, now);
    if (!admitted) permit.reset();
    return {number, circuit_use::enter, admitted};
  }
  if (std::exchange(shared.decides[thread], false)) {
    core.evaluate(*permit, now, nullptr);
    permit.reset();
    return {number - 1, circuit_use::decide, true};
  }
  ++shared.calls[thread];
  const bool failed = random() % 3 == 0;
  const bool counted = !failed && core.record_clean_success(*permit);
  const auto result = failed ? outcome_class::failure : outcome_class::success;
  const bool decides = !counted && core.record(*permit, result, now);
  if (decides && shared.decides_at_once) core.evaluate(*permit, now, nullptr);
  shared.decides[thread] = decides && !shared.decides_at_once;
  if (!shared.decides[thread]) permit.reset();
  return {number, circuit_use::leave, failed};
}

/// All calls fall into the window of time; opens for good at one failure of at least three calls.
struct timed_circuit_model {
  std::size_t calls = 0, failures = 0;
  bool open = false;

  bool apply(const circuit_use& op) {
    if (op.kind == circuit_use::enter) return op.said != open;
    if (open) return true;
    ++calls;
    failures += op.said ? 1 : 0;
    open = calls >= 3 && failures > 0;
    return true;
  }
  friend auto operator<=>(const timed_circuit_model&, const timed_circuit_model&) = default;
};

}  // namespace

TEST_CASE("a circuit with a count window opens as if its calls had come one after the other",
          "[circuit][linearisability][concurrent]") {
  const auto make = [] { return std::make_unique<shared_circuit>(false); };
  CHECK(check(circuit_model(), make, use_circuit) == "");
}

TEST_CASE("a circuit with a time window opens as if its calls had come one after the other",
          "[circuit][linearisability][concurrent]") {
  const auto make = [] { return std::make_unique<shared_circuit>(true); };
  CHECK(check(timed_circuit_model(), make, use_circuit) == "");
}

}  // namespace linearisability
