#include <cofferdam/core/outcome.hpp>
#include <cofferdam/core/parked.hpp>
#include <cofferdam/messaging/in_process.hpp>

#include <algorithm>
#include <deque>
#include <mutex>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

in_process_bus& in_process_bus::subscribe(std::string topic, handler h) {
  handlers_[std::move(topic)].push_back(std::move(h));
  return *this;
}

awaitable<void> in_process_bus::publish(const message& m) {
  const auto found = handlers_.find(m.topic());
  if (found == handlers_.end()) co_return;
  for (const handler& h : found->second) co_await h(m);
}

class in_process_consumer::state {
 public:
  /// A message whose publisher waits.
  struct entry {
    explicit entry(message m) : content(std::move(m)) {}
    message content;
    enum class end : std::uint8_t { open, acknowledged, rejected } how = end::open;
    detail::parked_reference publisher;
  };

  awaitable<void> publish(const message& m) {
    const auto mine = std::make_shared<entry>(m);
    {
      const std::lock_guard lock(mutex_);
      if (!is_closed_) arrived_.push_back(mine);
    }
    wake_takers();
    const auto enlist = [this, mine](const detail::parked_reference& self) {
      {
        const std::lock_guard lock(mutex_);
        if (mine->how == entry::end::open && !is_closed_) {
          mine->publisher = self;
          return;
        }
      }
      self->wake(wake_reason::woken);
    };
    (void)co_await park(never, enlist);
    const std::lock_guard lock(mutex_);
    std::erase(arrived_, mine);
    mine->publisher = {};
    if (mine->how == entry::end::acknowledged) co_return;
    const bool is_cancelled = mine->how == entry::end::open && !is_closed_;
    if (is_cancelled) failure::cancelled().raise();
    throw error(errc::broker_unavailable, nullptr);
  }

  awaitable<std::optional<delivery>> next(duration limit) {
    const auto executor = co_await net::this_coro::executor;
    const time_point until = saturating_add(timers_of(executor).now(), limit);
    detail::parked_reference mine;
    const auto enlist = [this, &mine](const detail::parked_reference& self) {
      {
        const std::lock_guard lock(mutex_);
        mine = self;
        if (arrived_.empty()) {
          takers_.push_back(self);
          return;
        }
      }
      self->wake(wake_reason::woken);
    };
    for (;;) {
      auto first = take();
      if (first) {
        message content = first->content;
        co_return std::optional<delivery>(delivery{std::move(content), std::move(first)});
      }
      const auto why = co_await park(until, enlist);
      forget_taker(*mine);
      if (why == wake_reason::cancelled) failure::cancelled().raise();
      if (why == wake_reason::timed_out) co_return std::nullopt;
    }
  }

  void settle(entry& e, entry::end how) {
    detail::parked_reference waiting;
    {
      const std::lock_guard lock(mutex_);
      if (e.how == entry::end::open) e.how = how;
      waiting = std::exchange(e.publisher, {});
      std::erase_if(taken_, [&e](const auto& other) { return other.get() == &e; });
    }
    if (waiting) waiting->wake(wake_reason::woken);
  }

  void close() {
    std::vector<std::shared_ptr<entry>> left;
    {
      const std::lock_guard lock(mutex_);
      is_closed_ = true;
      left.assign(arrived_.begin(), arrived_.end());
      left.insert(left.end(), taken_.begin(), taken_.end());
    }
    for (const auto& each : left) settle(*each, entry::end::rejected);
  }

 private:
  std::shared_ptr<entry> take() {
    const std::lock_guard lock(mutex_);
    if (arrived_.empty()) return nullptr;
    taken_.push_back(std::move(arrived_.front()));
    arrived_.pop_front();
    return taken_.back();
  }
  void forget_taker(const detail::parked& taker) {
    const std::lock_guard lock(mutex_);
    std::erase_if(takers_, [&taker](const detail::parked_reference& other) { return &*other == &taker; });
  }
  void wake_takers() {
    std::vector<detail::parked_reference> woken;
    {
      const std::lock_guard lock(mutex_);
      woken.swap(takers_);
    }
    for (const auto& each : woken) each->wake(wake_reason::woken);
  }

  std::mutex mutex_;
  std::deque<std::shared_ptr<entry>> arrived_;
  std::vector<std::shared_ptr<entry>> taken_;
  std::vector<detail::parked_reference> takers_;
  bool is_closed_ = false;
};

in_process_consumer::in_process_consumer(in_process_bus& bus, std::string topic) : state_(std::make_shared<state>()) {
  bus.subscribe(std::move(topic), [s = state_](const message& m) { return s->publish(m); });
}
in_process_consumer::~in_process_consumer() { state_->close(); }

awaitable<std::optional<in_process_consumer::delivery>> in_process_consumer::next(duration limit) {
  return state_->next(limit);
}
void in_process_consumer::acknowledge(const delivery& d) {
  state_->settle(*static_cast<state::entry*>(d.handle.get()), state::entry::end::acknowledged);
}
void in_process_consumer::reject(const delivery& d) {
  state_->settle(*static_cast<state::entry*>(d.handle.get()), state::entry::end::rejected);
}

}  // namespace cofferdam::inline COFFERDAM_ABI
