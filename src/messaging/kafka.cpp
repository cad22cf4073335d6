#if defined(COFFERDAM_HAS_KAFKA)

#include <cofferdam/core/net_sockets.hpp>
#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timeout.hpp>
#include <cofferdam/messaging/kafka.hpp>

#include <librdkafka/rdkafka.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "client_library.hpp"

#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <set>
#include <span>

namespace cofferdam::inline COFFERDAM_ABI {

// ------------------------------------------------------------------------------------------------------------- cluster

kafka_cluster& kafka_cluster::login(std::string user, std::string password, std::string mechanism) & {
  user_ = std::move(user);
  password_ = std::move(password);
  mechanism_ = std::move(mechanism);
  return *this;
}
kafka_cluster& kafka_cluster::tls(std::string ca_file) & {
  is_encrypted_ = true;
  ca_ = std::move(ca_file);
  return *this;
}
kafka_cluster& kafka_cluster::property(std::string name, std::string value) & {
  properties_.insert_or_assign(std::move(name), std::move(value));
  return *this;
}

std::map<std::string, std::string> kafka_cluster::properties() const {
  std::map<std::string, std::string> all = properties_;  // which stay: insert() replaces nothing
  all.insert({{"bootstrap.servers", brokers_},
              // With the defaults the library hears of an outage late, and of its end even later.
              {"reconnect.backoff.max.ms", "500"},
              {"socket.timeout.ms", "1000"},
              {"socket.nagle.disable", "true"}});
  if (mechanism_.empty()) {
    all.insert({"security.protocol", is_encrypted_ ? "ssl" : "plaintext"});
  } else {
    all.insert({{"security.protocol", is_encrypted_ ? "sasl_ssl" : "sasl_plaintext"},
                {"sasl.mechanism", mechanism_},
                {"sasl.username", user_},
                {"sasl.password", password_}});
  }
  if (!ca_.empty()) all.insert({"ssl.ca.location", ca_});
  return all;
}

namespace {

using configuration_pointer = detail::c_pointer<rd_kafka_conf_t, rd_kafka_conf_destroy>;
using handle_pointer = detail::c_pointer<rd_kafka_t, rd_kafka_destroy>;
using queue_pointer = detail::c_pointer<rd_kafka_queue_t, rd_kafka_queue_destroy>;
using event_pointer = detail::c_pointer<rd_kafka_event_t, rd_kafka_event_destroy>;
using record_pointer = detail::c_pointer<rd_kafka_message_t, rd_kafka_message_destroy>;
using headers_pointer = detail::c_pointer<rd_kafka_headers_t, rd_kafka_headers_destroy>;
using list_pointer = detail::c_pointer<rd_kafka_topic_partition_list_t, rd_kafka_topic_partition_list_destroy>;

std::string milliseconds(duration d) { return std::to_string(std::chrono::ceil<std::chrono::milliseconds>(d).count()); }

configuration_pointer configure(const kafka_cluster& cluster, std::map<std::string, std::string> ours) {
  configuration_pointer made(rd_kafka_conf_new());
  rd_kafka_conf_set_log_cb(made.get(), nullptr);
  auto all = cluster.properties();
  all.merge(ours);
  std::string problems;
  for (const auto& [name, value] : all) {
    char why[512];
    if (rd_kafka_conf_set(made.get(), name.c_str(), value.c_str(), why, sizeof why) != RD_KAFKA_CONF_OK) {
      problems += (problems.empty() ? "Kafka: " : "\nKafka: ") + std::string(why);
    }
  }
  if (!problems.empty()) throw invalid_options_error(problems);
  return made;
}

handle_pointer open_handle(rd_kafka_type_t type, configuration_pointer configuration) {
  char why[512];
  handle_pointer made(rd_kafka_new(type, configuration.get(), why, sizeof why));
  if (!made) throw invalid_options_error("Kafka: " + std::string(why));
  (void)configuration.release();  // it belongs to the handle now
  return made;
}

/// What to do about an error of the library or of a broker.
errc class_of(rd_kafka_resp_err_t error) {
  switch (error) {
    case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
    case RD_KAFKA_RESP_ERR_INVALID_MSG:
    case RD_KAFKA_RESP_ERR_INVALID_RECORD:
    case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
    case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
    case RD_KAFKA_RESP_ERR_POLICY_VIOLATION:
    case RD_KAFKA_RESP_ERR__INVALID_ARG:
      return errc::message_refused;
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
    case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
      return errc::topic_missing;
    case RD_KAFKA_RESP_ERR__AUTHENTICATION:
    case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
    case RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM:
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
      return errc::broker_refuses_login;
    default:
      return errc::broker_unavailable;
  }
}

/// What the library says without being asked.
struct trouble {
  rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR_NO_ERROR;
  std::string text;

