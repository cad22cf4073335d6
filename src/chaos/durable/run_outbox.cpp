// One run of an outbox scenario in virtual time: the library's own outbox, relays and inboxes between a simulated
// producer, broker and consumers.
#include "../run_kinds.hpp"
#include "../simulated_process.hpp"
#include "naive_relay.hpp"
#include "order_producer.hpp"
#include "relay_options.hpp"
#include "simulated_broker.hpp"
#include "simulated_consumer.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/messaging/in_process.hpp>
#include <cofferdam/outbox/relay.hpp>

#include <algorithm>
#include <memory>
#include <set>
#include <stdexcept>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::chaos {
namespace {

/// Relays hand messages to the consumers themselves.
class in_process final : public publisher {
 public:
  explicit in_process(order_book& book) : book_(book) {}
  void add(simulated_consumer& consumer) {
    bus_.subscribe("orders.placed", [&consumer](const message& m) { return consumer.handle(order_of(m.payload())); });
  }
  awaitable<void> publish(const message& m) override {
    co_await bus_.publish(m);
    book_.kept(order_of(m.payload()));
  }

 private:
  order_book& book_;
  in_process_bus bus_;
};

class outbox_simulation {
 public:
  outbox_simulation(const scenario& s, std::size_t variant, std::uint64_t seed)
      : scenario_(s),
        spec_(s.variants[variant].second.outbox),
        context_(std::make_unique<net::io_context>(1)),
        time_(*context_, seed),
        book_(s, s.variants[variant].second, *context_),
        deliveries_(random_source::split(seed, "deliveries")) {
    book_.result.variant = s.variants[variant].first;
    book_.result.seed = seed;
    for (std::size_t i = 0; i < spec_.consumers.size(); ++i) {
      consumers_.push_back(std::make_unique<simulated_consumer>(*context_, spec_.consumers[i], seed, i, book_));
    }
    make_publisher(seed);
    producer_.emplace(spec_, seed, book_, *publisher_);
  }
  ~outbox_simulation() {
    processes_.clear();  // what they kept goes before what it refers to
    context_.reset();
  }
  outbox_simulation(const outbox_simulation&) = delete;
  outbox_simulation& operator=(const outbox_simulation&) = delete;

  run_result run() {
    spawn(*context_, [this] { return begin(); });
    book_.result.jumps = time_.run_until(time_point(scenario_.length));
    if (desk_) time_.run([this] { return look_at_parked(); });
    book_.close();
    book_.result.trace = time_.trace();
    return std::move(book_.result);
  }

 private:
  /// A relay in a process of its own, dead or alive.
  struct running_relay {
    const relay_spec* spec;
    simulated_process* process;
    std::unique_ptr<relay> safe;
    std::unique_ptr<naive_relay> naive;
    subscription listening;
  };

  void make_publisher(std::uint64_t seed) {
    if (spec_.broker.in_process) {
      auto bus = std::make_unique<in_process>(book_);
      for (const auto& consumer : consumers_) bus->add(*consumer);
      publisher_ = std::move(bus);
      return;
    }
    auto broker = std::make_unique<simulated_broker>(*context_, spec_.broker.work, seed,
                                                     [this](std::uint64_t order) { deliver(order); });
    broker_ = broker.get();
    publisher_ = std::move(broker);
  }

  void deliver(std::uint64_t order) {
    book_.kept(order);
    const bool is_doubled = duplicates_ > 0 && deliveries_.uniform() < duplicates_;
    for (const auto& consumer : consumers_) {
      consumer->receive(order);
      if (is_doubled) consumer->receive(order);
    }
  }

  // ------------------------------------------------------------------------------------------------------- beginning

  awaitable<void> begin() {
    for (const auto& consumer : consumers_) co_await consumer->open();
    co_await producer_->open("sqlite::memory:");
    if (producer_->has_outbox()) {
      if (!producer_->has_naive_relays()) desk_.emplace(producer_->messages(), *publisher_);
      for (const auto& relay : spec_.relays) start(relay);
    }
    for (const auto& fault : scenario_.faults) spawn(*context_, [this, &fault] { return strike(fault); });
    for (const auto& replay : scenario_.replays) spawn(*context_, [this, &replay] { return replay_parked(replay); });
    spawn(*context_, [this] { return producer_->produce(); });
  }

