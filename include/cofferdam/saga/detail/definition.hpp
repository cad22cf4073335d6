// A saga's definition as the engine keeps it: how to begin its body, and how to undo its steps without it.
#pragma once

#include <cofferdam/saga/scope.hpp>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {

using plain_function = void (*)();

struct definition {
  std::string name;
  std::uint32_t version = 1;
  plain_function body = nullptr;  // tells definitions of coroutines apart
  std::map<std::string, step_descriptor, std::less<>> steps;
  std::function<std::unique_ptr<branch_base>(instance&, std::string path, const nlohmann::json& input)> begin;
  std::function<nlohmann::json(branch_base&)> output;  // of a body that ended well

  [[nodiscard]] const step_descriptor* find(std::string_view step) const {
    const auto it = steps.find(step);
    return it == steps.end() ? nullptr : &it->second;
  }
  void add(step_descriptor step);
};

template <class Out, class In>
definition define_body(std::string name, std::uint32_t version, task<Out> (*body)(scope&, In)) {
  using input = std::decay_t<In>;
  using branch = typed_branch<Out, In>;
  static_assert(storable<input>, "saga: the input of a saga needs to_json and from_json");
  static_assert(storable<Out>, "saga: what a saga returns needs to_json and from_json");
  definition made;
  made.name = std::move(name);
  made.version = version;
  made.body = reinterpret_cast<plain_function>(body);
  made.begin = [body](instance& saga, std::string path, const nlohmann::json& stored) -> std::unique_ptr<branch_base> {
    return std::make_unique<branch>(branch_of<Out, In>(saga, std::move(path), body, {stored.get<input>()}));
  };
  made.output = [](branch_base& ended) -> nlohmann::json {
    if constexpr (std::is_void_v<Out>) {
      return {};
    } else {
      return nlohmann::json(static_cast<branch&>(ended).take_value());
    }
  };
  return made;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
