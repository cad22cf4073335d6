// The dry run of journals: bodies walk through what is written, and stop where they would do something.
#include <cofferdam/saga/check.hpp>

#include "engine_state.hpp"
#include "history.hpp"

#include <utility>

namespace cofferdam::inline COFFERDAM_ABI::saga {

std::string saga_drift::message() const {
  return "the saga '" + id + "' ('" + definition + "', version " + std::to_string(version) + ')' +
         (place.empty() ? "" : " at '" + place + "'") + ": its journal has " + journal + ", this build " + build;
}

namespace detail {

saga_drift instance::drift_at(std::string place, std::string journal, std::string build) const {
  saga_drift drift;
  drift.id = id_;
  drift.definition = definition_->name;
  drift.version = definition_->version;
  drift.place = std::move(place);
  drift.journal = std::move(journal);
  drift.build = std::move(build);
  return drift;
}

/// A step that this build could not undo.
std::optional<saga_drift> instance::drift_of_steps() const {
  for (const record& r : records_) {
    if (r.is_step && !r.is_undone && definition_->find(r.step) == nullptr) {
      return drift_at(r.key, "the step '" + r.step + "'", "has no such step in this definition");
    }
  }
  return std::nullopt;
}

awaitable<std::optional<saga_drift>> instance::rehearse(rows journal, saga_state found,
                                                        std::optional<nlohmann::json> output) {
  is_rehearsal_ = true;
  take_in(journal);
  if (auto drift = drift_of_steps()) co_return drift;
  if (found == saga_state::compensating || (has_aborted_ && !is_final(found))) co_return std::nullopt;
  std::unique_ptr<branch_base> root;
  std::string broken;
  try {
    root = definition_->begin(*this, {}, input_);
  } catch (const std::exception& e) {
    broken = e.what();
  }
  if (!root) co_return drift_at({}, "the input " + input_.dump(), "cannot read it: " + broken);
  bool has_ended = false;
  try {
    const auto body = root->start();
    has_ended = co_await drive(root->control(), body);
  } catch (const std::exception& e) {  // as where it goes on: what it would do next cannot be written down
    leave(leave_reason::stuck, e.what());
  }
  if (drift_) {
    drift_->build = "does " + drift_->build;
    co_return drift_;
  }
  if (leaving_ == leave_reason::stuck) co_return drift_at({}, "what it has", "says: " + leaving_text_);
  const bool is_completed = found == saga_state::completed;
  if (!has_ended && !is_completed) {
    if (unvisited_.empty()) co_return std::nullopt;
    co_return drift_at({}, unvisited_keys(), "does not come to it");
  }
  if (!has_ended) co_return drift_at({}, "its end", "goes on");
  const std::exception_ptr error = root->take();
  if (error) {
    const std::string why = failure::thrown(error).message();
    if (is_completed) co_return drift_at({}, "its end", "goes back: " + why);
    if (has_pivoted_) co_return drift_at({}, "its pivot behind it", "fails: " + why);
    co_return std::nullopt;
  }
  if (!unvisited_.empty()) {
    co_return drift_at({}, unvisited_keys(), "ends before that");
  }
  if (is_completed && output) {
    const nlohmann::json now = definition_->output(*root);
    if (now != *output) co_return drift_at({}, "the result " + output->dump(), "returns " + now.dump());
  }
  co_return std::nullopt;
}

namespace {

/// Of a row in which anything may be damaged.
saga_drift unreadable(const row& r, std::string what) {
  const auto text_in = [&r](std::string_view column) {
    const auto* text = r[column].get_if<std::string>();
    return text == nullptr ? std::string() : *text;
  };
  saga_drift drift;
  drift.id = text_in("id");
  drift.definition = text_in("definition");
  const auto* version = r["version"].get_if<std::int64_t>();
  if (version != nullptr && std::in_range<std::uint32_t>(*version))
    drift.version = static_cast<std::uint32_t>(*version);
  drift.journal = std::move(what);
  drift.build = "cannot read it";
  return drift;
}

/// @param saga  the row of one.
awaitable<std::optional<saga_drift>> check_one(std::shared_ptr<engine_state> engine, row saga, rows journal) {
  std::optional<saga_drift> drift;
  try {
    const auto what =
        engine->definitions.find({saga.get<std::string>("definition"), saga.get<std::uint32_t>("version")});
    if (what == engine->definitions.end()) {
      drift = unreadable(saga, "this definition");
      drift->build = "does not define it";
      co_return drift;
    }
    const auto checked = std::make_shared<instance>(engine, what->second, saga);
    const auto id = checked->id();
    std::optional<nlohmann::json> output;
    const auto text = saga.get<std::optional<std::string>>("output");
    if (text) output = parse_stored(id, "its output", *text);
    const auto state = state_from(id, saga.get<std::int64_t>("state"));
    drift = co_await checked->rehearse(std::move(journal), state, std::move(output));
  } catch (const saga_error& e) {
    drift = unreadable(saga, e.what());
  } catch (const storage_error& e) {
    drift = unreadable(saga, e.what());
  }
  co_return drift;
}

}  // namespace
}  // namespace detail

awaitable<check_report> engine::check() {
  const auto state = state_;
  if (state->db == nullptr) throw std::logic_error("an engine without a journal checks histories, one by one");
  check_report report;
  for (std::string after;;) {
    const rows sagas =
        co_await state->db->query(std::string("select ") + detail::saga_columns +
                                      " from cofferdam_sagas where state in (0, 1, 2, 5, 6) and id > $1 order by id "
                                      "limit 256",
                                  after);
    if (sagas.empty()) co_return report;
    for (const row r : sagas) {
      after = r.get<std::string>("id");
      rows journal = co_await state->db->query(  // as it was then: others may work on
          "select seq, kind, key, step, payload from cofferdam_saga_journal where saga = $1 and seq <= $2 order by seq",
          after, r.get<std::int64_t>("seq"));
      auto drift = co_await detail::check_one(state, r, std::move(journal));
      ++report.checked;
      if (drift) report.drifts.push_back(*std::move(drift));
    }
  }
}

awaitable<std::optional<saga_drift>> engine::check(nlohmann::json history) {
  const auto state = state_;
  const auto executor = co_await net::this_coro::executor;
  if (state->timers == nullptr) state->timers = &timers_of(executor);
  detail::history read = detail::history_from(history);
  co_return co_await detail::check_one(state, read.saga.front(), std::move(read.journal));
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga
