// One run of an outbox scenario in real time: a SQLite file, a nats-server that an outage kills, consumers of
// JetStream.
#include "../run_kinds.hpp"

#include <stdexcept>

#if !defined(COFFERDAM_HAS_NATS)
namespace cofferdam::inline COFFERDAM_ABI::chaos {

run_result run_real_outbox(const scenario& /*s*/, std::size_t /*variant*/, std::uint64_t /*seed*/) {
  throw std::runtime_error("scenarios in real time need NATS: install libnats-dev and build cofferdam again");
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
#else

#include "order_producer.hpp"
#include "relay_options.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/messaging/nats.hpp>
#include <cofferdam/messaging/nats_process.hpp>
#include <cofferdam/outbox/inbox.hpp>
#include <cofferdam/outbox/relay.hpp>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::chaos {
namespace {

/// What of a scenario there is only in virtual time.
std::vector<std::string> only_simulated(const scenario& s, const outbox_spec& spec) {
  std::vector<std::string> found;
  if (spec.broker.in_process) found.emplace_back("an in-process broker");
  if (!s.replays.empty()) found.emplace_back("an operator");
  for (const auto& relay : spec.relays) {
    if (relay.naive) found.push_back("the naive relay " + relay.name);
  }
  for (const auto& consumer : spec.consumers) {
    const bool has_more = consumer.max_unacknowledged || consumer.bulkhead || consumer.workers != 1;
    if (has_more)
      found.push_back(consumer.name + "'s workers, bulkhead and max_unacknowledged (it takes one at a time)");
  }
  for (const auto& fault : s.faults) {
    if (fault.kind != fault_kind::outage && fault.kind != fault_kind::load) found.push_back("the fault " + fault.name);
  }
  return found;
}

class own_directory {
 public:
  own_directory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "cofferdam-chaos-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::system_error(errno, std::generic_category(), pattern);
    path_ = pattern;
  }
  own_directory(const own_directory&) = delete;
  own_directory& operator=(const own_directory&) = delete;
  ~own_directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

/// Tells the book what the broker has.
class observed_publisher final : public publisher {
 public:
  explicit observed_publisher(order_book& book) : book_(book) {}
  void set(publisher& to) noexcept { to_ = &to; }
  awaitable<void> publish(const message& m) override {
    co_await to_->publish(m);
    book_.kept(order_of(m.payload()));
  }

 private:
  order_book& book_;
  publisher* to_ = nullptr;
};

class real_outbox {
 public:
  real_outbox(const scenario& s, std::size_t variant, std::uint64_t seed)
      : scenario_(s),
        spec_(s.variants[variant].second.outbox),
        server_(directory_.path()),
        context_(std::make_unique<net::io_context>(1)),
        book_(s, s.variants[variant].second, *context_),
        publisher_(book_),
        producer_(spec_, seed, book_, publisher_) {
    random_of(*context_).seed(seed);
    book_.result.variant = s.variants[variant].first;
    book_.result.seed = seed;
  }
  ~real_outbox() { context_.reset(); }
  real_outbox(const real_outbox&) = delete;
  real_outbox& operator=(const real_outbox&) = delete;

  run_result run() {
    spawn(*context_, [this] { return live(); });
    context_->run();
    book_.close();
    return std::move(book_.result);
  }

 private:
  awaitable<void> live() {
    const auto executor = co_await net::this_coro::executor;
    broker_ = co_await nats_publisher::connect(server_.url());
    co_await broker_->ensure_stream("ORDERS", "orders.>");
    publisher_.set(*broker_);
    co_await producer_.open("sqlite:" + directory_.path() + "/orders.db");
    for (const auto& consumer : spec_.consumers) spawn(*context_, [this, &consumer] { return consume(consumer); });
    while (consuming_ < spec_.consumers.size()) co_await sleep_for(std::chrono::milliseconds(5));
    book_.restart_clock();
    std::vector<spawned> working;
    if (producer_.has_outbox()) {
      for (const auto& spec : spec_.relays) working.push_back(start(spec, executor));
    }
    for (const auto& fault : scenario_.faults) spawn(*context_, [this, &fault] { return strike(fault); });
    spawn(*context_, [this] { return producer_.produce(); });
    co_await sleep_until(book_.moment(scenario_.length));
    is_over_ = true;
    for (const auto& each : working) each.cancel();
  }

  spawned start(const relay_spec& spec, const net::any_io_executor& executor) {
    auto& made =
        *relays_.emplace_back(std::make_unique<relay>(producer_.messages(), publisher_, "relay", options_of(spec)));
    note_events(made, book_, listening_.emplace_back());
    return spawn(executor, [&made] { return made.run(); });
  }

  awaitable<void> strike(const fault_spec& fault) {
    co_await sleep_until(book_.moment(fault.at));
    if (fault.kind == fault_kind::load) {
      producer_.set_surge(fault.factor);
    } else {
      server_.stop(SIGKILL);
    }
    co_await sleep_until(book_.moment(fault.at + fault.length));
    if (fault.kind == fault_kind::load) {
      producer_.set_surge(1);
    } else {
      server_.start();
    }
  }

  /// As a durable consumer does: the effect and the memory of it, then the acknowledgement.
  awaitable<void> consume(const consumer_spec& spec) {
    const auto index = static_cast<std::size_t>(&spec - spec_.consumers.data());
    database db = co_await database::open("sqlite:" + directory_.path() + "/" + std::to_string(index) + ".db");
    batch table;
    table.execute("create table effects(nr bigint not null)");
    co_await db.commit(std::move(table));
    inbox seen = co_await inbox::open(db, spec.name);
    const auto from = co_await nats_consumer::connect(server_.url(), "ORDERS", "consumer-" + std::to_string(index));
    ++consuming_;
    while (!is_over_) {
      std::optional<nats_consumer::delivery> came;
      bool is_away = false;
      try {
        came = co_await from->next(std::chrono::milliseconds(250));
      } catch (const error&) {
        is_away = true;  // in an outage
      }
      if (is_away) co_await sleep_for(std::chrono::milliseconds(50));
      if (!came) continue;
      co_await sleep_for(spec.latency.mean);
      const std::uint64_t order = order_of(came->content.payload());
      bool is_new = true;
      if (spec.inbox) {
        batch effect;
        effect.execute("insert into effects(nr) values($1)", order);
        is_new = co_await seen.commit(std::move(effect), "orders", came->content.id());
      }
      is_new ? book_.effect(index, order) : book_.note("repetition_noticed");
      from->acknowledge(*came);
    }
  }

  const scenario& scenario_;
  const outbox_spec& spec_;
  own_directory directory_;
  nats_process server_;
  std::unique_ptr<net::io_context> context_;
  order_book book_;
  observed_publisher publisher_;
  order_producer producer_;
  std::unique_ptr<nats_publisher> broker_;
  std::vector<std::unique_ptr<relay> > relays_;
  std::vector<subscription> listening_;
  std::size_t consuming_ = 0;
  bool is_over_ = false;
};

}  // namespace

run_result run_real_outbox(const scenario& s, std::size_t variant, std::uint64_t seed) {
  const auto problems = only_simulated(s, s.variants[variant].second.outbox);
  if (!problems.empty()) {
    std::string text = "in real time there is no such thing as";
    for (const auto& problem : problems) text += (&problem == &problems.front() ? " " : ", ") + problem;
    throw std::runtime_error(text + ": run it in virtual time");
  }
  return real_outbox(s, variant, seed).run();
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
#endif
