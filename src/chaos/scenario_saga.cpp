// Scenarios of sagas whose coordinators are killed.
#include <cofferdam/chaos/scenario.hpp>

#include "scenario_reader.hpp"

namespace cofferdam::inline COFFERDAM_ABI::chaos::reading {
namespace {

saga_step_spec read_step(reader r) {
  saga_step_spec spec;
  if (!r.is_object()) return spec;
  if (const auto name = r.require("name")) spec.name = name->as_string().value_or("");
  if (const auto kind = r.find("kind")) {
    const auto word = kind->as_word({"step", "pivot", "retriable"});
    if (word) spec.kind = static_cast<saga_step_kind>(*word);
  }
  if (const auto books = r.find("books")) {
    spec.books = static_cast<std::int64_t>(books->as_number(-1e12, 1e12).value_or(0));
    if (static_cast<double>(spec.books) != books->as_number(-1e12, 1e12).value_or(0)) {
      books->problem("expected a whole number");
    }
  }
  r.read("latency", spec.latency);
  r.finish();
  return spec;
}

/// What can be undone, then one pivot at most, then what is tried until it succeeds.
void check_steps(const reader& saga, const std::vector<saga_step_spec>& steps) {
  auto latest = saga_step_kind::step;
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const bool is_second_pivot = steps[i].kind == latest && latest == saga_step_kind::pivot;
    if (steps[i].kind < latest || is_second_pivot) {
      saga.problem("after the pivot all steps are retriable; \"" + steps[i].name + "\" is not");
    }
    if (steps[i].kind == saga_step_kind::retriable && latest == saga_step_kind::step) {
      saga.problem("the retriable step \"" + steps[i].name + "\" needs a pivot before it");
    }
    latest = std::max(latest, steps[i].kind);
    sum += steps[i].books;
  }
  if (sum != 0) saga.problem("what the steps book must sum up to zero, not " + std::to_string(sum));
}

saga_case_spec read_case(const std::string& name, reader r, const std::vector<saga_step_spec>& steps) {
  saga_case_spec spec;
  spec.name = name;
  if (!r.is_object() || r.value().empty()) return spec;
  const auto names = names_in(steps);
  if (const auto step = r.require("step")) spec.step = step->as_word(names);
  if (const auto fails = r.require("fails")) {
    const auto word = fails->as_word({"refuses", "unavailable", "lost_answer"});
    if (word) spec.fails = static_cast<participant_fault>(*word);
    const bool is_retriable = spec.step && steps[*spec.step].kind == saga_step_kind::retriable;
    if (word && is_retriable && spec.fails == participant_fault::refuses) {
      fails->problem("a retriable step that is refused waits for an operator");
    }
  }
  r.finish();
  return spec;
}

void read_whole(reader root, saga_spec& spec) {
  auto saga = root.require("saga");
  if (!saga || !saga->is_object()) return;
  read_list(*saga, "steps", true, [&](const reader& r) { add_named(spec.steps, read_step(r), r); });
  check_steps(*saga, spec.steps);
  if (const auto cases = saga->require("cases")) {
    for (const auto& [name, r] : cases->members()) spec.cases.push_back(read_case(name, r, spec.steps));
    if (spec.cases.empty()) cases->problem("needs at least one, such as \"all goes well\": {}");
  }
  saga->read("journal", spec.journal);
  saga->read("idempotency_keys", spec.idempotency_keys);
  saga->read("client_tries_again", spec.client_tries_again);
  saga->read("lease", spec.lease, std::chrono::milliseconds(1));
  saga->read("restart_after", spec.restart_after);
  saga->finish();
}

}  // namespace

void read_saga(reader& root, scenario& s) {
  read_patches(root, s, {"saga"},
               [](const reader& document, variant_spec& variant) { read_whole(document, variant.saga); });
}

}  // namespace cofferdam::inline COFFERDAM_ABI::chaos::reading
