// NATS JetStream, through its C library (libnats): a publisher for relays, and a consumer.
//
//     auto broker = co_await nats_publisher::connect(nats_server("nats://localhost:4222"));
//     co_await broker->ensure_stream("ORDERS", "orders.>");
//     relay carrier(messages, *broker);
#pragma once

#include <cofferdam/core/net.hpp>
#include <cofferdam/core/time.hpp>
#include <cofferdam/messaging/broker_error.hpp>
#include <cofferdam/outbox/publisher.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// Where the server is, and how to log in.
class nats_server {
 public:
  /// @param url  `nats://host:port`, `tls://host:port`, several with commas; never shown in an error with its password.
  nats_server(std::string url) : url_(std::move(url)) {}  // NOLINT(google-explicit-constructor)
  nats_server(const char* url) : url_(url) {}             // NOLINT(google-explicit-constructor)
  /// A file made by nsc: JWT and seed.
  nats_server& credentials_file(std::string path) & { return credentials_ = std::move(path), *this; }
  /// Certificates to trust, in PEM; makes the connection TLS.
  nats_server& ca_file(std::string path) & { return ca_ = std::move(path), *this; }
  /// Who we are, in PEM, where the server asks for certificates; needs TLS.
  nats_server& client_certificate(std::string certificate, std::string private_key) & {
    certificate_ = std::move(certificate);
    key_ = std::move(private_key);
    return *this;
  }
  nats_server& connect_timeout(duration d) & { return timeout_ = d, *this; }

  [[nodiscard]] const std::string& url() const noexcept { return url_; }
  [[nodiscard]] const std::string& credentials_file() const noexcept { return credentials_; }
  [[nodiscard]] const std::string& ca_file() const noexcept { return ca_; }
  [[nodiscard]] const std::string& certificate_file() const noexcept { return certificate_; }
  [[nodiscard]] const std::string& key_file() const noexcept { return key_; }
  [[nodiscard]] duration connect_timeout() const noexcept { return timeout_; }

 private:
  std::string url_, credentials_, ca_, certificate_, key_;
  duration timeout_ = std::chrono::seconds(2);
};

struct nats_publisher_options {
  /// Messages that were sent and not acknowledged; more wait. Counts those that nobody waits for any more.
  std::size_t max_pending = 10'000;
};

/// Publishes to JetStream: the subject is the topic, `Nats-Msg-Id` the message's id, the headers are the message's and
/// `ce-id`, `ce-type`, `ce-partitionkey`.
///
/// What an acknowledgement means: the stream's leader has stored the message, and as many replicas as the stream has. A
/// server of version 2.9 syncs to disk every two minutes: only replicas survive a loss of power. The server drops what
/// comes again within the stream's duplicate window (two minutes unless set); later repetitions are for an inbox.
///
/// Holds two connections: one whose messages leave at once, one for many together.
///
/// Thread safety: every member from any thread. After a lost connection the library connects again by itself; what was
/// on its way ends in the relay's timeout and is published again.
class nats_publisher final : public publisher {
 public:
  /// Errors: `broker_error`.
  [[nodiscard]] static awaitable<std::unique_ptr<nats_publisher>> connect(nats_server server,
                                                                          nats_publisher_options options = {});
  ~nats_publisher() override;

  /// Waits for room when `max_pending` messages are not acknowledged.
  /// Errors: `message_refused_error` (larger than server or stream allow, an impossible subject); `broker_error`.
  awaitable<void> publish(const message& m) override;
  /// Sixteen and more go out within a millisecond, in few packets; fewer at once.
  awaitable<void> publish_all(std::span<publication> all) override;

  /// Makes a stream on disk for a subject, such as "orders.>", unless there is one of this name. Errors:
  /// `broker_error`.
  awaitable<void> ensure_stream(std::string name, std::string subject,
                                duration duplicate_window = std::chrono::minutes(2));
  /// Messages in a stream. Errors: `broker_error`.
  [[nodiscard]] awaitable<std::uint64_t> count(std::string stream);
  /// Messages sent and not acknowledged.
  [[nodiscard]] std::size_t pending() const;
  /// How many were acknowledged as repetitions.
  [[nodiscard]] std::uint64_t duplicates() const noexcept;

 private:
  class state;
  explicit nats_publisher(std::shared_ptr<state> s) noexcept : state_(std::move(s)) {}
  std::shared_ptr<state> state_;
};

/// Reads a stream as a durable consumer of a name: what was acknowledged is not delivered again. Messages come in the
/// stream's order, also when one was lost on its way, or with the process that had it: from there on they come again.
/// One process at a time under a name. Thread safety: one caller at a time.
class nats_consumer {
 public:
  /// A message, and the way to say that it was dealt with.
  struct delivery {
    message content;
    std::uint64_t sequence = 0;    ///< in the stream
    std::uint64_t deliveries = 1;  ///< how often it has come by now
    std::shared_ptr<void> handle;
  };

  /// @param stream    must be there.  @param name  of the consumer; made when it is not there.
  /// @param ack_wait  a message not acknowledged for so long comes again.
  /// Errors: `broker_error`.
  [[nodiscard]] static awaitable<std::unique_ptr<nats_consumer>> connect(nats_server server, std::string stream,
                                                                         std::string name,
                                                                         duration ack_wait = std::chrono::seconds(30));
  ~nats_consumer();
  nats_consumer(const nats_consumer&) = delete;
  nats_consumer& operator=(const nats_consumer&) = delete;

  /// The next message, in the stream's order; nothing when the time is over first.
  /// Errors: `broker_error`. Cancellation: after the present wait, at most a quarter of a second.
  [[nodiscard]] awaitable<std::optional<delivery>> next(duration limit);
  /// It need not come again. Sent without waiting: it may be lost, and then the message comes again.
  void acknowledge(const delivery& d);
  /// It comes again at once.
  void reject(const delivery& d);

 private:
  class state;
  explicit nats_consumer(std::unique_ptr<state> s) noexcept;
  std::unique_ptr<state> state_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
