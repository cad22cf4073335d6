#if defined(COFFERDAM_HAS_NATS)

#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/messaging/nats.hpp>
#include <cofferdam/outbox/cloud_event.hpp>

#include <nats/nats.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <mutex>
#include <set>
#include <unordered_map>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

template <class T, void (*Destroy)(T*)> struct destroyed_by {
  void operator()(T* object) const noexcept { Destroy(object); }
};
using options_pointer = std::unique_ptr<natsOptions, destroyed_by<natsOptions, natsOptions_Destroy>>;
using connection_pointer = std::unique_ptr<natsConnection, destroyed_by<natsConnection, natsConnection_Destroy>>;
using context_pointer = std::unique_ptr<jsCtx, destroyed_by<jsCtx, jsCtx_Destroy>>;
using subscription_pointer =
    std::unique_ptr<natsSubscription, destroyed_by<natsSubscription, natsSubscription_Destroy>>;
using message_pointer = std::unique_ptr<natsMsg, destroyed_by<natsMsg, natsMsg_Destroy>>;

std::string text_of(natsStatus status) {
  const char* detail = nats_GetLastError(nullptr);
  std::string text = natsStatus_GetText(status);
  if (detail != nullptr && *detail != '\0') text += std::string(" (") + detail + ")";
  return text;
}

void require(natsStatus status, const std::string& what) {
  if (status == NATS_OK) return;
  const bool is_login = status == NATS_CONNECTION_AUTH_FAILED || status == NATS_NOT_PERMITTED;
  const bool is_missing = status == NATS_NOT_FOUND || status == NATS_NO_RESPONDERS;
  throw broker_error(is_login     ? errc::broker_refuses_login
                     : is_missing ? errc::topic_missing
                                  : errc::broker_unavailable,
                     what + ": " + text_of(status));
}

connection_pointer open_connection(const nats_server& server) {
  natsOptions* made = nullptr;
  require(natsOptions_Create(&made), "NATS");
  const options_pointer options(made);
  require(natsOptions_SetURL(made, server.url().c_str()), "the URL of the NATS server");
  const auto timeout = std::chrono::ceil<std::chrono::milliseconds>(server.connect_timeout()).count();
  require(natsOptions_SetTimeout(made, timeout), "the connect timeout");
  require(natsOptions_SetMaxReconnect(made, -1), "NATS");
  require(natsOptions_SetReconnectWait(made, 250), "NATS");
  require(natsOptions_SetSendAsap(made, true), "NATS");
  if (!server.credentials_file().empty()) {
    require(natsOptions_SetUserCredentialsFromFiles(made, server.credentials_file().c_str(), nullptr),
            "the credentials file '" + server.credentials_file() + "'");
  }
  if (!server.ca_file().empty()) {
    require(natsOptions_SetSecure(made, true), "TLS");
    require(natsOptions_LoadCATrustedCertificates(made, server.ca_file().c_str()),
            "the certificates in '" + server.ca_file() + "'");
  }
  natsConnection* connection = nullptr;
  require(natsConnection_Connect(&connection, made), "cannot connect to the NATS server");
  return connection_pointer(connection);
}

/// The library waits in its calls: they run here. Lives as long as the program, since whoever comes back from it may be
/// its last user.
net::thread_pool& blocking_calls() {
  // The library, and OpenSSL below it, first: they end after these threads, whose memory they have to free.
  static const natsStatus opened = nats_Open(-1);
  (void)opened;
  static net::thread_pool pool(4);
  return pool;
}

message to_message(natsMsg* from) {
  const auto header = [from](const char* name) -> std::string {
    const char* text = nullptr;
    return natsMsgHeader_Get(from, name, &text) == NATS_OK && text != nullptr ? text : "";
  };
  message m(natsMsg_GetSubject(from), header("ce-type"),
            std::string(natsMsg_GetData(from), static_cast<std::size_t>(natsMsg_GetDataLength(from))));
  m.id(header("Nats-Msg-Id")).key(header("ce-partitionkey"));
  const char** names = nullptr;
  int count = 0;
  if (natsMsgHeader_Keys(from, &names, &count) == NATS_OK) {
    for (int i = 0; i < count; ++i) m.header(names[i], header(names[i]));
    std::free(names);  // NOLINT: the library's way
  }
  return m;
}

}  // namespace

