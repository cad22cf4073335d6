#if defined(COFFERDAM_HAS_NATS)

#include <cofferdam/core/parked.hpp>
#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/messaging/nats.hpp>
#include <cofferdam/outbox/cloud_event.hpp>

#include <nats/nats.h>

#include "client_library.hpp"

#include <atomic>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

using options_pointer = detail::c_pointer<natsOptions, natsOptions_Destroy>;
using connection_pointer = detail::c_pointer<natsConnection, natsConnection_Destroy>;
using context_pointer = detail::c_pointer<jsCtx, jsCtx_Destroy>;
using subscription_pointer = detail::c_pointer<natsSubscription, natsSubscription_Destroy>;
using message_pointer = detail::c_pointer<natsMsg, natsMsg_Destroy>;

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
  if (!server.certificate_file().empty()) {
    require(natsOptions_LoadCertificatesChain(made, server.certificate_file().c_str(), server.key_file().c_str()),
            "the certificate '" + server.certificate_file() + "' with the key '" + server.key_file() + "'");
  }
  natsConnection* connection = nullptr;
  require(natsConnection_Connect(&connection, made), "cannot connect to the NATS server");
  return connection_pointer(connection);
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
  state(const nats_server& server, nats_publisher_options options)
      : max_pending_(std::max<std::size_t>(options.max_pending, 1)), connection_(open_connection(server)) {
    open_context();
  }
  ~state() {
    // Nothing is called back once the connection is gone.
    context_.reset();
    natsConnection_Close(connection_.get());
  }
  state(const state&) = delete;
  state& operator=(const state&) = delete;

  awaitable<void> publish(const message& m);

  std::mutex context_mutex;  // of blocking calls
  [[nodiscard]] jsCtx* context() const noexcept { return context_.get(); }
  [[nodiscard]] std::size_t pending() const {
    const std::lock_guard lock(mutex_);
    return flights_.size();
  }
  std::atomic<std::uint64_t> duplicates{0};

 private:
  void open_context() {
    jsOptions options;
    require(jsOptions_Init(&options), "JetStream");
    options.PublishAsync.MaxPending = 0;  // we wait where the library would block
    options.PublishAsync.AckHandler = on_ack;
    options.PublishAsync.AckHandlerClosure = this;
    jsCtx* made = nullptr;
    require(natsConnection_JetStream(&made, connection_.get(), &options), "JetStream");
    context_.reset(made);
  }

  /// A message that was sent and not acknowledged.
  struct flight {
    bool is_over = false, is_duplicate = false, is_abandoned = false;
    natsStatus status = NATS_OK;
    int code = 0;
    std::string text;
    detail::parked_reference waiting;
  };
  using flights = std::unordered_map<natsMsg*, std::shared_ptr<flight>>;
  struct waiters {
    detail::parked_reference publisher;
    std::vector<detail::parked_reference> waiting_for_room;

    void go_on() const {
      if (publisher) publisher->wake(wake_reason::woken);
      for (const auto& w : waiting_for_room) w->wake(wake_reason::woken);
    }
  };

  /// On a thread of the library.
  static void on_ack(jsCtx* /*context*/, natsMsg* acknowledged, jsPubAck* ack, jsPubAckErr* error, void* closure) {
    auto& self = *static_cast<state*>(closure);
    const message_pointer ours(acknowledged);
    waiters who;
    {
      const std::lock_guard lock(self.mutex_);
      const auto found = self.flights_.find(acknowledged);
      if (found == self.flights_.end()) return;
      flight& f = *found->second;
      if (ack != nullptr) f.is_duplicate = ack->Duplicate;
      if (error != nullptr) {
        f.status = error->Err;
        f.code = static_cast<int>(error->ErrCode);
        f.text = error->ErrText != nullptr ? error->ErrText : natsStatus_GetText(error->Err);
      }
      who = self.end(found);
    }
    who.go_on();
  }
  /// Under the lock.
  waiters end(flights::iterator which) {
    flight& f = *which->second;
    f.is_over = true;
    if (f.is_abandoned) --abandoned_;
    waiters who{std::move(f.waiting), std::exchange(waiting_for_room_, {})};
    flights_.erase(which);
    return who;
  }
  awaitable<void> wait_for_room();
  void give_up_acknowledgements();
  message_pointer to_nats(const message& m) const;
  std::shared_ptr<flight> send(const message& m, message_pointer made);

  const std::size_t max_pending_;
  connection_pointer connection_;
  context_pointer context_;
  mutable std::mutex mutex_;
  flights flights_;
  std::size_t abandoned_ = 0;  // of these
  std::vector<detail::parked_reference> waiting_for_room_;
};

