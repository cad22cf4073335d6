// The batcher: what becomes one batch, what each caller gets, and who may leave when.
#include "async_test.hpp"
#include "harness.hpp"
#include "tasks.hpp"

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/resilience/batcher.hpp>
#include <cofferdam/resilience/circuit_breaker.hpp>

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

using namespace cofferdam;
using namespace cofferdam::test;
using namespace std::chrono_literals;

namespace {

using int_batches = std::vector<std::vector<int>>;
using text_batcher = batcher<int, std::string>;
using text_outcomes = std::vector<outcome<std::string>>;

/// A table of texts that notes what it is asked for. Copies are the same table.
class text_table {
 public:
  explicit text_table(duration takes = 10ms) : notes_(std::make_shared<notes>()) { notes_->takes = takes; }

  awaitable<std::vector<std::string>> operator()(std::vector<int> keys) {
    const auto mine = notes_;
    mine->batches.push_back(keys);
    mine->most_at_once = std::max(mine->most_at_once, ++mine->running);
    try {
      co_await sleep_for(mine->takes);
    } catch (const net::asio_system_error&) {
      ++mine->cancelled;
      --mine->running;
      throw;
    }
    --mine->running;
    std::vector<std::string> texts;
    texts.reserve(keys.size());
    for (const int key : keys) texts.push_back(std::to_string(key));
    co_return texts;
  }
  [[nodiscard]] const int_batches& batches() const { return notes_->batches; }
  [[nodiscard]] int cancelled() const { return notes_->cancelled; }
  [[nodiscard]] int most_at_once() const { return notes_->most_at_once; }

 private:
  struct notes {
    duration takes{};
    int_batches batches;
    int cancelled = 0, running = 0, most_at_once = 0;
  };
  std::shared_ptr<notes> notes_;
};

/// GCC 12 cannot have a braced list inside co_await.
template <class... Key> std::vector<int> keys_of(Key... keys) { return {keys...}; }

/// Loads one key and notes what came of it.
spawned load_one(const net::any_io_executor& executor, text_batcher& texts, int key, text_outcomes& ends) {
  const auto body = [](text_batcher* b, int k, text_outcomes* e) -> awaitable<void> {
    auto result = co_await b->try_load(k);
    e->push_back(std::move(result));
  };
  return spawn(executor, body, &texts, key, &ends);
}

}  // namespace

ASYNC_TEST("calls within the window become one batch, in the order they came", "[batcher]") {
  text_table table;
  text_batcher texts("texts", table);
  text_outcomes ends;
  const auto executor = co_await net::this_coro::executor;
  for (int i = 3; i > 0; --i) load_one(executor, texts, i, ends);
  co_await sleep_for(999us);
  load_one(executor, texts, 7, ends);
  co_await sleep_for(10ms);
  CHECK(ends.empty());
  load_one(executor, texts, 9, ends);
  co_await sleep_for(2us);
  REQUIRE(ends.size() == 4);
  CHECK(*ends[0] == "3");
  CHECK(*ends[3] == "7");
  co_await sleep_for(1s);
  CHECK(table.batches() == int_batches{{3, 2, 1, 7}, {9}});
  CHECK(texts.stats().calls == 5);
  CHECK(texts.stats().batches == 2);
  CHECK(texts.stats().largest == 4);
  CHECK(texts.stats().running == 0);
}

ASYNC_TEST("without a delay a batch is what is asked for in one turn of the executor", "[batcher]") {
  text_table table;
  text_batcher texts("texts", table, {.max_delay = 0s});
  text_outcomes ends;
  const auto executor = co_await net::this_coro::executor;
  const auto before = time.now();
  for (int i = 0; i < 3; ++i) load_one(executor, texts, i, ends);
  const auto mine = co_await texts.load(3);
  CHECK(mine == "3");
  CHECK(time.now() - before == 10ms);
  CHECK(ends.size() == 3);
  CHECK(table.batches() == int_batches{{0, 1, 2, 3}});
}

ASYNC_TEST("a full batch starts at once", "[batcher]") {
  text_table table;
  text_batcher texts("texts", table, {.max_delay = 1h, .max_size = 2});
  text_outcomes ends;
  const auto executor = co_await net::this_coro::executor;
  for (int i = 0; i < 5; ++i) load_one(executor, texts, i, ends);
  co_await sleep_for(1s);
  CHECK(table.batches() == int_batches{{0, 1}, {2, 3}});
  CHECK(ends.size() == 4);
  co_await sleep_for(1h);
  CHECK(table.batches() == int_batches{{0, 1}, {2, 3}, {4}});
  CHECK(ends.size() == 5);
}

