#include <cofferdam/core/sleep.hpp>
#include <cofferdam/outbox/testing.hpp>
#include <cofferdam/storage/testing.hpp>

#include <memory>
#include <stdexcept>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

/// A process that dies at its n-th point; 0: never. What is dead reaches nobody any more: to it, every call ends as if
/// it had been cancelled.
struct process {
  std::size_t at = 0, passed = 0;
  bool is_dead = false;
  std::string where;

  void pass(std::string_view call, bool is_over) {
    if (!is_dead && ++passed == at) {
      is_dead = true;
      where =
          std::string(is_over ? "after a " : "before a ") + std::string(call) + " (point " + std::to_string(at) + ")";
    }
    if (is_dead) failure::cancelled().raise();
  }
};

class mortal_publisher final : public publisher {
 public:
  mortal_publisher(process& p, const std::function<awaitable<void>(const message&)>& to) noexcept
      : process_(&p), to_(&to) {}
  awaitable<void> publish(const message& m) override {
    process_->pass("publish", false);
    co_await (*to_)(m);
    process_->pass("publish", true);
  }

 private:
  process* process_;
  const std::function<awaitable<void>(const message&)>* to_;
};

}  // namespace

awaitable<std::size_t> relay_crash_explorer::run_once(std::size_t first, std::size_t second) {
  if (reset_) reset_();
  database db = co_await database::open("sqlite::memory:");
  outbox messages = co_await outbox::open(db);
  co_await begin_(messages);
  std::string where;
  std::size_t deaths = 0;
  for (const std::size_t at : {first, second, std::size_t{0}}) {
    process owner;
    owner.at = at;
    database view = watched(db, [&owner](std::string_view call, bool is_over) { owner.pass(call, is_over); });
    mortal_publisher broker(owner, publish_);
    std::uint64_t left = 1;
    for (int patience = 0; left > 0 && !owner.is_dead && patience < 10; ++patience) {
      try {
        outbox seen = co_await outbox::open(view);
        relay carrier(seen, broker, "relay", options_);
        (void)co_await carrier.run_due();
      } catch (const std::exception&) {
        if (!owner.is_dead) throw;
      }
      if (owner.is_dead) break;
      relay looking(messages, broker, "relay", options_);
      const auto status = co_await looking.status();
      left = status.backlog;
      if (left > 0) co_await sleep_for(options_.lease);  // of the dead
    }
    if (!owner.is_dead && left > 0) {
      throw std::logic_error(std::to_string(left) + " messages are never published after a crash " + where);
    }
    if (!owner.is_dead) break;
    ++deaths;
    where += (where.empty() ? "" : ", then ") + owner.where;
  }
  co_await check_(where);
  co_return deaths;
}

awaitable<relay_crash_explorer::result> relay_crash_explorer::run() {
  result explored;
  for (std::size_t first = 1;; ++first) {
    const std::size_t deaths = co_await run_once(first, 0);
    ++explored.runs;
    if (deaths == 0) co_return explored;
    ++explored.points;
    for (std::size_t second = 1; second_step_ > 0; second += second_step_) {
      const std::size_t both = co_await run_once(first, second);
      ++explored.runs;
      if (both < 2) break;
    }
  }
}

}  // namespace cofferdam::inline COFFERDAM_ABI
