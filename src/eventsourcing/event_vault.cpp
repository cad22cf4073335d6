#include <cofferdam/core/random.hpp>
#include <cofferdam/core/timer_service.hpp>
#include <cofferdam/eventsourcing/event_vault.hpp>
#include <cofferdam/storage/detail/stored.hpp>

#include "event_rows.hpp"
#include "subject_cipher.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {
namespace {

// {"sealed": SUBJECT, "box": BASE64}: nothing else looks like this.
constexpr const char* subject_field = "sealed";
constexpr const char* box_field = "box";

bool is_sealed(const nlohmann::json& field) {
  return field.is_object() && field.size() == 2 && field.contains(subject_field) && field.contains(box_field) &&
         field.at(subject_field).is_string() && field.at(box_field).is_string();
}

/// What a box is bound to; the lengths keep names apart.
std::string place_of(const std::string& id, const std::string& type, const std::string& field,
                     const std::string& subject) {
  std::string place;
  for (const std::string* part : {&id, &type, &field, &subject}) {
    place += std::to_string(part->size()) + ':' + *part;
  }
  return place;
}

event with_data(const event& e, std::string data) {
  event made(e.type(), std::move(data));
  made.schema(e.schema()).correlation(e.correlation()).causation(e.causation()).metadata(e.metadata());
  if (e.id()) made.id(*e.id());
  if (e.at()) made.at(*e.at());
  for (const auto& tag : e.tags()) made.tag(tag);
  return made;
}

[[noreturn]] void undecodable(const recorded_event& e, const std::string& field, const std::string& why) {
  throw storage_error(errc::event_undecodable, "the field '" + field + "' of '" + e.type + "', version " +
                                                   std::to_string(e.version) + " of '" + e.stream + "' (position " +
                                                   std::to_string(e.position) + "): " + why);
}

/// The event's data where there is something to open, else null.
nlohmann::json sealed_data(const recorded_event& e) {
  if (e.data.find(box_field) == std::string::npos) return nullptr;  // most events are not worth parsing
  nlohmann::json data = nlohmann::json::parse(e.data, nullptr, false);
  const bool has_sealed = data.is_object() && std::ranges::any_of(data, is_sealed);
  return has_sealed ? data : nullptr;
}

key_store::found_key key_in(const row& r) {
  key_store::found_key found;
  found.is_forgotten = !r[2].is_null();
  if (!found.is_forgotten) found.key = detail::from_base64(r.get<std::string>(1));
  return found;
}

struct sealed_event {
  recorded_event* event;
  nlohmann::json data;
};

void open_fields(sealed_event& sealed, const std::map<std::string, key_store::found_key>& keys) {
  recorded_event& e = *sealed.event;
  e.was_sealed = true;
  std::vector<std::string> forgotten;
  for (auto at = sealed.data.begin(); at != sealed.data.end(); ++at) {
    const std::string& name = at.key();
    nlohmann::json& field = at.value();
    if (!is_sealed(field)) continue;
    const auto subject = field.at(subject_field).get<std::string>();
    const auto known = keys.find(subject);
    if (known != keys.end() && known->second.is_forgotten) {
      forgotten.push_back(name);
      field = nullptr;
      continue;
    }
    if (known == keys.end() || known->second.key.empty()) {
      undecodable(e, name, "there is no key for '" + subject + "', and none was forgotten");
    }
    const auto text = detail::open_text(known->second.key, detail::from_base64(field.at(box_field).get<std::string>()),
                                        place_of(e.id.to_string(), e.type, name, subject));
    if (!text) undecodable(e, name, "it was not sealed for '" + subject + "' in this place, or was changed since");
    field = nlohmann::json::parse(*text, nullptr, false);
  }
  e.data = sealed.data.dump();
  e.forgotten = std::move(forgotten);
  e.unopened = nullptr;
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------- key store

awaitable<std::map<std::string, key_store::found_key>> key_store::find_all(std::vector<std::string> subjects) {
  std::map<std::string, found_key> all;
  for (std::string& subject : subjects) {
    found_key found = co_await find(subject);
    all.emplace(std::move(subject), std::move(found));
  }
  co_return all;
}

awaitable<std::unique_ptr<database_key_store>> database_key_store::open(database& db) {
  const auto executor = co_await net::this_coro::executor;
  std::vector<migration> history;
  history.push_back(
      {1,
       "subject keys",
       {"create table cofferdam_subject_keys(subject text not null primary key, key text not null, made_at "
        "bigint not null, forgotten_at bigint)"}});
  co_await db.migrate("subject keys", std::move(history));
  co_return std::unique_ptr<database_key_store>(new database_key_store(db, timers_of(executor)));
}

awaitable<key_store::found_key> database_key_store::find(std::string subject) {
  const rows found = co_await db_->query(
      "select subject, key, forgotten_at from cofferdam_subject_keys where subject = $1", std::move(subject));
  co_return found.empty() ? found_key() : key_in(found.front());
}

awaitable<std::map<std::string, key_store::found_key>> database_key_store::find_all(std::vector<std::string> subjects) {
  std::string sql = "select subject, key, forgotten_at from cofferdam_subject_keys where subject in ";
  sql += db_->has_one_writer() ? "(select value from json_each($1))" : "(select json_array_elements_text($1::json))";
  std::erase_if(subjects, [](const std::string& s) { return !detail::is_text(s); });  // can have no key
  std::string names = nlohmann::json(subjects).dump();
  const rows found = co_await db_->query(std::move(sql), std::move(names));
  std::map<std::string, found_key> all;
  for (const row r : found) all.emplace(r.get<std::string>(0), key_in(r));
  co_return all;
}

awaitable<key_store::found_key> database_key_store::keep(std::string subject, std::string proposed) {
  batch b;
  b.execute("insert into cofferdam_subject_keys(subject, key, made_at) values($1, $2, $3) on conflict do nothing",
            subject, detail::to_base64(proposed), detail::to_microseconds(timers_->date()));
  co_await db_->commit(std::move(b));
  co_return co_await find(std::move(subject));
}

awaitable<bool> database_key_store::forget(std::string subject, batch with) {
  batch b;
  b.execute("update cofferdam_subject_keys set key = '', forgotten_at = $2 where subject = $1 and forgotten_at is null",
            std::move(subject), detail::to_microseconds(timers_->date()));
  b.add(std::move(with));
  const receipt done = co_await db_->commit(std::move(b));
  co_return done[0].affected() > 0;
}

// --------------------------------------------------------------------------------------------------------------- vault

bool event_vault::is_available() noexcept { return detail::has_subject_cipher(); }

event_vault::event_vault(key_store& keys) : keys_(&keys) {
  if (!is_available()) {
    throw std::logic_error("this cofferdam was built without libsodium: install libsodium-dev and build it again");
  }
}

awaitable<void> event_vault::seal(event& e, std::string subject, std::vector<std::string> fields) {
  nlohmann::json data = nlohmann::json::parse(e.data(), nullptr, false);
  if (!data.is_object()) {
    throw storage_error(errc::event_rejected, "'" + e.type() + "' cannot be sealed: its data is no JSON object");
  }
  key_store::found_key found = co_await keys_->find(subject);
  if (found.key.empty() && !found.is_forgotten) {
    std::string proposed = detail::new_subject_key();
    found = co_await keys_->keep(subject, std::move(proposed));
  }
  if (found.is_forgotten || found.key.empty()) {
    throw storage_error(errc::event_rejected,
                        "'" + e.type() + "' cannot be sealed: '" + subject + "' was forgotten; take another subject");
  }
  if (!e.id()) {
    const auto executor = co_await net::this_coro::executor;
    e.id(event_id::make(timers_of(executor).date(), random_of(executor)));
  }
  if (fields.empty()) {
    for (auto at = data.begin(); at != data.end(); ++at) fields.push_back(at.key());
  }
  const std::string id = e.id()->to_string();
  for (const std::string& name : fields) {
    const auto field = data.find(name);
    if (field == data.end() || is_sealed(*field)) continue;
    std::string box = detail::seal_text(found.key, field->dump(), place_of(id, e.type(), name, subject));
    *field = {{subject_field, subject}, {box_field, detail::to_base64(box)}};
  }
  e = with_data(e, data.dump());
  e.is_sealed_ = true;
}

awaitable<std::size_t> event_vault::try_open(std::span<recorded_event> events) {
  std::vector<sealed_event> sealed;
  std::set<std::string> subjects;
  for (recorded_event& e : events) {
    nlohmann::json data = sealed_data(e);
    if (data.is_null()) continue;
    for (const nlohmann::json& field : data) {
      if (is_sealed(field)) subjects.insert(field.at(subject_field).get<std::string>());
    }
    sealed.push_back({&e, std::move(data)});
  }
  std::size_t forgotten = 0;
  if (sealed.empty()) co_return forgotten;
  std::vector<std::string> names(subjects.begin(), subjects.end());
  const auto keys = co_await keys_->find_all(std::move(names));
  for (sealed_event& one : sealed) {
    try {
      open_fields(one, keys);
    } catch (const storage_error&) {
      one.event->unopened = std::current_exception();
    }
    forgotten += one.event->forgotten.size();
  }
  co_return forgotten;
}

awaitable<std::size_t> event_vault::open(std::vector<recorded_event>& events) {
  const std::size_t forgotten = co_await try_open(events);
  for (const recorded_event& e : events) e.require_opened();
  co_return forgotten;
}

awaitable<std::size_t> event_vault::open(recorded_event& e) {
  const std::size_t forgotten = co_await try_open({&e, 1});
  e.require_opened();
  co_return forgotten;
}

awaitable<bool> event_vault::forget(std::string subject, batch with) {
  return keys_->forget(std::move(subject), std::move(with));
}

}  // namespace cofferdam::inline COFFERDAM_ABI
