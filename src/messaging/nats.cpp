#if defined(COFFERDAM_HAS_NATS)

#include <cofferdam/core/spawn.hpp>
#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/messaging/nats.hpp>
#include <cofferdam/outbox/cloud_event.hpp>

#include <nats/nats.h>

#include "client_library.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>
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

/// How soon what is sent leaves: message by message, or together with what comes within a millisecond.
enum class pace : std::uint8_t { prompt, bulk };

connection_pointer open_connection(const nats_server& server, pace p = pace::prompt) {
  natsOptions* made = nullptr;
  require(natsOptions_Create(&made), "NATS");
  const options_pointer options(made);
  require(natsOptions_SetURL(made, server.url().c_str()), "the URL of the NATS server");
  const auto timeout = std::chrono::ceil<std::chrono::milliseconds>(server.connect_timeout()).count();
  require(natsOptions_SetTimeout(made, timeout), "the connect timeout");
  require(natsOptions_SetMaxReconnect(made, -1), "NATS");
  require(natsOptions_SetReconnectWait(made, 250), "NATS");
  require(natsOptions_SetSendAsap(made, p == pace::prompt), "NATS");
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
      : max_pending_(std::max<std::size_t>(options.max_pending, 1)),
        prompt_(open_connection(server)),
        bulk_(open_connection(server, pace::bulk)),
        prompt_context_(open_context(prompt_)),
        bulk_context_(open_context(bulk_)) {}
  ~state() {
    give_up_acknowledgements();
    {
      // What the library had taken off its list before is with a thread of its own, which is about to call us.
      std::unique_lock lock(mutex_);
      all_ended_.wait(lock, [this] { return flights_.empty(); });
    }
    for (auto* context : {&prompt_context_, &bulk_context_}) context->reset();
    for (auto* connection : {&prompt_, &bulk_}) natsConnection_Close(connection->get());
  }
  state(const state&) = delete;
  state& operator=(const state&) = delete;

  awaitable<void> publish(std::span<publication> all);

  std::mutex context_mutex;  // of blocking calls
  [[nodiscard]] jsCtx* context() const noexcept { return prompt_context_.get(); }
  [[nodiscard]] std::size_t pending() const {
    const std::lock_guard lock(mutex_);
    return flights_.size();
  }
  std::atomic<std::uint64_t> duplicates{0};

 private:
  context_pointer open_context(const connection_pointer& connection) {
    jsOptions options;
    require(jsOptions_Init(&options), "JetStream");
    options.PublishAsync.MaxPending = 0;  // we wait where the library would block
    options.PublishAsync.AckHandler = on_ack;
    options.PublishAsync.AckHandlerClosure = this;
    jsCtx* made = nullptr;
    require(natsConnection_JetStream(&made, connection.get(), &options), "JetStream");
    return context_pointer(made);
  }

  struct answer {
    bool is_over = false, is_duplicate = false;
    natsStatus status = NATS_OK;
    int code = 0;
    std::string text;
  };
  using wave = detail::wave<answer>;
  struct flight {
    detail::reference<wave> of;
    std::size_t place;
    jsCtx* via;
  };
  using flights = std::unordered_map<natsMsg*, flight>;
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
    answer a;
    if (ack != nullptr) a.is_duplicate = ack->Duplicate;
    if (error != nullptr) {
      a.status = error->Err;
      a.code = static_cast<int>(error->ErrCode);
      a.text = error->ErrText != nullptr ? error->ErrText : natsStatus_GetText(error->Err);
    }
    self.end(acknowledged, std::move(a)).go_on();
  }
  waiters end(natsMsg* which, answer a) {
    const std::lock_guard lock(mutex_);
    const auto found = flights_.find(which);
    if (found == flights_.end()) return {};
    wave& w = *found->second.of;
    if (w.is_abandoned) {
      --abandoned_;
    } else {
      a.is_over = true;
      w.answers[found->second.place] = std::move(a);
    }
    waiters who;
    who.publisher = w.end();
    who.waiting_for_room = std::exchange(waiting_for_room_, {});
    flights_.erase(found);
    if (flights_.empty()) all_ended_.notify_all();
    return who;
  }
  [[nodiscard]] bool has_room() const {
    const std::lock_guard lock(mutex_);
    return flights_.size() < max_pending_;
  }
  awaitable<void> wait_for_room();
  awaitable<void> send_all(std::span<publication> all, wave& with);
  void give_up_acknowledgements();
  static message_pointer to_nats(const message& m);
  void send(const message& m, jsCtx* via, wave& with, std::size_t place);
  /// Whoever sent the wave waits no longer.
  void leave(wave& w);
  [[nodiscard]] static failure failure_of(const message& m, const answer& a);

  const std::size_t max_pending_;
  // A message that follows nobody leaves at once; many together cost less.
  connection_pointer prompt_, bulk_;
  context_pointer prompt_context_, bulk_context_;
  mutable std::mutex mutex_;
  std::condition_variable all_ended_;
  flights flights_;
  std::size_t abandoned_ = 0;  // of these
  std::vector<detail::parked_reference> waiting_for_room_;
};

/// The library keeps what was never acknowledged, as after a lost connection, for ever.
void nats_publisher::state::give_up_acknowledgements() {
  for (jsCtx* context : {prompt_context_.get(), bulk_context_.get()}) {
    {
      const std::lock_guard lock(mutex_);
      const auto is_via = [context](const auto& each) { return each.second.via == context; };
      // libnats 3.4 crashes when it is asked for the list of a context that has never published.
      if (std::ranges::none_of(flights_, is_via)) continue;
    }
    natsMsgList lost{};
    if (js_PublishAsyncGetPendingList(&lost, context) != NATS_OK) continue;
    for (int i = 0; i < lost.Count; ++i) {
      answer none;
      none.status = NATS_TIMEOUT;
      none.text = "no acknowledgement";
      end(lost.Msgs[i], std::move(none)).go_on();
    }
    natsMsgList_Destroy(&lost);
  }
}