// ----------------------------------------------------------------------------------------------------------- publisher

class nats_publisher::state {
 public:
  explicit state(const nats_server& server) : connection_(open_connection(server)) { open_context(); }
  ~state() {
    // Nothing is called back once the connection is gone.
    context_.reset();
    natsConnection_Close(connection_.get());
  }
  state(const state&) = delete;
  state& operator=(const state&) = delete;

  struct flight {
    bool is_over = false, is_duplicate = false;
    natsStatus status = NATS_OK;
    int code = 0;
    std::string text;
    detail::parked_reference waiting;
  };

  awaitable<void> publish(const message& m);

  std::mutex context_mutex;  // of blocking calls
  [[nodiscard]] jsCtx* context() const noexcept { return context_.get(); }
  std::atomic<std::uint64_t> duplicates{0};

 private:
  void open_context() {
    jsOptions options;
    require(jsOptions_Init(&options), "JetStream");
    options.PublishAsync.MaxPending = 100'000;
    options.PublishAsync.StallWait = 1;
    options.PublishAsync.AckHandler = on_ack;
    options.PublishAsync.AckHandlerClosure = this;
    jsCtx* made = nullptr;
    require(natsConnection_JetStream(&made, connection_.get(), &options), "JetStream");
    context_.reset(made);
  }

  /// On a thread of the library.
  static void on_ack(jsCtx* /*context*/, natsMsg* acknowledged, jsPubAck* ack, jsPubAckErr* error, void* closure) {
    auto& self = *static_cast<state*>(closure);
    std::shared_ptr<flight> found;
    detail::parked_reference waiting;
    {
      const std::lock_guard lock(self.mutex_);
      const auto it = self.flights_.find(acknowledged);
      if (it != self.flights_.end()) {
        found = it->second;
        self.flights_.erase(it);
        found->is_over = true;
        if (ack != nullptr) found->is_duplicate = ack->Duplicate;
        if (error != nullptr) {
          found->status = error->Err;
          found->code = static_cast<int>(error->ErrCode);
          found->text = error->ErrText != nullptr ? error->ErrText : natsStatus_GetText(error->Err);
        }
        waiting = std::move(found->waiting);
      }
    }
    natsMsg_Destroy(acknowledged);
    if (waiting) waiting->wake(wake_reason::woken);
  }

  connection_pointer connection_;
  context_pointer context_;
  std::mutex mutex_;
  std::unordered_map<natsMsg*, std::shared_ptr<flight>> flights_;
};