  /// A wrong login tells more than the lost connections that come of it.
  void hear_of(rd_kafka_resp_err_t e, std::string t) {
    if (class_of(error) == errc::broker_refuses_login && class_of(e) == errc::broker_unavailable) return;
    error = e;
    text = std::move(t);
  }
};

/// Waits, in this thread, until a broker answers. @param listen  takes in what the library says meanwhile.
void reach(rd_kafka_t* handle, const kafka_cluster& cluster, trouble& heard, const std::function<void()>& listen) {
  constexpr int slice = 100;
  auto left = std::chrono::ceil<std::chrono::milliseconds>(cluster.connect_timeout()).count();
  for (; left > 0; left -= slice) {
    const struct rd_kafka_metadata* found = nullptr;
    const auto error = rd_kafka_metadata(handle, 0, nullptr, &found, slice);
    if (error == RD_KAFKA_RESP_ERR_NO_ERROR) return rd_kafka_metadata_destroy(found);
    listen();
    if (class_of(heard.error) == errc::broker_refuses_login) break;
  }
  throw broker_error(class_of(heard.error), "cannot connect to the Kafka brokers '" + cluster.brokers() + "'" +
                                                (heard.text.empty() ? "" : ": " + heard.text));
}

/// A file descriptor that is readable when something has come into a queue that was empty.
class queue_watch {
 public:
  queue_watch(const net::any_io_executor& executor, rd_kafka_queue_t* queue)
      : queue_(queue), descriptor_(executor, ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    const std::uint64_t one = 1;
    rd_kafka_queue_io_event_enable(queue, descriptor_.native_handle(), &one, sizeof one);
  }
  ~queue_watch() { rd_kafka_queue_io_event_enable(queue_.get(), -1, nullptr, 0); }
  queue_watch(const queue_watch&) = delete;
  queue_watch& operator=(const queue_watch&) = delete;

  [[nodiscard]] event_pointer poll() const { return event_pointer(rd_kafka_queue_poll(queue_.get(), 0)); }
  [[nodiscard]] rd_kafka_queue_t* queue() const noexcept { return queue_.get(); }
  /// Take everything after it: what is there already makes nothing readable.
  void reset() {
    std::uint64_t count = 0;
    (void)!::read(descriptor_.native_handle(), &count, sizeof count);
  }
  template <class Token> auto wait(Token&& token) {
    return descriptor_.async_wait(net::posix::stream_descriptor::wait_read, std::forward<Token>(token));
  }

 private:
  queue_pointer queue_;
  net::posix::stream_descriptor descriptor_;
};

/// What became of a message. The library refers to it, and thereby to its wave, for as long as it has the message.
struct answer {
  detail::wave<answer>* of = nullptr;
  bool is_over = false;
  rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR_NO_ERROR;
};
using wave = detail::wave<answer>;

/// One client of the library. Kept by the wait for its reports while messages are on their way.
class producer : public std::enable_shared_from_this<producer> {
 public:
  producer(const net::any_io_executor& executor, const kafka_cluster& cluster, const kafka_publisher_options& options)
      : strand_(detail::own_strand(executor)) {
    configuration_pointer made = configure(
        cluster, {{"enable.idempotence", "true"},
                  {"linger.ms", "0"},  // the messages of a window come together anyway
                  {"message.timeout.ms", milliseconds(options.message_timeout)},
                  {"request.timeout.ms", milliseconds(options.message_timeout)},
                  {"topic.metadata.propagation.max.ms", "1000"},
                  {"queue.buffering.max.messages", std::to_string(std::max<std::size_t>(options.max_queued, 1))},
                  {"message.max.bytes", std::to_string(options.max_message)},
                  {"partitioner", "murmur2_random"}});
    rd_kafka_conf_set_events(made.get(), RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR);
    handle_ = open_handle(RD_KAFKA_PRODUCER, std::move(made));
    watch_.emplace(strand_, rd_kafka_queue_get_main(handle_.get()));
  }
  ~producer() {
    (void)rd_kafka_purge(handle_.get(), RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    while (const auto event = watch_->poll()) {
      while (const auto* report = rd_kafka_event_message_next(event.get())) {
        static_cast<answer*>(report->_private)->of->release();
      }
    }
    watch_.reset();
  }
  producer(const producer&) = delete;
  producer& operator=(const producer&) = delete;

  void connect(const kafka_cluster& cluster) {
    reach(handle_.get(), cluster, trouble_, [this] { (void)take_reports(); });
  }
  awaitable<void> publish(std::span<publication> all);
  [[nodiscard]] std::size_t queued() const noexcept { return flights_.load(std::memory_order_relaxed); }
  /// It will never send anything again, says the library.
  [[nodiscard]] bool is_broken() const noexcept { return is_broken_.load(std::memory_order_relaxed); }

 private:
  awaitable<void> send_all(std::span<publication> all, wave& with);
  awaitable<void> wait_for_room(std::uint64_t seen);
  rd_kafka_resp_err_t send(const message& m, answer& a);
  void watch() {
    {
      const std::lock_guard lock(mutex_);
      if (queued() == 0 || std::exchange(is_watching_, true)) return;
    }
    net::post(strand_, [self = shared_from_this()] { self->wait(); });
  }
  void wait() {
    watch_->wait([self = shared_from_this()](const net::asio_error_code& failed) {
      if (!failed) self->on_ready();
    });
  }
  void on_ready() {
    watch_->reset();
    for (auto& waiting : take_reports()) waiting->wake(wake_reason::woken);
    {
      const std::lock_guard lock(mutex_);
      is_watching_ = queued() > 0;
      if (!is_watching_) return;
    }
    wait();
  }
  std::vector<detail::parked_reference> take_reports();
  void hear_of_trouble(rd_kafka_event_t* event);
  [[nodiscard]] failure failure_of(const message& m, rd_kafka_resp_err_t error) const;

  net::any_io_executor strand_;
  handle_pointer handle_;
  std::optional<queue_watch> watch_;
  std::atomic<std::size_t> flights_{0};
  std::atomic<bool> is_broken_{false};
  mutable std::mutex mutex_;
  bool is_watching_ = false;
  trouble trouble_;
  std::atomic<std::uint64_t> room_made_{0};  // how often
  std::vector<detail::parked_reference> waiting_for_room_;
};

/// Whoever waits for what has ended.
std::vector<detail::parked_reference> producer::take_reports() {
  std::vector<detail::parked_reference> woken;
  while (const auto event = watch_->poll()) {
    if (rd_kafka_event_type(event.get()) == RD_KAFKA_EVENT_ERROR) hear_of_trouble(event.get());
    const std::lock_guard lock(mutex_);
    while (const auto* report = rd_kafka_event_message_next(event.get())) {
      auto& ended = *static_cast<answer*>(report->_private);
      const detail::reference<wave> of(ended.of);  // the library's count
      if (!of->is_abandoned) {
        ended.is_over = true;
        ended.error = report->err;
      }
      if (report->err == RD_KAFKA_RESP_ERR_NO_ERROR) trouble_ = {};
      if (auto who = of->end()) woken.push_back(std::move(who));
      flights_.fetch_sub(1, std::memory_order_relaxed);
    }
  }
  // There is room now and no earlier: the library counts a message as long as there is its event.
  const std::lock_guard lock(mutex_);
  room_made_.fetch_add(1, std::memory_order_relaxed);
  std::ranges::move(waiting_for_room_, std::back_inserter(woken));
  waiting_for_room_.clear();
  return woken;
}

void producer::hear_of_trouble(rd_kafka_event_t* event) {
  auto error = rd_kafka_event_error(event);
  std::string text = rd_kafka_event_error_string(event);
  if (error == RD_KAFKA_RESP_ERR__FATAL) {
    char why[512];
    error = rd_kafka_fatal_error(handle_.get(), why, sizeof why);
    text = why;
    is_broken_.store(true, std::memory_order_relaxed);
    (void)rd_kafka_purge(handle_.get(),
                         RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
  }
  const std::lock_guard lock(mutex_);
  trouble_.hear_of(error, std::move(text));
}

rd_kafka_resp_err_t producer::send(const message& m, answer& a) {
  headers_pointer headers(rd_kafka_headers_new(m.headers().size() + 2));
  const auto add = [&headers](std::string_view name, const std::string& text) {
    (void)rd_kafka_header_add(headers.get(), name.data(), static_cast<ssize_t>(name.size()), text.data(),
                              static_cast<ssize_t>(text.size()));
  };
  for (const auto& [name, text] : m.headers()) add(name, text);
  add("ce_id", m.id());
  add("ce_type", m.type());
  const void* const key = m.key().empty() ? nullptr : m.key().data();
  a.of->add_reference();
  flights_.fetch_add(1, std::memory_order_relaxed);
#if defined(__clang__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wgnu-statement-expression-from-macro-expansion"  // librdkafka's macros
#endif
  const auto refused = rd_kafka_producev(
      handle_.get(), RD_KAFKA_V_TOPIC(m.topic().c_str()), RD_KAFKA_V_KEY(key, m.key().size()),
      RD_KAFKA_V_VALUE(const_cast<char*>(m.payload().data()), m.payload().size()), RD_KAFKA_V_HEADERS(headers.get()),
      RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_OPAQUE(&a), RD_KAFKA_V_END);
#if defined(__clang__)
#pragma clang diagnostic pop
#endif
  if (refused == RD_KAFKA_RESP_ERR_NO_ERROR) {
    (void)headers.release();
  } else {
    a.of->release();
    flights_.fetch_sub(1, std::memory_order_relaxed);
  }
  return refused;
}

failure producer::failure_of(const message& m, rd_kafka_resp_err_t error) const {
  trouble heard;
  {
    const std::lock_guard lock(mutex_);
    heard = trouble_;
  }
  errc code = class_of(error);
  if (code == errc::broker_unavailable && class_of(heard.error) == errc::broker_refuses_login) {
    code = errc::broker_refuses_login;
  }
  std::string text = "the message '" + m.id() + "' for '" + m.topic() + "': " + rd_kafka_err2str(error);
  if (code == errc::message_refused) return failure::thrown(std::make_exception_ptr(message_refused_error(text)));
  if (!heard.text.empty()) text += " (" + heard.text + ")";
  return failure::thrown(std::make_exception_ptr(broker_error(code, text)));
}

/// Until some has been made since it had been for `seen` times.
awaitable<void> producer::wait_for_room(std::uint64_t seen) {
  watch();
  const auto has_room = [this, seen] { return room_made_.load(std::memory_order_relaxed) != seen; };
  const auto enlist = detail::wait_among(waiting_for_room_, mutex_, has_room);
  const auto woken = co_await park(never, enlist);
  if (woken == wake_reason::cancelled) failure::cancelled().raise();
}

awaitable<void> producer::send_all(std::span<publication> all, wave& with) {
  for (std::size_t i = 0; i < all.size();) {
    const std::uint64_t seen = room_made_.load(std::memory_order_relaxed);
    const auto refused = send(*all[i].content, with.answers[i]);
    if (refused == RD_KAFKA_RESP_ERR__QUEUE_FULL) {
      co_await wait_for_room(seen);
      continue;
    }
    if (refused != RD_KAFKA_RESP_ERR_NO_ERROR) {
      all[i].why = failure_of(*all[i].content, refused);
      const std::lock_guard lock(mutex_);
      --with.open;
    }
    ++i;
  }
}

awaitable<void> producer::publish(std::span<publication> all) {
  const detail::reference<wave> mine(new wave(all.size()));
  for (answer& a : mine->answers) a.of = &*mine;
  mine->open = all.size();
  std::exception_ptr cancelled;
  try {
    co_await send_all(all, *mine);
    watch();
    co_await detail::wait_for(mine, mutex_);
  } catch (const std::exception&) {
    cancelled = std::current_exception();
  }
  {
    const std::lock_guard lock(mutex_);
    mine->abandon();
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    const answer& a = mine->answers[i];
    if (!a.is_over) continue;
    all[i].is_done = a.error == RD_KAFKA_RESP_ERR_NO_ERROR;
    if (!all[i].is_done) all[i].why = failure_of(*all[i].content, a.error);
  }
  if (cancelled) std::rethrow_exception(cancelled);
}

}  // namespace

// ----------------------------------------------------------------------------------------------------------- publisher

class kafka_publisher::state {
 public:
  state(net::any_io_executor executor, kafka_cluster cluster, kafka_publisher_options options)
      : executor_(std::move(executor)),
        cluster_(std::move(cluster)),
        options_(options),
        producer_(std::make_shared<producer>(executor_, cluster_, options_)) {}

