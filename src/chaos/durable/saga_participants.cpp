#include "saga_participants.hpp"

#include <cofferdam/core/sleep.hpp>
#include <cofferdam/saga/scope.hpp>
#include <cofferdam/saga/task.hpp>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <stdexcept>

namespace cofferdam::inline COFFERDAM_ABI::chaos {
namespace {

awaitable<int> book(saga::step_context& context, int step) {
  co_await context.get<saga_participants>().book(static_cast<std::size_t>(step), context.idempotency_key());
  co_return step;
}
awaitable<void> take_back(saga::step_context& context, std::optional<int>, int step) {
  std::string key = context.idempotency_key();
  key.resize(key.size() - std::string("!undo").size());
  co_await context.get<saga_participants>().take_back(static_cast<std::size_t>(step), std::move(key));
}

constexpr auto reversible = saga::step<"step", &book, &take_back>;
constexpr auto point_of_no_return = saga::pivot<"pivot", &book>;
constexpr auto goes_forward = saga::retriable<"retriable", &book>;

}  // namespace

saga_participants::saga_participants(const saga_spec& spec, const saga_case_spec& of_case)
    : spec_(spec), case_(of_case), accounts_(spec.steps.size()) {}

bool saga_participants::fails_at(std::size_t step, participant_fault how) const {
  return case_.step == step && case_.fails == how;
}

awaitable<void> saga_participants::book(std::size_t step, std::string key) {
  co_await sleep_for(spec_.steps[step].latency);
  account& its = accounts_[step];
  const std::size_t attempt = ++its.attempts;
  if (fails_at(step, participant_fault::refuses)) throw saga::refused("not with us");
  if (fails_at(step, participant_fault::unavailable) && attempt <= 2) throw std::runtime_error("unavailable");
  const bool is_known = spec_.idempotency_keys && (undone_.contains(key) || !done_.insert(key).second);
  if (!is_known) ++its.booked;
  if (fails_at(step, participant_fault::lost_answer) && attempt == 1) throw std::runtime_error("no answer came");
}

awaitable<void> saga_participants::take_back(std::size_t step, std::string key) {
  co_await sleep_for(spec_.steps[step].latency);
  if (!spec_.idempotency_keys) {
    --accounts_[step].booked;
    co_return;
  }
  undone_.insert(key);
  if (done_.erase(key) > 0) --accounts_[step].booked;
}

void saga_participants::sum_up(saga_record& record) const {
  record.steps = accounts_.size();
  for (std::size_t i = 0; i < accounts_.size(); ++i) {
    const auto booked = accounts_[i].booked;
    if (booked > 0) ++record.steps_done;
    record.too_many += static_cast<std::uint64_t>(booked > 0 ? booked - 1 : -booked);
    record.money += booked * spec_.steps[i].books;
  }
}

saga::task<std::int64_t> run_steps(saga::scope& s, std::vector<int> kinds) {
  std::int64_t done = 0;
  for (int i = 0; i < static_cast<int>(kinds.size()); ++i) {
    switch (static_cast<saga_step_kind>(kinds[static_cast<std::size_t>(i)])) {
      case saga_step_kind::step:
        (void)co_await s.run(reversible, i);
        break;
      case saga_step_kind::pivot:
        (void)co_await s.run(point_of_no_return, i);
        break;
      case saga_step_kind::retriable:
        (void)co_await s.run(goes_forward, i);
        break;
    }
    ++done;
  }
  co_return done;
}

void define_saga(saga::engine& e, saga_participants& participants) {
  e.provide(participants);
  e.define("scenario", run_steps, reversible, point_of_no_return, goes_forward);
}

std::vector<int> kinds_of(const saga_spec& spec) {
  std::vector<int> kinds;
  kinds.reserve(spec.steps.size());
  for (const auto& step : spec.steps) kinds.push_back(static_cast<int>(step.kind));
  return kinds;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos
