// The line of those who wait, against a sorted list.
#include "catch.hpp"

#include <cofferdam/resilience/detail/wait_line.hpp>

#include <algorithm>
#include <cstdint>
#include <list>
#include <random>
#include <vector>

using cofferdam::detail::wait_line;

namespace {

struct standing {
  standing* previous_ = nullptr;
  standing* next_ = nullptr;
  std::int32_t priority_ = 0;
  bool in_line = false;
};

}  // namespace

TEST_CASE("a line is in the order of a list kept sorted, forwards and backwards", "[wait_line]") {
  for (unsigned seed = 0; seed < 10; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(seed);
    std::vector<standing> people(50);
    wait_line<standing> line;
    std::list<standing*> expected;
    bool same = true;
    for (int step = 0; step < 2'000; ++step) {
      standing& one = people[random() % people.size()];
      if (one.in_line) {
        line.leave(one);
        expected.remove(&one);
      } else {
        one.priority_ = static_cast<std::int32_t>(random() % (seed + 1)) - 2;
        const bool before_equals = random() % 2 == 0;
        line.join(one, before_equals);
        const auto behind = std::ranges::find_if(expected, [&](const standing* other) {
          return before_equals ? other->priority_ <= one.priority_ : other->priority_ < one.priority_;
        });
        expected.insert(behind, &one);
      }
      one.in_line = !one.in_line;
      std::vector<standing*> forwards, backwards;
      for (standing* s = line.first(); s != nullptr; s = s->next_) forwards.push_back(s);
      for (standing* s = line.last(); s != nullptr; s = s->previous_) backwards.push_back(s);
      std::ranges::reverse(backwards);
      same = same && std::ranges::equal(forwards, expected) && forwards == backwards &&
             line.size() == expected.size() && line.empty() == expected.empty();
    }
    CHECK(same);
  }
}