  void connect() { producer_->connect(cluster_); }
  /// Another client in the place of one that broke.
  std::shared_ptr<producer> current() {
    const std::lock_guard lock(mutex_);
    if (producer_->is_broken()) producer_ = std::make_shared<producer>(executor_, cluster_, options_);
    return producer_;
  }
  [[nodiscard]] std::size_t queued() const {
    const std::lock_guard lock(mutex_);
    return producer_->queued();
  }

 private:
  net::any_io_executor executor_;
  kafka_cluster cluster_;
  kafka_publisher_options options_;
  mutable std::mutex mutex_;
  std::shared_ptr<producer> producer_;
};

awaitable<std::unique_ptr<kafka_publisher>> kafka_publisher::connect(kafka_cluster cluster,
                                                                     kafka_publisher_options options) {
  const auto executor = co_await net::this_coro::executor;
  auto made = std::make_shared<state>(executor, std::move(cluster), options);
  const auto answer = [&made] { made->connect(); };
  co_await spawn_on(detail::blocking_calls(), answer);
  co_return std::unique_ptr<kafka_publisher>(new kafka_publisher(std::move(made)));
}
kafka_publisher::~kafka_publisher() = default;

awaitable<void> kafka_publisher::publish(const message& m) {
  publication one{&m};
  co_await publish_all({&one, 1});
  if (one.why) one.why.raise();
}
awaitable<void> kafka_publisher::publish_all(std::span<publication> all) {
  const auto through = state_->current();
  co_await through->publish(all);
}
std::size_t kafka_publisher::queued() const noexcept { return state_->queued(); }

// ------------------------------------------------------------------------------------------------------------ consumer

class kafka_consumer::state {
 public:
  state(const net::any_io_executor& executor, const kafka_cluster& cluster, const std::string& group,
        const kafka_consumer_options& options)
      : max_pause_(options.max_pause) {
    configuration_pointer made =
        configure(cluster, {{"group.id", group},
                            {"auto.offset.reset", "earliest"},
                            {"enable.auto.commit", "true"},  // of what we store, when it is acknowledged
                            {"enable.auto.offset.store", "false"},
                            {"auto.commit.interval.ms", milliseconds(options.commit_every)},
                            {"session.timeout.ms", milliseconds(options.session_timeout)},
                            {"heartbeat.interval.ms", milliseconds(options.session_timeout / 3)},
                            {"max.poll.interval.ms", milliseconds(options.max_pause)}});
    rd_kafka_conf_set_opaque(made.get(), this);
    rd_kafka_conf_set_rebalance_cb(made.get(), on_rebalance);
    handle_ = open_handle(RD_KAFKA_CONSUMER, std::move(made));
    (void)rd_kafka_poll_set_consumer(handle_.get());
    watch_.emplace(executor, rd_kafka_queue_get_consumer(handle_.get()));
  }
  state(const state&) = delete;
  state& operator=(const state&) = delete;
  ~state() {
    watch_.reset();
    handle_.reset();  // calls on_rebalance
  }

