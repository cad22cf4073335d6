#include "order_producer.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/core/spawn.hpp>

#include <algorithm>
#include <exception>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

awaitable<void> order_producer::open(std::string url) {
  if (spec_.producer.publish == publish_mode::only) co_return;
  database opened = co_await database::open(std::move(url));
  db_.emplace(std::move(opened));
  batch table;
  table.execute("create table orders(nr bigint not null, customer bigint not null)");
  co_await db_->commit(std::move(table));
  if (!has_outbox()) co_return;
  if (has_naive_relays()) {
    co_await naive_relay::prepare(*db_);
  } else {
    outbox made = co_await outbox::open(*db_);
    messages_.emplace(std::move(made));
  }
}

awaitable<void> order_producer::produce() {
  const auto executor = co_await net::this_coro::executor;
  const producer_spec& spec = spec_.producer;
  duration next = spec.from;
  while (next < spec.to) {
    co_await sleep_until(book_.moment(next));
    const auto customer = static_cast<std::uint32_t>(customers_.uniform() * static_cast<double>(spec.keys));
    const std::uint64_t order = book_.begin(customer);
    spawn(executor, [this, order, customer] { return place(order, customer); });
    const double mean = 1e9 / (spec.rate * surge_);
    const double gap = spec.poisson ? arrivals_.exponential(mean) : mean;
    next += duration(static_cast<std::int64_t>(std::max(gap, 1.0)));
  }
}

awaitable<void> order_producer::place(std::uint64_t order, std::uint32_t customer) {
  message m("orders.placed", "order.placed", std::to_string(order));
  m.id("order-" + std::to_string(order)).key("customer-" + std::to_string(customer));
  const publish_mode how = spec_.producer.publish;
  bool is_there = true;
  if (how == publish_mode::before_commit || how == publish_mode::only) is_there = co_await publish_once(m);
  if (is_there && how != publish_mode::only) {
    batch b;
    b.execute("insert into orders(nr, customer) values($1, $2)", order, customer);
    if (how == publish_mode::outbox && has_naive_relays()) naive_relay::enqueue(b, m);
    if (how == publish_mode::outbox && !has_naive_relays()) messages_->enqueue(b, m);
    const auto done = co_await db_->try_commit(std::move(b));
    is_there = static_cast<bool>(done);
  }
  if (is_there) book_.accepted(order);
  if (is_there && how == publish_mode::after_commit) (void)co_await publish_once(m);
  book_.ended(order, is_there);
}

awaitable<bool> order_producer::publish_once(const message& m) {
  bool is_done = true;
  try {
    co_await to_.publish(m);
  } catch (const std::exception&) {
    is_done = false;
  }
  co_return is_done;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
