#include <cofferdam/resilience/pipeline.hpp>

#include <algorithm>

namespace cofferdam::inline COFFERDAM_ABI {

awaitable<admission> policy::wait(call&, policy_slot&) { co_return admission::go; }

namespace detail {

void append_line(std::string& text, const std::string& line) {
  if (!text.empty()) text += '\n';
  text += line;
}

dynamic_stages::dynamic_stages(std::shared_ptr<const policy_list> list, std::size_t begin) noexcept
    : list_(std::move(list)), begin_(begin), end_(begin) {
  const auto& policies = list_->policies;
  while (end_ < policies.size() && scope_ == nullptr) scope_ = policies[end_++]->as_scope();
}

}  // namespace detail

pipeline::pipeline(std::string name, std::vector<std::shared_ptr<policy>> policies) : name_(std::move(name)) {
  if (std::ranges::find(policies, nullptr) != policies.end()) {
    throw invalid_options_error("pipeline '" + name_ + "': a policy is null");
  }
  policies_ = std::make_shared<const detail::policy_list>(detail::policy_list{std::move(policies)});
}

std::string pipeline::describe() const {
  std::string text;
  for (const auto& policy : policies_->policies) detail::append_line(text, policy->describe());
  return text;
}

}  // namespace cofferdam::inline COFFERDAM_ABI
