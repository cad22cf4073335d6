// Linearisability (Herlihy and Wing, 1990): whether what several threads saw of an object could have come from one
// thread that did the same operations one after the other, in an order in which nothing that had returned comes after
// what was invoked later. Small histories of real threads are recorded, and such an order is searched for (Wing and
// Gong, 1993, remembering where it failed, as Lowe does).
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace cofferdam::test {

/// An operation with its result, and when it was invoked and returned on a clock that all threads share.
template <class Operation> struct observed {
  Operation what;
  std::uint64_t invoked, returned;
};

/// @tparam Model  copyable, ordered by `<`, with `bool apply(const Operation&)`: does the operation; false when it
///                could not have had its result here.
/// @param history at most 64 operations.
template <class Model, class Operation>
bool is_linearisable(const Model& initial, const std::vector<observed<Operation>>& history) {
  if (history.size() > 64) throw std::logic_error("a history is too long to be searched");
  std::set<std::pair<std::uint64_t, Model>> failed;
  const std::function<bool(const Model&, std::uint64_t)> leads_to_the_end = [&](const Model& model,
                                                                                std::uint64_t done) {
    const auto is_done = [&](std::size_t i) { return (done >> i & 1U) != 0; };
    std::uint64_t first_return = UINT64_MAX;
    for (std::size_t i = 0; i < history.size(); ++i) {
      if (!is_done(i)) first_return = std::min(first_return, history[i].returned);
    }
    if (first_return == UINT64_MAX) return true;
    if (failed.contains({done, model})) return false;
    for (std::size_t i = 0; i < history.size(); ++i) {
      if (is_done(i) || history[i].invoked > first_return) continue;
      Model next = model;
      if (next.apply(history[i].what) && leads_to_the_end(next, done | std::uint64_t{1} << i)) return true;
    }
    failed.emplace(done, model);
    return false;
  };
  return leads_to_the_end(initial, 0);
}

/// The caller and further threads that begin together, again and again: threads that last own what is theirs for life.
class crew {
 public:
  explicit crew(std::size_t size) {
    for (std::size_t index = 1; index < size; ++index) {
      others_.emplace_back([this, index] { serve(index); });
    }
  }
  ~crew() {
    work_ = nullptr;
    round_.fetch_add(1);
    for (auto& other : others_) other.join();
  }
  crew(const crew&) = delete;
  crew& operator=(const crew&) = delete;

  [[nodiscard]] std::size_t size() const noexcept { return others_.size() + 1; }
  /// Calls `work(index)` on each thread; returns when all have returned. It must not throw.
  void together(const std::function<void(std::size_t)>& work) {
    work_ = &work;
    ready_ = 0;
    done_ = 0;
    round_.fetch_add(1);
    begin(0);
    while (done_.load() < size()) std::this_thread::yield();
  }

 private:
  void serve(std::size_t index) {
    for (std::uint64_t seen = 0;; ++seen) {
      while (round_.load() == seen) std::this_thread::yield();
      if (work_ == nullptr) return;
      begin(index);
    }
  }
  void begin(std::size_t index) {
    ready_.fetch_add(1);
    while (ready_.load() < size()) std::this_thread::yield();
    (*work_)(index);
    done_.fetch_add(1);
  }

  const std::function<void(std::size_t)>* work_ = nullptr;
  std::atomic<std::uint64_t> round_{0};
  std::atomic<std::size_t> ready_{0}, done_{0};
  std::vector<std::thread> others_;
};

/// Records rounds of a crew on a fresh object each, and searches an order for every one.
/// @param make  the object of a round, as a pointer.
/// @param act   `Operation act(Object&, std::size_t thread, std::mt19937_64&)` does one operation.
/// @return      empty, or the first history that has no order: a line each by `to_string(operation)`.
template <class Model, class Make, class Act>
std::string first_without_order(crew& threads, std::size_t rounds, std::size_t operations_each, const Model& initial,
                                Make make, Act act) {
  using object_pointer = decltype(make());
  using operation = decltype(act(*std::declval<object_pointer&>(), std::size_t{}, std::declval<std::mt19937_64&>()));
  for (std::size_t round = 0; round < rounds; ++round) {
    object_pointer object = make();
    std::atomic<std::uint64_t> clock{0};
    std::vector<std::vector<observed<operation>>> seen(threads.size());
    threads.together([&](std::size_t thread) {
      std::mt19937_64 random(round * threads.size() + thread);
      seen[thread].reserve(operations_each);
      for (std::size_t i = 0; i < operations_each; ++i) {
        const std::uint64_t invoked = clock.fetch_add(1);
        auto what = act(*object, thread, random);
        seen[thread].push_back({std::move(what), invoked, clock.fetch_add(1)});
      }
    });
    std::vector<observed<operation>> history;
    for (auto& of_thread : seen) history.insert(history.end(), of_thread.begin(), of_thread.end());
    if (is_linearisable(initial, history)) continue;
    std::string text = "round " + std::to_string(round) + ":";
    for (const auto& one : history) {
      text += "\n  " + std::to_string(one.invoked) + " to " + std::to_string(one.returned) + ": " + to_string(one.what);
    }
    return text;
  }
  return "";
}

}  // namespace cofferdam::test