  void connect(const kafka_cluster& cluster, const std::vector<std::string>& topics) {
    trouble heard;
    reach(handle_.get(), cluster, heard, [&] {
      while (const record_pointer m{rd_kafka_consumer_poll(handle_.get(), 0)}) {
        heard.hear_of(m->err, rd_kafka_message_errstr(m.get()));
      }
    });
    const list_pointer wanted(rd_kafka_topic_partition_list_new(static_cast<int>(topics.size())));
    for (const auto& topic : topics) {
      rd_kafka_topic_partition_list_add(wanted.get(), topic.c_str(), RD_KAFKA_PARTITION_UA);
    }
    const auto refused = rd_kafka_subscribe(handle_.get(), wanted.get());
    if (refused != RD_KAFKA_RESP_ERR_NO_ERROR) {
      throw invalid_options_error("Kafka: cannot subscribe: " + std::string(rd_kafka_err2str(refused)));
    }
  }
  void close() { (void)rd_kafka_consumer_close(handle_.get()); }

  std::optional<delivery> take();
  awaitable<void> wait(duration limit);
  awaitable<bool> go_back();
  void acknowledge(const delivery& d);
  void reject(const delivery& d);
  awaitable<void> commit();
  [[nodiscard]] std::vector<std::string> partitions() const;