ASYNC_TEST("equal keys of a batch are asked for once, or each, as one likes", "[batcher]") {
  text_table table;
  text_batcher texts("texts", table);
  const auto shared = co_await texts.load_many(keys_of(1, 2, 1));
  CHECK(shared == std::vector<std::string>{"1", "2", "1"});
  CHECK(texts.stats().deduplicated == 1);
  text_batcher each("each", table, {.deduplicate = false});
  const auto single = co_await each.load_many(keys_of(1, 2, 1));
  CHECK(single == shared);
  CHECK(each.stats().deduplicated == 0);
  CHECK(table.batches() == int_batches{{1, 2}, {1, 2, 1}});
}

ASYNC_TEST("many keys become as many batches as they need", "[batcher]") {
  text_table table;
  text_batcher texts("texts", table, {.max_size = 2});
  const auto values = co_await texts.load_many(keys_of(1, 2, 3, 4, 5));
  CHECK(values == std::vector<std::string>{"1", "2", "3", "4", "5"});
  CHECK(table.batches() == int_batches{{1, 2}, {3, 4}, {5}});
  const auto none = co_await texts.load_many(keys_of());
  CHECK(none.empty());
  CHECK(texts.stats().batches == 3);
}

ASYNC_TEST("a key that fails fails its own callers only", "[batcher]") {
  const auto ask = [](std::vector<int> keys) -> awaitable<text_outcomes> {
    text_outcomes answers;
    for (const int key : keys) {
      if (key < 0) {
        answers.emplace_back(failure::thrown(std::make_exception_ptr(std::out_of_range("below zero"))));
      } else {
        answers.emplace_back(std::to_string(key));
      }
    }
    co_return answers;
  };
  text_batcher texts("texts", ask);
  const auto results = co_await texts.try_load_many(keys_of(1, -1, 2));
  REQUIRE(results.size() == 3);
  CHECK(*results[0] == "1");
  CHECK(results[1].why().message() == "below zero");
  CHECK(*results[2] == "2");
  bool thrown = false;
  try {
    (void)co_await texts.load(-1);
  } catch (const std::out_of_range&) {
    thrown = true;
  }
  CHECK(thrown);
}

ASYNC_TEST("a map answers by key; a key that it lacks fails alone", "[batcher]") {
  const auto ask = [](const std::vector<int>& keys) {  // not a coroutine
    std::unordered_map<int, const char*> answers;
    for (const int key : keys) {
      if (key < 10) answers[key] = "small";
    }
    return answers;
  };
  text_batcher texts("texts", ask, {.deduplicate = false});
  const auto results = co_await texts.try_load_many(keys_of(1, 10, 1));
  CHECK(*results[0] == "small");
  CHECK(results[1].why().message() == "batcher 'texts': no answer to this key");
  CHECK_THROWS_AS(results[1].value(), batch_answer_error);
  CHECK(*results[2] == "small");
}

ASYNC_TEST("a wrong number of answers is an error to everybody", "[batcher]") {
  const auto ask = [](std::vector<int>) -> awaitable<std::vector<bool>> { co_return std::vector<bool>(2, true); };
  batcher<int, bool> flags("flags", ask);
  const auto fitting = co_await flags.load_many(keys_of(1, 2));
  CHECK(fitting == std::vector<bool>{true, true});
  const auto results = co_await flags.try_load_many(keys_of(1, 2, 3));
  for (const auto& result : results) {
    CHECK(result.why().message() == "batcher 'flags': 2 answers to 3 keys");
    CHECK_THROWS_AS(result.value(), batch_answer_error);
  }
}

ASYNC_TEST("a batch that throws fails all of its callers with that exception, and the next one is another",
           "[batcher]") {
  bool down = true;
  const auto ask = [&down](std::vector<int> keys) -> awaitable<std::vector<std::string>> {
    co_await sleep_for(1ms);
    if (down) throw std::domain_error("down");
    co_return std::vector<std::string>(keys.size(), "up");
  };
  text_batcher texts("texts", ask);
  const auto failed = co_await texts.try_load_many(keys_of(1, 2));
  for (const auto& result : failed) CHECK_THROWS_AS(result.value(), std::domain_error);
  down = false;
  const auto next = co_await texts.load(1);
  CHECK(next == "up");
}

