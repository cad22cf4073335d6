// Events from a component to whoever listens: typed, in order, isolated. Without a listener an event costs one
// load, and an idle channel is three words.
#pragma once

#include <cofferdam/core/config.hpp>

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

/// Ends a subscription when destroyed. May outlive the channel.
class [[nodiscard]] subscription {
 public:
  subscription() noexcept = default;
  explicit subscription(std::function<void()> unsubscribe) : unsubscribe_(std::move(unsubscribe)) {}
  subscription(subscription&& other) noexcept : unsubscribe_(std::exchange(other.unsubscribe_, nullptr)) {}
  subscription& operator=(subscription&& other) noexcept {
    subscription ended(std::move(*this));
    unsubscribe_ = std::exchange(other.unsubscribe_, nullptr);
    return *this;
  }
  ~subscription() {
    if (unsubscribe_) unsubscribe_();
  }
  /// Keeps the listener for the channel's life.
  void detach() noexcept { unsubscribe_ = nullptr; }

 private:
  std::function<void()> unsubscribe_;
};

/// Events are delivered in the order they were published, one at a time, never under a lock and never recursively: an
/// event published by a listener follows after the present one. A listener that throws is isolated and counted.
/// Thread safety: every member from any thread. After a subscription ended, a delivery that another thread has already
/// begun may still be running.
template <class Event> class event_channel {
 public:
  using listener = std::function<void(const Event&)>;

  event_channel() noexcept = default;
  event_channel(const event_channel&) = delete;
  event_channel& operator=(const event_channel&) = delete;

  [[nodiscard]] subscription subscribe(listener listen) {
    const auto shared = make_hub();
    const std::lock_guard lock(shared->mutex);
    const std::uint64_t id = ++shared->last_id;
    auto next = std::make_shared<entries>(shared->listeners ? *shared->listeners : entries());
    next->push_back({id, std::make_shared<const listener>(std::move(listen))});
    shared->listeners = std::move(next);
    shared->listening.store(true, std::memory_order_relaxed);
    ever_.store(shared.get(), std::memory_order_release);
    return subscription([weak = std::weak_ptr(shared), id] {
      if (const auto alive = weak.lock()) alive->remove(id);
    });
  }

  [[nodiscard]] bool has_listeners() const noexcept {
    const hub* shared = ever_.load(std::memory_order_acquire);
    return shared != nullptr && shared->listening.load(std::memory_order_relaxed);
  }

  /// Queues an event. May be called under the component's own lock, so that the order is that of its transitions;
  /// `drain` must follow without the lock.
  void enqueue(Event event) {
    if (!has_listeners()) return;
    const std::lock_guard lock(hub_->mutex);
    if (!hub_->listeners->empty()) hub_->queue.push_back(std::move(event));
  }
  /// Delivers what is queued, unless another thread (or an outer frame of this one) is doing so.
  void drain() {
    if (has_listeners()) hub_->drain();
  }
  void publish(Event event) {
    if (!has_listeners()) return;
    enqueue(std::move(event));
    drain();
  }

  /// How often a listener threw.
  [[nodiscard]] std::uint64_t failed_deliveries() const noexcept {
    const hub* shared = ever_.load(std::memory_order_acquire);
    return shared != nullptr ? shared->failures.load(std::memory_order_relaxed) : 0;
  }

 private:
  struct entry {
    std::uint64_t id;
    std::shared_ptr<const listener> listen;
  };
  using entries = std::vector<entry>;

  struct hub {
    std::mutex mutex;
    std::shared_ptr<const entries> listeners;
    std::deque<Event> queue;
    std::uint64_t last_id = 0;
    bool draining = false;
    std::atomic<bool> listening{false};  // there are listeners
    std::atomic<std::uint64_t> failures{0};

    void remove(std::uint64_t id) {
      std::shared_ptr<const entries> before;  // destroyed without the lock, like what the listener owns
      std::deque<Event> unheard;
      const std::lock_guard lock(mutex);
      auto next = std::make_shared<entries>(*listeners);
      std::erase_if(*next, [id](const entry& e) { return e.id == id; });
      before = std::exchange(listeners, std::move(next));
      if (!listeners->empty()) return;
      listening.store(false, std::memory_order_relaxed);
      unheard.swap(queue);
    }
    void drain() {
      std::unique_lock lock(mutex);
      if (draining) return;
      draining = true;
      while (!queue.empty()) {
        Event event = std::move(queue.front());
        queue.pop_front();
        auto present = listeners;
        lock.unlock();
        deliver(std::move(event), std::move(present));
        lock.lock();
      }
      draining = false;
    }
    /// Takes both, so that they are destroyed without the lock too: a listener, or an event, may own what uses the
    /// channel.
    void deliver(const Event event, const std::shared_ptr<const entries> present) {
      for (const auto& e : *present) {
        try {
          (*e.listen)(event);
        } catch (...) {
          failures.fetch_add(1, std::memory_order_relaxed);
        }
      }
    }
  };

  std::shared_ptr<hub> make_hub() {
    static std::mutex creation;  // first subscriptions only
    const std::lock_guard lock(creation);
    if (!hub_) hub_ = std::make_shared<hub>();
    return hub_;
  }

  std::shared_ptr<hub> hub_;         // written once, before ever_ says so
  std::atomic<hub*> ever_{nullptr};  // set by the first subscription
};

}  // namespace cofferdam::inline COFFERDAM_ABI
