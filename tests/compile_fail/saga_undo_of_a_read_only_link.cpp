// What only looks leaves nothing to undo, in a chain neither.
// EXPECT: a read-only step has no effect that could be undone
#include <cofferdam/saga/chain.hpp>

using namespace cofferdam;

awaitable<int> look(saga::step_context&) { co_return 1; }
awaitable<void> undo(saga::step_context&) { co_return; }

void chain() {
  const auto act = [](const auto& s) { return look(s.context()); };
  const auto back = [](const auto& s) { return undo(s.context()); };
#ifdef COFFERDAM_EXPECT_OK
  (void)(saga::start<int>("s") | saga::step<"a">(act).undo(back));
#else
  (void)(saga::start<int>("s") | saga::read_only<"a">(act).undo(back));
#endif
}