/// The library keeps what was never acknowledged, as after a lost connection, for ever.
void nats_publisher::state::give_up_acknowledgements() {
  natsMsgList lost{};
  if (js_PublishAsyncGetPendingList(&lost, context_.get()) != NATS_OK) return;
  for (int i = 0; i < lost.Count; ++i) {
    waiters who;
    {
      const std::lock_guard lock(mutex_);
      const auto found = flights_.find(lost.Msgs[i]);
      if (found == flights_.end()) continue;
      found->second->status = NATS_TIMEOUT;
      found->second->text = "no acknowledgement";
      who = end(found);
    }
    who.go_on();
  }
  natsMsgList_Destroy(&lost);
}

awaitable<void> nats_publisher::state::wait_for_room() {
  const auto has_room = [this] { return flights_.size() < max_pending_; };
  const auto enlist = detail::wait_among(waiting_for_room_, mutex_, has_room);
  for (;;) {
    bool is_lost = false;
    {
      const std::lock_guard lock(mutex_);
      if (has_room()) co_return;
      is_lost = abandoned_ > flights_.size() / 2;
    }
    if (is_lost) {
      give_up_acknowledgements();
      continue;
    }
    const auto woken = co_await park(never, enlist);
    if (woken == wake_reason::cancelled) failure::cancelled().raise();
  }
}

message_pointer nats_publisher::state::to_nats(const message& m) const {
  natsMsg* made = nullptr;
  const auto size = static_cast<int>(m.payload().size());
  const natsStatus created = natsMsg_Create(&made, m.topic().c_str(), nullptr, m.payload().data(), size);
  if (created != NATS_OK) throw message_refused_error("the subject '" + m.topic() + "': " + text_of(created));
  for (const auto& [name, text] : m.headers()) (void)natsMsgHeader_Set(made, name.c_str(), text.c_str());
  (void)natsMsgHeader_Set(made, "Nats-Msg-Id", m.id().c_str());
  for (const auto& [name, text] : cloud_event_attributes(m)) {
    (void)natsMsgHeader_Set(made, ("ce-" + name).c_str(), text.c_str());
  }
  return message_pointer(made);
}

std::shared_ptr<nats_publisher::state::flight> nats_publisher::state::send(const message& m, message_pointer made) {
  const auto mine = std::make_shared<flight>();
  {
    const std::lock_guard lock(mutex_);
    flights_.emplace(made.get(), mine);  // before it is sent: the answer may be faster than we are
  }
  natsMsg* const name = made.get();
  natsMsg* sent = made.release();
  const natsStatus status = js_PublishMsgAsync(context_.get(), &sent, nullptr);
  if (status == NATS_OK) return mine;
  const message_pointer still_ours(sent);
  {
    const std::lock_guard lock(mutex_);
    flights_.erase(name);
  }
  const bool is_refused = status == NATS_MAX_PAYLOAD || status == NATS_INVALID_SUBJECT || status == NATS_INVALID_ARG;
  const std::string what = "the message '" + m.id() + "' for '" + m.topic() + "': " + text_of(status);
  if (is_refused) throw message_refused_error(what);
  throw broker_error(errc::broker_unavailable, what);
}

