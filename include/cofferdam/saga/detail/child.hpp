// A saga that another one runs and waits for.
#pragma once

#include <cofferdam/saga/detail/definition.hpp>

#include <nlohmann/json.hpp>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga {
namespace detail {

class child_work : public operation {
 public:
  /// @param with   of a coroutine; null for a chain, which is found by its name.
  /// @param make   its definition, for a saga that has no journal.
  child_work(instance& saga, fiber& f, std::string key, plain_function with, std::string named,
             std::function<definition()> make, nlohmann::json input)
      : operation(f),
        saga_(&saga),
        key_(std::move(key)),
        body_(with),
        chain_(std::move(named)),
        make_(std::move(make)),
        input_(std::move(input)) {}

  bool await_ready() override;
  awaitable<bool> perform() override;

  [[nodiscard]] const std::string& key() const noexcept { return key_; }
  [[nodiscard]] plain_function body() const noexcept { return body_; }
  [[nodiscard]] const std::string& chain() const noexcept { return chain_; }
  [[nodiscard]] definition make() const { return make_(); }
  [[nodiscard]] const nlohmann::json& input() const noexcept { return input_; }
  using operation::by;
  void settle(nlohmann::json output) { output_ = std::move(output); }
  void fail(step_failed why) { failed_.emplace(std::move(why)); }

 protected:
  [[nodiscard]] const nlohmann::json& output() const {
    if (failed_) throw step_failed(*failed_);
    return output_;
  }

 private:
  instance* saga_;
  std::string key_;
  plain_function body_;
  std::string chain_;
  std::function<definition()> make_;
  nlohmann::json input_, output_;
  std::optional<step_failed> failed_;
};

template <class Out> class [[nodiscard]] child_operation final : public child_work {
 public:
  using child_work::child_work;
  Out await_resume() const {
    const nlohmann::json& found = output();
    if constexpr (!std::is_void_v<Out>) return found.template get<Out>();
  }
};

/// The input of a saga as it is stored.
template <class In, class Given> nlohmann::json stored_input(Given&& input) {
  return nlohmann::json(static_cast<const In&>(In(std::forward<Given>(input))));
}

}  // namespace detail

template <fixed_string Name, class Out, class In, class Given>
detail::child_operation<Out> scope::call(task<Out> (*body)(scope&, In), Given&& input) {
  static_assert(cofferdam::detail::safe_in_co_await<Given>,
                "GCC 12 destroys this temporary twice inside co_await: name the argument first, and pass the name");
  return {*saga_,
          *fiber_,
          key_of(Name.view()),
          reinterpret_cast<detail::plain_function>(body),
          std::string(),
          [body] { return detail::define_body<Out, In>({}, 1, body); },
          detail::stored_input<std::decay_t<In>>(std::forward<Given>(input))};
}
template <fixed_string Name, class Chain, class Given>
  requires requires(const Chain& c) { c.define(std::uint32_t{}); }
detail::child_operation<typename Chain::results> scope::call(const Chain& chain, Given&& input) {
  static_assert(cofferdam::detail::safe_in_co_await<Given>,
                "GCC 12 destroys this temporary twice inside co_await: name the argument first, and pass the name");
  return {*saga_,
          *fiber_,
          key_of(Name.view()),
          nullptr,
          std::string(chain.name()),
          [chain] { return chain.define(1); },
          detail::stored_input<typename Chain::input>(std::forward<Given>(input))};
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