ASYNC_TEST("a batch may run a pipeline, whose refusals are its callers'", "[batcher]") {
  circuit_breaker breaker("table", {.mode = circuit_mode::isolated});
  text_table table;
  const auto ask = [&](std::vector<int> keys) { return breaker.try_fire(table, std::move(keys)); };
  text_batcher texts("texts", ask);
  const auto refused = co_await texts.try_load(1);
  CHECK(refused.why().is_refusal(errc::circuit_isolated));
  CHECK(table.batches().empty());
}

ASYNC_TEST("whoever leaves a batch leaves alone, and its key is not asked for", "[batcher]") {
  text_table table;
  text_batcher texts("texts", table, {.max_delay = 10ms});
  text_outcomes ends;
  const auto executor = co_await net::this_coro::executor;
  const auto first = load_one(executor, texts, 1, ends);
  const auto second = load_one(executor, texts, 2, ends);
  const auto also_second = load_one(executor, texts, 2, ends);
  const auto third = load_one(executor, texts, 3, ends);
  co_await sleep_for(1ms);
  first.cancel();
  second.cancel();
  co_await sleep_for(10ms);
  CHECK(table.batches() == int_batches{{2, 3}});
  third.cancel();
  co_await sleep_for(1s);
  REQUIRE(ends.size() == 4);
  CHECK(ends[0].why().is_cancellation());
  CHECK(ends[1].why().is_cancellation());
  CHECK(ends[2].why().is_cancellation());
  CHECK(*ends[3] == "2");
  CHECK(table.cancelled() == 0);
}

ASYNC_TEST("when the last caller leaves, the batch is never started, or cancelled", "[batcher]") {
  text_table table(100ms);
  text_batcher texts("texts", table, {.max_delay = 10ms});
  text_outcomes ends;
  const auto executor = co_await net::this_coro::executor;
  const auto early = load_one(executor, texts, 1, ends);
  co_await sleep_for(1ms);
  early.cancel();
  co_await sleep_for(20ms);
  CHECK(table.batches().empty());
  CHECK(texts.stats().batches == 0);

  const auto late = load_one(executor, texts, 2, ends);
  co_await sleep_for(50ms);
  CHECK(texts.stats().running == 1);
  late.cancel();
  co_await sleep_for(1ms);
  CHECK(table.cancelled() == 1);
  CHECK(texts.stats().running == 0);
  const auto anew = co_await texts.load(3);
  CHECK(anew == "3");
  CHECK(table.batches() == int_batches{{2}, {3}});
}

ASYNC_TEST("a batch is under nobody's time limit", "[batcher]") {
  text_table table(100ms);
  text_batcher texts("texts", table);
  text_outcomes ends;
  const auto executor = co_await net::this_coro::executor;
  const auto hurried = [](text_batcher* b) -> awaitable<void> {
    const auto load = [&] { return b->try_load(1); };
    (void)co_await try_with_timeout(20ms, load);
  };
  spawn(executor, hurried, &texts);
  co_await sleep_for(100us);
  load_one(executor, texts, 2, ends);
  co_await sleep_for(1s);
  CHECK(table.batches() == int_batches{{1, 2}});
  REQUIRE(ends.size() == 1);
  CHECK(*ends[0] == "2");
}

ASYNC_TEST("over the limit of batches at once, the next one waits and goes on collecting", "[batcher]") {
  text_table table(100ms);
  text_batcher texts("texts", table, {.max_size = 3, .max_concurrent = 1});
  text_outcomes ends;
  const auto executor = co_await net::this_coro::executor;
  load_one(executor, texts, 1, ends);
  co_await sleep_for(10ms);
  for (int i = 2; i < 4; ++i) load_one(executor, texts, i, ends);
  co_await sleep_for(10ms);
  for (int i = 4; i < 6; ++i) load_one(executor, texts, i, ends);
  co_await sleep_for(1s);
  CHECK(table.batches() == int_batches{{1}, {2, 3, 4}, {5}});
  CHECK(table.most_at_once() == 1);
  CHECK(ends.size() == 5);
}