 private:
  using place = std::pair<std::string, std::int32_t>;
  struct part {
    std::uint64_t assignment = 0;
    std::int64_t next = -1;                            // behind the last that was delivered; -1: none
    std::set<std::int64_t> open;                       // delivered and not acknowledged
    std::optional<std::int64_t> back_to;               // rejected
    std::map<std::int64_t, std::uint64_t> rejections;  // of those that are open or come again
  };

  /// In `take` and `close`.
  static void on_rebalance(rd_kafka_t* handle, rd_kafka_resp_err_t what, rd_kafka_topic_partition_list_t* which,
                           void* opaque) {
    auto& self = *static_cast<state*>(opaque);
    self.parts_.clear();
    if (what != RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
      (void)rd_kafka_assign(handle, nullptr);
      return;
    }
    ++self.assignments_;
    for (int i = 0; i < which->cnt; ++i) {
      self.parts_[place(which->elems[i].topic, which->elems[i].partition)].assignment = self.assignments_;
    }
    (void)rd_kafka_assign(handle, which);
  }
  part* part_of(const delivery& d) {
    const auto found = parts_.find(place(d.topic, d.partition));
    return found != parts_.end() && found->second.assignment == d.assignment ? &found->second : nullptr;
  }
  /// It is behind one that was rejected, and was fetched before that.
  [[nodiscard]] bool comes_again(const rd_kafka_message_t& m) const {
    const auto found = parts_.find(place(rd_kafka_topic_name(m.rkt), m.partition));
    return found != parts_.end() && found->second.back_to && m.offset >= *found->second.back_to;
  }
  void refuse(const rd_kafka_message_t& m) const;
  delivery to_delivery(const rd_kafka_message_t& m);

