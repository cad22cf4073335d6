// A step is undone in one way.
// EXPECT: this step has an undo already
#include <cofferdam/saga/chain.hpp>

using namespace cofferdam;

awaitable<int> act(saga::step_context&) { co_return 1; }
awaitable<void> undo(saga::step_context&) { co_return; }

constexpr auto once = saga::step<"a">([](const auto& s) { return act(s.context()); }).undo([](const auto& s) {
  return undo(s.context());
});
#ifdef COFFERDAM_EXPECT_OK
constexpr auto chain = saga::start<int>("s") | once;
#else
constexpr auto chain = saga::start<int>("s") | once.undo([](const auto& s) { return undo(s.context()); });
#endif
