// From the program's types to events and back, as JSON, with the types' history.
//
//     event_codec codec;
//     codec.add<deposited>("account.deposited", 2);
//     codec.add<photo>("photo", photo_to_bytes, photo_from_bytes);  // or in a form of its own
//     codec.upcast("account.deposited", 1, [](nlohmann::json old) { old["currency"] = "EUR"; return old; });
#pragma once

#include <cofferdam/eventsourcing/event.hpp>
#include <cofferdam/storage/storage_error.hpp>

#include <nlohmann/json.hpp>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <typeindex>
#include <utility>
#include <variant>

namespace cofferdam::inline COFFERDAM_ABI {

/// Types are encoded by nlohmann's `to_json` and `from_json`.
/// Thread safety: reading from any thread once it is set up.
class event_codec {
 public:
  using upcaster = std::function<nlohmann::json(nlohmann::json)>;

  /// `T` is stored as `type`, now in form `schema`.
  /// Errors: std::invalid_argument when the type or the name is there already.
  template <class T> event_codec& add(std::string type, std::uint32_t schema = 1) {
    add_type(typeid(T), std::move(type), schema, nullptr);
    return *this;
  }
  /// `T` is stored as `type` in a form of its own: Protocol Buffers, CBOR, whatever bytes those are. `upcast` does not
  /// apply to it; its `decode` is given the event's schema. What `decode` throws is `event_undecodable`.
  template <class T>
  event_codec& add(std::string type, std::function<std::string(const T&)> encode,
                   std::function<T(std::string_view, std::uint32_t)> decode, std::uint32_t schema = 1) {
    auto own = std::make_shared<own_form<T>>();
    own->encode = std::move(encode);
    own->decode = std::move(decode);
    add_type(typeid(T), std::move(type), schema, std::move(own));
    return *this;
  }
  /// Makes data of form `from` data of form `from + 1`. Old events stay as they are; they change while they are read.
  event_codec& upcast(std::string type, std::uint32_t from, upcaster change);
  /// Events that were stored as `old_type` are read as `type`.
  event_codec& rename(std::string old_type, std::string type);

  /// What stands in for a field of a person who was forgotten (`event_vault`), in any form of the data; null unless
  /// said.
  event_codec& forgotten(std::string type, std::string field, nlohmann::json stand_in);

  /// Errors: std::invalid_argument for a type that was not added.
  template <class T> [[nodiscard]] event encode(const T& value) const {
    const entry& known = entry_of(typeid(T));
    event made(known.type, data_of(known, value));
    made.schema(known.schema);
    return made;
  }
  /// One of the alternatives of `Variant`.
  template <class Variant> [[nodiscard]] event encode_variant(const Variant& value) const {
    return std::visit([this](const auto& alternative) { return this->encode(alternative); }, value);
  }

  /// The event as the alternative of `Variant` that is stored under its type; nothing when none is.
  /// Errors: `storage_error` (`event_undecodable`) naming the event and what is wrong with it.
  template <class Variant> [[nodiscard]] std::optional<Variant> decode(const recorded_event& e) const {
    return decode_as(e, static_cast<const Variant*>(nullptr));
  }

 private:
  struct any_form {
    virtual ~any_form() = default;
  };
  template <class T> struct own_form final : any_form {
    std::function<std::string(const T&)> encode;
    std::function<T(std::string_view, std::uint32_t)> decode;
  };
  struct entry {
    std::string type;
    std::uint32_t schema = 1;
    std::shared_ptr<const any_form> form;  // none: JSON
  };
  template <class T> static std::string data_of(const entry& known, const T& value) {
    if (known.form) return static_cast<const own_form<T>&>(*known.form).encode(value);
    if constexpr (std::is_constructible_v<nlohmann::json, const T&>) {
      return nlohmann::json(value).dump();
    } else {
      throw std::invalid_argument("'" + known.type + "' has no to_json; add it with functions that encode and decode");
    }
  }
  template <class T> [[nodiscard]] T value_of(const recorded_event& e, const std::string& type) const {
    const entry& known = entry_of(typeid(T));
    if (known.form) return static_cast<const own_form<T>&>(*known.form).decode(e.data, e.schema);
    if constexpr (requires(const nlohmann::json& data) { data.template get<T>(); }) {
      return present_data(e, type).template get<T>();
    } else {
      throw std::invalid_argument("'" + known.type +
                                  "' has no from_json; add it with functions that encode and decode");
    }
  }

  template <class... Ts>
  std::optional<std::variant<Ts...>> decode_as(const recorded_event& e, const std::variant<Ts...>* /*tag*/) const {
    std::optional<std::variant<Ts...>> found;
    e.require_opened();
    const std::string& type = present_name(e.type);
    (void)((is_stored_as(typeid(Ts), type) && (decode_into<Ts>(found, e, type), true)) || ...);
    return found;
  }
  template <class T, class Variant>
  void decode_into(std::optional<Variant>& found, const recorded_event& e, const std::string& type) const {
    try {
      found.emplace(value_of<T>(e, type));
    } catch (const storage_error&) {
      throw;  // says it all
    } catch (const std::exception& wrong) {
      raise(e, wrong.what());
    }
  }

  void add_type(std::type_index which, std::string type, std::uint32_t schema, std::shared_ptr<const any_form> form);
  [[nodiscard]] const entry& entry_of(std::type_index which) const;
  [[nodiscard]] bool is_stored_as(std::type_index which, const std::string& type) const;
  [[nodiscard]] const std::string& present_name(const std::string& type) const;
  /// The data in its present form.
  [[nodiscard]] nlohmann::json present_data(const recorded_event& e, const std::string& type) const;
  [[noreturn]] static void raise(const recorded_event& e, const std::string& why);

  std::map<std::type_index, entry> types_;
  std::map<std::string, std::uint32_t> schemas_;
  std::map<std::pair<std::string, std::uint32_t>, upcaster> upcasters_;
  std::map<std::string, std::string> renamed_;
  std::map<std::pair<std::string, std::string>, nlohmann::json> stand_ins_;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
