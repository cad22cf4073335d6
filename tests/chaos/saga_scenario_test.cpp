// Scenarios of sagas whose coordinators are killed: what is refused, and what small runs yield.
#include "catch.hpp"

#include <cofferdam/chaos/verdict.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>

using namespace cofferdam;

namespace saga_cases {

nlohmann::json document() {
  return nlohmann::json::parse(R"({
    "version": 1, "kind": "saga", "title": "small", "clock": { "duration": "30s" },
    "saga": {
      "steps": [
        { "name": "take", "books": -5 }, { "name": "give", "kind": "pivot", "books": 5 },
        { "name": "tell", "kind": "retriable" }
      ],
      "cases": { "well": {}, "refused": { "step": "give", "fails": "refuses" } },
      "lease": "1s"
    },
    "variants": { "durable": {} }
  })");
}

std::vector<std::string> problems_of(const nlohmann::json& d) {
  try {
    (void)chaos::parse_scenario(d);
  } catch (const chaos::scenario_error& e) {
    return e.problems();
  }
  return {};
}

}  // namespace saga_cases

TEST_CASE("mistakes in a saga scenario are reported at once, where they stand", "[chaos]") {
  auto d = saga_cases::document();
  CHECK(saga_cases::problems_of(d).empty());
  d["saga"]["steps"][0]["books"] = 7;
  d["saga"]["steps"].push_back({{"name", "late"}});
  d["saga"]["cases"]["odd"] = {{"step", "tel"}, {"fails", "refuses"}};
  d["saga"]["cases"]["stuck"] = {{"step", "tell"}, {"fails", "refuses"}};
  d["variants"]["other"] = {{"saga", {{"jurnal", false}}}};
  const auto problems = saga_cases::problems_of(d);
  const auto has = [&](const std::string& text) {
    for (const auto& p : problems) UNSCOPED_INFO(p);
    INFO(text);
    CHECK(std::ranges::count_if(problems, [&](const std::string& p) { return p.starts_with(text); }) == 1);
  };
  has("/saga: what the steps book must sum up to zero, not 12");
  has("/saga: after the pivot all steps are retriable; \"late\" is not");
  has("/saga/cases/odd/step: unknown word \"tel\"; did you mean \"tell\"?");
  has("/saga/cases/stuck/fails: a retriable step that is refused waits for an operator");
  has("/variants/other/saga/jurnal: unknown key; did you mean \"journal\"?");
}

#if defined(COFFERDAM_TEST_DURABLE)

TEST_CASE("a coordinator is killed at every point; with a journal all ends well, without one it does not", "[chaos]") {
  auto d = saga_cases::document();
  d["variants"]["in_memory"] = {{"saga", {{"journal", false}, {"client_tries_again", false}}}};
  d["variants"]["without_keys"] = {{"saga", {{"idempotency_keys", false}}}};
  const auto s = chaos::parse_scenario(d);
  for (const auto& run : chaos::run_scenario(s)) {
    INFO(run.variant);
    for (const auto& violation : run.violations) UNSCOPED_INFO(violation);
    chaos::expectation e;
    const auto measured = [&](const char* metric) {
      e.subject = metric;
      return chaos::measure(s, run, e).value_or(-1);
    };
    if (run.variant == "durable") {
      CHECK(run.violations.empty());
      CHECK(measured("crash_points") >= 20);
      CHECK(measured("completed") + measured("compensated") == static_cast<double>(run.sagas.size()));
      CHECK(measured("compensated") >= 5);
      CHECK(measured("half_done") == 0);
      CHECK(measured("money") == 0);
      CHECK(measured("resume_time") > 0);
    } else if (run.variant == "in_memory") {
      CHECK(measured("half_done") >= 3);
      CHECK(measured("money") > 0);
    } else {
      CHECK(measured("duplicates") >= 2);
    }
  }
}

#endif
