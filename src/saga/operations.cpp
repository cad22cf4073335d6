// The public pieces that only pass on to the saga in memory.
#include "engine_state.hpp"

#include <cofferdam/saga/scope.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>

namespace cofferdam::inline COFFERDAM_ABI::saga {

const std::string& step_context::saga_id() const noexcept { return saga_->id(); }
std::uint64_t step_context::epoch() const noexcept { return saga_->epoch(); }
std::string step_context::idempotency_key() const { return saga_->id() + '/' + *key_ + (is_undo_ ? "!undo" : ""); }
awaitable<void> step_context::heartbeat(nlohmann::json progress) {
  return saga_->heartbeat(*key_, std::move(progress));
}
nlohmann::json step_context::progress() const { return saga_->progress_of(*key_); }

const std::string& scope::saga_id() const noexcept { return saga_->id(); }

std::string scope::key_of(std::string_view name) {
  auto it = std::ranges::find(counts_, name, [](const auto& each) { return std::string_view(each.first); });
  if (it == counts_.end()) {
    if (counts_.empty()) counts_.reserve(8);
    counts_.emplace_back(name, 0);
    it = std::prev(counts_.end());
  }
  std::array<char, std::numeric_limits<std::uint32_t>::digits10 + 1> text{};
  const auto* const end = std::to_chars(text.data(), text.data() + text.size(), ++it->second).ptr;
  const std::string_view number(text.data(), static_cast<std::size_t>(end - text.data()));
  std::string key;
  key.reserve(path_.size() + name.size() + 1 + number.size());  // every step makes one
  key.append(path_).append(name).append(1, '#').append(number);
  return key;
}

namespace detail {

void definition::add(step_descriptor step) {
  const std::string step_name(step.name);
  if (!steps.emplace(step_name, std::move(step)).second) {
    throw std::logic_error("'" + name + "' is defined with two steps of the name '" + step_name + "'");
  }
}

bool step_work::await_ready() { return saga_->replay(*this); }
awaitable<bool> step_work::perform() { return saga_->run_step(*this); }
bool wait_operation::await_ready() { return saga_->replay(*this); }
awaitable<bool> wait_operation::perform() { return saga_->run_wait(*this); }
bool lock_operation::await_ready() { return saga().replay(*this); }
awaitable<bool> lock_operation::perform() { return saga().run_lock(*this); }
bool mark_operation::await_ready() { return saga_->replay_mark(key_, answer_); }
awaitable<bool> mark_operation::perform() {
  answer_ = true;
  return saga_->run_mark(key_);
}
awaitable<bool> all_work::perform() { return saga_->run_all(by(), branches(), is_undone_in_parallel_, failed_); }
awaitable<bool> race_work::perform() { return saga_->run_race(*this); }
bool child_work::await_ready() { return saga_->replay(*this); }
awaitable<bool> child_work::perform() { return saga_->run_child(*this); }
bool nested_work::await_ready() { return saga_->replay_nested(branch(), failed_); }
awaitable<bool> nested_work::perform() { return saga_->run_nested(by(), branch(), failed_); }

}  // namespace detail
}  // namespace cofferdam::inline COFFERDAM_ABI::saga