  duration max_pause_;
  handle_pointer handle_;
  std::optional<queue_watch> watch_;
  std::map<place, part> parts_;
  std::uint64_t assignments_ = 0;
};

/// Goes on where the library tries again by itself.
void kafka_consumer::state::refuse(const rd_kafka_message_t& m) const {
  switch (m.err) {
    case RD_KAFKA_RESP_ERR__TRANSPORT:
    case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
    case RD_KAFKA_RESP_ERR__RESOLVE:
    case RD_KAFKA_RESP_ERR__TIMED_OUT:
    case RD_KAFKA_RESP_ERR__MAX_POLL_EXCEEDED:
      return;
    default:
      break;
  }
  const errc code = class_of(m.err);
  throw broker_error(code == errc::message_refused ? errc::broker_unavailable : code,
                     std::string("the Kafka consumer: ") + rd_kafka_message_errstr(&m));
}

kafka_consumer::delivery kafka_consumer::state::to_delivery(const rd_kafka_message_t& m) {
  const auto text = [](const void* data, std::size_t size) {
    return data == nullptr ? std::string() : std::string(static_cast<const char*>(data), size);
  };
  const char* const topic = rd_kafka_topic_name(m.rkt);
  std::string id, type;
  std::map<std::string, std::string> others;
  rd_kafka_headers_t* headers = nullptr;
  if (rd_kafka_message_headers(&m, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR) {
    const char* name = nullptr;
    const void* data = nullptr;
    std::size_t size = 0;
    for (std::size_t i = 0; rd_kafka_header_get_all(headers, i, &name, &data, &size) == RD_KAFKA_RESP_ERR_NO_ERROR;
         ++i) {
      const std::string_view header = name;
      (header == "ce_id" ? id : header == "ce_type" ? type : others[name]) = text(data, size);
    }
  }
  delivery d{message(topic, type, text(m.payload, m.len)), topic, m.partition, m.offset, 1, 0};
  d.content.id(id).key(text(m.key, m.key_len));
  for (auto& [name, value] : others) d.content.header(name, std::move(value));
  part& p = parts_[place(d.topic, d.partition)];
  p.next = m.offset + 1;
  p.open.insert(m.offset);
  d.assignment = p.assignment;
  if (const auto found = p.rejections.find(m.offset); found != p.rejections.end()) d.deliveries += found->second;
  return d;
}

std::optional<kafka_consumer::delivery> kafka_consumer::state::take() {
  for (bool is_reset = false;;) {
    const record_pointer m(rd_kafka_consumer_poll(handle_.get(), 0));
    if (!m && is_reset) return std::nullopt;
    if (!m) {
      watch_->reset();
      is_reset = true;  // and looks once more: it may have come before
    } else if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
      refuse(*m);
    } else if (!comes_again(*m)) {
      return to_delivery(*m);
    }
  }
}

awaitable<void> kafka_consumer::state::wait(duration limit) {
  const auto readable = [this] { return watch_->wait(net::use_awaitable); };
  const auto done = co_await try_with_timeout(std::min(limit, max_pause_ / 3), readable);
  if (!done && done.code() != errc::timed_out) done.why().raise();
}

/// Reads again from where something was rejected; false when some partition is not there yet.
awaitable<bool> kafka_consumer::state::go_back() {
  const auto places = parts_;  // a copy: what is rejected meanwhile is for the next time
  bool is_back = true;
  for (const auto& [where, p] : places) {
    if (!p.back_to) continue;
    const list_pointer list(rd_kafka_topic_partition_list_new(1));
    rd_kafka_topic_partition_list_add(list.get(), where.first.c_str(), where.second)->offset = *p.back_to;
    const auto seek = [this, &list] {
      rd_kafka_error_t* const failed = rd_kafka_seek_partitions(handle_.get(), list.get(), 1'000);
      if (failed != nullptr) rd_kafka_error_destroy(failed);
      return failed == nullptr && list->elems[0].err == RD_KAFKA_RESP_ERR_NO_ERROR;
    };
    const bool is_done = co_await spawn_on(detail::blocking_calls(), seek);
    part& now = parts_.at(where);
    if (is_done && now.back_to == p.back_to) now.back_to.reset();
    is_back = is_back && !now.back_to;
  }
  co_return is_back;
}

void kafka_consumer::state::acknowledge(const delivery& d) {
  part* const p = part_of(d);
  if (p == nullptr || p->open.erase(d.offset) == 0) return;
  p->rejections.erase(d.offset);
  const list_pointer list(rd_kafka_topic_partition_list_new(1));
  rd_kafka_topic_partition_list_add(list.get(), d.topic.c_str(), d.partition)->offset =
      p->open.empty() ? p->next : *p->open.begin();
  (void)rd_kafka_offsets_store(handle_.get(), list.get());  // fails for what is no longer ours: then it comes again
}

void kafka_consumer::state::reject(const delivery& d) {
  part* const p = part_of(d);
  if (p == nullptr || !p->open.contains(d.offset)) return;
  ++p->rejections[d.offset];
  p->back_to = std::min(p->back_to.value_or(d.offset), d.offset);
  p->next = d.offset;
  p->open.erase(p->open.lower_bound(d.offset), p->open.end());
}

awaitable<void> kafka_consumer::state::commit() {
  const auto executor = co_await net::this_coro::executor;
  queue_watch answers(executor, rd_kafka_queue_new(handle_.get()));
  auto failed = rd_kafka_commit_queue(handle_.get(), nullptr, answers.queue(), nullptr, nullptr);
  while (failed == RD_KAFKA_RESP_ERR_NO_ERROR) {
    if (const auto event = answers.poll()) {
      failed = rd_kafka_event_error(event.get());
      break;
    }
    co_await answers.wait(net::use_awaitable);
    answers.reset();
  }
  if (failed == RD_KAFKA_RESP_ERR_NO_ERROR || failed == RD_KAFKA_RESP_ERR__NO_OFFSET) co_return;
  throw broker_error(class_of(failed), std::string("cannot commit: ") + rd_kafka_err2str(failed));
}

std::vector<std::string> kafka_consumer::state::partitions() const {
  std::vector<std::string> all;
  all.reserve(parts_.size());
  for (const auto& [where, p] : parts_) all.push_back(where.first + "/" + std::to_string(where.second));
  return all;
}

kafka_consumer::kafka_consumer(std::unique_ptr<state> s) noexcept : state_(std::move(s)) {}
kafka_consumer::~kafka_consumer() = default;

awaitable<std::unique_ptr<kafka_consumer>> kafka_consumer::connect(kafka_cluster cluster,
                                                                   std::vector<std::string> topics, std::string group,
                                                                   kafka_consumer_options options) {
  const auto executor = co_await net::this_coro::executor;
  auto made = std::make_unique<state>(executor, cluster, group, options);
  const auto answer = [&] { made->connect(cluster, topics); };
  co_await spawn_on(detail::blocking_calls(), answer);
  co_return std::unique_ptr<kafka_consumer>(new kafka_consumer(std::move(made)));
}

awaitable<std::optional<kafka_consumer::delivery>> kafka_consumer::next(duration limit) {
  const auto executor = co_await net::this_coro::executor;
  const auto& timers = timers_of(executor);
  const time_point until = saturating_add(timers.now(), limit);
  for (;;) {
    const bool is_back = co_await state_->go_back();
    auto taken = state_->take();
    if (taken) co_return taken;
    const duration left = until - timers.now();
    if (left <= duration()) co_return std::nullopt;
    co_await state_->wait(is_back ? left : std::min<duration>(left, std::chrono::milliseconds(100)));
  }
}

void kafka_consumer::acknowledge(const delivery& d) { state_->acknowledge(d); }
void kafka_consumer::reject(const delivery& d) { state_->reject(d); }
awaitable<void> kafka_consumer::commit() { return state_->commit(); }
awaitable<void> kafka_consumer::close() {
  const auto leave = [this] { state_->close(); };
  co_await spawn_on(detail::blocking_calls(), leave);
}
std::vector<std::string> kafka_consumer::partitions() const { return state_->partitions(); }

}  // namespace cofferdam::inline COFFERDAM_ABI

#endif