awaitable<void> nats_publisher::state::publish(const message& m) {
  auto made = to_nats(m);
  co_await wait_for_room();
  const auto mine = send(m, std::move(made));
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
    mine->is_abandoned = !mine->is_over;
    if (mine->is_abandoned) ++abandoned_;
  }
  if (woken == wake_reason::cancelled && mine->is_abandoned) failure::cancelled().raise();
  if (mine->is_duplicate) duplicates.fetch_add(1, std::memory_order_relaxed);
  if (mine->status == NATS_OK && mine->code == 0) co_return;
  const std::string what = "the message '" + m.id() + "' for '" + m.topic() + "': " + mine->text;
  if (mine->code == JSStreamMessageExceedsMaximumErr) throw message_refused_error(what);
  if (mine->status == NATS_NO_RESPONDERS || mine->code == JSStreamNotFoundErr) {
    throw broker_error(errc::topic_missing, "no stream takes the subject '" + m.topic() + "': " + mine->text);
  }
  throw broker_error(errc::broker_unavailable, what);
}

awaitable<std::unique_ptr<nats_publisher>> nats_publisher::connect(nats_server server, nats_publisher_options options) {
  const auto open = [&server, &options] { return std::make_shared<state>(server, options); };
  auto made = co_await spawn_on(detail::blocking_calls(), open);
  co_return std::unique_ptr<nats_publisher>(new nats_publisher(std::move(made)));
}
nats_publisher::~nats_publisher() = default;

awaitable<void> nats_publisher::publish(const message& m) { return state_->publish(m); }
std::size_t nats_publisher::pending() const { return state_->pending(); }
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
  (void)co_await spawn_on(detail::blocking_calls(), make);
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
  co_return co_await spawn_on(detail::blocking_calls(), look);
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
    jsSubOptions options;
    require(jsSubOptions_Init(&options), "the consumer");
    options.Stream = stream.c_str();
    options.Config.Durable = name.c_str();
    options.Config.AckWait = ack_wait.count();
    options.Config.MaxAckPending = 10'000;
    natsSubscription* subscription = nullptr;
    require(js_PullSubscribe(&subscription, made, subject.c_str(), name.c_str(), nullptr, &options, &code),
            "the consumer '" + name + "' of the stream '" + stream + "'");
    subscription_.reset(subscription);
  }
  ~state() {
    subscription_.reset();
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
    for (int i = 0; i < list.Count; ++i) {
      waiting.emplace_back(list.Msgs[i], [](natsMsg* m) { natsMsg_Destroy(m); });
      list.Msgs[i] = nullptr;
    }
    natsMsgList_Destroy(&list);
    if (status != NATS_TIMEOUT) require(status, "the stream's messages");
  }

  std::deque<std::shared_ptr<natsMsg>> waiting;

 private:
  connection_pointer connection_;
  context_pointer context_;
  subscription_pointer subscription_;
};

nats_consumer::nats_consumer(std::unique_ptr<state> s) noexcept : state_(std::move(s)) {}
nats_consumer::~nats_consumer() = default;

awaitable<std::unique_ptr<nats_consumer>> nats_consumer::connect(nats_server server, std::string stream,
                                                                 std::string name, duration ack_wait) {
  const auto open = [&] { return std::make_unique<state>(server, stream, name, ack_wait); };
  auto made = co_await spawn_on(detail::blocking_calls(), open);
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
    (void)co_await spawn_on(detail::blocking_calls(), fetch);
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
  (void)natsMsg_Ack(static_cast<natsMsg*>(d.handle.get()), nullptr);
}
void nats_consumer::reject(const delivery& d) { (void)natsMsg_Nak(static_cast<natsMsg*>(d.handle.get()), nullptr); }

}  // namespace cofferdam::inline COFFERDAM_ABI

#endif
