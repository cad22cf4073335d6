// What a batch function may give, and what each key gets of it.
#include "catch.hpp"

#include <cofferdam/resilience/detail/batch_answers.hpp>

#include <forward_list>
#include <map>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

using namespace cofferdam;

namespace {

using text_outcome = outcome<std::string>;
template <class R> constexpr bool answers_texts = detail::batch_answers<R, int, std::string>;

static_assert(answers_texts<std::map<int, std::string>>);
static_assert(answers_texts<std::unordered_map<int, const char*>>);
static_assert(answers_texts<std::map<int, text_outcome>>);
static_assert(answers_texts<std::vector<std::string>>);
static_assert(answers_texts<std::vector<text_outcome>>);
static_assert(detail::batch_answers<std::vector<bool>, int, bool>);

static_assert(!answers_texts<std::map<int, std::vector<int>>>);
static_assert(!answers_texts<std::map<std::string, std::string>>, "is not asked by these keys");
static_assert(!answers_texts<std::vector<std::vector<int>>>);
static_assert(!answers_texts<std::forward_list<std::string>>, "how many are they?");
static_assert(!answers_texts<int>);

template <class R> outcome<std::vector<text_outcome>> answers_to(const std::vector<int>& keys, R given) {
  return detail::answers_to<std::string>("texts", keys, std::move(given));
}

TEST_CASE("a map answers key by key; what it lacks fails alone, and so does what it says is a failure", "[batcher]") {
  const auto answers = answers_to({3, 1, 3, 2}, std::map<int, std::string>{{1, "one"}, {3, "three"}});
  REQUIRE(answers);
  REQUIRE(answers->size() == 4);
  CHECK(*(*answers)[0] == "three");
  CHECK(*(*answers)[1] == "one");
  CHECK(*(*answers)[2] == "three");
  CHECK((*answers)[3].why().message() == "batcher 'texts': no answer to this key");
  CHECK_THROWS_AS((*answers)[3].value(), batch_answer_error);

  std::map<int, text_outcome> mixed;
  mixed.emplace(1, text_outcome("one"));
  mixed.emplace(2, failure::thrown(std::make_exception_ptr(std::out_of_range("no two"))));
  const auto kept = answers_to({1, 2}, mixed);
  CHECK(*(*kept)[0] == "one");
  CHECK((*kept)[1].why().message() == "no two");
}

TEST_CASE("a list answers in the order of the keys; one too many or too few is an error to all", "[batcher]") {
  const auto answers = answers_to({5, 6}, std::vector<std::string>{"five", "six"});
  REQUIRE(answers);
  REQUIRE(answers->size() == 2);
  CHECK(*(*answers)[0] == "five");
  CHECK(*(*answers)[1] == "six");
  for (const std::size_t count : {std::size_t{1}, std::size_t{3}}) {
    const auto none = answers_to({5, 6}, std::vector<std::string>(count, "?"));
    REQUIRE_FALSE(none);
    CHECK(none.why().message() == "batcher 'texts': " + std::to_string(count) + " answers to 2 keys");
    CHECK_THROWS_AS(none.value(), batch_answer_error);
  }
  CHECK(answers_to({}, std::vector<std::string>())->empty());
}

}  // namespace
