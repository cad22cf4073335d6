#include "simulated_consumer.hpp"

#include <stdexcept>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

simulated_consumer::simulated_consumer(net::io_context& context, const consumer_spec& spec, std::uint64_t seed,
                                       std::size_t index, order_book& book)
    : executor_(context.get_executor()), spec_(spec), index_(index), book_(book) {
  service_spec work;
  work.latency = spec.latency;
  for (std::size_t i = 0; i < spec.workers; ++i) {
    work.name = spec.name + "/" + std::to_string(i);
    workers_.push_back(std::make_unique<simulated_service>(context, work, seed));
  }
  if (spec.bulkhead) pool_.emplace(spec.name, *spec.bulkhead);
}

awaitable<void> simulated_consumer::open() {
  if (!spec_.inbox) co_return;
  database opened = co_await database::open("sqlite::memory:");
  db_.emplace(std::move(opened));
  batch table;
  table.execute("create table effects(nr bigint not null)");
  co_await db_->commit(std::move(table));
  inbox made = co_await inbox::open(*db_, spec_.name);
  inbox_.emplace(std::move(made));
}

void simulated_consumer::receive(std::uint64_t order) {
  at_broker_.push_back(order);
  hand_over();
}

void simulated_consumer::hand_over() {
  while (!at_broker_.empty() && in_memory_ < spec_.max_unacknowledged.value_or(in_memory_ + 1)) {
    const std::uint64_t order = std::exchange(at_broker_.front(), 0);
    at_broker_.pop_front();
    ++in_memory_;
    tell_memory();
    net::co_spawn(executor_, take(order), net::detached);
  }
}

awaitable<void> simulated_consumer::take(std::uint64_t order) {
  if (pool_) {
    const auto work = [this, order] { return handle(order); };
    const auto done = co_await pool_->try_run(work);
    if (done.why().is_refusal()) {
      book_.dropped(index_);
      book_.note("bulkhead_rejected");
    }
  } else {
    co_await handle(order);
  }
  --in_memory_;
  hand_over();
}

awaitable<void> simulated_consumer::handle(std::uint64_t order) {
  auto& worker = *workers_[(pool_ ? order : book_.key_of(order)) % workers_.size()];
  const auto worked = co_await worker.request(0);
  if (!worked) worked.why().raise();
  const bool is_poisoned = poison_every_ > 0 && order % poison_every_ == poison_every_ - 1;
  if (is_poisoned) throw std::runtime_error("order " + std::to_string(order) + " makes no sense");
  co_await have_effect(order);
}

awaitable<void> simulated_consumer::have_effect(std::uint64_t order) {
  if (inbox_) {
    batch effect;
    effect.execute("insert into effects(nr) values($1)", order);
    const bool is_new = co_await inbox_->commit(std::move(effect), "orders", "order-" + std::to_string(order));
    if (!is_new) book_.note("repetition_noticed");
    if (!is_new) co_return;
  }
  book_.effect(index_, order);
}

void simulated_consumer::apply(fault_kind kind, const faults_in_force::sum& faults) {
  if (kind == fault_kind::poison) poison_every_ = faults.every;
  for (const auto& worker : workers_) chaos::apply(*worker, kind, faults);
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
