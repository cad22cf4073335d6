// Kafka brokers of the tests' own: those that librdkafka has for tests, in this process, with errors on demand.
//
// They look at the sequence numbers of transactional producers only. Of ours they take a request although the one
// before it has failed, where a real broker answers OUT_OF_ORDER_SEQUENCE_NUMBER; from the answer the library concludes
// that both are stored, and reports a message as delivered (with no offset) that these brokers never had. Whoever lets
// requests fail while others may be on their way therefore needs `one_at_a_time`.
#pragma once

#include <cofferdam/messaging/kafka.hpp>

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace cofferdam::test {

class kafka_brokers {
 public:
  /// Kinds of requests, by Kafka's numbers.
  enum class request : std::int16_t { produce = 0, fetch = 1, offset_commit = 8 };

  explicit kafka_brokers(int count = 3) : count_(count) {
    rd_kafka_conf_t* const configuration = rd_kafka_conf_new();
    rd_kafka_conf_set_log_cb(configuration, nullptr);
    char why[512];
    handle_ = rd_kafka_new(RD_KAFKA_PRODUCER, configuration, why, sizeof why);
    if (handle_ == nullptr) throw std::runtime_error(why);
    cluster_ = rd_kafka_mock_cluster_new(handle_, count);
  }
  kafka_brokers(const kafka_brokers&) = delete;
  kafka_brokers& operator=(const kafka_brokers&) = delete;
  ~kafka_brokers() {
    rd_kafka_mock_cluster_destroy(cluster_);
    rd_kafka_destroy(handle_);
  }

  [[nodiscard]] std::string addresses() const { return rd_kafka_mock_cluster_bootstraps(cluster_); }
  /// For a publisher that has one request on its way to a broker.
  [[nodiscard]] kafka_cluster one_at_a_time() const {
    kafka_cluster cluster(addresses());
    cluster.property("max.in.flight", "1");
    return cluster;
  }
  void add_topic(const std::string& name, int partitions) {
    rd_kafka_mock_topic_create(cluster_, name.c_str(), partitions, count_);
  }
  /// What clients hear who ask about a topic.
  void set_topic_error(const std::string& name, rd_kafka_resp_err_t error) {
    rd_kafka_mock_topic_set_error(cluster_, name.c_str(), error);
  }
  /// The next requests of a kind fail.
  void fail(request what, const std::vector<rd_kafka_resp_err_t>& errors) {
    rd_kafka_mock_push_request_errors_array(cluster_, static_cast<std::int16_t>(what), errors.size(), errors.data());
  }
  void stop() { rd_kafka_mock_broker_set_down(cluster_, -1); }
  void start() { rd_kafka_mock_broker_set_up(cluster_, -1); }
  void set_round_trip(int milliseconds) { rd_kafka_mock_broker_set_rtt(cluster_, -1, milliseconds); }

 private:
  int count_;
  rd_kafka_t* handle_ = nullptr;
  rd_kafka_mock_cluster_t* cluster_ = nullptr;
};

}  // namespace cofferdam::test