  void start(const relay_spec& spec) {
    processes_.push_back(std::make_unique<simulated_process>(*context_));
    auto& running = relays_.emplace_back();
    running.spec = &spec;
    running.process = processes_.back().get();
    const auto executor = running.process->executor();
    if (spec.naive) {
      running.naive =
          std::make_unique<naive_relay>(producer_->storage(), *publisher_, spec.name + std::to_string(relays_.size()),
                                        spec.lease.value_or(relay_options().lease));
      spawn(executor, [each = running.naive.get()] { return each->run(); });
      return;
    }
    running.safe = std::make_unique<relay>(producer_->messages(), *publisher_, "relay", options_of(spec));
    note_events(*running.safe, book_, running.listening);
    spawn(executor, [each = running.safe.get()] { return each->run(); });
  }

  // ---------------------------------------------------------------------------------------------------------- faults

  awaitable<void> strike(const fault_spec& fault) {
    co_await sleep_until(time_point(fault.at));
    time_.record(fault.name);
    in_force_.begin(fault);
    put_in_force(fault, true);
    co_await sleep_until(time_point(fault.at + fault.length));
    time_.record(fault.name);
    in_force_.end(fault);
    put_in_force(fault, false);
  }

  void put_in_force(const fault_spec& fault, bool is_beginning) {
    const auto together = in_force_.of(fault.kind, fault.target);
    if (fault.target == "producer") {
      producer_->set_surge(together.factor);
    } else if (fault.target == "broker") {
      if (fault.kind == fault_kind::outage) broker_->set_down(together.any);
      if (fault.kind == fault_kind::lost_ack) broker_->set_lost_acks(together.rate);
      if (fault.kind == fault_kind::duplicate) duplicates_ = together.rate;
      apply(broker_->service(), fault.kind, together);
    } else if (fault.kind == fault_kind::pause || fault.kind == fault_kind::crash) {
      stop_or_start(fault, is_beginning);
    } else {
      for (std::size_t i = 0; i < consumers_.size(); ++i) {
        if (spec_.consumers[i].name == fault.target) consumers_[i]->apply(fault.kind, together);
      }
    }
  }

  void stop_or_start(const fault_spec& fault, bool is_beginning) {
    const auto found = std::find_if(relays_.rbegin(), relays_.rend(),
                                    [&](const running_relay& each) { return each.spec->name == fault.target; });
    if (found == relays_.rend()) return;  // a variant that does not use its relays
    if (is_beginning) {
      found->process->stop();
      book_.note(fault.kind == fault_kind::pause ? "relay_paused" : "relay_crashed");
    } else if (fault.kind == fault_kind::pause) {
      found->process->go_on();
    } else {
      start(*found->spec);
    }
  }

  // ------------------------------------------------------------------------------------------------- what was put
  // aside

  awaitable<void> replay_parked(const replay_spec& replay) {
    co_await sleep_until(time_point(replay.at));
    if (!desk_) co_return;
    const auto parked = co_await desk_->parked(1'000'000);
    std::set<std::string> keys;
    for (const auto& each : parked) keys.insert(each.content.key());
    for (const auto& key : keys) {
      (void)co_await desk_->replay(key);
      book_.note("replayed");
    }
  }

  awaitable<void> look_at_parked() {
    const auto parked = co_await desk_->parked(1'000'000);
    for (const auto& each : parked) book_.result.messages[order_of(each.content.payload())].parked = true;
  }

  const scenario& scenario_;
  const outbox_spec& spec_;
  std::unique_ptr<net::io_context> context_;
  virtual_time time_;
  order_book book_;
  random_source deliveries_;
  double duplicates_ = 0;
  faults_in_force in_force_;
  std::vector<std::unique_ptr<simulated_consumer>> consumers_;
  std::unique_ptr<publisher> publisher_;
  simulated_broker* broker_ = nullptr;  // the publisher, if it is one
  std::optional<order_producer> producer_;
  std::optional<relay> desk_;
  std::vector<std::unique_ptr<simulated_process>> processes_;
  std::vector<running_relay> relays_;
};

}  // namespace

run_result run_outbox(const scenario& s, std::size_t variant, std::uint64_t seed) {
  if (s.real) return run_real_outbox(s, variant, seed);
  return outbox_simulation(s, variant, seed).run();
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