awaitable<void> nats_publisher::state::publish(const message& m) {
  natsMsg* made = nullptr;
  const auto size = static_cast<int>(m.payload().size());
  const natsStatus created = natsMsg_Create(&made, m.topic().c_str(), nullptr, m.payload().data(), size);
  if (created != NATS_OK) throw message_refused_error("the subject '" + m.topic() + "': " + text_of(created));
  message_pointer owned(made);
  for (const auto& [name, text] : m.headers()) (void)natsMsgHeader_Set(made, name.c_str(), text.c_str());
  (void)natsMsgHeader_Set(made, "Nats-Msg-Id", m.id().c_str());
  for (const auto& [name, text] : cloud_event_attributes(m)) {
    (void)natsMsgHeader_Set(made, ("ce-" + name).c_str(), text.c_str());
  }

  const auto mine = std::make_shared<flight>();
  {
    const std::lock_guard lock(mutex_);
    flights_.emplace(made, mine);  // before it is sent: the answer may be faster than we are
  }
  (void)owned.release();
  natsMsg* sent = made;
  const natsStatus status = js_PublishMsgAsync(context_.get(), &sent, nullptr);
  if (status != NATS_OK) {
    const message_pointer still_ours(sent);
    {
      const std::lock_guard lock(mutex_);
      flights_.erase(made);
    }
    const bool is_refused = status == NATS_MAX_PAYLOAD || status == NATS_INVALID_SUBJECT || status == NATS_INVALID_ARG;
    const std::string what = "the message '" + m.id() + "' for '" + m.topic() + "': " + text_of(status);
    if (is_refused) throw message_refused_error(what);
    throw broker_error(errc::broker_unavailable, what);
  }
  const auto enlist = [this, mine](const detail::parked_reference& self) {
    {
      const std::lock_guard lock(mutex_);
      if (!mine->is_over) {
        mine->waiting = self;
        return;
      }
    }
    self->wake(wake_reason::woken);
  };
  const auto woken = co_await park(never, enlist);
  {
    const std::lock_guard lock(mutex_);
    mine->waiting = {};
    if (!mine->is_over) flights_.erase(made);
  }
  if (woken == wake_reason::cancelled && !mine->is_over) failure::cancelled().raise();
  if (mine->is_duplicate) duplicates.fetch_add(1, std::memory_order_relaxed);
  if (mine->status == NATS_OK && mine->code == 0) co_return;
  const std::string what = "the message '" + m.id() + "' for '" + m.topic() + "': " + mine->text;
  if (mine->code == JSStreamMessageExceedsMaximumErr) throw message_refused_error(what);
  if (mine->status == NATS_NO_RESPONDERS || mine->code == JSStreamNotFoundErr) {
    throw broker_error(errc::topic_missing, "no stream takes the subject '" + m.topic() + "': " + mine->text);
  }
  throw broker_error(errc::broker_unavailable, what);
}

awaitable<std::unique_ptr<nats_publisher>> nats_publisher::connect(nats_server server) {
  const auto open = [&server] { return std::make_shared<state>(server); };
  auto made = co_await spawn_on(blocking_calls(), open);
  co_return std::unique_ptr<nats_publisher>(new nats_publisher(std::move(made)));
}
nats_publisher::~nats_publisher() = default;

awaitable<void> nats_publisher::publish(const message& m) { return state_->publish(m); }
std::uint64_t nats_publisher::duplicates() const noexcept { return state_->duplicates.load(std::memory_order_relaxed); }

awaitable<void> nats_publisher::ensure_stream(std::string name, std::string subject, duration duplicate_window) {
  const auto s = state_;
  const auto make = [&] {
    const std::lock_guard lock(s->context_mutex);
    jsStreamInfo* info = nullptr;
    jsErrCode code{};
    natsStatus status = js_GetStreamInfo(&info, s->context(), name.c_str(), nullptr, &code);
    if (status == NATS_NOT_FOUND) {
      jsStreamConfig config;
      require(jsStreamConfig_Init(&config), "the stream");
      const char* subjects[] = {subject.c_str()};
      config.Name = name.c_str();
      config.Subjects = subjects;
      config.SubjectsLen = 1;
      config.Storage = js_FileStorage;
      config.Duplicates = duplicate_window.count();
      status = js_AddStream(&info, s->context(), &config, nullptr, &code);
    }
    jsStreamInfo_Destroy(info);
    require(status, "the stream '" + name + "'");
    return true;
  };
  (void)co_await spawn_on(blocking_calls(), make);
}

awaitable<std::uint64_t> nats_publisher::count(std::string stream) {
  const auto s = state_;
  const auto look = [&]() -> std::uint64_t {
    const std::lock_guard lock(s->context_mutex);
    jsStreamInfo* info = nullptr;
    jsErrCode code{};
    require(js_GetStreamInfo(&info, s->context(), stream.c_str(), nullptr, &code), "the stream '" + stream + "'");
    const std::uint64_t messages = info->State.Msgs;
    jsStreamInfo_Destroy(info);
    return messages;
  };
  co_return co_await spawn_on(blocking_calls(), look);
}

