// What a batch function may give, made one answer for each key.
#pragma once

#include <cofferdam/core/outcome.hpp>

#include <concepts>
#include <cstddef>
#include <exception>
#include <ranges>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

/// A batch function that gave another number of answers than it was given keys, or none for a key.
struct batch_answer_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

namespace detail {

/// A map: answers by key.
template <class R, class Key, class Value>
concept answers_by_key = requires(const R& answers, const Key& key) {
  typename R::mapped_type;
  requires std::convertible_to<typename R::mapped_type, Value> ||
               std::convertible_to<typename R::mapped_type, outcome<Value>>;
  answers.find(key) == answers.end();
};
/// A vector or the like: answers in the order of the keys.
template <class R, class Value>
concept answers_in_order =
    std::ranges::sized_range<R> && (std::convertible_to<std::ranges::range_value_t<R>, Value> ||
                                    std::convertible_to<std::ranges::range_value_t<R>, outcome<Value>>);

template <class R, class Key, class Value>
concept batch_answers = answers_by_key<R, Key, Value> || answers_in_order<R, Value>;

[[nodiscard]] std::exception_ptr wrong_number_of_answers(const std::string& batcher, std::size_t answers,
                                                         std::size_t keys);
[[nodiscard]] std::exception_ptr no_answer(const std::string& batcher);

template <class Value, class Item> outcome<Value> one_answer(Item&& item) {
  if constexpr (std::convertible_to<Item, outcome<Value>>) {
    return std::forward<Item>(item);
  } else {
    return static_cast<Value>(std::forward<Item>(item));
  }
}

/// A key that a map has no answer for fails alone; a wrong number of answers in order fails all.
template <class Value, class Key, class R>
  requires batch_answers<R, Key, Value>
outcome<std::vector<outcome<Value>>> answers_to(const std::string& batcher, const std::vector<Key>& keys, R&& given) {
  std::vector<outcome<Value>> answers;
  answers.reserve(keys.size());
  if constexpr (answers_by_key<R, Key, Value>) {
    for (const auto& key : keys) {
      const auto found = given.find(key);
      if (found == given.end()) {
        answers.emplace_back(failure::thrown(no_answer(batcher)));
      } else {
        answers.push_back(one_answer<Value>(found->second));
      }
    }
  } else {
    const auto count = static_cast<std::size_t>(std::ranges::size(given));
    if (count != keys.size()) return failure::thrown(wrong_number_of_answers(batcher, count, keys.size()));
    for (auto&& item : given) answers.push_back(one_answer<Value>(std::move(item)));
  }
  return answers;
}

}  // namespace detail
}  // namespace cofferdam::inline COFFERDAM_ABI
