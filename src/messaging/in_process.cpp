#include <cofferdam/messaging/in_process.hpp>

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

}  // namespace cofferdam::inline COFFERDAM_ABI