// ------------------------------------------------------------------------------------------------------------ consumer

class nats_consumer::state {
 public:
  state(const nats_server& server, const std::string& stream, const std::string& name, duration ack_wait)
      : connection_(open_connection(server)) {
    jsCtx* made = nullptr;
    require(natsConnection_JetStream(&made, connection_.get(), nullptr), "JetStream");
    context_.reset(made);
    jsStreamInfo* info = nullptr;
    jsErrCode code{};
    require(js_GetStreamInfo(&info, made, stream.c_str(), nullptr, &code), "the stream '" + stream + "'");
    const bool has_subject = info->Config != nullptr && info->Config->SubjectsLen > 0;
    const std::string subject = has_subject ? info->Config->Subjects[0] : stream;
    jsStreamInfo_Destroy(info);
    stream_ = stream;
    name_ = name;
    subject_ = subject;
    ack_wait_ = ack_wait;
    subscribe(first_unacknowledged());
  }
  ~state() {
    subscription_.reset();
    former_.clear();
    context_.reset();
    natsConnection_Close(connection_.get());
  }
  state(const state&) = delete;
  state& operator=(const state&) = delete;

  /// Blocks for at most `milliseconds`.
  void fetch(std::int64_t milliseconds) {
    natsMsgList list{};
    jsErrCode code{};
    const natsStatus status = natsSubscription_Fetch(&list, subscription_.get(), 100, milliseconds, &code);
    bool has_hole = false;
    for (int i = 0; i < list.Count; ++i) {
      const std::uint64_t sequence = sequence_of(list.Msgs[i]);
      has_hole = has_hole || follows_hole(sequence);
      if (has_hole) continue;
      {
        const std::lock_guard lock(mutex_);
        unacknowledged_.insert(sequence);
      }
      last_ = std::max(last_, sequence);
      waiting.emplace_back(list.Msgs[i], [](natsMsg* m) { natsMsg_Destroy(m); });
      list.Msgs[i] = nullptr;
    }
    natsMsgList_Destroy(&list);
    if (has_hole) {
      hole_after_ = last_;
      const std::lock_guard lock(mutex_);
      subscribe(unacknowledged_.empty() ? last_ + 1 : *unacknowledged_.begin());
    }
    if (status != NATS_TIMEOUT) require(status, "the stream's messages");
  }

  void acknowledged(std::uint64_t sequence) {
    const std::lock_guard lock(mutex_);
    unacknowledged_.erase(sequence);
  }

  std::deque<std::shared_ptr<natsMsg>> waiting;

 private:
  static std::uint64_t sequence_of(natsMsg* m) {
    jsMsgMetaData* found = nullptr;
    if (natsMsg_GetMetaData(&found, m) != NATS_OK) return 0;
    const std::uint64_t sequence = found->Sequence.Stream;
    jsMsgMetaData_Destroy(found);
    return sequence;
  }
  /// The server sent something that never arrived, and would bring it after `ack_wait`, behind later ones. When it does
  /// not come although we have asked for it, it was deleted from the stream.
  [[nodiscard]] bool follows_hole(std::uint64_t sequence) const noexcept {
    return last_ > 0 && sequence > last_ + 1 && hole_after_ != last_;
  }
  /// What a consumer that died had not acknowledged, the server would bring after `ack_wait`, too. 0: nothing such.
  std::uint64_t first_unacknowledged() {
    jsConsumerInfo* info = nullptr;
    jsErrCode code{};
    const natsStatus status = js_GetConsumerInfo(&info, context_.get(), stream_.c_str(), name_.c_str(), nullptr, &code);
    if (status == NATS_NOT_FOUND) return 0;
    require(status, "the consumer '" + name_ + "' of the stream '" + stream_ + "'");
    const std::uint64_t first = info->NumAckPending > 0 ? info->AckFloor.Stream + 1 : 0;
    jsConsumerInfo_Destroy(info);
    return first;
  }
  /// @param from  to begin anew there; 0: where the consumer is.
  void subscribe(std::uint64_t from) {
    jsErrCode code{};
    const std::string what = "the consumer '" + name_ + "' of the stream '" + stream_ + "'";
    jsSubOptions options;
    require(jsSubOptions_Init(&options), what);
    options.Stream = stream_.c_str();
    options.Config.Durable = name_.c_str();
    options.Config.AckWait = ack_wait_.count();
    options.Config.MaxAckPending = 10'000;
    if (from > 0) {
      const natsStatus deleted = js_DeleteConsumer(context_.get(), stream_.c_str(), name_.c_str(), nullptr, &code);
      if (deleted != NATS_NOT_FOUND) require(deleted, what);
      options.Config.DeliverPolicy = js_DeliverByStartSequence;
      options.Config.OptStartSeq = from;
    }
    natsSubscription* subscription = nullptr;
    require(js_PullSubscribe(&subscription, context_.get(), subject_.c_str(), name_.c_str(), nullptr, &options, &code),
            what);
    if (subscription_) former_.push_back(std::move(subscription_));  // its messages still refer to it
    subscription_.reset(subscription);
  }