TEST_CASE("cancelling a load at any step leaves nothing behind", "[batcher]") {
  text_table table(5ms);
  std::unique_ptr<text_batcher> texts;
  const auto one = [&]() -> awaitable<void> {
    texts = std::make_unique<text_batcher>("texts", table, batcher_options{.max_concurrent = 1});
    (void)co_await texts->try_load(1);
  };
  const auto several = [&]() -> awaitable<void> {
    texts = std::make_unique<text_batcher>("texts", table, batcher_options{.max_size = 2, .max_concurrent = 1});
    (void)co_await texts->try_load_many(keys_of(1, 2, 3, 1));
  };
  const auto idle = [&] {
    if (texts) CHECK(texts->stats().running == 0);
  };
  CHECK(cancel_at_every_step(one, idle) >= 3);
  CHECK(cancel_at_every_step(several, idle) >= 5);
}

TEST_CASE("cancelling one caller at any step does not hurt the other", "[batcher]") {
  bool answered = false;
  const auto operation = [&]() -> awaitable<void> {
    answered = false;
    const auto executor = co_await net::this_coro::executor;
    text_table table(5ms);
    const auto texts = std::make_shared<text_batcher>("texts", table);
    const auto other = [](std::shared_ptr<text_batcher> b, bool* done) -> awaitable<void> {
      const auto mine = co_await b->load(2);
      *done = mine == "2";
    };
    (void)spawn(executor, other, texts, &answered);
    (void)co_await texts->try_load(1);
  };
  bool begun = false;  // cancelled before its first step, the operation starts nobody
  const auto check = [&] {
    CHECK((answered || !begun));
    begun = begun || answered;
  };
  CHECK(cancel_at_every_step(operation, check) >= 3);
  CHECK(begun);
}

TEST_CASE("a context may end while a batch collects, and while it runs", "[batcher]") {
  for (const duration when : {500us, 5000us}) {
    text_table table;
    text_batcher texts("texts", table);
    text_outcomes ends;
    {
      net::io_context context(1);
      virtual_time time(context);
      load_one(context.get_executor(), texts, 1, ends);
      load_one(context.get_executor(), texts, 2, ends);
      time.run_until(time.now() + when);
    }
    CHECK(ends.empty());
    CHECK(texts.stats().running == 0);
    net::io_context context(1);
    virtual_time time(context);
    load_one(context.get_executor(), texts, 3, ends);
    time.run();
    CHECK(ends.size() == 1);
    CHECK(table.batches().back() == std::vector<int>{3});
  }
}

TEST_CASE("a batcher may go while calls wait", "[batcher]") {
  text_table table;
  text_outcomes ends;
  net::io_context context(1);
  virtual_time time(context);
  {
    text_batcher texts("texts", table);
    load_one(context.get_executor(), texts, 1, ends);
    time.run_until(time.now() + 1us);
  }
  time.run();
  REQUIRE(ends.size() == 1);
  CHECK(*ends[0] == "1");
}

TEST_CASE("many threads fill batches and leave them", "[batcher][concurrent]") {
  std::atomic<int> asked{0}, sum{0}, ended{0};
  const auto ask = [&](std::vector<int> keys) -> awaitable<std::vector<int>> {
    asked += static_cast<int>(keys.size());
    co_await sleep_for(1us);
    co_return keys;
  };
  batcher<int, int> numbers("numbers", ask, {.max_delay = 100us, .max_size = 5, .max_concurrent = 2});
  net::thread_pool threads(4);
  for (int t = 0; t < 8; ++t) {
    spawn(threads, [&]() -> awaitable<void> {
      for (int i = 0; i < 50; ++i) sum += co_await numbers.load(i % 3);
    });
    const auto impatient = [&]() -> awaitable<void> {
      for (int i = 0; i < 50; ++i) (void)co_await numbers.try_load(7);
      ++ended;
    };
    spawn(threads, impatient).cancel();
    const auto leaving = spawn(threads, impatient);
    net::post(threads, [leaving] { leaving.cancel(); });
  }
  threads.join();
  CHECK(sum == 8 * (16 * 3 + 0 + 1));
  CHECK(numbers.stats().calls >= 400);
  CHECK(numbers.stats().largest <= 5);
  CHECK(numbers.stats().running == 0);
  CHECK(asked <= static_cast<int>(numbers.stats().calls));
}

TEST_CASE("batcher options that cannot work are refused", "[batcher]") {
  CHECK(validate(batcher_options{}).empty());
  CHECK(validate(batcher_options{.max_delay = -1ns}).size() == 1);
  CHECK(validate(batcher_options{.max_size = 0}).size() == 1);
  CHECK(validate(batcher_options{.max_concurrent = 0}).size() == 1);
  text_table table;
  CHECK_THROWS_AS(text_batcher("bad", table, {.max_size = 0}), invalid_options_error);
}
