// The service that accepts orders and tells the world of them, in one of several ways.
#pragma once

#include "naive_relay.hpp"
#include "order_book.hpp"

#include <cofferdam/core/random.hpp>
#include <cofferdam/outbox/outbox.hpp>
#include <cofferdam/outbox/publisher.hpp>

#include <optional>
#include <string>

namespace cofferdam::inline COFFERDAM_ABI::chaos {

/// Thread safety: none; one io_context run by one thread.
class order_producer {
 public:
  order_producer(const outbox_spec& spec, std::uint64_t seed, order_book& book, publisher& to)
      : spec_(spec),
        book_(book),
        to_(to),
        arrivals_(random_source::split(seed, "load/producer")),
        customers_(random_source::split(seed, "customers")) {}
  order_producer(const order_producer&) = delete;
  order_producer& operator=(const order_producer&) = delete;

  /// Makes the database and what is in it. @param url  of the database.
  awaitable<void> open(std::string url);
  /// Places orders until the time for them is over.
  awaitable<void> produce();
  void set_surge(double factor) noexcept { surge_ = factor; }

  [[nodiscard]] bool has_naive_relays() const { return !spec_.relays.empty() && spec_.relays.front().naive; }
  [[nodiscard]] bool has_outbox() const { return spec_.producer.publish == publish_mode::outbox; }
  // What relays work on, once it is open.
  [[nodiscard]] database& storage() { return *db_; }
  [[nodiscard]] outbox& messages() { return *messages_; }

 private:
  awaitable<void> place(std::uint64_t order, std::uint32_t customer);
  awaitable<bool> publish_once(const message& m);

  const outbox_spec& spec_;
  order_book& book_;
  publisher& to_;
  random_source arrivals_, customers_;
  double surge_ = 1;
  std::optional<database> db_;
  std::optional<outbox> messages_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
