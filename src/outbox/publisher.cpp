#include <cofferdam/core/workers.hpp>
#include <cofferdam/outbox/publisher.hpp>

#include <cstddef>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

awaitable<void> publish_one(publisher& to, publication& one, bool& is_cancelled) {
  try {
    co_await to.publish(*one.content);
    one.is_done = true;
  } catch (const std::exception& e) {
    failure why = failure::current(e);
    is_cancelled = is_cancelled || why.is_cancellation();
    if (!why.is_cancellation()) one.why = std::move(why);
  }
}

}  // namespace

awaitable<void> publisher::publish_all(std::span<publication> all) {
  bool is_cancelled = false;
  std::size_t next = 0;
  const auto make = [&] { return publish_one(*this, all[next++], is_cancelled); };
  if (!all.empty()) co_await detail::run_workers(all.size(), make);
  if (is_cancelled) failure::cancelled().raise();
}

}  // namespace cofferdam::inline COFFERDAM_ABI
