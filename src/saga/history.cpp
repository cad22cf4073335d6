#include "history.hpp"

#include <algorithm>
#include <array>
#include <span>

namespace cofferdam::inline COFFERDAM_ABI::saga::detail {
namespace {

struct column {
  const char* name;
  bool is_text;
  bool may_be_null = false;
};
constexpr std::array<column, 18> of_saga{{{"id", true},
                                          {"definition", true},
                                          {"version", false},
                                          {"state", false},
                                          {"reason", true, true},
                                          {"epoch", false},
                                          {"seq", false},
                                          {"wake_at", false, true},
                                          {"signals", false},
                                          {"claims", false},
                                          {"pivoted", false},
                                          {"cancel_reason", true, true},
                                          {"input", true},
                                          {"output", true, true},
                                          {"created_at", false},
                                          {"updated_at", false},
                                          {"deadline", false, true},
                                          {"parent", true, true}}};
constexpr std::array<column, 7> of_journal{{{"seq", false},
                                            {"kind", false},
                                            {"key", true},
                                            {"step", true},
                                            {"payload", true},
                                            {"epoch", false},
                                            {"at", false}}};
constexpr std::array<column, 5> of_inbox{
    {{"message_id", true}, {"name", true}, {"payload", true}, {"nr", false}, {"at", false}}};

nlohmann::json object_from(const row& r, std::span<const column> columns) {
  nlohmann::json object = nlohmann::json::object();
  for (const column& c : columns) {
    const value& cell = r[std::string_view(c.name)];
    auto& member = object[c.name];
    if (const auto* text = cell.get_if<std::string>()) member = *text;
    if (const auto* number = cell.get_if<std::int64_t>()) member = *number;
  }
  return object;
}

[[noreturn]] void refuse(const std::string& where, const std::string& why) {
  throw saga_error(errc::saga_undecodable, where + ": " + why);
}

/// The cells of one row. @param where  for errors.
void add_row(rows& to, const nlohmann::json& object, std::span<const column> columns, const std::string& where) {
  if (!object.is_object()) refuse(where, "is no JSON object");
  for (const column& c : columns) {
    const auto member = object.find(c.name);
    const bool is_there = member != object.end() && !member->is_null();
    if (!is_there && !c.may_be_null) refuse(where, std::string(c.name) + " is missing");
    if (!is_there) {
      to.add_cell(value());
      continue;
    }
    // An unsigned number beyond the signed ones would come out negative.
    const bool fits =
        c.is_text ? member->is_string()
                  : member->is_number_integer() &&
                        (!member->is_number_unsigned() || std::in_range<std::int64_t>(member->get<std::uint64_t>()));
    if (!fits) refuse(where, std::string(c.name) + " is no " + (c.is_text ? "text" : "whole number"));
    to.add_cell(c.is_text ? value(member->get<std::string>()) : value(member->get<std::int64_t>()));
  }
}

rows empty_rows(std::span<const column> columns) {
  std::vector<std::string> names;
  for (const column& c : columns) names.emplace_back(c.name);
  return rows(std::move(names));
}

rows list_from(const nlohmann::json& text, const char* name, std::span<const column> columns,
               const std::string& where) {
  const auto list = text.find(name);
  if (list == text.end() || !list->is_array()) refuse(where, std::string(name) + " is no list");
  rows found = empty_rows(columns);
  std::size_t nr = 0;
  for (const auto& each : *list) {
    add_row(found, each, columns, where + ": " + name + " " + std::to_string(++nr));
  }
  return found;
}

/// What can be said of a journal without the saga's code.
void require_sound(const history& h, const std::string& where) {
  const row saga = h.saga.front();
  (void)state_from(h.id, saga.get<std::int64_t>("state"));
  for (const char* number : {"version", "epoch", "seq", "signals", "claims", "pivoted"}) {
    const auto n = saga.get<std::int64_t>(number);
    if (!std::in_range<std::uint32_t>(n)) refuse(where, std::string(number) + " cannot be " + std::to_string(n));
  }
  (void)parse_stored(h.id, "its input", saga.get<std::string>("input"));
  const auto output = saga.get<std::optional<std::string>>("output");
  if (output) (void)parse_stored(h.id, "its output", *output);
  std::int64_t before = 0;
  for (const row r : h.journal) {
    const auto seq = r.get<std::int64_t>("seq");
    const std::string entry = where + ": entry " + std::to_string(seq);
    if (seq <= before) refuse(entry, "does not come after entry " + std::to_string(before));
    if (seq > saga.get<std::int64_t>("seq")) refuse(entry, "comes after the saga's last one");
    const auto epoch = r.get<std::int64_t>("epoch");
    if (epoch < 1 || epoch > saga.get<std::int64_t>("epoch")) {
      refuse(entry, "is of epoch " + std::to_string(epoch) + ", which never was");
    }
    before = seq;
    (void)parse_entry(h.id, static_cast<std::uint64_t>(seq), r.get<std::int64_t>("kind"), r.get<std::string>("key"),
                      r.get<std::string>("step"), r.get<std::string>("payload"));
  }
  for (const row r : h.inbox) {
    const auto id = r.get<std::string>("message_id");
    (void)parse_stored(h.id, "the signal '" + id + "'", r.get<std::string>("payload"));
  }
}

}  // namespace

saga_state state_from(const std::string& id, std::int64_t number) {
  if (number < 0 || number > static_cast<std::int64_t>(saga_state::abandoned)) {
    throw saga_error(errc::saga_undecodable, "the saga '" + id + "' has the unknown state " + std::to_string(number));
  }
  return static_cast<saga_state>(number);
}

nlohmann::json to_json(const history& h) {
  nlohmann::json text = object_from(h.saga.front(), of_saga);
  text["format"] = 1;
  text["journal"] = nlohmann::json::array();
  for (const row r : h.journal) text["journal"].push_back(object_from(r, of_journal));
  text["inbox"] = nlohmann::json::array();
  for (const row r : h.inbox) text["inbox"].push_back(object_from(r, of_inbox));
  return text;
}

history history_from(const nlohmann::json& text) {
  const bool is_ours = text.is_object() && text.contains("format") && text["format"] == 1;
  if (!is_ours) refuse("a saga's history", "is no JSON object with \"format\": 1");
  const auto id = text.find("id");
  if (id == text.end() || !id->is_string()) refuse("a saga's history", "id is no text");
  history h;
  h.id = id->get<std::string>();
  const std::string where = "the history of the saga '" + h.id + "'";
  h.saga = empty_rows(of_saga);
  add_row(h.saga, text, of_saga, where);
  h.journal = list_from(text, "journal", of_journal, where);
  h.inbox = list_from(text, "inbox", of_inbox, where);
  require_sound(h, where);
  return h;
}

}  // namespace cofferdam::inline COFFERDAM_ABI::saga::detail
