#include <cofferdam/cqrs/query_bus.hpp>

#include <algorithm>
#include <stdexcept>

namespace cofferdam::inline COFFERDAM_ABI {

query_bus::query_bus() = default;
query_bus::~query_bus() = default;

query_bus::entry& query_bus::at(std::size_t slot) {
  if (slot >= entries_.size()) entries_.resize(slot + 1);
  if (!entries_[slot]) entries_[slot] = std::make_unique<entry>();
  return *entries_[slot];
}

void query_bus::set_handler(std::size_t slot, const std::string& name, std::unique_ptr<detail::any_handler> handler) {
  entry& to = at(slot);
  to.name = name;
  if (to.handler) problems_.push_back("'" + name + "' has more than one handler");
  to.handler = std::move(handler);
}

void query_bus::expect(std::size_t slot, const std::string& name) {
  at(slot).name = name;
  expected_.push_back(slot);
}

query_bus& query_bus::authorise(std::function<bool(const std::string&, const command_context&)> rule) {
  authorise_ = std::move(rule);
  is_plain_ = false;
  return *this;
}

query_bus& query_bus::use(pipeline policies) {
  policies_ = std::move(policies);
  is_plain_ = false;
  return *this;
}

void query_bus::build() {
  for (std::size_t slot = 0; slot < entries_.size(); ++slot) {
    const auto& to = entries_[slot];
    if (!to || to->handler) continue;
    const bool is_expected = std::ranges::find(expected_, slot) != expected_.end();
    problems_.push_back(is_expected ? "'" + to->name + "' has no handler"
                                    : "a table is read by a query without handler");
  }
  std::string all;
  for (const auto& problem : problems_) all += (all.empty() ? "" : "\n") + problem;
  if (!all.empty()) throw invalid_options_error(all);
}

query_bus::entry& query_bus::find(std::size_t slot, const std::string& name) {
  if (slot < entries_.size() && entries_[slot] && entries_[slot]->handler) [[likely]]
    return *entries_[slot];
  throw std::logic_error("nobody answers '" + name + "': call handle<" + name + ">() first");
}

failure query_bus::refusal(const entry& to, const command_context& context) const {
  if (!authorise_ || authorise_(to.name, context)) return {};
  return failure::refused(errc::command_forbidden, std::make_shared<const std::string>(to.name));
}

awaitable<failure> query_bus::wait_for_tables(const entry& to, ask_options options) {
  const auto executor = co_await net::this_coro::executor;
  auto& timers = timers_of(executor);
  const time_point until = saturating_add(timers.now(), options.limit);
  failure why;
  try {
    for (const auto& each : to.tables) {
      const bool is_there = co_await each.wait_for(options.at_least.position, until - timers.now());
      if (is_there) continue;
      const std::uint64_t position = co_await each.position();
      throw storage_error(errc::stale_read, "'" + to.name + "' is asked for position " +
                                                std::to_string(options.at_least.position) + ", its table is at " +
                                                std::to_string(position));
    }
  } catch (const std::exception& e) {
    why = failure::current(e);
  }
  co_return why;
}

void query_bus::publish(query_event::kind what, const entry& about, const command_context& context, duration took,
                        const failure& why) {
  if (events_.has_listeners()) events_.publish({what, about.name, why, took, &context});
}

}  // namespace cofferdam::inline COFFERDAM_ABI