  std::string stream_, name_, subject_;
  duration ack_wait_{};
  std::uint64_t last_ = 0, hole_after_ = 0;  // of the stream's numbers
  std::mutex mutex_;
  std::set<std::uint64_t> unacknowledged_;
  std::vector<subscription_pointer> former_;
  connection_pointer connection_;
  context_pointer context_;
  subscription_pointer subscription_;
};

nats_consumer::nats_consumer(std::unique_ptr<state> s) noexcept : state_(std::move(s)) {}
nats_consumer::~nats_consumer() = default;

awaitable<std::unique_ptr<nats_consumer>> nats_consumer::connect(nats_server server, std::string stream,
                                                                 std::string name, duration ack_wait) {
  const auto open = [&] { return std::make_unique<state>(server, stream, name, ack_wait); };
  auto made = co_await spawn_on(blocking_calls(), open);
  co_return std::unique_ptr<nats_consumer>(new nats_consumer(std::move(made)));
}

awaitable<std::optional<nats_consumer::delivery>> nats_consumer::next(duration limit) {
  const auto executor = co_await net::this_coro::executor;
  const auto& timers = timers_of(executor);
  const time_point until = saturating_add(timers.now(), limit);
  constexpr duration slice = std::chrono::milliseconds(250);  // so that a cancellation is heard
  while (state_->waiting.empty()) {
    const duration left = until - timers.now();
    if (left <= duration()) co_return std::nullopt;
    const auto wait = std::chrono::ceil<std::chrono::milliseconds>(std::min(left, slice)).count();
    const auto fetch = [this, wait] {
      state_->fetch(wait);
      return true;
    };
    (void)co_await spawn_on(blocking_calls(), fetch);
  }
  auto taken = std::move(state_->waiting.front());
  state_->waiting.pop_front();
  jsMsgMetaData* found = nullptr;
  delivery d{to_message(taken.get()), 0, 1, nullptr};
  if (natsMsg_GetMetaData(&found, taken.get()) == NATS_OK) {
    d.sequence = found->Sequence.Stream;
    d.deliveries = found->NumDelivered;
    jsMsgMetaData_Destroy(found);
  }
  d.handle = std::move(taken);
  co_return std::optional<delivery>(std::move(d));
}

void nats_consumer::acknowledge(const delivery& d) {
  state_->acknowledged(d.sequence);
  (void)natsMsg_Ack(static_cast<natsMsg*>(d.handle.get()), nullptr);
}
void nats_consumer::reject(const delivery& d) { (void)natsMsg_Nak(static_cast<natsMsg*>(d.handle.get()), nullptr); }

}  // namespace cofferdam::inline COFFERDAM_ABI

#endif
