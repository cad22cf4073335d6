#include <cofferdam/eventsourcing/event_codec.hpp>

#include <stdexcept>

namespace cofferdam::inline COFFERDAM_ABI {

void event_codec::add_type(std::type_index which, std::string type, std::uint32_t schema,
                           std::shared_ptr<const any_form> form) {
  if (schema == 0) throw std::invalid_argument("schemas of '" + type + "' count from 1");
  if (types_.contains(which)) throw std::invalid_argument("'" + type + "' is of a C++ type that was added before");
  if (!schemas_.emplace(type, schema).second) throw std::invalid_argument("'" + type + "' was added before");
  types_.emplace(which, entry{std::move(type), schema, std::move(form)});
}

event_codec& event_codec::upcast(std::string type, std::uint32_t from, upcaster change) {
  if (!upcasters_.emplace(std::make_pair(std::move(type), from), std::move(change)).second) {
    throw std::invalid_argument("there is a change from schema " + std::to_string(from) + " already");
  }
  return *this;
}

event_codec& event_codec::rename(std::string old_type, std::string type) {
  renamed_.insert_or_assign(std::move(old_type), std::move(type));
  return *this;
}

event_codec& event_codec::forgotten(std::string type, std::string field, nlohmann::json stand_in) {
  stand_ins_.insert_or_assign(std::make_pair(std::move(type), std::move(field)), std::move(stand_in));
  return *this;
}

const event_codec::entry& event_codec::entry_of(std::type_index which) const {
  const auto found = types_.find(which);
  if (found == types_.end()) {
    throw std::invalid_argument(std::string("the codec does not know the C++ type ") + which.name() +
                                "; add<T>(\"its.name\") it");
  }
  return found->second;
}

bool event_codec::is_stored_as(std::type_index which, const std::string& type) const {
  const auto found = types_.find(which);
  return found != types_.end() && found->second.type == type;
}

const std::string& event_codec::present_name(const std::string& type) const {
  const auto found = renamed_.find(type);
  return found == renamed_.end() ? type : found->second;
}

nlohmann::json event_codec::present_data(const recorded_event& e, const std::string& type) const {
  nlohmann::json data = nlohmann::json::parse(e.data, nullptr, false);
  if (data.is_discarded()) raise(e, "its data is no JSON");
  for (const std::string& field : e.forgotten) {
    const auto stand_in = stand_ins_.find({type, field});
    if (stand_in != stand_ins_.end()) data[field] = stand_in->second;
  }
  const std::uint32_t wanted = schemas_.at(type);
  if (e.schema > wanted) {
    raise(e, "it has schema " + std::to_string(e.schema) + ", this program knows up to " + std::to_string(wanted));
  }
  for (std::uint32_t schema = e.schema; schema < wanted; ++schema) {
    const auto change = upcasters_.find({type, schema});
    if (change == upcasters_.end()) {
      raise(e, "nothing leads from schema " + std::to_string(schema) + " to " + std::to_string(schema + 1));
    }
    try {
      data = change->second(std::move(data));
    } catch (const std::exception& wrong) {
      raise(e, "the change from schema " + std::to_string(schema) + " failed: " + wrong.what());
    }
  }
  return data;
}

void event_codec::raise(const recorded_event& e, const std::string& why) {
  std::string message = "'" + e.type + "', version " + std::to_string(e.version) + " of '" + e.stream + "' (position " +
                        std::to_string(e.position) + "): " + why;
  if (!e.forgotten.empty()) {
    message += "; its field '" + e.forgotten.front() + "' was forgotten: say by forgotten() what stands in for it";
  }
  throw storage_error(errc::event_undecodable, message);
}

}  // namespace cofferdam::inline COFFERDAM_ABI
