// A message on its way from a database to a broker. The names are those of CloudEvents 1.0 where it has some.
#pragma once

#include <cofferdam/core/config.hpp>

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

namespace cofferdam::inline COFFERDAM_ABI {

/// A value. Set what is needed with the chained setters.
class message {
 public:
  message(std::string topic, std::string type, std::string payload)
      : topic_(std::move(topic)), type_(std::move(type)), payload_(std::move(payload)) {}

  /// Messages of one key are published in the order in which they were committed; those without one in any order.
  message& key(std::string k) & { return key_ = std::move(k), *this; }
  message&& key(std::string k) && { return std::move(key(std::move(k))); }
  /// For ever unique; made by the outbox when not given. Receivers tell by it what they have had.
  message& id(std::string i) & { return id_ = std::move(i), *this; }
  message&& id(std::string i) && { return std::move(id(std::move(i))); }
  /// Such as "traceparent" (W3C) or "ce-source" (CloudEvents).
  message& header(std::string name, std::string text) & {
    headers_.insert_or_assign(std::move(name), std::move(text));
    return *this;
  }
  message&& header(std::string name, std::string text) && {
    return std::move(header(std::move(name), std::move(text)));
  }
  /// Not published before. Its place in the order of its key is then that of its time.
  message& deliver_at(std::chrono::system_clock::time_point at) & { return deliver_at_ = at, *this; }
  message&& deliver_at(std::chrono::system_clock::time_point at) && { return std::move(deliver_at(at)); }

  [[nodiscard]] const std::string& topic() const noexcept { return topic_; }
  [[nodiscard]] const std::string& type() const noexcept { return type_; }
  [[nodiscard]] const std::string& payload() const noexcept { return payload_; }
  [[nodiscard]] const std::string& key() const noexcept { return key_; }
  [[nodiscard]] const std::string& id() const noexcept { return id_; }
  [[nodiscard]] const std::map<std::string, std::string>& headers() const noexcept { return headers_; }
  [[nodiscard]] const std::optional<std::chrono::system_clock::time_point>& deliver_at() const noexcept {
    return deliver_at_;
  }
  /// Its place in the outbox, growing; 0 before it has one.
  [[nodiscard]] std::uint64_t number() const noexcept { return number_; }
  /// When it was added.
  [[nodiscard]] std::chrono::system_clock::time_point time() const noexcept { return time_; }

  // --- for the outbox
  void place(std::uint64_t number, std::chrono::system_clock::time_point time) noexcept {
    number_ = number;
    time_ = time;
  }

 private:
  std::string topic_, type_, payload_, key_, id_;
  std::map<std::string, std::string> headers_;
  std::optional<std::chrono::system_clock::time_point> deliver_at_;
  std::uint64_t number_ = 0;
  std::chrono::system_clock::time_point time_{};
};

/// A message that was put aside with those of its key that came after it.
struct parked_message {
  message content;
  std::string reason;  ///< empty for those that only follow
  std::chrono::system_clock::time_point since;
};

}  // namespace cofferdam::inline COFFERDAM_ABI
