// A policy of one's own: admits calls only while a feature switch is on, waits a little for it, and counts what passes.
// A policy is two functions; deriving from runnable_policy gives it run() and a place in pipelines.
#include <cofferdam/core/virtual_time.hpp>
#include <cofferdam/resilience/fallback.hpp>
#include <cofferdam/resilience/pipeline.hpp>

#include <cstdio>

using namespace cofferdam;
using namespace std::chrono_literals;

namespace {

class feature_switch final : public runnable_policy<feature_switch> {
 public:
  void turn(bool on) { on_ = on; }

  admission admit(call&, policy_slot&) noexcept override { return on_ ? admission::go : admission::wait; }

  // Called after `admission::wait`: may suspend.
  awaitable<admission> wait(call& c, policy_slot&) override {
    co_await sleep_for(1s);
    co_return on_ ? admission::go : c.refuse(errc::circuit_isolated, name_);
  }

  // Exactly one of these follows every `go`.
  verdict settle(call&, policy_slot&, const outcome_view& outcome) noexcept override {
    ++(outcome.has_value() ? succeeded : failed);
    return verdict::deliver;
  }
  void abandon(policy_slot&) noexcept override { ++abandoned; }

  std::string describe() const override { return "feature switch"; }

  int succeeded = 0, failed = 0, abandoned = 0;

 private:
  bool on_ = true;
  shared_name name_ = std::make_shared<const std::string>("new checkout");
};

awaitable<void> demonstrate(virtual_time& time) {
  feature_switch checkout;
  auto calls = fallback([](const failure& why) { return "old checkout: " + why.message(); }) | checkout;
  const auto task = [] { return std::string("new checkout"); };

  const auto first = co_await calls.run(task);
  std::printf("%s\n", first.c_str());
  checkout.turn(false);
  const auto second = co_await calls.run(task);
  std::printf("%s\n", second.c_str());
  std::printf("%d succeeded, %d failed, waited %lld s\n", checkout.succeeded, checkout.failed,
              static_cast<long long>(time.elapsed() / 1s));
}

}  // namespace

int main() {
  net::io_context context;
  virtual_time time(context);
  time.run(demonstrate, std::ref(time));
}
