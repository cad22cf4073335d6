#include <cofferdam/resilience/pipeline.hpp>

#include <algorithm>

namespace cofferdam::inline COFFERDAM_ABI {

awaitable<admission> policy::wait(call&, policy_slot&) { co_return admission::go; }

namespace detail {

void append_line(std::string& text, const std::string& line) {
  if (!text.empty()) text += '\n';
  text += line;
}

policy_list::policy_list(std::vector<std::shared_ptr<policy>> policies)
    : policies_(std::move(policies)), members_(policies_.size()) {
  std::size_t end = policies_.size();
  for (std::size_t index = end; index-- > 0;) {
    auto* scope = policies_[index]->as_scope();
    if (scope != nullptr) end = index + 1;
    members_[index] = {policies_[index].get(), scope, end};
  }
}

}  // namespace detail

pipeline::pipeline(std::string name, std::vector<std::shared_ptr<policy>> policies) : name_(std::move(name)) {
  if (std::ranges::find(policies, nullptr) != policies.end()) {
    throw invalid_options_error("pipeline '" + name_ + "': a policy is null");
  }
  policies_ = std::make_shared<const detail::policy_list>(std::move(policies));
}

std::string pipeline::describe() const {
  std::string text;
  for (const auto& policy : policies_->policies()) detail::append_line(text, policy->describe());
  return text;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