awaitable<void> nats_publisher::state::wait_for_room() {
  const auto is_over = [this] { return flights_.size() < max_pending_; };
  const auto enlist = detail::wait_among(waiting_for_room_, mutex_, is_over);
  while (!has_room()) {
    bool is_lost = false;
    {
      const std::lock_guard lock(mutex_);
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

message_pointer nats_publisher::state::to_nats(const message& m) {
  natsMsg* made = nullptr;
  const auto size = static_cast<int>(m.payload().size());
  const natsStatus created = natsMsg_Create(&made, m.topic().c_str(), nullptr, m.payload().data(), size);
  if (created != NATS_OK) throw message_refused_error("the subject '" + m.topic() + "': " + text_of(created));
  for (const auto& [name, text] : m.headers()) (void)natsMsgHeader_Set(made, name.c_str(), text.c_str());
  (void)natsMsgHeader_Set(made, "Nats-Msg-Id", m.id().c_str());
  for_each_cloud_event_attribute(m, [made](const char* name, const std::string& text) {
    (void)natsMsgHeader_Set(made, (std::string("ce-") + name).c_str(), text.c_str());
  });
  return message_pointer(made);
}

void nats_publisher::state::send(const message& m, jsCtx* via, wave& with, std::size_t place) {
  message_pointer made = to_nats(m);
  natsMsg* const name = made.get();
  {
    const std::lock_guard lock(mutex_);
    // Before it is sent: the answer may be faster than we are.
    flights_.emplace(name, flight{detail::reference<wave>::share(with), place, via});
    ++with.open;
  }
  natsMsg* sent = made.release();
  const natsStatus status = js_PublishMsgAsync(via, &sent, nullptr);
  if (status == NATS_OK) return;
  const message_pointer still_ours(sent);
  {
    const std::lock_guard lock(mutex_);
    flights_.erase(name);
    --with.open;
  }
  const bool is_refused = status == NATS_MAX_PAYLOAD || status == NATS_INVALID_SUBJECT || status == NATS_INVALID_ARG;
  const std::string what = "the message '" + m.id() + "' for '" + m.topic() + "': " + text_of(status);
  if (is_refused) throw message_refused_error(what);
  throw broker_error(errc::broker_unavailable, what);
}

void nats_publisher::state::leave(wave& w) {
  const std::lock_guard lock(mutex_);
  w.abandon();
  abandoned_ += w.open;
}

failure nats_publisher::state::failure_of(const message& m, const answer& a) {
  const std::string what = "the message '" + m.id() + "' for '" + m.topic() + "': " + a.text;
  if (a.code == JSStreamMessageExceedsMaximumErr) {
    return failure::thrown(std::make_exception_ptr(message_refused_error(what)));
  }
  if (a.status == NATS_NO_RESPONDERS || a.code == JSStreamNotFoundErr) {
    const std::string missing = "no stream takes the subject '" + m.topic() + "': " + a.text;
    return failure::thrown(std::make_exception_ptr(broker_error(errc::topic_missing, missing)));
  }
  return failure::thrown(std::make_exception_ptr(broker_error(errc::broker_unavailable, what)));
}

awaitable<void> nats_publisher::state::send_all(std::span<publication> all, wave& with) {
  constexpr std::size_t many = 16;
  jsCtx* const via = (all.size() < many ? prompt_context_ : bulk_context_).get();
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (!has_room()) co_await wait_for_room();
    try {
      send(*all[i].content, via, with, i);
    } catch (const std::exception& e) {
      all[i].why = failure::current(e);
    }
  }
}

awaitable<void> nats_publisher::state::publish(std::span<publication> all) {
  const detail::reference<wave> mine(new wave(all.size()));
  std::exception_ptr cancelled;
  try {
    co_await send_all(all, *mine);
    co_await detail::wait_for(mine, mutex_);
  } catch (const std::exception&) {
    cancelled = std::current_exception();
  }
  leave(*mine);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const answer& a = mine->answers[i];
    if (!a.is_over) continue;
    if (a.is_duplicate) duplicates.fetch_add(1, std::memory_order_relaxed);
    all[i].is_done = a.status == NATS_OK && a.code == 0;
    if (!all[i].is_done) all[i].why = failure_of(*all[i].content, a);
  }
  if (cancelled) std::rethrow_exception(cancelled);
}

awaitable<std::unique_ptr<nats_publisher>> nats_publisher::connect(nats_server server, nats_publisher_options options) {
  const auto open = [&server, &options] { return std::make_shared<state>(server, options); };
  auto made = co_await spawn_on(detail::blocking_calls(), open);
  co_return std::unique_ptr<nats_publisher>(new nats_publisher(std::move(made)));
}
nats_publisher::~nats_publisher() = default;

awaitable<void> nats_publisher::publish(const message& m) {
  publication one{&m};
  co_await state_->publish({&one, 1});
  if (one.why) one.why.raise();
}
awaitable<void> nats_publisher::publish_all(std::span<publication> all) { return state_->publish(all); }
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
  state_->acknowledged(d.sequence);
  (void)natsMsg_Ack(static_cast<natsMsg*>(d.handle.get()), nullptr);
}
void nats_consumer::reject(const delivery& d) { (void)natsMsg_Nak(static_cast<natsMsg*>(d.handle.get()), nullptr); }

}  // namespace cofferdam::inline COFFERDAM_ABI

#endif
