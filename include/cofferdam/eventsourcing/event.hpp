// Events: what a program appends, and what it reads back.
#pragma once

#include <cofferdam/core/config.hpp>
#include <cofferdam/core/random.hpp>

#include <array>
#include <chrono>
#include <compare>
#include <cstdint>
#include <exception>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cofferdam::inline COFFERDAM_ABI {

/// 128 bits that no other event has: appending the same id twice is one event. New ones are UUIDs of version 7, which
/// sort by time.
class event_id {
 public:
  using bytes_type = std::array<std::uint8_t, 16>;

  event_id() noexcept = default;
  explicit event_id(const bytes_type& bytes) noexcept : bytes_(bytes) {}
  /// Errors: std::invalid_argument when it is not of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx.
  [[nodiscard]] static event_id parse(std::string_view text);
  /// @param at  what the id sorts by, to the millisecond.
  [[nodiscard]] static event_id make(std::chrono::system_clock::time_point at, random_source& random);

  [[nodiscard]] std::string to_string() const;
  [[nodiscard]] const bytes_type& bytes() const noexcept { return bytes_; }
  auto operator<=>(const event_id&) const noexcept = default;

 private:
  bytes_type bytes_{};
};

/// An event to be appended: a type, the data as encoded, and what goes with them.
///
///     event placed("order.placed", R"({"total": 12})");
///     placed.tag("customer:7").correlation("request-1");
class event {
 public:
  /// @param type  at most 255 bytes. @param data  any bytes; JSON where `event_codec` made it.
  event(std::string type, std::string data) : type_(std::move(type)), data_(std::move(data)) {}

  /// Appending it again, after a timeout say, is then harmless. Without, each append makes a new one.
  event& id(const event_id& id) & { return id_ = id, *this; }
  /// Of the data's form; 1 unless said.
  event& schema(std::uint32_t version) & { return schema_ = version, *this; }
  /// Something to find it by and to put conditions on, `key:value` by convention. The same one again: no effect.
  event& tag(std::string t) &;
  /// What belongs to one request or process.
  event& correlation(std::string id) & { return correlation_ = std::move(id), *this; }
  /// The event or command that led to this one.
  event& causation(std::string id) & { return causation_ = std::move(id), *this; }
  /// Anything else, as it should come back: a trace context, say.
  event& metadata(std::string text) & { return metadata_ = std::move(text), *this; }
  /// When it happened; when it is appended unless said. Not what orders events.
  event& at(std::chrono::system_clock::time_point when) & { return at_ = when, *this; }

  [[nodiscard]] const std::string& type() const noexcept { return type_; }
  [[nodiscard]] const std::string& data() const noexcept { return data_; }
  [[nodiscard]] const std::optional<event_id>& id() const noexcept { return id_; }
  [[nodiscard]] std::uint32_t schema() const noexcept { return schema_; }
  /// Sorted.
  [[nodiscard]] const std::vector<std::string>& tags() const noexcept { return tags_; }
  [[nodiscard]] const std::string& correlation() const noexcept { return correlation_; }
  [[nodiscard]] const std::string& causation() const noexcept { return causation_; }
  [[nodiscard]] const std::string& metadata() const noexcept { return metadata_; }
  [[nodiscard]] const std::optional<std::chrono::system_clock::time_point>& at() const noexcept { return at_; }
  /// Whether `event_vault` sealed some of it.
  [[nodiscard]] bool is_sealed() const noexcept { return is_sealed_; }

 private:
  friend class event_vault;
  std::string type_, data_;
  std::optional<event_id> id_;
  std::uint32_t schema_ = 1;
  std::vector<std::string> tags_;
  std::string correlation_, causation_, metadata_;
  std::optional<std::chrono::system_clock::time_point> at_;
  bool is_sealed_ = false;
};

/// An event as it stands in the store, for ever.
struct recorded_event {
  std::uint64_t position = 0;  ///< in the whole store: 1, 2, ...; grows in the order of commits, may have gaps
  std::string stream;
  std::uint64_t version = 0;  ///< in its stream: 1, 2, ... without gaps
  event_id id;
  std::string type;
  std::uint32_t schema = 1;
  std::chrono::system_clock::time_point at;  ///< to the microsecond
  std::string data;
  std::vector<std::string> tags;
  std::string correlation, causation, metadata;

  // Where a store or an `event_vault` opened what was sealed:
  bool was_sealed = false;             ///< some of its fields
  std::vector<std::string> forgotten;  ///< fields whose key was forgotten: null in `data`
  std::exception_ptr unopened;         ///< why it is sealed still: no key that fits, and none forgotten

  /// Throws `unopened`, if it is.
  void require_opened() const {
    if (unopened) std::rethrow_exception(unopened);
  }
};

}  // namespace cofferdam::inline COFFERDAM_ABI
