// Kafka, through its C library (librdkafka): a publisher for relays, and a consumer.
//
//     auto broker = co_await kafka_publisher::connect(kafka_cluster("localhost:9092"));
//     relay carrier(messages, *broker);
#pragma once

#include <cofferdam/core/net.hpp>
#include <cofferdam/core/time.hpp>
#include <cofferdam/messaging/broker_error.hpp>
#include <cofferdam/outbox/publisher.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

/// Where the brokers are, and how to log in.
class kafka_cluster {
 public:
  /// @param brokers  `host:port`, several with commas; any of them that answers will do.
  kafka_cluster(std::string brokers) : brokers_(std::move(brokers)) {}  // NOLINT(google-explicit-constructor)
  kafka_cluster(const char* brokers) : brokers_(brokers) {}             // NOLINT(google-explicit-constructor)
  /// @param mechanism  PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512. The password is shown in no error.
  kafka_cluster& login(std::string user, std::string password, std::string mechanism = "PLAIN") &;
  /// Encrypts. @param ca_file  certificates to trust, in PEM; those of the system when empty.
  kafka_cluster& tls(std::string ca_file = {}) &;
  /// Any other property of librdkafka, such as "client.rack". Wins over what is set here.
  kafka_cluster& property(std::string name, std::string value) &;
  kafka_cluster& connect_timeout(duration d) & { return timeout_ = d, *this; }

  [[nodiscard]] const std::string& brokers() const noexcept { return brokers_; }
  [[nodiscard]] duration connect_timeout() const noexcept { return timeout_; }
  /// As librdkafka knows them.
  [[nodiscard]] std::map<std::string, std::string> properties() const;

 private:
  std::string brokers_, user_, password_, mechanism_, ca_;
  bool is_encrypted_ = false;
  std::map<std::string, std::string> properties_;
  duration timeout_ = std::chrono::seconds(5);
};

struct kafka_publisher_options {
  /// How long the library tries to deliver a message, with retries of its own. Less than the relay's publish_timeout:
  /// then the relay hears why.
  duration message_timeout = std::chrono::seconds(5);
  std::size_t max_queued = 10'000;      ///< messages on their way at once; more wait
  std::size_t max_message = 1'000'000;  ///< bytes; as brokers allow unless set up otherwise
};

/// Publishes to the topic that is the message's: the key is Kafka's (and decides the partition, as in Java's client),
/// the headers are the message's and `ce_id`, `ce_type`.
///
/// What an acknowledgement means: every replica of the partition that is in sync has the message (acks=all), at least
/// as many as `min.insync.replicas` of the topic, in memory: Kafka leaves the disk to the operating system. What the
/// library repeats arrives once and in order (idempotent producer); what a relay publishes again, after a crash, comes
/// again: that is for an inbox.
///
/// Thread safety: every member from any thread. Works on the executor that it was connected on, which it keeps busy
/// only while messages are on their way. No thread but the library's own.
class kafka_publisher final : public publisher {
 public:
  /// Errors: `broker_error`; `invalid_options_error` for what librdkafka does not know or cannot read.
  [[nodiscard]] static awaitable<std::unique_ptr<kafka_publisher>> connect(kafka_cluster cluster,
                                                                           kafka_publisher_options options = {});
  /// What is on its way goes on, for `message_timeout` at most.
  ~kafka_publisher() override;

  /// Waits for room when `max_queued` messages are on their way.
  /// Errors: `message_refused_error` (larger than `max_message` or the broker allow, an impossible topic);
  /// `broker_error`, when the library has given up: what can be tried again was.
  awaitable<void> publish(const message& m) override;
  awaitable<void> publish_all(std::span<publication> all) override;

  /// Messages on their way, those included that nobody waits for any more.
  [[nodiscard]] std::size_t queued() const noexcept;

 private:
  class state;
  explicit kafka_publisher(std::shared_ptr<state> s) noexcept : state_(std::move(s)) {}
  std::shared_ptr<state> state_;
};

struct kafka_consumer_options {
  duration session_timeout = std::chrono::seconds(10);  ///< a member silent for so long loses its partitions
  duration max_pause = std::chrono::minutes(5);         ///< between two calls of `next`; then others take over
  duration commit_every = std::chrono::seconds(1);      ///< what was acknowledged is told to the broker
};

/// Reads topics as a member of a group: its partitions are shared among the members, and what was acknowledged is not
/// delivered again. A group that is new begins with the oldest messages.
///
/// An acknowledgement is committed soon, not at once, and a partition that went to another member begins there where
/// this one had committed: messages come again. With an inbox they have their effect once:
///
///     const bool is_new = co_await seen.commit_up_to(std::move(effect), d->source(), d->number());
///
/// Thread safety: one caller at a time. Works on the executor that it was connected on.
class kafka_consumer {
 public:
  struct delivery {
    message content;
    std::string topic;
    std::int32_t partition = 0;
    std::int64_t offset = 0;
    std::uint64_t deliveries = 1;  ///< how often this consumer has delivered it by now
    std::uint64_t assignment = 0;  ///< of the partition to this consumer

    /// For an inbox: topic and partition, within which numbers grow.
    [[nodiscard]] std::string source() const { return topic + "/" + std::to_string(partition); }
    /// The first of a partition is 1.
    [[nodiscard]] std::uint64_t number() const noexcept { return static_cast<std::uint64_t>(offset) + 1; }
  };

  /// @param group  made when it is not there.
  /// Errors: `broker_error`; `invalid_options_error`.
  [[nodiscard]] static awaitable<std::unique_ptr<kafka_consumer>> connect(kafka_cluster cluster,
                                                                          std::vector<std::string> topics,
                                                                          std::string group,
                                                                          kafka_consumer_options options = {});
  /// Leaves the group, which may block for a moment: `close` before does not.
  ~kafka_consumer();
  kafka_consumer(const kafka_consumer&) = delete;
  kafka_consumer& operator=(const kafka_consumer&) = delete;

  /// The next message, in the order of its partition; nothing when the time is over first.
  /// Errors: `broker_error` for what waiting does not mend: no such topic, no permission. Cancellation: any type.
  [[nodiscard]] awaitable<std::optional<delivery>> next(duration limit);
  /// It need not come again, once all before it in its partition were acknowledged, too: in any order.
  void acknowledge(const delivery& d);
  /// It comes again, and what came after it in its partition.
  void reject(const delivery& d);
  /// Returns when the broker knows what was acknowledged. Errors: `broker_error`.
  [[nodiscard]] awaitable<void> commit();
  /// Commits, and leaves the group, so that others take over at once. No calls after it.
  [[nodiscard]] awaitable<void> close();
  /// The partitions that are this member's now, as `source()` names them.
  [[nodiscard]] std::vector<std::string> partitions() const;

 private:
  class state;
  explicit kafka_consumer(std::unique_ptr<state> s) noexcept;
  std::unique_ptr<state> state_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
