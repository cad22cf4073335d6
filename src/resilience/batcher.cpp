#include <cofferdam/resilience/batcher.hpp>

namespace cofferdam::inline COFFERDAM_ABI {

std::vector<std::string> validate(const batcher_options& options) {
  std::vector<std::string> problems;
  const auto require = [&](bool fine, const char* problem) {
    if (!fine) problems.emplace_back(problem);
  };
  require(options.max_delay >= duration::zero(), "max_delay: must not be negative");
  require(options.max_size >= 1, "max_size: must be at least 1");
  require(options.max_concurrent >= 1, "max_concurrent: must be at least 1");
  require(options.max_concurrent <= 1'000'000'000, "max_concurrent: must be at most 1e9");
  return problems;
}

namespace detail {

std::exception_ptr wrong_number_of_answers(const std::string& batcher, std::size_t answers, std::size_t keys) {
  return std::make_exception_ptr(batch_answer_error("batcher '" + batcher + "': " + std::to_string(answers) +
                                                    " answers to " + std::to_string(keys) + " keys"));
}

std::exception_ptr no_answer(const std::string& batcher) {
  return std::make_exception_ptr(batch_answer_error("batcher '" + batcher + "': no answer to this key"));
}

}  // namespace detail
}  // namespace cofferdam::inline COFFERDAM_ABI
